//! ElectLeaders (KIP-460): the preferred replica leads again, or any replica does.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_wire::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};

use super::{off_thread, text};
use crate::cluster::elections::{Election, elect_leader};
use crate::cluster::topics::Refusal;
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

pub(crate) async fn elect_leaders(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ElectLeadersRequest,
    version: i16,
) -> ElectLeadersResponse {
    // Version 0 knows preferred elections only.
    let election = match request.election_type {
        0 => Election::Preferred,
        1 if version >= 1 => Election::Unclean,
        _ => return ElectLeadersResponse::default().with_error_code(ErrorCode::InvalidRequest.code()),
    };
    off_thread(state, move |state| elect_each(state, &request, election)).await
}

fn elect_each(
    state: &BrokerState,
    request: &ElectLeadersRequest,
    election: Election,
) -> ElectLeadersResponse {
    // Null asks for every partition; of those only the ones that needed an election are told (`ElectLeaders` of Kafka's
    // `ReplicationControlManager`).
    let (asked, all) = match &request.topic_partitions {
        Some(topics) => {
            let topics = topics.iter().map(|topic| (topic.topic.to_string(), topic.partitions.clone()));
            (topics.collect::<Vec<_>>(), false)
        }
        None => {
            let every = state.cluster.read(|image, _| {
                let topics = image.topics().iter();
                topics
                    .map(|(name, topic)| (name.clone(), topic.partitions.keys().copied().collect()))
                    .collect()
            });
            (every, true)
        }
    };
    let results = asked.into_iter().map(|(topic, partitions)| {
        let results = partitions.into_iter().filter_map(|index| {
            let elected = state.cluster.change(state.clock.now_ms(), |image| {
                Ok(vec![elect_leader(image, &topic, index, election)?])
            });
            let answer = PartitionResult::default().with_partition_id(index);
            match elected {
                Ok(()) => Some(answer),
                Err(Refusal { code: ErrorCode::ElectionNotNeeded, .. }) if all => None,
                Err(refusal) => Some(
                    answer
                        .with_error_code(refusal.code.code())
                        .with_error_message(Some(text(&refusal.message))),
                ),
            }
        });
        let results: Vec<_> = results.collect();
        ReplicaElectionResult::default().with_topic(TopicName(text(&topic))).with_partition_result(results)
    });
    let results = results.filter(|topic| !all || !topic.partition_result.is_empty()).collect();
    ElectLeadersResponse::default().with_replica_election_results(results)
}
