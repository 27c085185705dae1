//! When to ask for metadata: on demand, together with whoever else asks, and every `metadata.max.age`.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kafka_wire::messages::MetadataResponse;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::rounds::{Follower, Rounds};
use super::snapshot::Asked;
use super::{Broker, Cluster};
use crate::backoff::Backoff;
use crate::net::RequestError;

/// A topic that nobody used for this long is not asked for any more (Kafka's `metadata.max.idle.ms`).
const MAX_IDLE: Duration = Duration::from_secs(5 * 60);
/// So many rounds may follow each other at once, as at start-up, where each new topic is a question of its own. More
/// than that is a broker which keeps answering "not leader", and is asked at the pace of the back-off.
const BURST: u32 = 5;

#[derive(Debug, Clone)]
pub(crate) struct MetadataConfig {
    /// `metadata.max.age`: the snapshot is refreshed this often even if nobody asks.
    pub(crate) max_age: Duration,
    pub(crate) retry_backoff: Backoff,
}

/// The snapshot and who wants it refreshed.
#[derive(Debug)]
pub(crate) struct Metadata {
    snapshot: ArcSwap<Cluster>,
    asks: Mutex<Asks>,
    wanted: Notify,
    /// Counts finished rounds of asking, with how the last one went.
    rounds: Rounds,
}

/// What to ask for in the next round.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    wanted: bool,
    all: bool,
    topics: BTreeSet<Arc<str>>,
    used_at: HashMap<Arc<str>, Instant, FxBuildHasher>,
    rounds_begun: u64,
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
    pub(crate) fn new() -> Self {
        Self {
            snapshot: ArcSwap::default(),
            asks: Mutex::default(),
            wanted: Notify::new(),
            rounds: Rounds::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Cluster> {
        self.snapshot.load_full()
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
        let now = Instant::now();
        let mut asks = self.asks.lock();
        match asks.used_at.get_mut(topic) {
            Some(at) => *at = now,
            None => drop(asks.used_at.insert(topic.clone(), now)),
        }
    }

    /// Takes a newer leader from a produce or fetch answer (KIP-951); whether it was news.
    pub(crate) fn take_leader(&self, topic: &str, partition: i32, leader: i32, epoch: i32) -> bool {
        let mut news = false;
        self.snapshot.rcu(|cluster| match cluster.with_leader(topic, partition, leader, epoch) {
            Some(next) => {
                news = true;
                Arc::new(next)
            }
            None => {
                news = false;
                cluster.clone()
            }
        });
        news
    }

    /// Takes the address of a broker from a produce or fetch answer that names it as a new leader (KIP-951).
    pub(crate) fn take_broker(&self, broker: &Broker) {
        self.snapshot
            .rcu(|cluster| cluster.with_broker(broker.clone()).map_or_else(|| cluster.clone(), Arc::new));
    }

    fn ask<'a>(&self, topics: impl IntoIterator<Item = &'a Arc<str>>, all: bool) -> u64 {
        let now = Instant::now();
        let mut asks = self.asks.lock();
        asks.wanted = true;
        asks.all |= all;
        for topic in topics {
            asks.topics.insert(topic.clone());
            asks.used_at.insert(topic.clone(), now);
        }
        let begun = asks.rounds_begun;
        drop(asks);
        self.wanted.notify_one();
        begun
    }

    /// What the next round asks for; `periodic` rounds ask for everything in use.
    fn begin(&self, periodic: bool, now: Instant) -> Asked {
        let mut asks = self.asks.lock();
        asks.rounds_begun += 1;
        asks.wanted = false;
        let mut topics = std::mem::take(&mut asks.topics);
        if std::mem::take(&mut asks.all) {
            return Asked::All;
        }
        if periodic {
            let unused: Vec<Arc<str>> =
                asks.used_at.extract_if(|_, at| now.duration_since(*at) > MAX_IDLE).map(|(t, _)| t).collect();
            topics.extend(asks.used_at.keys().cloned());
            if !unused.is_empty() {
                self.snapshot.rcu(|cluster| cluster.without_topics(&unused));
            }
        }
        Asked::Topics(topics.into_iter().collect())
    }

    fn finish(&self, asked: &Asked, answer: Result<MetadataResponse, RequestError>) -> bool {
        let error = match answer {
            Ok(response) => {
                let code = kafka_wire::ErrorCode::from(response.error_code);
                self.snapshot.rcu(|cluster| cluster.updated(response.clone(), asked));
                code.into_result().err().map(|code| RequestError::Refused { code })
            }
            Err(error) => Some(error),
        };
        let failed = error.is_some();
        let mut asks = self.asks.lock();
        if let (Some(error), Asked::Topics(topics)) = (&error, asked)
            && error.is_retriable()
        {
            // Whoever only said that the snapshot is stale does not wait, and still needs it.
            asks.topics.extend(topics.iter().cloned());
            asks.wanted = !topics.is_empty();
        }
        let begun = asks.rounds_begun;
        drop(asks);
        self.rounds.tell(Round { begun, error });
        failed
    }

    fn is_wanted(&self) -> bool {
        self.asks.lock().wanted
    }

    /// Changes with each finished round.
    pub(crate) fn subscribe(&self) -> Follower {
        self.rounds.follow()
    }
}

/// The refreshing task: asks by `fetch`, which is given what to ask for and answers `None` once the client is gone.
pub(crate) async fn run<F, Fut>(metadata: Arc<Metadata>, config: MetadataConfig, mut fetch: F)
where
    F: FnMut(Asked) -> Fut,
    Fut: Future<Output = Option<Result<MetadataResponse, RequestError>>>,
{
    let mut failures: u32 = 0;
    let mut in_a_row: u32 = 0;
    loop {
        let mut periodic = false;
        let waiting_since = Instant::now();
        while !metadata.is_wanted() && !periodic {
            periodic = tokio::time::timeout(config.max_age, metadata.wanted.notified()).await.is_err();
        }
        let calm = waiting_since.elapsed() >= config.retry_backoff.delay(1, 1.0);
        in_a_row = if calm { 0 } else { in_a_row.saturating_add(1) };
        let asked = metadata.begin(periodic, Instant::now());
        tracing::debug!(?asked, periodic, "refreshing metadata");
        let Some(answer) = fetch(asked.clone()).await else {
            metadata.finish(&asked, Err(RequestError::ClientClosed));
            return;
        };
        if let Err(error) = &answer {
            tracing::warn!(%error, failures, "metadata refresh failed");
        }
        failures = if metadata.finish(&asked, answer) { failures.saturating_add(1) } else { 0 };
        if failures > 0 || in_a_row >= BURST {
            tokio::time::sleep(config.retry_backoff.random_delay(failures.max(1))).await;
        }
    }
}
