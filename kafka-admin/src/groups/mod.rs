//! Groups of every type: which there are, their members, and the offsets that they committed.
//!
//! Results are per item. Where a coordinator refuses a whole group, each of the items asked about has that error, and
//! its [`Resource`](crate::Resource) is the group.

mod classic;
mod consumer;
mod delete;
mod lag;
mod list;
mod members;
mod offsets;
mod share;
mod share_offsets;

pub use classic::{ClassicGroupDescription, ClassicMember, DescribeClassicGroups};
pub use consumer::{ConsumerGroupDescription, ConsumerMember, DescribeConsumerGroups};
pub use delete::DeleteGroups;
pub use lag::{GroupLag, PartitionLag};
pub use list::{GroupListing, ListGroups};
pub use members::{MemberIdentity, MembersToRemove, RemoveMembers};
pub use offsets::{AlterGroupOffsets, DeleteGroupOffsets, ListGroupOffsets};
pub use share::{DescribeShareGroups, ShareGroupDescription, ShareMember};
pub use share_offsets::{
    AlterShareGroupOffsets, DeleteShareGroupOffsets, ListShareGroupOffsets, ShareGroupOffset,
};

use crate::named::named;

named! {
    /// What a group is doing (Kafka's `GroupState`).
    GroupState {
        /// Classic: members are joining.
        PreparingRebalance,
        /// Classic: the leader is assigning.
        CompletingRebalance,
        /// Everybody has what is theirs.
        Stable,
        /// The group is being removed.
        Dead,
        /// There are no members, only offsets.
        Empty,
        /// KIP-848: the coordinator is about to compute an assignment.
        Assigning,
        /// KIP-848: members are on their way to their assignment.
        Reconciling,
        /// KIP-1071: the group's internal topics are not there yet.
        NotReady,
    }
}

named! {
    /// Which protocol a group speaks (Kafka's `GroupType`).
    GroupType {
        /// The members' leader assigns.
        Classic,
        /// The coordinator assigns (KIP-848).
        Consumer,
        /// Members share partitions (KIP-932).
        Share,
        /// Tasks of Kafka Streams (KIP-1071).
        Streams,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas_and_unknown_ones_are_no_error_in_answers() {
        assert_eq!("preparingrebalance".parse(), Ok(GroupState::PreparingRebalance));
        assert_eq!(GroupState::NotReady.to_string(), "NotReady");
        assert_eq!(GroupType::parse("share"), GroupType::Share);
        assert_eq!(GroupType::parse("quorum"), GroupType::Unknown);
        let error = "quorum".parse::<GroupType>().unwrap_err();
        assert_eq!(error.to_string(), r#""quorum" is none of Classic, Consumer, Share, Streams"#);
    }
}
