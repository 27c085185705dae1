//! ShareGroupHeartbeat and ShareGroupDescribe (KIP-932): the wire's side of [`groups::share`](crate::groups::share).

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::*;

use super::groups::{GROUP_OPERATIONS, caller, failure};
use super::{OPERATIONS_NOT_ASKED, off_thread};
use crate::config::group::GroupSettings;
use crate::dispatch::RequestContext;
use crate::groups::Response;
use crate::groups::share::record::Initialized;
use crate::groups::share::{ShareHeartbeat, look_up};
use crate::share::ShareKey;
use crate::share::state::service::{Pending, SHARE_STATE_TOPIC, change};
use crate::state::BrokerState;

/// Dropping the future takes nothing back: the member is heard from again or expires.
pub(crate) async fn heartbeat(
    state: &Arc<BrokerState>,
    context: &RequestContext,
    request: ShareGroupHeartbeatRequest,
    _version: i16,
) -> ShareGroupHeartbeatResponse {
    let refused = |code: i16| ShareGroupHeartbeatResponse::default().with_error_code(code);
    let initialized = match initialize(state, &request).await {
        Ok(initialized) => initialized,
        Err(code) => return refused(code.code()),
    };
    let caller = caller(context);
    let settings = GroupSettings::of(state, &request.group_id);
    let topics = |topic: &str| state.cluster.read(|image, _| look_up(image, topic));
    let answer = state.groups.call(state, &request.group_id, |coordinator, call, now| {
        let heartbeat = ShareHeartbeat {
            call,
            request: &request,
            caller: &caller,
            settings: &settings,
            max_size: state.config.share_max_group_size(),
            topics: &topics,
            initialized: &initialized,
        };
        coordinator.share_heartbeat(&heartbeat, now)
    });
    match answer.await {
        Ok(Response::ShareGroupHeartbeat(response)) => response,
        other => refused(failure(other)),
    }
}

/// Tells the share coordinator of the partitions that the group is about to read, before any member is given one
/// (InitializeShareGroupState).
async fn initialize(
    state: &Arc<BrokerState>,
    request: &ShareGroupHeartbeatRequest,
) -> Result<Initialized, ErrorCode> {
    let group_id = request.group_id.as_str();
    let topics = |topic: &str| state.cluster.read(|image, _| look_up(image, topic));
    if group_id.is_empty() || request.member_epoch < 0 {
        return Ok(Initialized::new());
    }
    let (epoch, missing) = state
        .groups
        .read(state, group_id, |coordinator| coordinator.share_uninitialized(request, &topics))?;
    if missing.is_empty() {
        return Ok(missing);
    }
    create_state_topic(state).await?;
    let mut written: Vec<Pending> = Vec::new();
    for (&id, (_, partitions)) in &missing {
        for &partition in partitions {
            let key = ShareKey::new(group_id, id, partition);
            let (_, pending) = change(state, &key, |coordinator, now_ms| match coordinator.get(&key) {
                // By a heartbeat that was not answered.
                Some(_) => Ok((None, ())),
                None => Ok((Some(coordinator.initialize(&key, epoch, -1, now_ms)?), ())),
            })?;
            written.push(pending);
        }
    }
    for pending in written {
        pending.committed().await?;
    }
    Ok(missing)
}

/// Makes the share coordinator's topic if it does not exist.
pub(super) async fn create_state_topic(state: &Arc<BrokerState>) -> Result<(), ErrorCode> {
    if state.topics.by_name(SHARE_STATE_TOPIC).is_some() {
        return Ok(());
    }
    let created = off_thread(state, |state| state.create_internal_topic(SHARE_STATE_TOPIC)).await;
    created.map_err(|refusal| {
        tracing::warn!(topic = SHARE_STATE_TOPIC, reason = refusal.message, "internal topic not created");
        ErrorCode::CoordinatorNotAvailable
    })
}

pub(crate) async fn describe(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ShareGroupDescribeRequest,
    _version: i16,
) -> ShareGroupDescribeResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let topic_name = |id| state.topics.by_id(id).map(|topic| topic.name().to_string());
    let groups = request.group_ids.iter().map(|group_id| {
        let described = state
            .groups
            .read(state, group_id, |coordinator| coordinator.describe_share_group(group_id, topic_name));
        let group = described.unwrap_or_else(|error| {
            share_group_describe_response::DescribedGroup::default()
                .with_group_id(group_id.clone())
                .with_error_code(error.code())
        });
        group.with_authorized_operations(operations)
    });
    ShareGroupDescribeResponse::default().with_groups(groups.collect())
}
