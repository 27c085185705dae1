//! What the members of any group divide: bytes that only the application understands.

use bytes::Bytes;

use super::{GroupToAssign, MemberToAssign};
use crate::group::AssignError;
use crate::group::duty::{Duty, Entry, Term, Unfit};

pub(super) struct Opaque {
    /// Names and metadata, in order of preference.
    protocols: Vec<(String, Bytes)>,
    /// Whether there is an assignment.
    is_assigned: bool,
}

impl Opaque {
    pub(super) fn new(protocols: Vec<(String, Bytes)>) -> Self {
        Self { protocols, is_assigned: false }
    }

    /// To be offered from the next time on that the member joins.
    pub(super) fn set_protocols(&mut self, protocols: Vec<(String, Bytes)>) {
        self.protocols = protocols;
    }
}

impl Duty for Opaque {
    /// Whether there is anything.
    type Held = bool;
    type Taken = Bytes;
    type Question = GroupToAssign;
    type Answer = Result<Vec<(String, Bytes)>, String>;
    type Assignment = Bytes;

    /// What of it is really given up is between the application and its bytes (KIP-415: Connect goes on working).
    fn unheld_to_join(&self) -> Option<bool> {
        self.is_assigned.then_some(true)
    }

    fn drop_unheld(&mut self) {
        self.is_assigned = false;
    }

    fn offer(&mut self, _generation: i32) -> Vec<(String, Bytes)> {
        self.protocols.clone()
    }

    fn lead(&mut self, term: &Term, members: Vec<Entry>) -> Result<GroupToAssign, Unfit> {
        let member = |(id, instance_id, metadata)| MemberToAssign { id, instance_id, metadata };
        Ok(GroupToAssign {
            generation: term.generation,
            protocol: term.protocol.clone(),
            leader: term.leader.clone(),
            members: members.into_iter().map(member).collect(),
        })
    }

    fn assign(&mut self, term: &Term, answer: Self::Answer) -> Result<Vec<(String, Bytes)>, Unfit> {
        answer.map_err(|reason| Unfit::Assign(AssignError { assignor: term.protocol.clone(), reason }))
    }

    fn read(&mut self, _term: &Term, assignment: Bytes) -> Result<Bytes, Unfit> {
        Ok(assignment)
    }

    fn revoked_by(&self, _assignment: &Bytes) -> Option<bool> {
        None
    }

    fn adopt(&mut self, assignment: Bytes) -> Bytes {
        self.is_assigned = true;
        assignment
    }

    fn held(&self) -> bool {
        self.is_assigned
    }

    fn clear(&mut self) {
        self.is_assigned = false;
    }
}
