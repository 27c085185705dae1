//! A fetch session with one broker (KIP-227): the broker remembers what is fetched, requests carry changes only.
//!
//! The rules are those of Java's `FetchSessionHandler`. A request that failed leaves open whether the broker took it, so
//! the next one closes the session and opens another.

use std::collections::HashSet;

use kafka_wire::{ErrorCode, Uuid};
use rustc_hash::FxHashMap;

use super::FetchPart;
use crate::TopicPartition;

/// The next request is whole and opens a session.
const INITIAL_EPOCH: i32 = 0;
/// Ends a session.
pub(crate) const FINAL_EPOCH: i32 = -1;
const NO_SESSION: i32 = 0;

/// What a request says about its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRequest {
    pub id: i32,
    pub epoch: i32,
    /// The parts of the plan that the broker does not know as they are, by index.
    pub changed: Vec<usize>,
    pub forgotten: Vec<(TopicPartition, Option<Uuid>)>,
}

type Key = (TopicPartition, Option<Uuid>);

/// What the broker remembers of a partition.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    offset: i64,
    leader_epoch: i32,
    last_fetched_epoch: i32,
    max_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    id: i32,
    epoch: i32,
    sent: FxHashMap<Key, Sent>,
}

impl Session {
    /// The session's part of a request for `parts`, and what the broker will know afterwards.
    pub(super) fn next(&mut self, parts: &[FetchPart]) -> SessionRequest {
        let is_full = self.epoch == INITIAL_EPOCH;
        if is_full {
            self.sent.clear();
        }
        let mut changed = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let sent = Sent {
                offset: part.offset,
                leader_epoch: part.leader_epoch,
                last_fetched_epoch: part.last_fetched_epoch,
                max_bytes: part.max_bytes,
            };
            let key = (part.partition.clone(), part.topic_id);
            if self.sent.get(&key) != Some(&sent) {
                self.sent.insert(key, sent);
                changed.push(index);
            }
        }
        let mut forgotten = Vec::new();
        if self.sent.len() > parts.len() {
            let asked: HashSet<(&TopicPartition, Option<Uuid>)> =
                parts.iter().map(|part| (&part.partition, part.topic_id)).collect();
            self.sent.retain(|(partition, id), _| {
                let stays = asked.contains(&(partition, *id));
                if !stays {
                    forgotten.push((partition.clone(), *id));
                }
                stays
            });
            forgotten.sort_unstable();
        }
        SessionRequest { id: self.id, epoch: self.epoch, changed, forgotten }
    }

    /// An answer came, with the session that the broker opened, or 0.
    pub(super) fn answered(&mut self, id: i32) {
        if id == NO_SESSION {
            *self = Self::default();
            return;
        }
        self.id = id;
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
    }

    /// No answer, or none that can be used.
    pub(super) fn failed(&mut self) {
        self.epoch = INITIAL_EPOCH;
    }

    /// The broker refused the request because of the session. Returns false if that was not the reason.
    pub(super) fn refused(&mut self, code: ErrorCode) -> bool {
        match code {
            ErrorCode::FetchSessionIdNotFound => *self = Self::default(),
            ErrorCode::InvalidFetchSessionEpoch
            | ErrorCode::FetchSessionTopicIdError
            | ErrorCode::InconsistentTopicId => self.failed(),
            _ => return false,
        }
        true
    }

    /// The id to close the session by, if there is one.
    pub(super) fn open_id(&self) -> Option<i32> {
        (self.id != NO_SESSION).then_some(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(partition: i32, offset: i64) -> FetchPart {
        FetchPart {
            partition: TopicPartition::new("t", partition),
            topic_id: None,
            epoch: 1,
            offset,
            leader_epoch: 3,
            last_fetched_epoch: -1,
            max_bytes: 100,
        }
    }

    #[test]
    fn only_changes_are_sent_once_the_broker_opened_a_session() {
        let mut session = Session::default();
        let whole = session.next(&[part(0, 0), part(1, 0)]);
        assert_eq!((whole.id, whole.epoch, whole.changed), (0, 0, vec![0, 1]));
        session.answered(9);
        let next = session.next(&[part(1, 0), part(0, 5)]);
        assert_eq!((next.id, next.epoch, next.changed), (9, 1, vec![1]));
        session.answered(9);
        let next = session.next(&[part(0, 5), part(2, 0)]);
        assert_eq!((next.epoch, next.changed), (2, vec![1]));
        assert_eq!(next.forgotten, [(TopicPartition::new("t", 1), None)]);
        session.answered(9);
        assert_eq!(session.next(&[part(0, 5), part(2, 0)]).changed, [0usize; 0]);
    }

    #[test]
    fn a_topic_made_anew_replaces_its_partitions() {
        let mut session = Session::default();
        let (old, new) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
        session.next(&[FetchPart { topic_id: old, ..part(0, 7) }]);
        session.answered(9);
        let next = session.next(&[FetchPart { topic_id: new, ..part(0, 7) }]);
        assert_eq!((next.changed, next.forgotten), (vec![0], vec![(TopicPartition::new("t", 0), old)]));
    }

    #[test]
    fn after_a_failure_the_next_request_is_whole_and_closes_the_session() {
        let mut session = Session::default();
        session.next(&[part(0, 0)]);
        session.answered(9);
        session.next(&[part(0, 1)]);
        session.failed();
        let whole = session.next(&[part(0, 1)]);
        assert_eq!((whole.id, whole.epoch, whole.changed.len()), (9, 0, 1));
        session.answered(10);
        assert_eq!(session.next(&[part(0, 1)]).epoch, 1);
    }

    #[test]
    fn a_session_that_the_broker_forgot_is_not_named_again() {
        let mut session = Session::default();
        session.next(&[part(0, 0)]);
        session.answered(9);
        session.next(&[part(0, 0)]);
        assert!(session.refused(ErrorCode::FetchSessionIdNotFound));
        assert_eq!((session.next(&[part(0, 0)]).id, session.open_id()), (0, None));
        assert!(!session.refused(ErrorCode::NotLeaderOrFollower));
    }

    #[test]
    fn a_broker_without_room_is_asked_for_everything_each_time() {
        let mut session = Session::default();
        for _ in 0..3 {
            let whole = session.next(&[part(0, 0)]);
            assert_eq!((whole.id, whole.epoch, whole.changed.len()), (0, 0, 1));
            session.answered(0);
        }
    }
}
