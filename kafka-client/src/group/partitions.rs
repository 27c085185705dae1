//! What consumers divide: the partitions of the topics that they subscribe to. KIP-429 (cooperative rebalancing), KIP-881
//! (racks).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::assignor::{Assignment, Assignor, GroupState, Member, RebalanceProtocol, ReplicaRacks};
use super::duty::{Duty, Entry, Term, Unfit};
use super::member::NO_GENERATION;
use super::protocol::{self, Subscription};
use crate::TopicPartition;

/// What assignors must know of topics; those that do not exist are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partitioning {
    pub counts: BTreeMap<Arc<str>, i32>,
    pub replica_racks: ReplicaRacks,
}

impl Partitioning {
    /// Whether a partition has a replica in a rack where `earlier` had none. That a rack is gone is no news: a broker
    /// that restarts has none for a while, and a rebalance for each restart would cost more than it brings.
    fn reaches_more_racks_than(&self, earlier: &Self) -> bool {
        self.replica_racks.iter().any(|(topic, partitions)| {
            let before = earlier.replica_racks.get(topic).map_or(&[][..], Vec::as_slice);
            partitions.iter().enumerate().any(|(at, racks)| match before.get(at) {
                Some(before) => !racks.is_subset(before),
                None => !racks.is_empty(),
            })
        })
    }
}

/// Partitions that a member takes over.
#[derive(Debug, PartialEq)]
pub(crate) struct NewlyOwned {
    /// To be read from now on.
    pub added: Vec<TopicPartition>,
    /// All that it owns.
    pub all: Vec<TopicPartition>,
}

pub(crate) struct Partitions {
    /// In order of preference; not empty.
    assignors: Vec<Arc<dyn Assignor>>,
    rack: Option<String>,
    rebalance_protocol: RebalanceProtocol,
    /// `None` as long as it is not known which topics match its pattern.
    topics: Option<Vec<Arc<str>>>,
    owned: BTreeSet<TopicPartition>,
    /// The members to assign to, while the partitions of their topics are counted.
    members: Vec<Member>,
    /// What this member assigned by, while it leads.
    assigned_by: Option<Partitioning>,
    /// Whether a member of the group that it leads says where it is.
    has_racks: bool,
    /// The topics of all members, whether they exist or not, while it leads.
    watched_topics: Vec<Arc<str>>,
}

impl Partitions {
    /// Without topics nothing is joined before [`subscribe`](Self::subscribe) names them.
    pub(crate) fn new(
        assignors: Vec<Arc<dyn Assignor>>,
        rack: Option<String>,
        topics: Option<Vec<Arc<str>>>,
    ) -> Self {
        let is_cooperative =
            assignors.iter().all(|assignor| assignor.protocols().contains(&RebalanceProtocol::Cooperative));
        Self {
            assignors,
            rack,
            rebalance_protocol: if is_cooperative {
                RebalanceProtocol::Cooperative
            } else {
                RebalanceProtocol::Eager
            },
            topics,
            owned: BTreeSet::new(),
            members: Vec::new(),
            assigned_by: None,
            has_racks: false,
            watched_topics: Vec::new(),
        }
    }

    pub(crate) fn topics(&self) -> &[Arc<str>] {
        self.topics.as_deref().unwrap_or_default()
    }

    /// Whether that is another subscription, which takes a rebalance.
    pub(crate) fn subscribe(&mut self, topics: Vec<Arc<str>>) -> bool {
        let is_other = self.topics() != topics;
        self.topics = Some(topics);
        is_other
    }

    /// The topics of which [`news_of`](Self::news_of) must be told; empty unless leading.
    pub(crate) fn watched_topics(&self) -> &[Arc<str>] {
        if self.assigned_by.is_some() { &self.watched_topics } else { &[] }
    }

    /// Why the group must be assigned anew now that its topics are like this, if it must. The leader watches them.
    pub(crate) fn news_of(&self, topics: &Partitioning) -> Option<&'static str> {
        let assigned_by = self.assigned_by.as_ref()?;
        if assigned_by.counts != topics.counts {
            Some("the partitions of a subscribed topic changed")
        } else if self.has_racks && topics.reaches_more_racks_than(assigned_by) {
            Some("replicas of a subscribed topic are in other racks")
        } else {
            None
        }
    }

    fn assignor(&self, name: &str) -> Option<&Arc<dyn Assignor>> {
        self.assignors.iter().find(|assignor| assignor.name() == name)
    }

    fn must_release_before_join(&self) -> Vec<TopicPartition> {
        let is_kept = |partition: &&TopicPartition| {
            self.rebalance_protocol == RebalanceProtocol::Cooperative
                && self.topics().contains(&partition.topic)
        };
        self.owned.iter().filter(|partition| !is_kept(partition)).cloned().collect()
    }
}

