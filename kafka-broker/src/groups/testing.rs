//! A coordinator on virtual time with a log in a vector, for tests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_wire::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_wire::{ErrorCode, Uuid};

use super::assignor::Assignor;
use super::classic::Join;
use super::consumer::{ClusterView, ConsumerGroupConfig};
use super::offsets::Commit;
use super::record::{GroupRecord, text};
use super::{CallId, Caller, Coordinator, Decision, GroupConfig, Now, Response};
use crate::cluster::image::Image;
use crate::config::group::ConsumerSettings;

pub(super) const GROUP: &str = "g";

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn config() -> GroupConfig {
    GroupConfig {
        share_session_timeout: Duration::from_secs(45),
        initial_rebalance_delay: secs(3),
        min_session_timeout_ms: 6_000,
        max_session_timeout_ms: 1_800_000,
        max_size: usize::MAX,
        offset_metadata_max_bytes: 4096,
        offsets_retention_ms: 7 * 24 * 3600 * 1000,
        offsets_check_interval: secs(600),
        consumer: ConsumerGroupConfig {
            settings: ConsumerSettings {
                assignment_interval: Duration::ZERO,
                heartbeat_interval: secs(5),
                session_timeout: secs(45),
            },
            max_size: usize::MAX,
            assignors: Assignor::ALL.to_vec(),
            upgrades: true,
            downgrades: true,
        },
    }
}

