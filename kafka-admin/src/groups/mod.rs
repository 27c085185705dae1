//! Groups of every type: which there are, their members, and the offsets that they committed.
//!
//! Results are per item. Where a coordinator refuses a whole group, each of the items asked about has that error, and
//! its [`Resource`](crate::Resource) is the group.

mod classic;
mod consumer;
mod coordinator;
mod delete;
mod lag;
mod list;
mod members;
mod offsets;
mod share;
mod share_offsets;

use std::fmt;
use std::str::FromStr;

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

/// An enum whose variants have names on the wire.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[non_exhaustive]
        pub enum $name {
            /// Not told by the broker, or not known to this version of the crate.
            #[default]
            Unknown,
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every one that is known.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Kafka's name of it.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::Unknown => "Unknown",
                    $(Self::$variant => stringify!($variant)),+
                }
            }

            fn parse(name: &str) -> Self {
                name.parse().unwrap_or_default()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        /// By Kafka's name, in any case.
        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                let known = Self::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(name));
                known.copied().ok_or_else(|| UnknownName {
                    name: name.to_owned(),
                    known: Self::ALL.iter().map(|known| known.name()).collect(),
                })
            }
        }
    };
}

/// A name that no group state or type has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is none of {}", known.join(", "))]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// Those that there are.
    pub known: Vec<&'static str>,
}

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
