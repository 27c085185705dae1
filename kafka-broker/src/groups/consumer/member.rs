//! A member of a consumer group: what it said about itself, and what it owns.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_wire::Uuid;

use super::super::assignor::Partitions;

/// Partitions by topic, each with the assignment epoch in which the member got it.
pub(crate) type Assigned = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// The epoch of a static member that left and is expected back (KIP-848).
pub(crate) const LEFT_STATIC: i32 = -2;
/// The epoch of a member that is gone.
pub(crate) const LEFT: i32 = -1;

/// What a member said about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metadata {
    pub(crate) instance_id: Option<String>,
    pub(crate) rack_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) topics: BTreeSet<String>,
    pub(crate) regex: Option<String>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) server_assignor: Option<String>,
    /// It speaks the classic protocol.
    pub(crate) classic: Option<ClassicMetadata>,
}

/// What a member of the classic protocol brought along.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ClassicMetadata {
    pub(crate) session_timeout_ms: i32,
    /// Names and metadata, the preferred first.
    pub(crate) protocols: Vec<(String, Bytes)>,
}

/// Where a member is on its way to the target assignment (`MemberState`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// It is where the target wants it.
    #[default]
    Stable,
    /// It has to give partitions back before it can go on.
    UnrevokedPartitions,
    /// It waits for partitions that others have to give back.
    UnreleasedPartitions,
}

impl MemberState {
    /// The number in records.
    pub(super) fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
        }
    }

    /// A state that this version does not know is taken for one that is reconciled from scratch.
    pub(super) fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            _ => Self::UnreleasedPartitions,
        }
    }
}

/// What a member owns, and since when.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Current {
    pub(crate) epoch: i32,
    pub(crate) previous_epoch: i32,
    pub(crate) state: MemberState,
    pub(crate) assigned: Assigned,
    /// No longer assigned, and owned until the member confirms that it gave them up.
    pub(crate) pending_revocation: Assigned,
}

impl Current {
    /// Everything that nobody else may be given.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (Uuid, i32)> {
        each(&self.assigned).chain(each(&self.pending_revocation))
    }

    /// Whether nothing lies in `owned` but what is assigned.
    pub(crate) fn covers(&self, owned: &Partitions) -> bool {
        owned.iter().all(|(topic, partitions)| {
            let assigned = self.assigned.get(topic);
            partitions.iter().all(|partition| assigned.is_some_and(|all| all.contains_key(partition)))
        })
    }

    /// Whether both own the same, whatever the epochs.
    pub(crate) fn has_same_assignment(&self, other: &Self) -> bool {
        each(&self.assigned).eq(each(&other.assigned))
    }
}

/// The partitions, one by one.
pub(crate) fn each(assigned: &Assigned) -> impl Iterator<Item = (Uuid, i32)> {
    assigned
        .iter()
        .flat_map(|(topic, partitions)| partitions.keys().map(move |partition| (*topic, *partition)))
}
