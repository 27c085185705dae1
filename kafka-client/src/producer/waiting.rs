//! What a send may have to wait for: the topic's partitions, and room.

use std::time::Duration;

use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::accumulator::{NotNow, TopicState};
use super::memory::Room;
use super::metrics::{self, Wait};
use super::{Delivery, Producer, Record, SendError, Shared, TrySendError};
use crate::net::RequestError;

/// So many answers in a row must say "unknown topic" before `send` believes it: a topic that was just created may not
/// have reached every broker.
const UNKNOWN_TOPIC_ANSWERS: u32 = 4;

impl Producer {
    pub(super) async fn send_slowly(
        &self,
        record: Record<'_>,
        mut why: NotNow,
    ) -> Result<Delivery, SendError> {
        let shared = self.shared();
        let accumulator = &shared.accumulator;
        let waited = shared.options.max_block;
        let deadline = Instant::now() + waited;
        if accumulator.is_closed() {
            return Err(SendError::Closed);
        }
        shared.ensure_started();
        let mut room: Option<Room> = None;
        loop {
            match why {
                NotNow::Failed(error) => return Err(*error),
                NotNow::NeedsTopic => {
                    let since = Instant::now();
                    let learned = shared.learn_topic(record.topic(), deadline).await;
                    metrics::waited(&shared.client_id, Wait::Metadata, since);
                    learned?;
                }
                NotNow::NeedsPartition { partition, .. } => {
                    let since = Instant::now();
                    let learned = shared.learn_partition(record.topic(), partition, deadline).await;
                    metrics::waited(&shared.client_id, Wait::Metadata, since);
                    learned?;
                }
                NotNow::NeedsRoom(bytes) => {
                    // What is too small for the batch would only be in the way of others.
                    drop(room.take());
                    let waiting = accumulator.room(bytes);
                    let since = Instant::now();
                    let granted = tokio::time::timeout_at(deadline, waiting).await;
                    metrics::waited(&shared.client_id, Wait::Buffer, since);
                    room = match granted {
                        Ok(Some(room)) => Some(room),
                        Ok(None) => return Err(SendError::Closed),
                        Err(_) => {
                            metrics::buffer_exhausted(&shared.client_id);
                            return Err(SendError::BufferFull { waited });
                        }
                    };
                }
            }
            match accumulator.append(&record, &mut room) {
                Ok(delivery) => return Ok(delivery),
                Err(again) => why = again,
            }
        }
    }

    /// Nobody waits, but what is missing is asked for, so that a later try may succeed.
    #[cold]
    pub(super) fn try_send_otherwise<'a>(
        &self,
        record: Record<'a>,
        why: NotNow,
    ) -> Result<Delivery, TrySendError<'a>> {
        let shared = self.shared();
        let name = record.topic();
        match why {
            NotNow::Failed(error) => Err(TrySendError::Failed(*error)),
            NotNow::NeedsRoom(_) => Err(TrySendError::Full(Box::new(record))),
            _ if shared.accumulator.is_closed() => Err(TrySendError::Failed(SendError::Closed)),
            // A thread outside of the runtime may try, but cannot ask.
            NotNow::NeedsTopic if tokio::runtime::Handle::try_current().is_err() => {
                Err(TrySendError::Full(Box::new(record)))
            }
            NotNow::NeedsPartition { partition, count } => {
                if tokio::runtime::Handle::try_current().is_ok() {
                    shared.client.want_refresh([&shared.accumulator.topic(name).name]);
                }
                let topic = name.to_owned();
                Err(TrySendError::Failed(SendError::UnknownPartition { topic, partition, count }))
            }
            NotNow::NeedsTopic if !is_valid_topic(name) => {
                Err(TrySendError::Failed(SendError::InvalidTopic { topic: name.to_owned() }))
            }
            NotNow::NeedsTopic => {
                shared.ensure_started();
                let topic = shared.accumulator.topic(name);
                if !shared.install_from_snapshot(&topic) {
                    shared.client.want_refresh([&topic.name]);
                    return Err(TrySendError::Full(Box::new(record)));
                }
                match shared.accumulator.append(&record, &mut None) {
                    Ok(delivery) => Ok(delivery),
                    Err(NotNow::Failed(error)) => Err(TrySendError::Failed(*error)),
                    Err(_) => Err(TrySendError::Full(Box::new(record))),
                }
            }
        }
    }
}

