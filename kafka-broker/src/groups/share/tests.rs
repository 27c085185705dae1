//! Share groups on virtual time.

use std::time::Duration;

use kafka_wire::messages::TopicName;

use super::*;
use crate::config::group::OffsetReset;
use crate::groups::record::GroupRecord;

const TOPIC: Uuid = Uuid::from_u128(5);
const SETTINGS: GroupSettings = GroupSettings {
    auto_offset_reset: OffsetReset::Latest,
    delivery_count_limit: 5,
    heartbeat_interval_ms: 5000,
    is_committed: false,
    record_locks: 2000,
    lock_duration: Duration::from_secs(30),
    session_timeout: Duration::from_secs(45),
};

struct Fixture {
    groups: ShareGroups,
    log: Vec<ShareGroupRecord>,
    now: Now,
    partitions: i32,
}

impl Fixture {
    fn new(partitions: i32) -> Self {
        let now = Now { at: Instant::now(), ms: 0 };
        Self { groups: ShareGroups::default(), log: Vec::new(), now, partitions }
    }

    fn write(&mut self, records: Vec<GroupRecord>) {
        for record in records {
            let GroupRecord::Share(record) = record else { panic!("{record:?}") };
            self.groups.replay(&record);
            self.log.push(record);
        }
    }

    fn heartbeat(&mut self, request: &ShareGroupHeartbeatRequest) -> ShareGroupHeartbeatResponse {
        let count = self.partitions;
        let topics = move |name: &str| (name == "t").then_some((TOPIC, count));
        let initialized = self.groups.uninitialized(request, &topics);
        let heartbeat = ShareHeartbeat {
            call: CallId(1),
            request,
            caller: &Caller::default(),
            settings: &SETTINGS,
            max_size: 3,
            topics: &topics,
            initialized: &initialized,
        };
        let mut out = Decision::default();
        self.groups.heartbeat(&heartbeat, self.now, &mut out);
        let mut answers = std::mem::take(&mut out.answers);
        for after in std::mem::take(&mut out.after) {
            let crate::groups::After::Answer(answer) = after else { panic!("{after:?}") };
            answers.push(answer);
        }
        self.write(out.records);
        match answers.pop().unwrap().response {
            Response::ShareGroupHeartbeat(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, member: &str) -> ShareGroupHeartbeatResponse {
        let topics = Some(vec![TopicName(text("t"))]);
        self.heartbeat(&request(member, 0).with_subscribed_topic_names(topics))
    }

    fn stay(&mut self, member: &str, epoch: i32) -> ShareGroupHeartbeatResponse {
        self.heartbeat(&request(member, epoch))
    }

    fn expire(&mut self) {
        while let Some(out) = self.groups.expire(self.now) {
            self.write(out.records);
        }
    }

    /// The group's records so far, read by another coordinator.
    fn restart(&mut self) {
        self.groups = ShareGroups::default();
        for record in &self.log {
            let (key, value) = record.encode().unwrap();
            self.groups.replay(&ShareGroupRecord::decode(key, value).unwrap().unwrap());
        }
        self.groups.loaded(self.now.at + SETTINGS.session_timeout);
    }
}

fn request(member: &str, epoch: i32) -> ShareGroupHeartbeatRequest {
    ShareGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
}

fn partitions(response: &ShareGroupHeartbeatResponse) -> Vec<i32> {
    let assignment = response.assignment.as_ref().expect("an assignment");
    assignment.topic_partitions.iter().flat_map(|topic| topic.partitions.clone()).collect()
}

#[test]
fn a_first_member_has_all_partitions_at_once_and_a_second_one_takes_half() {
    let mut group = Fixture::new(4);
    let a = group.join("a");
    assert_eq!((a.error_code, partitions(&a)), (0, vec![0, 1, 2, 3]));
    assert_eq!(a.heartbeat_interval_ms, 5000);
    // Nothing new: nothing to tell, nothing to write.
    let written = group.log.len();
    assert_eq!(group.stay("a", a.member_epoch).assignment, None);
    assert_eq!(group.log.len(), written);
    let b = group.join("b");
    assert_eq!(partitions(&b).len(), 2);
    let a = group.stay("a", a.member_epoch);
    assert_eq!((a.member_epoch, partitions(&a).len()), (b.member_epoch, 2));
}

#[test]
fn more_members_than_partitions_share_them() {
    let mut group = Fixture::new(1);
    for member in ["a", "b", "c"] {
        assert_eq!(partitions(&group.join(member)), [0]);
    }
    assert_eq!(group.join("d").error_code, ErrorCode::GroupMaxSizeReached.code());
}

#[test]
fn a_lost_answer_is_repeated_and_other_epochs_are_fenced() {
    let mut group = Fixture::new(2);
    let a = group.join("a").member_epoch;
    group.join("b");
    let changed = group.stay("a", a);
    let repeated = group.stay("a", a);
    assert_eq!(repeated.assignment, changed.assignment);
    assert!(repeated.assignment.is_some());
    assert_eq!(group.stay("a", changed.member_epoch + 1).error_code, ErrorCode::FencedMemberEpoch.code());
    assert_eq!(group.stay("x", 1).error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_silent_member_is_out_and_the_others_take_over() {
    let mut group = Fixture::new(2);
    group.join("a");
    let b = group.join("b").member_epoch;
    group.now.at += Duration::from_secs(30);
    group.stay("b", b);
    group.now.at += Duration::from_secs(15);
    group.expire();
    let b = group.stay("b", b);
    assert_eq!(partitions(&b), [0, 1]);
    assert_eq!(group.stay("a", 1).error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_group_is_the_same_after_a_restart_and_members_go_on() {
    let mut group = Fixture::new(2);
    let a = group.join("a").member_epoch;
    group.join("b");
    let before = group.groups.groups.clone();
    group.restart();
    assert_eq!(group.groups.groups, before);
    assert!(group.stay("a", a).assignment.is_some());
    group.now.at += Duration::from_secs(46);
    group.expire();
    assert_eq!(group.groups.has_members("g"), Some(false));
}

#[test]
fn a_topic_that_grows_is_assigned_by_the_next_heartbeat() {
    let mut group = Fixture::new(1);
    let a = group.join("a").member_epoch;
    group.partitions = 3;
    assert_eq!(partitions(&group.stay("a", a)), [0, 1, 2]);
}

#[test]
fn who_leaves_is_forgotten_and_an_empty_group_can_be_deleted() {
    let mut group = Fixture::new(1);
    group.join("a");
    let left = group.heartbeat(&request("a", LEAVE_EPOCH));
    assert_eq!((left.error_code, left.member_epoch), (0, LEAVE_EPOCH));
    assert_eq!(group.groups.next_deadline(), None);
    assert_eq!(group.groups.has_members("g"), Some(false));
    let tombstones = group.groups.tombstones("g").into_iter().map(GroupRecord::Share).collect();
    group.write(tombstones);
    group.restart();
    assert!(!group.groups.contains("g"));
}

#[test]
fn a_heartbeat_that_makes_no_sense_says_why() {
    let mut group = Fixture::new(1);
    for request in [
        request("", 0),
        request("a", -2),
        request("a", 0),
        request("a", 0).with_subscribed_topic_names(Some(Vec::new())),
        request("a", 0).with_group_id(GroupId(text(""))),
    ] {
        let refused = group.heartbeat(&request);
        assert_eq!(refused.error_code, ErrorCode::InvalidRequest.code());
        assert!(refused.error_message.is_some());
    }
}
