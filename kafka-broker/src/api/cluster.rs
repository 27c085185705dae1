//! DescribeCluster (KIP-700), DescribeTopicPartitions (KIP-966) and DescribeQuorum (KIP-595).

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_wire::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_wire::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_wire::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS, text};
use crate::cluster::image::{Image, TopicImage, is_internal};
use crate::cluster::record::PartitionState;
use crate::cluster::{METADATA_TOPIC, topic_name};
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

/// `EndpointType.BROKER` (KIP-919); controllers are not reachable on a client listener.
const BROKER_ENDPOINTS: i8 = 1;

pub(crate) async fn describe_cluster(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    if version >= 1 && request.endpoint_type != BROKER_ENDPOINTS {
        let known = request.endpoint_type == 2;
        let code = if known { ErrorCode::MismatchedEndpointType } else { ErrorCode::UnsupportedEndpointType };
        return DescribeClusterResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(text("This listener serves brokers, not controllers.")))
            .with_cluster_id(state.cluster_id.clone());
    }
    let brokers = state.cluster.read(|image, _| {
        image
            .brokers()
            .iter()
            .filter(|(_, broker)| !broker.fenced || request.include_fenced_brokers)
            .map(|(&node_id, broker)| {
                let answer = DescribeClusterBroker::default();
                // Fenced brokers are told from the others since version 2 (KIP-1073).
                if version >= 2 { answer.with_is_fenced(broker.fenced) } else { answer }
                    .with_broker_id(BrokerId(node_id))
                    .with_host(text(&broker.host))
                    .with_port(i32::from(broker.port))
                    .with_rack(broker.rack.as_deref().map(text))
            })
            .collect()
    });
    let operations = match request.include_cluster_authorized_operations {
        true => CLUSTER_OPERATIONS,
        false => OPERATIONS_NOT_ASKED,
    };
    DescribeClusterResponse::default()
        .with_cluster_id(state.cluster_id.clone())
        .with_controller_id(BrokerId(state.node_id))
        .with_brokers(brokers)
        .with_cluster_authorized_operations(operations)
}

pub(crate) async fn describe_topic_partitions(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeTopicPartitionsRequest,
    _version: i16,
) -> DescribeTopicPartitionsResponse {
    let limit = request.response_partition_limit.clamp(1, state.config.max_described_partitions());
    let page = Page {
        names: request.topics.iter().map(|topic| topic.name.to_string()).collect(),
        from: request.cursor.map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index)),
        limit: usize::try_from(limit).unwrap_or(1),
    };
    state.cluster.read(|image, _| page.describe(image))
}

/// One page of DescribeTopicPartitions: topics in name order, from the cursor on, up to a number of partitions.
struct Page {
    /// Empty: all topics.
    names: Vec<String>,
    from: Option<(String, i32)>,
    limit: usize,
}

impl Page {
    fn describe(mut self, image: &Image) -> DescribeTopicPartitionsResponse {
        let all = self.names.is_empty();
        if all {
            self.names = image.topics().keys().cloned().collect();
        }
        self.names.sort_unstable();
        self.names.dedup();
        let (first_topic, mut first_partition) = self.from.unwrap_or_default();
        self.names.retain(|name| *name >= first_topic);
        if self.names.first() != Some(&first_topic) {
            first_partition = 0;
        }
        let mut answer = DescribeTopicPartitionsResponse::default();
        let mut left = self.limit;
        for name in self.names {
            let Some(topic) = image.topic(&name) else {
                answer.topics.push(unknown(&name));
                continue;
            };
            let from = std::mem::take(&mut first_partition);
            if left == 0 {
                answer.next_cursor = Some(cursor(&name, from));
                break;
            }
            let partitions: Vec<_> = topic
                .partitions
                .range(from..)
                .take(left)
                .map(|(&index, state)| partition(image, index, state))
                .collect();
            left -= partitions.len();
            let next = partitions.last().map_or(from, |partition| partition.partition_index + 1);
            answer.topics.push(known(&name, topic, partitions));
            if topic.partitions.range(next..).next().is_some() {
                answer.next_cursor = Some(cursor(&name, next));
                break;
            }
        }
        answer
    }
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(TopicName(text(name))).with_partition_index(partition)
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let code = match topic_name::check(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(code.code())
        .with_name(Some(TopicName(text(name))))
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn known(
    name: &str,
    topic: &TopicImage,
    partitions: Vec<DescribeTopicPartitionsResponsePartition>,
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(name))))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(name))
        .with_partitions(partitions)
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