impl Duty for Partitions {
    type Held = Vec<TopicPartition>;
    type Taken = NewlyOwned;
    /// The topics whose partitions must be counted.
    type Question = Vec<Arc<str>>;
    type Answer = Partitioning;
    type Assignment = BTreeSet<TopicPartition>;

    fn is_ready(&self) -> bool {
        self.topics.is_some()
    }

    /// Everything (eager), or what is no longer subscribed to.
    fn unheld_to_join(&self) -> Option<Self::Held> {
        Some(self.must_release_before_join()).filter(|partitions| !partitions.is_empty())
    }

    fn drop_unheld(&mut self) {
        for partition in self.must_release_before_join() {
            self.owned.remove(&partition);
        }
    }

    fn offer(&mut self, generation: i32) -> Vec<(String, Bytes)> {
        self.assigned_by = None;
        let owned: Vec<TopicPartition> = self.owned.iter().cloned().collect();
        let topics = self.topics();
        let last = (generation != NO_GENERATION).then_some(generation);
        let offer = |assignor: &Arc<dyn Assignor>| {
            let metadata = protocol::encode_subscription(&Subscription {
                topics,
                owned: &owned,
                generation,
                rack: self.rack.as_deref(),
                user_data: assignor.subscription_user_data(topics, last),
            });
            (assignor.name().to_owned(), metadata)
        };
        self.assignors.iter().map(offer).collect()
    }

    fn lead(&mut self, term: &Term, members: Vec<Entry>) -> Result<Self::Question, Unfit> {
        let members: Vec<Member> = members
            .into_iter()
            .map(|(member_id, instance_id, metadata)| {
                protocol::decode_subscription(member_id, instance_id, metadata)
            })
            .collect::<Result<_, _>>()
            .map_err(|error| Unfit::Protocol(error.to_string()))?;
        let mut topics: BTreeSet<Arc<str>> =
            members.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        if let Some(assignor) = self.assignor(&term.protocol) {
            topics.extend(assignor.extra_topics(&members));
        }
        self.members = members;
        self.watched_topics = topics.into_iter().collect();
        Ok(self.watched_topics.clone())
    }

    fn assign(&mut self, term: &Term, topics: Partitioning) -> Result<Vec<(String, Bytes)>, Unfit> {
        let members = std::mem::take(&mut self.members);
        self.has_racks = members.iter().any(|member| member.rack().is_some());
        let group = GroupState::new(topics.counts, members).with_replica_racks(topics.replica_racks);
        let assignor = self
            .assignor(&term.protocol)
            .ok_or_else(|| Unfit::Protocol(format!("no assignor {} here", term.protocol)))?;
        let mut assignments = assignor.assign(&group).map_err(Unfit::Assign)?;
        let encode = |member: &Member| {
            let assignment = assignments.remove(&member.member_id).unwrap_or_default();
            (member.member_id.clone(), protocol::encode_assignment(&assignment))
        };
        let encoded = group.members.iter().map(encode).collect();
        self.assigned_by = Some(Partitioning { counts: group.topics, replica_racks: group.replica_racks });
        Ok(encoded)
    }

    fn read(&mut self, term: &Term, assignment: Bytes) -> Result<Self::Assignment, Unfit> {
        let assignment: Assignment =
            protocol::decode_assignment(assignment).map_err(|error| Unfit::Protocol(error.to_string()))?;
        if let Some(assignor) = self.assignor(&term.protocol) {
            assignor.on_assignment(&assignment, term.generation);
        }
        Ok(assignment.partitions.into_iter().collect())
    }

    fn revoked_by(&self, assigned: &Self::Assignment) -> Option<Self::Held> {
        let revoked: Vec<TopicPartition> = self.owned.difference(assigned).cloned().collect();
        Some(revoked).filter(|partitions| !partitions.is_empty())
    }

    fn adopt(&mut self, assigned: Self::Assignment) -> Self::Taken {
        let added = assigned.difference(&self.owned).cloned().collect();
        let all = assigned.iter().cloned().collect();
        self.owned = assigned;
        NewlyOwned { added, all }
    }

    fn held(&self) -> Self::Held {
        self.owned.iter().cloned().collect()
    }

    fn clear(&mut self) {
        self.owned.clear();
        self.assigned_by = None;
    }
}
