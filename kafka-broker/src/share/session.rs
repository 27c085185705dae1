//! Share sessions: which partitions a member fetches, so that each fetch names only what changed (`ShareSessionCache`).

use std::collections::{BTreeSet, HashMap};

use kafka_wire::{ErrorCode, Uuid};

use crate::dispatch::ConnectionId;

/// The epoch that opens a session.
pub(crate) const INITIAL_EPOCH: i32 = 0;
/// The epoch that closes it.
pub(crate) const FINAL_EPOCH: i32 = -1;

/// A partition by its topic's id and its index.
pub(crate) type TopicIdPartition = (Uuid, i32);

/// A member's session with this node.
#[derive(Debug)]
struct Session {
    /// What the next request has to say.
    epoch: i32,
    /// Which connection it was opened on, and ends with.
    connection: ConnectionId,
    /// What is fetched.
    partitions: BTreeSet<TopicIdPartition>,
    /// Where the next fetch begins, so that every partition has its turn.
    turn: usize,
}

/// All sessions of a node.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_member: HashMap<(String, String), Session>,
    /// `group.share.max.share.sessions`.
    max: usize,
}

/// What a fetch is for.
#[derive(Debug, PartialEq)]
pub(crate) struct Opened {
    /// The partitions to read, in the order of this turn.
    pub(crate) partitions: Vec<TopicIdPartition>,
    /// The answer names every partition, not only those that have something.
    pub(crate) is_new: bool,
}

impl Sessions {
    pub(crate) fn new(max: usize) -> Self {
        Self { by_member: HashMap::new(), max }
    }

    /// A fetch with epoch 0 or above: opens or continues the session.
    pub(crate) fn fetch(
        &mut self,
        group: &str,
        member: &str,
        connection: ConnectionId,
        epoch: i32,
        added: &[TopicIdPartition],
        forgotten: &[TopicIdPartition],
    ) -> Result<Opened, ErrorCode> {
        let key = (group.to_owned(), member.to_owned());
        if epoch == INITIAL_EPOCH {
            self.by_member.remove(&key);
            if self.by_member.len() >= self.max {
                return Err(ErrorCode::ShareSessionLimitReached);
            }
            let session = Session { epoch, connection, partitions: BTreeSet::new(), turn: 0 };
            self.by_member.insert(key.clone(), session);
        }
        let session = self.step(&key, epoch)?;
        session.partitions.extend(added);
        for partition in forgotten {
            session.partitions.remove(partition);
        }
        let mut partitions: Vec<_> = session.partitions.iter().copied().collect();
        if !partitions.is_empty() {
            let turn = session.turn % partitions.len();
            partitions.rotate_left(turn);
            session.turn = turn + 1;
        }
        Ok(Opened { partitions, is_new: epoch == INITIAL_EPOCH })
    }

    /// An acknowledgement in a request of its own: it counts like a fetch.
    pub(crate) fn acknowledge(&mut self, group: &str, member: &str, epoch: i32) -> Result<(), ErrorCode> {
        if epoch == INITIAL_EPOCH {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        self.step(&(group.to_owned(), member.to_owned()), epoch).map(drop)
    }

    /// Whether there is such a session: only then it can be closed.
    pub(crate) fn is_open(&self, group: &str, member: &str) -> bool {
        self.by_member.contains_key(&(group.to_owned(), member.to_owned()))
    }

    /// Ends a session.
    pub(crate) fn close(&mut self, group: &str, member: &str) {
        self.by_member.remove(&(group.to_owned(), member.to_owned()));
    }

    /// A connection is gone, and with it the sessions that were opened on it: of these groups and members. Somebody who
    /// has opened a session anew on another connection keeps that.
    pub(crate) fn connection_lost(&mut self, connection: ConnectionId) -> Vec<(String, String)> {
        let lost = self.by_member.extract_if(|_, session| session.connection == connection);
        lost.map(|(key, _)| key).collect()
    }

    fn step(&mut self, key: &(String, String), epoch: i32) -> Result<&mut Session, ErrorCode> {
        let session = self.by_member.get_mut(key).ok_or(ErrorCode::ShareSessionNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        // After the last one comes 1: 0 would open a new session (`ShareRequestMetadata.nextEpoch`).
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TopicIdPartition = (Uuid::from_u128(1), 0);
    const B: TopicIdPartition = (Uuid::from_u128(1), 1);
    const HERE: ConnectionId = ConnectionId(1);
    const THERE: ConnectionId = ConnectionId(2);

    #[test]
    fn a_session_remembers_its_partitions_and_gives_each_its_turn() {
        let mut sessions = Sessions::new(10);
        let opened = sessions.fetch("g", "m", HERE, 0, &[A, B], &[]).unwrap();
        assert_eq!(opened, Opened { partitions: vec![A, B], is_new: true });
        assert_eq!(sessions.fetch("g", "m", HERE, 1, &[], &[]).unwrap().partitions, [B, A]);
        assert_eq!(sessions.fetch("g", "m", HERE, 2, &[], &[A]).unwrap().partitions, [B]);
        sessions.acknowledge("g", "m", 3).unwrap();
        assert_eq!(sessions.fetch("g", "m", HERE, 3, &[], &[]), Err(ErrorCode::InvalidShareSessionEpoch));
        assert!(!sessions.fetch("g", "m", HERE, 4, &[], &[]).unwrap().is_new);
    }

    #[test]
    fn there_is_nothing_to_continue_without_a_session() {
        let mut sessions = Sessions::new(1);
        assert_eq!(sessions.fetch("g", "m", HERE, 1, &[], &[]), Err(ErrorCode::ShareSessionNotFound));
        assert_eq!(sessions.acknowledge("g", "m", 0), Err(ErrorCode::InvalidShareSessionEpoch));
        assert_eq!(sessions.acknowledge("g", "m", 1), Err(ErrorCode::ShareSessionNotFound));
        sessions.fetch("g", "m", HERE, 0, &[A], &[]).unwrap();
        assert_eq!(sessions.fetch("g", "n", HERE, 0, &[A], &[]), Err(ErrorCode::ShareSessionLimitReached));
        // Opening it again is not one more.
        sessions.fetch("g", "m", HERE, 0, &[A], &[]).unwrap();
        sessions.close("g", "m");
        assert!(!sessions.is_open("g", "m"));
        sessions.fetch("g", "n", HERE, 0, &[A], &[]).unwrap();
    }

    #[test]
    fn a_session_ends_with_the_connection_it_was_opened_on() {
        let mut sessions = Sessions::new(10);
        for (member, connection) in [("m", HERE), ("n", HERE), ("o", THERE)] {
            sessions.fetch("g", member, connection, 0, &[A], &[]).unwrap();
        }
        sessions.fetch("g", "n", THERE, 0, &[A], &[]).unwrap();
        assert_eq!(sessions.connection_lost(HERE), [("g".to_owned(), "m".to_owned())]);
        assert!(!sessions.is_open("g", "m") && sessions.is_open("g", "n") && sessions.is_open("g", "o"));
        assert!(sessions.connection_lost(HERE).is_empty());
    }
}