impl Shared {
    /// Asks for a topic's partitions until they are known.
    async fn learn_topic(&self, name: &str, deadline: Instant) -> Result<(), SendError> {
        if !is_valid_topic(name) {
            return Err(SendError::InvalidTopic { topic: name.to_owned() });
        }
        let topic = self.accumulator.topic(name);
        let asked = [topic.name.clone()];
        let mut unknown = 0;
        let mut failures = 0;
        let mut last: Option<Box<RequestError>> = None;
        loop {
            if topic.is_known() || self.install_from_snapshot(&topic) {
                return Ok(());
            }
            let pause = if failures == 0 {
                Duration::ZERO
            } else {
                self.client.retry_backoff().random_delay(failures)
            };
            let round = async {
                tokio::time::sleep(pause).await;
                self.client.refresh_once(Some(&asked)).await
            };
            match tokio::time::timeout_at(deadline, round).await {
                Err(_) => {
                    let waited = self.options.max_block;
                    return Err(SendError::NoMetadata { topic: name.to_owned(), waited, last });
                }
                Ok(Err(error)) if !error.is_retriable() => {
                    let waited = self.options.max_block;
                    let last = Some(Box::new(error));
                    return Err(SendError::NoMetadata { topic: name.to_owned(), waited, last });
                }
                // The refreshing task keeps its own pace after failures.
                Ok(Err(error)) => last = Some(Box::new(error)),
                Ok(Ok(cluster)) => {
                    let topic = || name.to_owned();
                    match cluster.topic_error(name) {
                        None => {}
                        Some(ErrorCode::UnknownTopicOrPartition) => {
                            unknown += 1;
                            if unknown >= UNKNOWN_TOPIC_ANSWERS {
                                return Err(SendError::UnknownTopic { topic: topic() });
                            }
                        }
                        Some(ErrorCode::InvalidTopicException) => {
                            return Err(SendError::InvalidTopic { topic: topic() });
                        }
                        Some(code) if !code.is_retriable() => {
                            return Err(SendError::TopicRefused { topic: topic(), code });
                        }
                        Some(_) => {}
                    }
                    failures += 1;
                }
            }
        }
    }

    /// Asks for a topic until it has grown to have the partition, some answers in a row say that it has not, or the
    /// time is over.
    async fn learn_partition(&self, name: &str, partition: i32, deadline: Instant) -> Result<(), SendError> {
        let topic = self.accumulator.topic(name);
        let asked = [topic.name.clone()];
        for round in 0..UNKNOWN_TOPIC_ANSWERS {
            let pause =
                if round == 0 { Duration::ZERO } else { self.client.retry_backoff().random_delay(round) };
            let refresh = async {
                tokio::time::sleep(pause).await;
                self.client.refresh_once(Some(&asked)).await
            };
            let Ok(answer) = tokio::time::timeout_at(deadline, refresh).await else { break };
            if answer.is_ok() && self.install_from_snapshot(&topic) && topic.has_partition(partition) {
                return Ok(());
            }
        }
        let count = topic.partition_count();
        Err(SendError::UnknownPartition { topic: name.to_owned(), partition, count })
    }

    /// Makes buffers for the partitions that the snapshot shows; whether it shows any.
    pub(super) fn install_from_snapshot(&self, topic: &TopicState) -> bool {
        let cluster = self.client.cluster();
        let Some(known) = cluster.topic(&topic.name).filter(|known| !known.partitions.is_empty()) else {
            return false;
        };
        self.accumulator.install(
            topic,
            known.id,
            known.partitions.iter().map(|partition| partition.leader.is_some()),
        );
        true
    }
}

/// Kafka's `Topic.validate`.
fn is_valid_topic(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
