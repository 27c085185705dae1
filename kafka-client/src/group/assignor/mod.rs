//! Who reads which partition: the assignors that the leader of a classic group runs.

mod balance;
mod cooperative_sticky;
mod racks;
mod range;
mod round_robin;
mod sticky;

#[cfg(test)]
mod java_tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::TopicPartition;

pub use cooperative_sticky::CooperativeStickyAssignor;
pub use range::RangeAssignor;
pub use round_robin::RoundRobinAssignor;
pub use sticky::StickyAssignor;

/// How members give up partitions in a rebalance (KIP-429).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RebalanceProtocol {
    /// Every member gives up every partition before it joins again.
    Eager,
    /// Members keep what they own and give up only what moves; the moved partitions reach their new owners
    /// in the rebalance that follows.
    Cooperative,
}

/// One member of the group, as its subscription describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The id that the coordinator gave it.
    pub member_id: String,
    /// Its `group.instance.id`, if it is a static member (KIP-345).
    pub instance_id: Option<String>,
    /// The topics it subscribes to.
    pub topics: Vec<Arc<str>>,
    /// The partitions it owned when it joined; empty under the eager protocol and on first joining.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it owned them (KIP-792); `None` from clients that do not say.
    pub generation: Option<i32>,
    /// Where it runs (KIP-881).
    pub rack: Option<String>,
    /// What its own assignor attached to the subscription.
    pub user_data: Option<Bytes>,
}

impl Member {
    /// A member that owns nothing yet.
    pub fn new<T: Into<Arc<str>>>(member_id: impl Into<String>, topics: impl IntoIterator<Item = T>) -> Self {
        Self {
            member_id: member_id.into(),
            instance_id: None,
            topics: topics.into_iter().map(Into::into).collect(),
            owned: Vec::new(),
            generation: None,
            rack: None,
            user_data: None,
        }
    }

    /// The same member, owning `partitions` since `generation`.
    pub fn owning(mut self, partitions: impl IntoIterator<Item = TopicPartition>, generation: i32) -> Self {
        self.owned = partitions.into_iter().collect();
        self.generation = Some(generation);
        self
    }

    /// The same member, in `rack`.
    pub fn in_rack(mut self, rack: impl Into<String>) -> Self {
        self.rack = Some(rack.into());
        self
    }

    /// Where it runs; an empty `client.rack` is none.
    pub(crate) fn rack(&self) -> Option<&str> {
        self.rack.as_deref().filter(|rack| !rack.is_empty())
    }
}

/// For each topic and each of its partitions, in order, the racks in which it has replicas.
pub type ReplicaRacks = BTreeMap<Arc<str>, Vec<BTreeSet<Arc<str>>>>;

/// What the leader knows when it assigns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupState {
    /// The number of partitions of each subscribed topic that exists.
    pub topics: BTreeMap<Arc<str>, i32>,
    /// Where the replicas of these partitions are, for assignors that keep reading within a rack (KIP-881). Topics
    /// whose brokers do not tell are missing.
    pub replica_racks: ReplicaRacks,
    /// The members, sorted by member id.
    pub members: Vec<Member>,
}

impl GroupState {
    /// Describes a group.
    pub fn new(topics: BTreeMap<Arc<str>, i32>, mut members: Vec<Member>) -> Self {
        members.sort_by(|a, b| a.member_id.cmp(&b.member_id));
        Self { topics, replica_racks: ReplicaRacks::new(), members }
    }

    /// The same group, with replicas in these racks.
    pub fn with_replica_racks(mut self, replica_racks: ReplicaRacks) -> Self {
        self.replica_racks = replica_racks;
        self
    }

    /// The racks of a partition's replicas; none where they are not known.
    pub fn replica_racks(&self, topic: &str, partition: i32) -> impl Iterator<Item = &str> {
        let of_topic = self.replica_racks.get(topic);
        let racks = of_topic.and_then(|partitions| partitions.get(usize::try_from(partition).ok()?));
        racks.into_iter().flatten().map(|rack| &**rack)
    }
}

/// What one member gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Its partitions.
    pub partitions: Vec<TopicPartition>,
    /// What the leader's assignor tells the member's.
    pub user_data: Option<Bytes>,
}

/// What each member gets, by member id.
pub type Assignments = BTreeMap<String, Assignment>;

/// Why an assignor could not assign. The member that leads leaves the rebalance with this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("assignor {assignor}: {reason}")]
pub struct AssignError {
    /// The assignor's name.
    pub assignor: String,
    /// What was wrong.
    pub reason: String,
}

