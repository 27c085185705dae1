//! Server-side assignors (KIP-848): who should own which partition, as a pure function of who subscribes to what and of
//! what was assigned before.

mod range;
#[cfg(test)]
mod tests;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use kafka_wire::Uuid;

/// Partitions by topic.
pub(crate) type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// A built-in assignor (`group.consumer.assignors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Assignor {
    /// As even as can be over all topics, and sticky.
    Uniform,
    /// Ranges of each topic, so that topics of the same size are co-partitioned.
    Range,
}

/// A member in the eyes of an assignor.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber<'a> {
    pub(crate) id: &'a str,
    pub(crate) instance_id: Option<&'a str>,
    /// Topics that exist; members with one subscription may share it.
    pub(crate) topics: Rc<BTreeSet<Uuid>>,
    /// What it was to own before.
    pub(crate) assigned: &'a Partitions,
}

/// What an assignor works from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spec<'a> {
    pub(crate) members: Vec<Subscriber<'a>>,
    /// How many partitions each subscribed topic has.
    pub(crate) partition_counts: BTreeMap<Uuid, i32>,
}

impl Assignor {
    pub(crate) const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// The name that clients and configurations know it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// One assignment for each member, in the members' order.
    pub(crate) fn assign(self, spec: &Spec<'_>) -> Vec<Partitions> {
        match self {
            Self::Uniform => uniform::assign(spec),
            Self::Range => range::assign(spec),
        }
    }
}

impl Spec<'_> {
    fn partition_count(&self, topic: Uuid) -> i32 {
        self.partition_counts.get(&topic).copied().unwrap_or(0)
    }

    /// Whether all members subscribe to the same topics.
    fn is_homogeneous(&self) -> bool {
        let mut subscriptions = self.members.iter().map(|member| &member.topics);
        let Some(first) = subscriptions.next() else { return true };
        subscriptions.all(|topics| Rc::ptr_eq(topics, first) || topics == first)
    }
}
