//! Adding partitions to topics.

use std::time::Duration;

use kafka_client::{Client, Target};
use kafka_wire::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_wire::messages::{BrokerId, CreatePartitionsRequest};

use crate::driver::{Effect, Refusal, drive, millis};
use crate::operation::operation;
use crate::topics::topic_name;
use crate::{AdminError, ItemResults};

/// A topic that shall have more partitions.
///
/// Records keep their partitions: a key's later records may go elsewhere than its earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct NewPartitions {
    topic: String,
    total: i32,
    assignments: Option<Vec<Vec<i32>>>,
}

impl NewPartitions {
    /// Raises the number of partitions of `topic` to `total`.
    pub fn increase_to(topic: impl Into<String>, total: i32) -> Self {
        Self { topic: topic.into(), total, assignments: None }
    }

    /// Says which brokers keep each new partition, the preferred leader first. Default: the controller decides.
    pub fn assignments(mut self, replicas: impl IntoIterator<Item = Vec<i32>>) -> Self {
        self.assignments = Some(replicas.into_iter().collect());
        self
    }

    fn request(&self) -> CreatePartitionsTopic {
        let assignments = self.assignments.as_ref().map(|partitions| {
            partitions
                .iter()
                .map(|replicas| {
                    let ids = replicas.iter().copied().map(BrokerId).collect();
                    CreatePartitionsAssignment::default().with_broker_ids(ids)
                })
                .collect()
        });
        CreatePartitionsTopic::default()
            .with_name(topic_name(&self.topic))
            .with_count(self.total)
            .with_assignments(assignments)
    }
}

/// See [`Admin::create_partitions`](crate::Admin::create_partitions).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct CreatePartitions {
    client: Client,
    timeout: Duration,
    topics: Vec<NewPartitions>,
    validate_only: bool,
}

operation!(CreatePartitions => ItemResults<String, ()>);

impl CreatePartitions {
    pub(crate) fn new(client: Client, timeout: Duration, topics: Vec<NewPartitions>) -> Self {
        Self { client, timeout, topics, validate_only: false }
    }

    /// Only asks whether the partitions could be added. Default no.
    pub fn validate_only(mut self, validate_only: bool) -> Self {
        self.validate_only = validate_only;
        self
    }

    async fn run(self) -> Result<ItemResults<String, ()>, AdminError> {
        let names: Vec<String> = self.topics.iter().map(|topic| topic.topic.clone()).collect();
        let effect = if self.validate_only { Effect::Read } else { Effect::Write };
        drive(&self.client, names, effect, self.timeout, |open, remaining| {
            let topics = self.topics.iter().filter(|topic| open.contains(&topic.topic));
            let request = CreatePartitionsRequest::default()
                .with_topics(topics.map(NewPartitions::request).collect())
                .with_timeout_ms(millis(remaining))
                .with_validate_only(self.validate_only);
            let answer = self.client.request(request).to(Target::Controller).timeout(remaining);
            async move {
                let results = answer.await?.results.into_iter().map(|topic| {
                    (topic.name.to_string(), Refusal::check(topic.error_code, topic.error_message))
                });
                Ok(results.collect())
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_assignments_the_controller_decides() {
        let request = NewPartitions::increase_to("a", 6).request();
        assert_eq!((request.count, request.assignments), (6, None));
        let request = NewPartitions::increase_to("a", 6).assignments([vec![1]]).request();
        assert_eq!(request.assignments.map(|all| all.len()), Some(1));
    }
}
