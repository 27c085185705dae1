//! Membership of a share group (KIP-932): when to heartbeat, and what the answers mean. Owns no socket and reads no clock.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_wire::messages::{GroupId, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse, TopicName};
use kafka_wire::{ErrorCode, StrBytes, Uuid};
use tokio::time::Instant;

use crate::backoff::random_u64;

/// A partition by its topic's id and its number.
pub(super) type TopicIdPartition = (Uuid, i32);

/// The epoch with which a member joins.
const JOIN: i32 = 0;
/// The epoch with which it leaves.
const LEAVE: i32 = -1;
/// How often to heartbeat until the coordinator says it.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);

/// What an answer brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// The partitions to fetch are others.
    Assigned,
    /// Another broker coordinates the group.
    OtherCoordinator,
    /// The member is, and stays, out.
    Refused {
        code: ErrorCode,
        message: String,
    },
}

#[derive(Debug)]
pub(super) struct Membership {
    group: StrBytes,
    member_id: StrBytes,
    topics: Vec<StrBytes>,
    rack: Option<StrBytes>,
    epoch: i32,
    assigned: BTreeSet<TopicIdPartition>,
    interval: Duration,
    due_at: Instant,
    /// The coordinator is told everything again: after a join, and after an answer that got lost.
    tells_all: bool,
}

impl Membership {
    pub(super) fn new(group: &str, topics: &BTreeSet<String>, rack: Option<&str>, now: Instant) -> Self {
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        Self {
            group: text(group),
            member_id: member_id(),
            topics: topics.iter().map(|topic| text(topic)).collect(),
            rack: rack.map(text),
            epoch: JOIN,
            assigned: BTreeSet::new(),
            interval: FIRST_INTERVAL,
            due_at: now,
            tells_all: true,
        }
    }

    pub(super) fn member_id(&self) -> &StrBytes {
        &self.member_id
    }

    /// What the member may fetch.
    pub(super) fn assigned(&self) -> &BTreeSet<TopicIdPartition> {
        &self.assigned
    }

    /// When the next heartbeat is due.
    pub(super) fn due_at(&self) -> Instant {
        self.due_at
    }

    /// The next heartbeat.
    pub(super) fn heartbeat(&self) -> ShareGroupHeartbeatRequest {
        let mut request = self.request(self.epoch);
        if self.tells_all {
            request.rack_id = self.rack.clone();
            request.subscribed_topic_names = Some(self.topics.iter().cloned().map(TopicName).collect());
        }
        request
    }

    /// The last heartbeat of all, if there is a membership to give up.
    pub(super) fn leave(&self) -> Option<ShareGroupHeartbeatRequest> {
        (self.epoch > JOIN).then(|| self.request(LEAVE))
    }

    fn request(&self, epoch: i32) -> ShareGroupHeartbeatRequest {
        ShareGroupHeartbeatRequest::default()
            .with_group_id(GroupId(self.group.clone()))
            .with_member_id(self.member_id.clone())
            .with_member_epoch(epoch)
    }

    /// The heartbeat got no answer; the next one is due after `pause`.
    pub(super) fn failed(&mut self, now: Instant, pause: Duration) {
        self.tells_all = true;
        self.due_at = now + pause.min(self.interval);
    }

    /// Takes an answer; `pause` is how long to wait after one that says to try again.
    pub(super) fn answered(
        &mut self,
        response: &ShareGroupHeartbeatResponse,
        now: Instant,
        pause: Duration,
    ) -> News {
        match ErrorCode::from(response.error_code) {
            ErrorCode::None => {
                self.epoch = response.member_epoch;
                self.tells_all = false;
                if let Ok(interval @ 1..) = u64::try_from(response.heartbeat_interval_ms) {
                    self.interval = Duration::from_millis(interval);
                }
                self.due_at = now + self.interval;
                let Some(assignment) = &response.assignment else { return News::Nothing };
                let assigned = assignment.topic_partitions.iter();
                let assigned: BTreeSet<TopicIdPartition> = assigned
                    .flat_map(|topic| topic.partitions.iter().map(|&partition| (topic.topic_id, partition)))
                    .collect();
                if assigned == self.assigned {
                    return News::Nothing;
                }
                self.assigned = assigned;
                News::Assigned
            }
            ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch => {
                self.epoch = JOIN;
                self.tells_all = true;
                self.due_at = now;
                self.assigned.clear();
                News::Assigned
            }
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                self.failed(now, pause);
                News::OtherCoordinator
            }
            code if code.is_retriable() => {
                self.failed(now, pause);
                News::Nothing
            }
            code => {
                self.assigned.clear();
                let message = response.error_message.as_deref().unwrap_or_else(|| code.name()).to_owned();
                News::Refused { code, message }
            }
        }
    }
}