/// The lists of eligible leaders are empty, not null: Java's Admin iterates them.
fn partition(image: &Image, index: i32, state: &PartitionState) -> DescribeTopicPartitionsResponsePartition {
    let ids = |nodes: &[i32]| nodes.iter().copied().map(BrokerId).collect();
    let offline = state.replicas.iter().copied().filter(|&node| !image.is_live(node));
    let code = if image.is_live(state.leader) { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(code.code())
        .with_offline_replicas(offline.map(BrokerId).collect())
        .with_partition_index(index)
        .with_leader_id(BrokerId(state.leader))
        .with_leader_epoch(state.leader_epoch)
        .with_replica_nodes(ids(&state.replicas))
        .with_isr_nodes(ids(&state.isr))
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}

/// The metadata quorum: the first node is its one voter and always leads it.
pub(crate) async fn describe_quorum(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let voter = state.cluster.voter();
    let (end_offset, registered) =
        state.cluster.read(|image, offset| (offset + 1, image.brokers().get(&voter).cloned()));
    let directory_id = state.cluster.node(voter).map_or(state.directory_id, |node| node.directory_id);
    let now_ms = state.clock.now_ms();
    let topics = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let answer = PartitionData::default().with_partition_index(index);
                if topic.topic_name.as_str() != METADATA_TOPIC || index != 0 {
                    return answer.with_error_code(ErrorCode::UnknownTopicOrPartition.code());
                }
                let mut state_of_voter =
                    ReplicaState::default().with_replica_id(BrokerId(voter)).with_log_end_offset(end_offset);
                if version >= 1 {
                    state_of_voter = state_of_voter
                        .with_last_fetch_timestamp(now_ms)
                        .with_last_caught_up_timestamp(now_ms);
                }
                if version >= 2 {
                    state_of_voter = state_of_voter.with_replica_directory_id(directory_id);
                }
                answer
                    .with_leader_id(BrokerId(voter))
                    .with_leader_epoch(crate::cluster::LEADER_EPOCH)
                    .with_high_watermark(end_offset)
                    .with_current_voters(vec![state_of_voter])
            });
            TopicData::default()
                .with_topic_name(topic.topic_name.clone())
                .with_partitions(partitions.collect())
        })
        .collect();
    let mut answer = DescribeQuorumResponse::default().with_topics(topics);
    if let (2.., Some(registered)) = (version, registered) {
        let listener = Listener::default()
            .with_name(text("PLAINTEXT"))
            .with_host(text(&registered.host))
            .with_port(registered.port);
        answer.nodes = vec![Node::default().with_node_id(BrokerId(voter)).with_listeners(vec![listener])];
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::cluster::record::MetadataRecord;

    fn image(topics: &[(&str, i32)]) -> Image {
        let mut image = Image::default();
        for (number, (name, partitions)) in topics.iter().enumerate() {
            let id = Uuid::from_u128(number as u128 + 1);
            image.replay(&MetadataRecord::Topic { name: (*name).to_owned(), id });
            for index in 0..*partitions {
                let state = PartitionState::new(vec![1]);
                image.replay(&MetadataRecord::Partition { topic_id: id, index, state });
            }
        }
        image
    }

    #[test]
    fn paging_visits_every_partition_once_at_any_page_size() {
        let image = image(&[("a", 3), ("b", 1), ("c", 5)]);
        for limit in 1..12 {
            let mut seen: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            let mut from = None;
            loop {
                let page = Page { names: Vec::new(), from, limit }.describe(&image);
                for topic in page.topics {
                    let name = topic.name.unwrap().to_string();
                    seen.entry(name).or_default().extend(topic.partitions.iter().map(|p| p.partition_index));
                }
                match page.next_cursor {
                    Some(cursor) => from = Some((cursor.topic_name.to_string(), cursor.partition_index)),
                    None => break,
                }
            }
            assert_eq!(seen["a"], [0, 1, 2], "limit {limit}");
            assert_eq!(seen["b"], [0], "limit {limit}");
            assert_eq!(seen["c"], [0, 1, 2, 3, 4], "limit {limit}");
        }
    }

    #[test]
    fn a_cursor_at_a_topic_that_is_gone_goes_on_with_the_next_one() {
        let page = Page { names: Vec::new(), from: Some(("b".to_owned(), 7)), limit: 10 };
        let answer = page.describe(&image(&[("a", 1), ("c", 2)]));
        assert_eq!(answer.topics.len(), 1);
        assert_eq!(answer.topics[0].partitions.len(), 2);
    }
}
