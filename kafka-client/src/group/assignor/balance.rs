//! What the sticky assignors share: members keep what they rightly own, and the rest is balanced.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Assignment, Assignments, GroupState, rightful_partitions};
use crate::TopicPartition;

/// A balanced division of the group's partitions in which as few as possible leave their owners.
pub(super) fn balanced(group: &GroupState) -> Assignments {
    let mut balance = Balance::new(group);
    balance.keep_rightful(rightful_partitions(group));
    balance.place_unassigned();
    balance.even_out();
    balance.into_assignments()
}

/// The division while it is worked out. Members are indexes into the group's sorted list.
struct Balance<'a> {
    group: &'a GroupState,
    assigned: Vec<Vec<TopicPartition>>,
    unassigned: BTreeSet<TopicPartition>,
    /// Who subscribes to a topic; in member order.
    subscribers: HashMap<Arc<str>, Vec<usize>>,
}

impl<'a> Balance<'a> {
    fn new(group: &'a GroupState) -> Self {
        let mut subscribers: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (index, member) in group.members.iter().enumerate() {
            for topic in &member.topics {
                let list = subscribers.entry(Arc::clone(topic)).or_default();
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        let unassigned = group
            .topics
            .iter()
            .filter(|(topic, _)| subscribers.contains_key(*topic))
            .flat_map(|(topic, count)| (0..*count).map(|p| TopicPartition::new(Arc::clone(topic), p)))
            .collect();
        Self { group, assigned: vec![Vec::new(); group.members.len()], unassigned, subscribers }
    }

    fn load(&self, member: usize) -> usize {
        self.assigned.get(member).map_or(0, Vec::len)
    }

    fn give(&mut self, member: usize, partition: TopicPartition) {
        if let Some(list) = self.assigned.get_mut(member) {
            list.push(partition);
        }
    }

    /// Members keep what they rightly own, up to their fair share when all subscribe alike.
    fn keep_rightful(&mut self, rightful: Vec<Vec<TopicPartition>>) {
        let quota = self.quota();
        let mut members_with_one_more = quota.map_or(0, |quota| quota.members_with_one_more);
        for (member, mut owned) in rightful.into_iter().enumerate() {
            if let Some(quota) = quota {
                if owned.len() > quota.each && members_with_one_more > 0 {
                    members_with_one_more -= 1;
                    owned.truncate(quota.each + 1);
                } else {
                    owned.truncate(quota.each);
                }
            }
            for partition in owned {
                self.unassigned.remove(&partition);
                self.give(member, partition);
            }
        }
    }

    fn quota(&self) -> Option<Quota> {
        let sorted = |topics: &[Arc<str>]| topics.iter().cloned().collect::<BTreeSet<_>>();
        let first = sorted(&self.group.members.first()?.topics);
        if self.group.members.iter().any(|member| sorted(&member.topics) != first) {
            return None;
        }
        let members = self.group.members.len();
        Some(Quota {
            each: self.unassigned.len() / members,
            members_with_one_more: self.unassigned.len() % members,
        })
    }

    /// Each free partition to the subscriber that has least; topics with few subscribers first, as they have
    /// the fewest ways to go.
    fn place_unassigned(&mut self) {
        let mut free: Vec<TopicPartition> = std::mem::take(&mut self.unassigned).into_iter().collect();
        free.sort_by_key(|partition| self.subscribers.get(&partition.topic).map_or(0, Vec::len));
        for partition in free {
            if let Some(member) = self.least_loaded_subscriber(&partition.topic) {
                self.give(member, partition);
            }
        }
    }

    fn least_loaded_subscriber(&self, topic: &Arc<str>) -> Option<usize> {
        self.subscribers.get(topic)?.iter().copied().min_by_key(|member| self.load(*member))
    }

    /// Moves partitions from members that have more to those that have less by two or more. Each move lowers
    /// the sum of squared loads, so it ends.
    fn even_out(&mut self) {
        loop {
            let mut moved = false;
            for from in 0..self.assigned.len() {
                let mut index = 0;
                while let Some(partition) = self.assigned.get(from).and_then(|list| list.get(index)).cloned()
                {
                    let to = self.least_loaded_subscriber(&partition.topic);
                    if let Some(to) = to.filter(|to| self.load(*to) + 1 < self.load(from)) {
                        if let Some(list) = self.assigned.get_mut(from) {
                            list.remove(index);
                        }
                        self.give(to, partition);
                        moved = true;
                    } else {
                        index += 1;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn into_assignments(self) -> Assignments {
        let ids = self.group.members.iter().map(|member| member.member_id.clone());
        ids.zip(self.assigned)
            .map(|(id, mut partitions)| {
                partitions.sort_unstable();
                (id, Assignment { partitions, user_data: None })
            })
            .collect()
    }
}

/// A fair share when all members subscribe to the same topics.
#[derive(Clone, Copy)]
struct Quota {
    each: usize,
    members_with_one_more: usize,
}
