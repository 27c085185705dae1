//! FindCoordinator: which node serves a group, a transactional id or a share partition.

use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::find_coordinator_response::Coordinator;
use kafka_wire::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::text;
use crate::dispatch::RequestContext;
use crate::groups::partition_for;
use crate::share::ShareKey;
use crate::share::state::service::SHARE_STATE_TOPIC;
use crate::state::BrokerState;
use crate::transactions::service::TRANSACTIONS_TOPIC;

pub(crate) async fn find_coordinator(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    let kind = if version == 0 { 0 } else { request.key_type };
    if version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(|key| find(state, key, kind, version));
        return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
    }
    let found = find(state, request.key, kind, version);
    let answer = FindCoordinatorResponse::default()
        .with_error_code(found.error_code)
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port);
    if version >= 1 { answer.with_error_message(found.error_message) } else { answer }
}

fn find(state: &Arc<BrokerState>, key: StrBytes, kind: i8, version: i16) -> Coordinator {
    let topic = match kind {
        0 => Ok(Some("__consumer_offsets")),
        1 if version >= 1 => Ok(Some(TRANSACTIONS_TOPIC)),
        2 if version >= 6 && ShareKey::is_coordinator_key(&key) => Ok(Some(SHARE_STATE_TOPIC)),
        2 if version >= 6 => {
            Err((ErrorCode::InvalidRequest, "a share partition's key is group:topicId:partition"))
        }
        _ => Err((ErrorCode::InvalidRequest, "unknown coordinator key type")),
    };
    let hosted = topic.and_then(|topic| {
        topic.map_or(Ok(()), |topic| state.create_internal_topic(topic)).map_err(|refusal| {
            tracing::warn!(topic, reason = refusal.message, "internal topic not created");
            (ErrorCode::CoordinatorNotAvailable, "the coordinator's topic cannot be created")
        })
    });
    let coordinator = hosted.and_then(|()| match topic {
        Ok(Some(topic)) => coordinator_of(state, topic, &key)
            .ok_or((ErrorCode::CoordinatorNotAvailable, "the coordinator's partition has no leader")),
        _ => Ok((state.node_id, state.host.clone(), state.port)),
    });
    let answer = Coordinator::default().with_key(key);
    match coordinator {
        Ok((node_id, host, port)) => answer
            .with_node_id(BrokerId(node_id))
            .with_host(host)
            .with_port(i32::from(port))
            .with_error_message(Some(text("NONE"))),
        Err((code, message)) => answer
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code.code())
            .with_error_message(Some(text(message))),
    }
}

/// The leader of the partition that the key belongs to.
fn coordinator_of(state: &BrokerState, topic: &str, key: &str) -> Option<(i32, StrBytes, u16)> {
    state.cluster.read(|image, _| {
        let partitions = &image.topic(topic)?.partitions;
        let count = i32::try_from(partitions.len()).ok()?;
        let leader = partitions.get(&partition_for(key, count))?.leader;
        let broker = image.brokers().get(&leader).filter(|broker| !broker.fenced)?;
        Some((leader, text(&broker.host), broker.port))
    })
}
