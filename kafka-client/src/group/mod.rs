//! Membership of a consumer group: assignors, and the classic protocol's state machine (JoinGroup, SyncGroup,
//! Heartbeat, LeaveGroup).

pub mod assignor;
pub(crate) mod classic;
mod heartbeat;
pub(crate) mod protocol;

#[cfg(test)]
mod classic_tests;

use kafka_wire::ErrorCode;

pub use assignor::{AssignError, Assignor, CooperativeStickyAssignor, RangeAssignor, RebalanceProtocol};

/// Why a consumer cannot be, or stay, a member of its group. All of these are final: the consumer has given up
/// its partitions and does not join again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// Another consumer joined with the same `group.instance.id` (`FENCED_INSTANCE_ID`, KIP-345).
    #[error("another consumer joined group {group} as instance {instance}")]
    Fenced {
        /// The group.
        group: String,
        /// The instance id that both use.
        instance: String,
    },
    /// The coordinator refuses this member.
    #[error("the coordinator of group {group} refused the member: {code}")]
    Refused {
        /// The group.
        group: String,
        /// The coordinator's reason.
        code: ErrorCode,
    },
    /// This member leads the group and its assignor failed.
    #[error("the partitions of group {group} could not be assigned: {source}")]
    Assign {
        /// The group.
        group: String,
        /// What the assignor said.
        source: AssignError,
    },
    /// The group agreed on a protocol that this member did not offer, or a member sent bytes that cannot be read.
    #[error("group {group}: {reason}")]
    Protocol {
        /// The group.
        group: String,
        /// What was wrong.
        reason: String,
    },
}
