//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DescribeGroups, ListGroups, DeleteGroups: the wire's side of
//! [`groups`](crate::groups), with what differs between versions.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::delete_groups_response::DeletableGroupResult;
use kafka_wire::messages::describe_groups_response::DescribedGroup;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::*;

use super::{OPERATIONS_NOT_ASKED, share_offsets, text};
use crate::dispatch::RequestContext;
use crate::groups::classic::Join;
use crate::groups::consumer::{ClusterView, Heartbeat};
use crate::groups::{Caller, Response};
use crate::ids;
use crate::state::BrokerState;

/// Without an authorizer a client may READ, DELETE and DESCRIBE a group, and describe and alter its configuration.
pub(super) const GROUP_OPERATIONS: i32 = super::bits(&[3, 6, 8, 10, 11]);

pub(super) fn caller(context: &RequestContext) -> Caller {
    Caller {
        client_id: context.client_id.as_deref().unwrap_or_default().to_owned(),
        client_host: context.client_host.to_string(),
    }
}

pub(crate) async fn join_group(
    state: &Arc<BrokerState>,
    context: &RequestContext,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    let caller = caller(context);
    let fresh = ids::random();
    let answer = state.groups.call(state, &request.group_id, |coordinator, call, now| {
        let join = Join { call, request: &request, version, caller: &caller, fresh };
        state.cluster.read(|image, offset| coordinator.join(join, ClusterView { image, offset }, now))
    });
    let mut response = match answer.await {
        Ok(Response::JoinGroup(response)) => response,
        other => JoinGroupResponse::default()
            .with_error_code(failure(other))
            .with_generation_id(-1)
            .with_protocol_name(None)
            .with_member_id(request.member_id.clone()),
    };
    if version < 7 {
        // Nullable from version 7 on.
        response.protocol_name.get_or_insert_default();
    }
    response
}

pub(crate) async fn sync_group(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: SyncGroupRequest,
    _version: i16,
) -> SyncGroupResponse {
    let answer = state.groups.call(state, &request.group_id, |coordinator, call, now| {
        state
            .cluster
            .read(|image, offset| coordinator.sync(call, &request, ClusterView { image, offset }, now))
    });
    match answer.await {
        Ok(Response::SyncGroup(response)) => response,
        other => SyncGroupResponse::default().with_error_code(failure(other)),
    }
}

pub(crate) async fn heartbeat(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: HeartbeatRequest,
    _version: i16,
) -> HeartbeatResponse {
    let answer = state
        .groups
        .call(state, &request.group_id, |coordinator, call, now| coordinator.heartbeat(call, &request, now));
    match answer.await {
        Ok(Response::Heartbeat(response)) => response,
        other => HeartbeatResponse::default().with_error_code(failure(other)),
    }
}

pub(crate) async fn leave_group(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    mut request: LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    if version < 3 {
        let member_id = std::mem::take(&mut request.member_id);
        request.members = vec![MemberIdentity::default().with_member_id(member_id)];
    }
    let answer = state
        .groups
        .call(state, &request.group_id, |coordinator, call, now| coordinator.leave(call, &request, now));
    let mut response = match answer.await {
        Ok(Response::LeaveGroup(response)) => response,
        other => LeaveGroupResponse::default().with_error_code(failure(other)),
    };
    if version < 3 {
        // One member, and its error is the request's.
        if let Some(member) = response.members.pop()
            && response.error_code == ErrorCode::None.code()
        {
            response.error_code = member.error_code;
        }
    }
    response
}

pub(crate) async fn consumer_group_heartbeat(
    state: &Arc<BrokerState>,
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
    version: i16,
) -> ConsumerGroupHeartbeatResponse {
    let caller = caller(context);
    let fresh = ids::random();
    let answer = state.groups.call(state, &request.group_id, |coordinator, call, now| {
        state.cluster.read(|image, offset| {
            let view = ClusterView { image, offset };
            let heartbeat = Heartbeat { request: &request, version, caller: &caller, fresh, view };
            coordinator.consumer_heartbeat(call, &heartbeat, now)
        })
    });
    match answer.await {
        Ok(Response::ConsumerGroupHeartbeat(response)) => response,
        other => ConsumerGroupHeartbeatResponse::default().with_error_code(failure(other)),
    }
}

pub(crate) async fn consumer_group_describe(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ConsumerGroupDescribeRequest,
    version: i16,
) -> ConsumerGroupDescribeResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let groups = request.group_ids.iter().map(|group_id| {
        let described = match group_id.is_empty() {
            true => Err(ErrorCode::InvalidGroupId),
            false => state.groups.read(state, group_id, |coordinator| {
                state.cluster.read(|image, _| coordinator.describe_consumer_group(group_id, version, image))
            }),
        };
        let group = described.unwrap_or_else(|error| {
            consumer_group_describe_response::DescribedGroup::default()
                .with_group_id(group_id.clone())
                .with_error_code(error.code())
        });
        group.with_authorized_operations(operations)
    });
    ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
}

pub(crate) async fn describe_groups(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let groups = request.groups.iter().map(|group_id| {
        let described = match group_id.is_empty() {
            true => Err(ErrorCode::InvalidGroupId),
            false => {
                state.groups.read(state, group_id, |coordinator| coordinator.describe(group_id, version))
            }
        };
        let group = described.unwrap_or_else(|error| {
            DescribedGroup::default().with_group_id(group_id.clone()).with_error_code(error.code())
        });
        // Asked for from version 3 on, and not encoded before.
        if version >= 3 { group.with_authorized_operations(operations) } else { group }
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

pub(crate) async fn list_groups(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ListGroupsRequest,
    version: i16,
) -> ListGroupsResponse {
    let listed = state
        .groups
        .read_all(state, |coordinator| coordinator.list(&request.states_filter, &request.types_filter));
    match listed {
        Ok(groups) => {
            let mut groups: Vec<_> = groups.into_iter().flatten().collect();
            for group in &mut groups {
                if version < 4 {
                    group.group_state = Default::default();
                }
                if version < 5 {
                    group.group_type = Default::default();
                }
            }
            ListGroupsResponse::default().with_groups(groups)
        }
        Err(error) => ListGroupsResponse::default().with_error_code(error.code()),
    }
}

pub(crate) async fn delete_groups(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DeleteGroupsRequest,
    _version: i16,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        // What the share coordinator keeps of a share group goes with it.
        let shared = state.groups.read(state, &group_id, |coordinator| coordinator.share_offsets(&group_id));
        let answer = state.groups.call(state, &group_id, |coordinator, call, _| {
            coordinator.delete_groups(call, std::slice::from_ref(&group_id))
        });
        match answer.await {
            Ok(Response::DeleteGroups(response)) => {
                let is_deleted = response.results.iter().all(|result| result.error_code == 0);
                if let (true, Ok(Ok((_, offsets)))) = (is_deleted, shared) {
                    share_offsets::delete_group(state, &group_id, &offsets).await;
                }
                results.extend(response.results);
            }
            other => results.push(
                DeletableGroupResult::default()
                    .with_group_id(GroupId(text(&group_id)))
                    .with_error_code(failure(other)),
            ),
        }
    }
    DeleteGroupsResponse::default().with_results(results)
}

/// The error of a call that got no answer of its own kind.
pub(super) fn failure(answer: Result<Response, ErrorCode>) -> i16 {
    match answer {
        Ok(_) => ErrorCode::UnknownServerError.code(),
        Err(error) => error.code(),
    }
}
