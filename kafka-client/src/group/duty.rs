//! What the members of a classic group divide among themselves: the part of the membership that is not the same for all
//! protocol types (the abstract methods of Java's `AbstractCoordinator`).

use std::fmt::Debug;

use bytes::Bytes;

use super::GroupError;
use super::assignor::AssignError;

/// A member as the coordinator tells the leader of it: member id, instance id, and what it offered for the protocol that
/// was chosen.
pub(crate) type Entry = (String, Option<String>, Bytes);

/// One generation of the group, and this member's place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Term {
    pub generation: i32,
    pub member_id: String,
    pub leader: String,
    /// The assignor that all members offer.
    pub protocol: String,
}

/// Partitions ([`super::partitions::Partitions`]), or whatever the bytes of an application mean
/// ([`super::opaque::Opaque`]).
pub(crate) trait Duty {
    /// What a member has, and gives up.
    type Held: Debug + PartialEq;
    /// What it takes over.
    type Taken: Debug + PartialEq;
    /// What a leader must be told before it can assign.
    type Question: Debug + PartialEq;
    type Answer;
    /// An assignment that was read.
    type Assignment: Debug;

    /// Whether the member knows what to offer.
    fn is_ready(&self) -> bool {
        true
    }

    /// What must be given up before the member may join again; asked until it is nothing.
    fn unheld_to_join(&self) -> Option<Self::Held>;

    /// What [`unheld_to_join`](Self::unheld_to_join) named is given up.
    fn drop_unheld(&mut self);

    /// Names and metadata to join with, in order of preference. Another generation begins.
    fn offer(&mut self, generation: i32) -> Vec<(String, Bytes)>;

    /// This member leads and has to assign.
    fn lead(&mut self, term: &Term, members: Vec<Entry>) -> Result<Self::Question, Unfit>;

    /// Every member's assignment.
    fn assign(&mut self, term: &Term, answer: Self::Answer) -> Result<Vec<(String, Bytes)>, Unfit>;

    fn read(&mut self, term: &Term, assignment: Bytes) -> Result<Self::Assignment, Unfit>;

    /// What is not this member's any more under `assignment`.
    fn revoked_by(&self, assignment: &Self::Assignment) -> Option<Self::Held>;

    /// Takes the assignment over.
    fn adopt(&mut self, assignment: Self::Assignment) -> Self::Taken;

    /// What the member has.
    fn held(&self) -> Self::Held;

    /// Its generation is over, and it has nothing.
    fn clear(&mut self);
}

/// Why a generation cannot go on.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A member sent bytes that cannot be read, or the group agreed on what was not offered.
    Protocol(String),
    Assign(AssignError),
}

impl Unfit {
    pub(crate) fn of(self, group: &str) -> GroupError {
        let group = group.to_owned();
        match self {
            Self::Protocol(reason) => GroupError::Protocol { group, reason },
            Self::Assign(source) => GroupError::Assign { group, source },
        }
    }
}
