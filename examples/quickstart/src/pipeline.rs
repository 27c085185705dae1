//! The word count itself: lines in, a stream processor, counts out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_admin::{Admin, AdminError, NewTopic};
use kafka_broker::{Broker, StartError};
use kafka_client::consumer::{ConsumeError, Consumer, OffsetReset};
use kafka_client::producer::{Producer, SendError};
use kafka_client::{Client, ConfigError, TopicPartition};
use kafka_streams::{InvalidTopology, KafkaStreams, Store, StreamsBuilder, StreamsConfig, StreamsError};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use crate::progress::Progress;
use crate::words::words;

/// How many lines may be on their way to the broker before the feeder looks at their outcome.
const UNCONFIRMED_LINES: usize = 10_000;

/// How many words may be fed before their counts are seen. Without a bound the lines would wait in the topic, and the
/// latency would say how long the input is instead of how fast the counts follow.
const MAX_UNCOUNTED_WORDS: i64 = 400_000;

/// How often counts are forwarded and progress is committed: what a person sees as live.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How long closing may take before the rest is left to the cluster.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a run is set up.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// An external cluster; `None` starts the embedded broker.
    pub(crate) bootstrap_servers: Option<String>,
    pub(crate) partitions: i32,
    pub(crate) timeout: Duration,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Interrupted,
}

