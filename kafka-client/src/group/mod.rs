//! Membership of a group: assignors, and a state machine for each protocol: the classic one (JoinGroup, SyncGroup,
//! Heartbeat, LeaveGroup) and that of KIP-848 (ConsumerGroupHeartbeat). [`GroupMember`] is a member of a group that divides
//! something else than partitions.

pub mod assignor;
pub(crate) mod classic;
pub(crate) mod consumer;
pub(crate) mod duty;
mod heartbeat;
pub(crate) mod member;
mod opaque;
pub(crate) mod partitions;
pub(crate) mod protocol;
pub(crate) mod requests;
pub(crate) mod shell;

#[cfg(test)]
mod classic_tests;
#[cfg(test)]
mod consumer_tests;

use kafka_wire::ErrorCode;

pub use assignor::{
    AssignError, Assignor, CooperativeStickyAssignor, RangeAssignor, RebalanceProtocol, RoundRobinAssignor,
    StickyAssignor,
};
pub use member::{GroupExit, GroupProtocol};
pub use opaque::{
    GroupAssignment, GroupEvent, GroupMember, GroupMemberBuilder, GroupMemberError, GroupToAssign,
    MemberToAssign,
};

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
    /// The member with this `group.instance.id` has not left: it lives, or its session has not ended yet
    /// (`UNRELEASED_INSTANCE_ID`, KIP-848).
    #[error("another consumer is in group {group} as instance {instance}")]
    InstanceInUse {
        /// The group.
        group: String,
        /// The instance id that both use.
        instance: String,
    },
    /// The coordinator does not serve the protocol of KIP-848, or the group's members cannot be moved to it, and
    /// [`GroupProtocol::Consumer`] admits no other.
    #[error(
        "group {group} cannot use the protocol of KIP-848 ({code}); set group.protocol to auto or classic"
    )]
    ProtocolUnsupported {
        /// The group.
        group: String,
        /// The coordinator's reason.
        code: ErrorCode,
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
    /// The pattern to subscribe by cannot be read.
    #[error("group {group} cannot subscribe by its pattern: {reason}")]
    Pattern {
        /// The group.
        group: String,
        /// What is wrong with it.
        reason: String,
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
