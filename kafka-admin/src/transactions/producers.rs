use std::sync::Arc;
use std::time::Duration;

use kafka_client::{Client, Target, TopicPartition};
use kafka_wire::messages::describe_producers_request::TopicRequest;
use kafka_wire::messages::describe_producers_response::ProducerState;
use kafka_wire::messages::{DescribeProducersRequest, DescribeProducersResponse};

use crate::driver::{Answers, Effect, Refusal, drive};
use crate::leaders::{ask_leaders, by_topic};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// A producer that a partition remembers: it writes idempotently or in transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch: a smaller one is fenced.
    pub producer_epoch: i32,
    /// The number of its last record; -1 if it has written none.
    pub last_sequence: i32,
    /// When it last wrote, in milliseconds since 1970.
    pub last_timestamp_ms: i64,
    /// The epoch of the coordinator that ended its last transaction; `None` before the first end.
    pub coordinator_epoch: Option<i32>,
    /// Where its open transaction begins.
    pub transaction_start_offset: Option<i64>,
}

impl From<ProducerState> for ActiveProducer {
    fn from(state: ProducerState) -> Self {
        Self {
            producer_id: state.producer_id.0,
            producer_epoch: state.producer_epoch,
            last_sequence: state.last_sequence,
            last_timestamp_ms: state.last_timestamp,
            coordinator_epoch: Some(state.coordinator_epoch).filter(|&epoch| epoch >= 0),
            transaction_start_offset: Some(state.current_txn_start_offset).filter(|&offset| offset >= 0),
        }
    }
}

/// See [`Admin::describe_producers`](crate::Admin::describe_producers).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeProducers {
    client: Client,
    timeout: Duration,
    partitions: Vec<TopicPartition>,
    broker: Option<i32>,
}

operation!(DescribeProducers => ItemResults<TopicPartition, Vec<ActiveProducer>>);

impl DescribeProducers {
    pub(crate) fn new(client: Client, timeout: Duration, partitions: Vec<TopicPartition>) -> Self {
        Self { client, timeout, partitions, broker: None }
    }

    /// What this broker's replicas know. Default: each partition's leader is asked.
    pub fn on_broker(mut self, id: i32) -> Self {
        self.broker = Some(id);
        self
    }

    /// Each partition's producers, sorted by id.
    async fn run(self) -> Result<ItemResults<TopicPartition, Vec<ActiveProducer>>, AdminError> {
        let (client, broker) = (&self.client, self.broker);
        drive(client, self.partitions, Effect::Read, self.timeout, |open, remaining| async move {
            let wanted: Vec<_> = open.into_iter().map(|partition| (partition, ())).collect();
            match broker {
                Some(id) => {
                    let asked = client.request(request(&wanted)).to(Target::Broker(id));
                    Ok(described(asked.timeout(remaining).await?))
                }
                None => ask_leaders(client.clone(), wanted, remaining, request, |_, _| true, described).await,
            }
        })
        .await
    }
}

fn request(wanted: &[(TopicPartition, ())]) -> DescribeProducersRequest {
    let asked = wanted.iter().map(|(partition, ())| (partition, partition.partition));
    let topics = by_topic(asked)
        .map(|(name, indexes)| TopicRequest::default().with_name(name).with_partition_indexes(indexes));
    DescribeProducersRequest::default().with_topics(topics.collect())
}

fn described(answer: DescribeProducersResponse) -> Answers<TopicPartition, Vec<ActiveProducer>> {
    let topics = answer.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        topic.partitions.into_iter().map(move |partition| {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            let result = Refusal::check(partition.error_code, partition.error_message).map(|()| {
                let producers = partition.active_producers.into_iter().map(ActiveProducer::from);
                let mut producers: Vec<_> = producers.collect();
                producers.sort_by_key(|producer| producer.producer_id);
                producers
            });
            (key, result)
        })
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use kafka_wire::messages::ProducerId;

    use super::*;

    #[test]
    fn a_producer_that_has_no_transaction_open_has_no_start_offset() {
        let state = ProducerState::default()
            .with_producer_id(ProducerId(9))
            .with_coordinator_epoch(-1)
            .with_current_txn_start_offset(-1);
        let producer = ActiveProducer::from(state.clone());
        assert_eq!((producer.coordinator_epoch, producer.transaction_start_offset), (None, None));
        let open = ActiveProducer::from(state.with_coordinator_epoch(0).with_current_txn_start_offset(0));
        assert_eq!((open.coordinator_epoch, open.transaction_start_offset), (Some(0), Some(0)));
    }
}