/// Divides a group's partitions among its members.
///
/// Each member offers the names of its assignors; the coordinator picks one that all offer, and the member it
/// names leader runs it. Bring your own by implementing this trait.
pub trait Assignor: Send + Sync + fmt::Debug {
    /// The name that members agree on, such as `range`.
    fn name(&self) -> &str;

    /// The rebalance protocols it works under, weakest first.
    ///
    /// A consumer uses the strongest protocol that all its assignors support.
    fn protocols(&self) -> &[RebalanceProtocol] {
        &[RebalanceProtocol::Eager]
    }

    /// What this member attaches to its subscription.
    fn subscription_user_data(&self, topics: &[Arc<str>], generation: Option<i32>) -> Option<Bytes> {
        let _ = (topics, generation);
        None
    }

    /// The topics whose partition counts [`Assignor::assign`] needs beside the subscribed ones.
    fn extra_topics(&self, members: &[Member]) -> Vec<Arc<str>> {
        let _ = members;
        Vec::new()
    }

    /// Divides the partitions. Runs on the leader only; members missing from the answer get nothing.
    fn assign(&self, group: &GroupState) -> Result<Assignments, AssignError>;

    /// Called on every member with what it got.
    fn on_assignment(&self, assignment: &Assignment, generation: i32) {
        let _ = (assignment, generation);
    }
}

/// The assignor of Kafka that has this name, or this Java class.
pub(crate) fn by_name(name: &str) -> Option<Arc<dyn Assignor>> {
    Some(match name.rsplit('.').next()? {
        "range" | "RangeAssignor" => Arc::new(RangeAssignor),
        "roundrobin" | "RoundRobinAssignor" => Arc::new(RoundRobinAssignor),
        "sticky" | "StickyAssignor" => Arc::new(StickyAssignor::default()),
        "cooperative-sticky" | "CooperativeStickyAssignor" => Arc::new(CooperativeStickyAssignor),
        _ => return None,
    })
}

fn nothing_for_anyone(group: &GroupState) -> Assignments {
    group.members.iter().map(|member| (member.member_id.clone(), Assignment::default())).collect()
}

/// Static members come first, by instance id, so that a restart under a new member id changes nothing
/// (`AbstractPartitionAssignor.MemberInfo`).
fn in_order(group: &GroupState) -> Vec<&Member> {
    let mut ordered: Vec<&Member> = group.members.iter().collect();
    ordered.sort_by_key(|member| match &member.instance_id {
        Some(instance) => (false, instance),
        None => (true, &member.member_id),
    });
    ordered
}

/// Takes back every partition that would go to a new owner while another member still claims it (KIP-429): the
/// claimant sees that it lost the partition, gives it up and joins again, and that rebalance hands it over.
///
/// Claims of any generation count. A stale one may belong to a member that has not noticed yet, and the price
/// of asking it is one more rebalance. Returns how many partitions were held back.
pub fn withhold_partitions_in_transfer(members: &[Member], assignments: &mut Assignments) -> usize {
    let mut claims: HashMap<&TopicPartition, Vec<&str>> = HashMap::new();
    for member in members {
        for partition in &member.owned {
            claims.entry(partition).or_default().push(&member.member_id);
        }
    }
    let mut withheld = 0;
    for (member_id, assignment) in assignments.iter_mut() {
        let before = assignment.partitions.len();
        assignment.partitions.retain(|partition| {
            claims.get(partition).is_none_or(|claimants| claimants.contains(&member_id.as_str()))
        });
        withheld += before - assignment.partitions.len();
    }
    withheld
}

