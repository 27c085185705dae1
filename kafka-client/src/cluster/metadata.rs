//! The snapshot, who waits for a newer one, and the task that fetches it as the [`Refresher`] says.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kafka_wire::ErrorCode;
use kafka_wire::messages::MetadataResponse;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::refresh::{MetadataConfig, Refresher, Sources, Step, Verdict};
use super::snapshot::Asked;
use super::{Broker, Cluster};
use crate::backoff::random_unit;
use crate::client::MetadataSnapshot;
use crate::net::RequestError;
use crate::news::{Follower, News};

/// The snapshot and who wants it refreshed.
#[derive(Debug)]
pub(crate) struct Metadata {
    snapshot: ArcSwap<Cluster>,
    refresher: Mutex<Refresher>,
    wanted: Notify,
    /// Counts finished rounds of asking, with how the last one went.
    rounds: News<Round>,
}

/// A finished round of asking.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    /// Every ask made before this round began is answered by it.
    begun: u64,
    /// Why it failed, if it did.
    pub(crate) error: Option<RequestError>,
}

impl Metadata {
    pub(crate) fn new(config: MetadataConfig) -> Self {
        Self {
            snapshot: ArcSwap::default(),
            refresher: Mutex::new(Refresher::new(config)),
            wanted: Notify::new(),
            rounds: News::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Cluster> {
        self.snapshot.load_full()
    }

    /// Which servers may be asked.
    pub(crate) fn sources(&self) -> Sources {
        self.refresher.lock().sources()
    }

    pub(crate) fn show(&self, now: Instant) -> MetadataSnapshot {
        self.refresher.lock().show(now)
    }

    /// Wakes the refreshing task, so that it notices that the client is gone.
    pub(crate) fn close(&self) {
        self.ask([], false);
    }

    /// Asks for a refresh without waiting for it: an answer said that the snapshot is stale.
    pub(crate) fn want<'a>(&self, topics: impl IntoIterator<Item = &'a Arc<str>>) {
        self.ask(topics, false);
    }

    /// Resolves at the end of the next round that covers `topics` (all of the cluster's if `None`), well or badly.
    pub(crate) async fn round(&self, topics: Option<&[Arc<str>]>) -> Round {
        let mut rounds = self.rounds.follow();
        let begun = self.ask(topics.unwrap_or_default(), topics.is_none());
        match rounds.wait_for(|round| round.begun > begun).await {
            Ok(round) => round,
            // The sender is this struct's own; it cannot be gone.
            Err(_) => Round { begun, error: Some(RequestError::ClientClosed) },
        }
    }

    /// Keeps `topic` among the topics that are refreshed.
    pub(crate) fn touch(&self, topic: &Arc<str>) {
        self.refresher.lock().touch(Instant::now(), topic);
    }

    /// Takes a leader from a produce or fetch answer, and where it is if `nodes` tell, if that is news (KIP-951);
    /// whether it was.
    pub(crate) fn take_leader(
        &self,
        topic: &str,
        partition: i32,
        leader: i32,
        epoch: i32,
        nodes: &[Broker],
    ) -> bool {
        let mut news = false;
        self.snapshot.rcu(|cluster| {
            let next = cluster.with_leader(topic, partition, leader, epoch, nodes);
            news = next.is_some();
            next.map_or_else(|| cluster.clone(), Arc::new)
        });
        news
    }

    fn ask<'a>(&self, topics: impl IntoIterator<Item = &'a Arc<str>>, all: bool) -> u64 {
        let begun = self.refresher.lock().ask(Instant::now(), topics, all);
        self.wanted.notify_one();
        begun
    }

    /// Waits for the next round.
    async fn next_round(&self) -> Asked {
        loop {
            let step = self.refresher.lock().poll(Instant::now());
            match step {
                Step::Ask { asked, unused } => {
                    if !unused.is_empty() {
                        self.snapshot.rcu(|cluster| cluster.without_topics(&unused));
                    }
                    return asked;
                }
                // Either way it is time to look again.
                Step::Wait { until: Some(until) } => drop(timeout_at(until, self.wanted.notified()).await),
                Step::Wait { until: None } => self.wanted.notified().await,
            }
        }
    }

    /// Takes the answer; whether the brokers are to be forgotten.
    fn finish(&self, asked: &Asked, answer: Result<MetadataResponse, RequestError>) -> bool {
        let error = match answer {
            Ok(response) => match ErrorCode::from(response.error_code) {
                ErrorCode::None => {
                    self.snapshot.rcu(|cluster| cluster.updated(response.clone(), asked));
                    None
                }
                code => Some(RequestError::Refused { code }),
            },
            Err(error) => Some(error),
        };
        if let Some(error) = &error {
            tracing::warn!(%error, "metadata refresh failed");
        }
        let mut refresher = self.refresher.lock();
        let outcome = error.as_ref().map_or(Ok(()), Err);
        let verdict = refresher.answered(Instant::now(), asked, outcome, random_unit());
        let begun = refresher.round();
        drop(refresher);
        if verdict != Verdict::Rebootstrap {
            self.rounds.tell(Round { begun, error });
        }
        verdict != Verdict::Told
    }

    /// Changes with each finished round.
    pub(crate) fn subscribe(&self) -> Follower<Round> {
        self.rounds.follow()
    }
}

/// Where metadata comes from.
pub(crate) trait Source {
    /// Asks a server; `None` once the client is gone.
    fn fetch(
        &self,
        asked: Asked,
    ) -> impl Future<Output = Option<Result<MetadataResponse, RequestError>>> + Send;

    /// Lets go of every connection: what is asked next is asked of the bootstrap servers.
    fn rebootstrap(&self);
}

/// The refreshing task.
pub(crate) async fn run(metadata: Arc<Metadata>, source: impl Source) {
    loop {
        let asked = metadata.next_round().await;
        tracing::debug!(?asked, "refreshing metadata");
        let Some(answer) = source.fetch(asked.clone()).await else {
            metadata.finish(&asked, Err(RequestError::ClientClosed));
            return;
        };
        if metadata.finish(&asked, answer) {
            tracing::warn!("turning to the bootstrap servers again");
            source.rebootstrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::testing::FakeBroker;
    use crate::{Client, Record};

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_asks_for_what_it_misses_then_for_what_it_uses_and_forgets_the_rest() {
        let broker = FakeBroker::new(1);
        let client = Client::builder("fake:9092").connector(broker.connector()).build().unwrap();
        let producer = client.producer().build().unwrap();
        let send = async |topic: &str| {
            producer.send(Record::to(topic).value("v")).await.unwrap().await.unwrap();
        };
        send("t-idle").await;
        send("t-used").await;
        assert_eq!(broker.take_metadata_asked(), [["t-idle"], ["t-used"]]);
        for _ in 0..9 {
            tokio::time::sleep(MINUTE).await;
            send("t-used").await;
        }
        // By then one round for everything was due, and t-idle was used less than 5 minutes before it.
        let mut asked = broker.take_metadata_asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].sort();
        assert_eq!(asked[0], ["t-idle", "t-used"]);
        tokio::time::sleep(2 * MINUTE).await;
        assert_eq!(broker.take_metadata_asked(), [["t-used"]]);
        let cluster = client.cluster();
        assert!(cluster.topic("t-idle").is_none() && cluster.topic("t-used").is_some());
        send("t-idle").await;
        assert_eq!(broker.take_metadata_asked(), [["t-idle"]]);
    }
}