/// What can fail on the way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    #[error("the embedded broker does not start")]
    Broker(#[from] StartError),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("no answer from {servers} within {timeout:?}; is a Kafka cluster running there?")]
    Unreachable { servers: String, timeout: Duration },
    #[error("the cluster at {servers} cannot be used")]
    Connect { servers: String, source: kafka_client::Error },
    #[error("the topics cannot be created")]
    Topics(#[from] AdminError),
    #[error("a line was not written")]
    Send(#[from] SendError),
    #[error("the counts cannot be read")]
    Consume(#[from] ConsumeError),
    #[error("the topology is wrong")]
    Topology(#[from] InvalidTopology),
    #[error("the stream processor failed")]
    Streams(#[from] StreamsError),
    #[error("a task of the quickstart itself failed")]
    Task(#[from] JoinError),
}

/// Producer, stream processor and consumer at work.
pub(crate) struct Pipeline {
    broker: Option<Broker>,
    description: String,
    admin: Admin,
    /// The application's id, and the prefix of every topic of this run.
    application: String,
    lines_topic: String,
    producer: Producer,
    feeder: Option<JoinHandle<Result<(), SendError>>>,
    counted: watch::Sender<i64>,
    streams: KafkaStreams,
    consumer: Consumer,
    interrupted: Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>,
}

impl Pipeline {
    /// Starts the broker if there is none, makes the topics, and starts the stream processor and the consumer.
    pub(crate) async fn start(options: Options) -> Result<Self, PipelineError> {
        let broker = match options.bootstrap_servers {
            Some(_) => None,
            None => Some(Broker::builder().start().await?),
        };
        let (servers, description) = match (&options.bootstrap_servers, &broker) {
            (None, Some(broker)) => {
                (broker.bootstrap_servers(), "an embedded broker in memory, in this process".to_owned())
            }
            (servers, _) => {
                let servers = servers.clone().unwrap_or_default();
                (servers.clone(), format!("the cluster at {servers}"))
            }
        };
        let connecting = Client::builder(&*servers).api_timeout(options.timeout).connect();
        let client = match timeout(options.timeout, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(source)) if !source.is_retriable() => {
                return Err(PipelineError::Connect { servers, source });
            }
            _ => return Err(PipelineError::Unreachable { servers, timeout: options.timeout }),
        };

        // Names of its own for each run, so that runs on one cluster do not count each other's words.
        let application = format!("quickstart-{:x}", now_ms());
        let (lines, counts) = (format!("{application}-lines"), format!("{application}-counts"));
        let admin = Admin::new(client.clone()).with_timeout(options.timeout);
        let new = [&lines, &counts].map(|topic| NewTopic::new(topic, options.partitions, -1));
        admin.create_topics(new).await?.all()?;

        let builder = StreamsBuilder::new();
        builder
            .stream::<(), String>(lines.as_str())
            .flat_map_values(|_, line| words(&line).collect::<Vec<_>>())
            .group_by("by-word", |_, word| word.clone())
            .count(Store::kv("counts").cached())
            .to_stream()
            .to(counts.as_str());
        let config = StreamsConfig::new(&application, &servers)
            .commit_interval(COMMIT_INTERVAL)
            .linger(Duration::from_millis(5));
        let streams = KafkaStreams::new(builder.build()?, config).start().await?;

        let all = (0..options.partitions).map(|partition| TopicPartition::new(counts.as_str(), partition));
        let consumer = client.consumer().assign(all).auto_offset_reset(OffsetReset::Earliest).build()?;
        let producer = client.producer().linger(Duration::from_millis(5)).batch_size(128 * 1024).build()?;
        Ok(Self {
            broker,
            description,
            admin,
            application,
            lines_topic: lines,
            producer,
            feeder: None,
            counted: watch::Sender::new(0),
            streams,
            consumer,
            interrupted: Box::pin(tokio::signal::ctrl_c()),
        })
    }

    /// What the words are counted on.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    /// Begins to send the lines, `repeat` times over.
    pub(crate) fn feed(&mut self, lines: Vec<Bytes>, words_in_line: Vec<u32>, repeat: u64) {
        let feeder = Feeder {
            producer: self.producer.clone(),
            topic: self.lines_topic.clone(),
            lines: lines.into_iter().zip(words_in_line).collect(),
            counted: self.counted.subscribe(),
        };
        self.feeder = Some(tokio::spawn(feeder.run(repeat)));
    }

    /// Takes the counts that arrive next, for at most `limit`; says so when there is a reason to stop.
    pub(crate) async fn next_counts(
        &mut self,
        progress: &mut Progress,
        limit: Duration,
    ) -> Result<Option<End>, PipelineError> {
        if self.feeder.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(feeder) = self.feeder.take()
        {
            feeder.await??;
        }
        if let Some(error) = self.streams.error() {
            return Err(PipelineError::Streams(error));
        }
        let batch = tokio::select! {
            _ = &mut self.interrupted => return Ok(Some(End::Interrupted)),
            batch = timeout(limit, self.consumer.next_batch()) => batch,
        };
        let Ok(batch) = batch else { return Ok(None) };
        let Some(records) = batch? else { return Ok(Some(End::Interrupted)) };
        let now = now_ms();
        records.for_each_view(|record| {
            let word = record.key.and_then(|key| std::str::from_utf8(key).ok());
            let count = record.value.and_then(|value| value.first_chunk::<8>());
            // Nobody else writes to this topic, so every record is a word and its count.
            if let (Some(word), Some(count)) = (word, count) {
                progress.record(word, i64::from_be_bytes(*count));
                let age_ms = now.saturating_sub(record.timestamp).max(0);
                progress.record_latency(Duration::from_millis(age_ms.unsigned_abs()));
            }
        })?;
        self.counted.send_replace(progress.words_counted());
        Ok(None)
    }

    /// Commits and closes everything; on a cluster that stays, removes what the run made there.
    pub(crate) async fn close(self) -> Result<(), PipelineError> {
        if let Some(feeder) = self.feeder {
            feeder.abort();
        }
        let _ = self.producer.close(CLOSE_TIMEOUT).await;
        self.streams.close(CLOSE_TIMEOUT).await?;
        let _ = self.consumer.close().await;
        match self.broker {
            Some(broker) => broker.shutdown().await,
            None => {
                let listed = self.admin.list_topics().await?;
                let ours = listed
                    .into_iter()
                    .map(|topic| topic.name)
                    .filter(|name| name.starts_with(&self.application));
                self.admin.delete_topics(ours).await?.all()?;
            }
        }
        Ok(())
    }
}

/// Sends every line and looks at every outcome, a window behind.
struct Feeder {
    producer: Producer,
    topic: String,
    /// Each line with the number of its words.
    lines: Vec<(Bytes, u32)>,
    counted: watch::Receiver<i64>,
}

impl Feeder {
    async fn run(mut self, repeat: u64) -> Result<(), SendError> {
        let topic = self.producer.topic(&self.topic);
        let mut unconfirmed = VecDeque::with_capacity(UNCONFIRMED_LINES);
        let mut fed = 0;
        for _ in 0..repeat {
            for (line, words) in &self.lines {
                if unconfirmed.len() == UNCONFIRMED_LINES
                    && let Some(oldest) = unconfirmed.pop_front()
                {
                    confirm(oldest).await?;
                }
                // The sender lives as long as the pipeline; without it nobody waits for more lines.
                if self.counted.wait_for(|counted| fed - counted < MAX_UNCOUNTED_WORDS).await.is_err() {
                    return Ok(());
                }
                fed += i64::from(*words);
                unconfirmed.push_back(topic.send(topic.record().value(&line[..])).await?);
            }
        }
        for delivery in unconfirmed {
            confirm(delivery).await?;
        }
        Ok(())
    }
}

async fn confirm(delivery: kafka_client::producer::Delivery) -> Result<(), SendError> {
    delivery.await.map(drop)
}

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}