/// For each member in `members`' order, the partitions it owns by right: still existing, still subscribed to,
/// and claimed by nobody in a later generation, nor by two members in the same (KIP-792).
fn rightful_partitions(group: &GroupState) -> Vec<Vec<TopicPartition>> {
    const UNKNOWN_GENERATION: i32 = -1;
    let mut best: HashMap<&TopicPartition, (i32, Option<usize>)> = HashMap::new();
    for (index, member) in group.members.iter().enumerate() {
        let generation = member.generation.unwrap_or(UNKNOWN_GENERATION);
        for partition in member.owned.iter().collect::<HashSet<_>>() {
            let claim = best.entry(partition).or_insert((generation, Some(index)));
            if claim.0 < generation {
                *claim = (generation, Some(index));
            } else if claim.0 == generation && claim.1 != Some(index) {
                claim.1 = None;
            }
        }
    }
    let mut rightful = vec![Vec::new(); group.members.len()];
    for (partition, (_, owner)) in best {
        let Some(index) = owner else { continue };
        let exists = group
            .topics
            .get(&partition.topic)
            .is_some_and(|count| (0..*count).contains(&partition.partition));
        let subscribed = group.members.get(index).is_some_and(|m| m.topics.contains(&partition.topic));
        if exists
            && subscribed
            && let Some(list) = rightful.get_mut(index)
        {
            list.push(partition.clone());
        }
    }
    for list in &mut rightful {
        list.sort_unstable();
    }
    rightful
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn tp(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    pub(crate) fn topics(counts: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        counts.iter().map(|(name, count)| (Arc::from(*name), *count)).collect()
    }

    /// Up to 7 members over up to 4 topics, each subscribed to some of them.
    pub(crate) fn any_group() -> impl Strategy<Value = GroupState> {
        let counts = prop::collection::vec(0..9i32, 1..5);
        let members = prop::collection::vec(prop::collection::vec(any::<bool>(), 4), 1..8);
        (counts, members, any::<bool>()).prop_map(|(counts, members, same)| {
            let topics: BTreeMap<Arc<str>, i32> = counts
                .iter()
                .enumerate()
                .map(|(i, count)| (Arc::from(format!("topic-{i}")), *count))
                .collect();
            let members = members
                .iter()
                .enumerate()
                .map(|(i, wants)| {
                    let wanted = topics
                        .keys()
                        .zip(wants)
                        .filter(|(_, wants)| same || **wants)
                        .map(|(topic, _)| Arc::clone(topic));
                    Member::new(format!("member-{i}"), wanted)
                })
                .collect();
            GroupState::new(topics, members)
        })
    }

    /// The same, with members and replicas in up to 3 racks.
    pub(crate) fn any_group_in_racks() -> impl Strategy<Value = GroupState> {
        let of_members = prop::collection::vec(prop::option::weighted(0.8, 0..3usize), 8);
        let of_replicas = prop::collection::vec(prop::collection::btree_set(0..3usize, 0..3), 32);
        (any_group(), of_members, of_replicas).prop_map(|(mut group, of_members, of_replicas)| {
            for (member, rack) in group.members.iter_mut().zip(of_members) {
                member.rack = rack.map(|rack| format!("rack-{rack}"));
            }
            let mut racks = of_replicas.into_iter().cycle();
            let mut next = || -> BTreeSet<Arc<str>> {
                racks.next().unwrap().into_iter().map(|rack| Arc::from(format!("rack-{rack}"))).collect()
            };
            let of_topics = group
                .topics
                .iter()
                .map(|(topic, count)| (Arc::clone(topic), (0..*count).map(|_| next()).collect()));
            let of_topics = of_topics.collect();
            group.with_replica_racks(of_topics)
        })
    }

    /// How many partitions are read by a member that has a replica in its rack.
    pub(crate) fn read_within_a_rack(group: &GroupState, assignments: &Assignments) -> usize {
        let within = |member: &&Member, partition: &&TopicPartition| {
            racks::match_member(group, member, &partition.topic, partition.partition)
        };
        let of = |member: &Member| {
            let assigned = &assignments[&member.member_id].partitions;
            assigned.iter().filter(|partition| within(&member, partition)).count()
        };
        group.members.iter().map(of).sum()
    }

    /// Every partition of every topic that someone subscribes to.
    pub(crate) fn wanted_partitions(group: &GroupState) -> Vec<TopicPartition> {
        let mut all = Vec::new();
        for (topic, count) in &group.topics {
            if group.members.iter().any(|member| member.topics.contains(topic)) {
                all.extend((0..*count).map(|p| TopicPartition::new(Arc::clone(topic), p)));
            }
        }
        all
    }

    /// Each partition at most once and only to subscribers; returns what was assigned, sorted.
    pub(crate) fn check_assignments(group: &GroupState, assignments: &Assignments) -> Vec<TopicPartition> {
        let mut seen = Vec::new();
        for member in &group.members {
            for partition in &assignments.get(&member.member_id).expect("an entry per member").partitions {
                assert!(member.topics.contains(&partition.topic), "{partition} to a stranger");
                seen.push(partition.clone());
            }
        }
        seen.sort_unstable();
        let mut deduplicated = seen.clone();
        deduplicated.dedup();
        assert_eq!(seen, deduplicated, "a partition was given twice");
        seen
    }
}