pub(super) struct Harness {
    pub(super) coordinator: Coordinator,
    pub(super) log: Vec<GroupRecord>,
    pub(super) now: Now,
    /// The cluster's metadata, up to `offset`.
    pub(super) image: Image,
    pub(super) offset: i64,
    /// What the log says to the next appends.
    pub(super) append: Result<(), ErrorCode>,
    answers: BTreeMap<CallId, Response>,
    next_call: u64,
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: GroupConfig) -> Self {
        let now = Now { at: Instant::now(), ms: 1_700_000_000_000 };
        Self {
            coordinator: Coordinator::new(config, now),
            log: Vec::new(),
            now,
            image: Image::default(),
            offset: 0,
            append: Ok(()),
            answers: BTreeMap::new(),
            next_call: 0,
        }
    }

    pub(super) fn settle(&mut self, mut decision: Decision) {
        loop {
            let mut written = Ok(());
            if !decision.records.is_empty() {
                written = self.append;
                if written.is_ok() {
                    self.log.extend(decision.records.iter().cloned());
                }
            }
            for answer in self.coordinator.finish(decision, written, self.now) {
                let earlier = self.answers.insert(answer.call, answer.response);
                assert!(earlier.is_none(), "{:?} was answered twice", answer.call);
            }
            match self.coordinator.expire(self.now) {
                Some(next) => decision = next,
                None => return,
            }
        }
    }

    pub(super) fn call(&mut self, call: impl FnOnce(&mut Coordinator, CallId, Now) -> Decision) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        let decision = call(&mut self.coordinator, id, self.now);
        self.settle(decision);
        id
    }

    /// A call that looks at the cluster's metadata.
    pub(super) fn call_with_view(
        &mut self,
        call: impl FnOnce(&mut Coordinator, CallId, ClusterView<'_>, Now) -> Decision,
    ) -> CallId {
        let image = std::mem::take(&mut self.image);
        let offset = self.offset;
        let id = self
            .call(|coordinator, id, now| call(coordinator, id, ClusterView { image: &image, offset }, now));
        self.image = image;
        id
    }

    /// Lets time pass, stopping at every deadline on the way.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now.at + by;
        loop {
            let at = self.coordinator.next_wake_up().min(end).max(self.now.at);
            self.now.ms += i64::try_from((at - self.now.at).as_millis()).unwrap();
            self.now.at = at;
            self.settle(Decision::default());
            if at == end {
                return;
            }
        }
    }

    pub(super) fn answer(&self, call: CallId) -> Option<&Response> {
        self.answers.get(&call)
    }

    /// Another coordinator, from the log alone.
    pub(super) fn restart(&mut self) {
        let records: Vec<GroupRecord> = self
            .log
            .iter()
            .map(|record| {
                let (key, value) = record.encode().unwrap();
                GroupRecord::decode(key, value).unwrap().unwrap()
            })
            .collect();
        let config = self.coordinator.config.clone();
        self.coordinator = Coordinator::new(config, self.now);
        for record in &records {
            self.coordinator.replay(record, self.now);
        }
        let decision = self.coordinator.loaded(self.now);
        self.settle(decision);
    }

    pub(super) fn join_call(&mut self, version: i16, request: JoinGroupRequest) -> CallId {
        let caller = Caller { client_id: "client".into(), client_host: "/127.0.0.1".into() };
        let fresh = Uuid::from_u128(u128::from(self.next_call));
        self.call_with_view(|coordinator, call, view, now| {
            coordinator.join(Join { call, request: &request, version, caller: &caller, fresh }, view, now)
        })
    }

    pub(super) fn joined(&self, call: CallId) -> Option<JoinGroupResponse> {
        match self.answer(call)? {
            Response::JoinGroup(response) => Some(response.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn synced(&self, call: CallId) -> Option<SyncGroupResponse> {
        match self.answer(call)? {
            Response::SyncGroup(response) => Some(response.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// Joins as a dynamic member of an old client, which needs no second request; parked.
    pub(super) fn join_new(&mut self) -> CallId {
        self.join_call(3, join_request(""))
    }

    /// A stable group with this many members, and their ids; the first leads. Generation 1.
    pub(super) fn stable_group(&mut self, members: usize) -> Vec<String> {
        let joins: Vec<CallId> = (0..members).map(|_| self.join_new()).collect();
        self.advance(secs(10));
        let joined: Vec<JoinGroupResponse> = joins.iter().map(|&call| self.joined(call).unwrap()).collect();
        let generation = joined[0].generation_id;
        let leader = joined[0].leader.to_string();
        let mut ids: Vec<String> = joined.iter().map(|response| response.member_id.to_string()).collect();
        ids.sort_by_key(|id| *id != leader);
        let assignments: Vec<(String, Bytes)> =
            ids.iter().map(|id| (id.clone(), Bytes::from(format!("for {id}")))).collect();
        self.sync(&leader, generation, &assignments);
        for id in &ids[1..] {
            self.sync(id, generation, &[]);
        }
        assert_eq!(self.state(), "Stable");
        ids
    }

    pub(super) fn sync(&mut self, member: &str, generation: i32, assignments: &[(String, Bytes)]) -> CallId {
        let assignments = assignments.iter().map(|(id, assignment)| {
            SyncGroupRequestAssignment::default().with_member_id(text(id)).with_assignment(assignment.clone())
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id(generation)
            .with_member_id(text(member))
            .with_assignments(assignments.collect());
        self.call_with_view(|coordinator, call, view, now| coordinator.sync(call, &request, view, now))
    }

    pub(super) fn sync_error(&mut self, member: &str, generation: i32) -> ErrorCode {
        let call = self.sync(member, generation, &[]);
        ErrorCode::from(self.synced(call).unwrap().error_code)
    }

    pub(super) fn heartbeat(&mut self, member: &str, generation: i32) -> ErrorCode {
        self.heartbeat_as(member, None, generation)
    }

    pub(super) fn heartbeat_as(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id(generation)
            .with_group_instance_id(instance.map(text))
            .with_member_id(text(member));
        let call = self.call(|coordinator, call, now| coordinator.heartbeat(call, &request, now));
        match self.answer(call) {
            Some(Response::Heartbeat(response)) => ErrorCode::from(response.error_code),
            other => panic!("{other:?}"),
        }
    }

    /// Leaves, by member id, or by instance id if the member id is empty.
    pub(super) fn leave(&mut self, member: &str, instance: Option<&str>) -> ErrorCode {
        let identity =
            MemberIdentity::default().with_member_id(text(member)).with_group_instance_id(instance.map(text));
        let request =
            LeaveGroupRequest::default().with_group_id(GroupId(text(GROUP))).with_members(vec![identity]);
        let call = self.call(|coordinator, call, now| coordinator.leave(call, &request, now));
        match self.answer(call) {
            Some(Response::LeaveGroup(response)) => {
                let member = response.members.first().map_or(0, |member| member.error_code);
                ErrorCode::from(if response.error_code == 0 { member } else { response.error_code })
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn commit(&mut self, member: &str, generation: i32, offset: i64) -> ErrorCode {
        self.commit_with(member, generation, offset, "", 8)
    }

    pub(super) fn commit_with(
        &mut self,
        member: &str,
        generation: i32,
        offset: i64,
        metadata: &str,
        version: i16,
    ) -> ErrorCode {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text(metadata)));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("t")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(member))
            .with_topics(vec![topic]);
        let call = self.call(|coordinator, call, now| {
            coordinator.commit(Commit { call, request: &request, version, producer: None }, now)
        });
        match self.answer(call) {
            Some(Response::OffsetCommit(response)) => {
                ErrorCode::from(response.topics[0].partitions[0].error_code)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn committed(&self) -> Option<i64> {
        self.coordinator.committed(GROUP, "t", None, 0).map(|committed| committed.offset)
    }

    /// The group's state by Kafka's name; `Dead` if there is none.
    pub(super) fn state(&self) -> String {
        self.coordinator.describe(&GroupId(text(GROUP)), 5).group_state.to_string()
    }

    pub(super) fn member_count(&self) -> usize {
        self.coordinator.describe(&GroupId(text(GROUP)), 5).members.len()
    }
}

pub(super) fn protocol(name: &str, metadata: &'static [u8]) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(Bytes::from_static(metadata))
}

/// A consumer of topic `t` with a session timeout of 10 s, a rebalance timeout of 30 s and the range assignor.
pub(super) fn join_request(member: &str) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol("range", b"\0\0\0\0\0\x01\0\x01t")])
}