/// A random id in Kafka's text form, which is base64 of 16 bytes: the last of its 22 letters stands for two bits. It must
/// not begin with a dash, which tools take for an option.
fn member_id() -> StrBytes {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const LAST: [u8; 4] = *b"AQgw";
    let letter = |at: usize| match at {
        21 => LAST[(random_u64() % 4) as usize],
        0 => LETTERS[(random_u64() % 62) as usize],
        _ => LETTERS[(random_u64() % 64) as usize],
    };
    StrBytes::from_string((0..22).map(|at| char::from(letter(at))).collect())
}

#[cfg(test)]
mod tests {
    use kafka_wire::messages::share_group_heartbeat_response::{Assignment, TopicPartitions};

    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(3);
    const PAUSE: Duration = Duration::from_millis(100);

    fn member(now: Instant) -> Membership {
        Membership::new("g", &["t".to_owned()].into(), None, now)
    }

    fn assigned(epoch: i32, partitions: &[i32]) -> ShareGroupHeartbeatResponse {
        let topic = TopicPartitions::default().with_topic_id(TOPIC).with_partitions(partitions.to_vec());
        ShareGroupHeartbeatResponse::default()
            .with_member_epoch(epoch)
            .with_heartbeat_interval_ms(3000)
            .with_assignment(Some(Assignment::default().with_topic_partitions(vec![topic])))
    }

    fn error(code: ErrorCode) -> ShareGroupHeartbeatResponse {
        ShareGroupHeartbeatResponse::default().with_error_code(code.code())
    }

    #[test]
    fn a_member_joins_with_its_topics_and_then_only_says_that_it_is_there() {
        let start = Instant::now();
        let mut member = member(start);
        assert_eq!(member.due_at(), start);
        let join = member.heartbeat();
        assert_eq!((join.member_epoch, join.subscribed_topic_names.unwrap().len()), (0, 1));
        assert_eq!(member.leave(), None);
        assert_eq!(member.answered(&assigned(4, &[0, 1]), start, PAUSE), News::Assigned);
        assert_eq!(member.due_at(), start + Duration::from_secs(3));
        assert_eq!(member.assigned().len(), 2);
        let stay = member.heartbeat();
        assert_eq!((stay.member_epoch, stay.subscribed_topic_names), (4, None));
        assert_eq!(member.answered(&assigned(4, &[0, 1]), start, PAUSE), News::Nothing);
        assert_eq!(member.leave().unwrap().member_epoch, -1);
    }

    #[test]
    fn a_fenced_member_joins_again_at_once_without_partitions() {
        let start = Instant::now();
        let mut member = member(start);
        member.answered(&assigned(4, &[0]), start, PAUSE);
        assert_eq!(member.answered(&error(ErrorCode::FencedMemberEpoch), start, PAUSE), News::Assigned);
        assert!(member.assigned().is_empty());
        assert_eq!((member.due_at(), member.heartbeat().member_epoch), (start, 0));
    }

    #[test]
    fn a_lost_answer_makes_the_member_say_everything_again() {
        let start = Instant::now();
        let mut member = member(start);
        member.answered(&assigned(4, &[0]), start, PAUSE);
        member.failed(start, PAUSE);
        assert_eq!(member.due_at(), start + PAUSE);
        let again = member.heartbeat();
        assert_eq!((again.member_epoch, again.subscribed_topic_names.is_some()), (4, true));
        assert_eq!(member.answered(&error(ErrorCode::NotCoordinator), start, PAUSE), News::OtherCoordinator);
        let refused = member.answered(&error(ErrorCode::GroupMaxSizeReached), start, PAUSE);
        assert!(matches!(refused, News::Refused { code: ErrorCode::GroupMaxSizeReached, .. }));
    }

    #[test]
    fn member_ids_are_kafkas_uuids() {
        for _ in 0..100 {
            let id = member_id();
            assert_eq!(id.len(), 22);
            assert!(!id.starts_with('-') && id.ends_with(['A', 'Q', 'g', 'w']), "{id:?}");
        }
    }
}
