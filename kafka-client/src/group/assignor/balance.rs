//! What the sticky assignors share: members keep what they rightly own, and the rest is balanced. Where racks are known
//! (KIP-881), partitions also go to members that have a replica in their rack, as far as the balance allows.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Assignment, Assignments, GroupState, racks, rightful_partitions};
use crate::TopicPartition;

/// How many tries to swap partitions for the sake of racks are made: a tenth of a second of the leader's time.
const MAX_SWAP_TRIES: usize = 500_000;

/// A balanced division of the group's partitions in which as few as possible leave their owners. They leave for
/// racks only if more partitions are read within a rack then: this is what lets a group settle.
pub(super) fn balanced(group: &GroupState) -> Assignments {
    let rightful = rightful_partitions(group);
    let mut sticky = Balance::new(group);
    sticky.keep(&rightful, |_, _, _| true);
    sticky.place_unassigned();
    sticky.even_out();
    if !racks::matter(group, sticky.subscribers.keys(), &group.members) {
        return sticky.into_assignments();
    }
    let mut near = Balance { rack_aware: true, ..Balance::new(group) };
    near.keep(&rightful, |balance, member, partition| balance.is_local(member, partition));
    near.place_within_racks();
    near.keep(&rightful, |_, _, _| true);
    near.place_unassigned();
    near.even_out();
    near.swap_into_racks();
    let is_better = near.locals() > sticky.locals() && near.unevenness() <= sticky.unevenness();
    if is_better { near } else { sticky }.into_assignments()
}

/// The division while it is worked out. Members are indexes into the group's sorted list.
struct Balance<'a> {
    group: &'a GroupState,
    assigned: Vec<Vec<TopicPartition>>,
    unassigned: BTreeSet<TopicPartition>,
    /// Who subscribes to a topic; in member order.
    subscribers: HashMap<Arc<str>, Vec<usize>>,
    /// A fair share, when all members subscribe to the same topics.
    quota: Option<Quota>,
    rack_aware: bool,
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
        let quota = Quota::of(group, &unassigned);
        let assigned = vec![Vec::new(); group.members.len()];
        Self { group, assigned, unassigned, subscribers, quota, rack_aware: false }
    }

    fn load(&self, member: usize) -> usize {
        self.assigned.get(member).map_or(0, Vec::len)
    }

    /// Whether its share is not used up.
    fn has_room(&self, member: usize) -> bool {
        self.quota.is_none_or(|quota| {
            let load = self.load(member);
            load < quota.each || (load == quota.each && quota.members_with_one_more > 0)
        })
    }

    fn is_local(&self, member: usize, partition: &TopicPartition) -> bool {
        let member = self.group.members.get(member);
        member.is_some_and(|m| racks::match_member(self.group, m, &partition.topic, partition.partition))
    }

    fn give(&mut self, member: usize, partition: TopicPartition) {
        let Some(list) = self.assigned.get_mut(member) else { return };
        list.push(partition);
        if let Some(quota) = &mut self.quota
            && list.len() == quota.each + 1
        {
            quota.members_with_one_more = quota.members_with_one_more.saturating_sub(1);
        }
    }

    /// Members keep what they rightly own and `may` keep, as far as there is room.
    fn keep(&mut self, rightful: &[Vec<TopicPartition>], may: fn(&Self, usize, &TopicPartition) -> bool) {
        for (member, owned) in rightful.iter().enumerate() {
            for partition in owned {
                if self.has_room(member) && may(self, member, partition) && self.unassigned.remove(partition)
                {
                    self.give(member, partition.clone());
                }
            }
        }
    }

    /// What can be read within a rack: each free partition to the least loaded of those near it, and those that are
    /// near to few members first. What finds no room stays free.
    fn place_within_racks(&mut self) {
        let mut free: Vec<(Vec<usize>, TopicPartition)> = self
            .unassigned
            .iter()
            .map(|partition| {
                let subscribers = self.subscribers.get(&partition.topic).into_iter().flatten().copied();
                (subscribers.filter(|member| self.is_local(*member, partition)).collect(), partition.clone())
            })
            .collect();
        free.sort_by_key(|(near, _)| near.len());
        for (near, partition) in free {
            let with_room = near.into_iter().filter(|member| self.has_room(*member));
            if let Some(member) = with_room.min_by_key(|member| self.load(*member)) {
                self.unassigned.remove(&partition);
                self.give(member, partition);
            }
        }
    }

    /// Each free partition to the subscriber that has least; topics with few subscribers first, as they have
    /// the fewest ways to go.
    fn place_unassigned(&mut self) {
        let mut free: Vec<TopicPartition> = std::mem::take(&mut self.unassigned).into_iter().collect();
        free.sort_by_key(|partition| self.subscribers.get(&partition.topic).map_or(0, Vec::len));
        for partition in free {
            if let Some(member) = self.least_loaded_subscriber(&partition, false) {
                self.give(member, partition);
            }
        }
    }

    fn least_loaded_subscriber(&self, partition: &TopicPartition, must_be_local: bool) -> Option<usize> {
        let subscribers = self.subscribers.get(&partition.topic)?.iter().copied();
        let admitted = subscribers.filter(|member| !must_be_local || self.is_local(*member, partition));
        admitted.min_by_key(|member| self.load(*member))
    }

    /// Moves partitions from members that have more to those that have less by two or more, those first whose move
    /// keeps them within a rack. Each move lowers the sum of squared loads, so it ends.
    fn even_out(&mut self) {
        while (self.rack_aware && self.even_out_once(true)) || self.even_out_once(false) {}
    }

    /// Whether anything moved. `kindly`: nothing that is read within a rack is read across racks afterwards.
    fn even_out_once(&mut self, kindly: bool) -> bool {
        let mut moved = false;
        for from in 0..self.assigned.len() {
            let mut index = 0;
            while let Some(partition) = self.assigned.get(from).and_then(|list| list.get(index)).cloned() {
                let must_be_local = kindly && self.is_local(from, &partition);
                let to = self.least_loaded_subscriber(&partition, must_be_local);
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
        moved
    }

    /// A partition that is read across racks is swapped for one that its owner has near, if the other is near it.
    fn swap_into_racks(&mut self) {
        let mut tries = 0;
        for from in 0..self.assigned.len() {
            for index in 0..self.load(from) {
                let Some(partition) = self.at(from, index).cloned() else { continue };
                if self.is_local(from, &partition) {
                    continue;
                }
                let near = self.subscribers.get(&partition.topic).into_iter().flatten().copied();
                let near: Vec<usize> = near.filter(|member| self.is_local(*member, &partition)).collect();
                let mut places = near.into_iter().flat_map(|to| (0..self.load(to)).map(move |at| (to, at)));
                let found = places.find(|(to, at)| {
                    tries += 1;
                    tries <= MAX_SWAP_TRIES
                        && self.at(*to, *at).is_some_and(|other| self.wants_near(from, other))
                });
                if let Some((to, at)) = found
                    && let Some(other) = self.at(to, at).cloned()
                {
                    self.put(from, index, other);
                    self.put(to, at, partition);
                }
            }
        }
    }

    fn wants_near(&self, member: usize, partition: &TopicPartition) -> bool {
        self.subscribers.get(&partition.topic).is_some_and(|subscribers| subscribers.contains(&member))
            && self.is_local(member, partition)
    }

    fn at(&self, member: usize, index: usize) -> Option<&TopicPartition> {
        self.assigned.get(member)?.get(index)
    }

    fn put(&mut self, member: usize, index: usize, partition: TopicPartition) {
        if let Some(place) = self.assigned.get_mut(member).and_then(|list| list.get_mut(index)) {
            *place = partition;
        }
    }

    /// How many partitions are read within a rack.
    fn locals(&self) -> usize {
        let of = |(member, list): (usize, &Vec<TopicPartition>)| {
            list.iter().filter(|partition| self.is_local(member, partition)).count()
        };
        self.assigned.iter().enumerate().map(of).sum()
    }

    fn unevenness(&self) -> usize {
        self.assigned.iter().map(|list| list.len().saturating_mul(list.len())).sum()
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

#[derive(Clone, Copy)]
struct Quota {
    each: usize,
    /// How many members may still get one more.
    members_with_one_more: usize,
}

impl Quota {
    fn of(group: &GroupState, partitions: &BTreeSet<TopicPartition>) -> Option<Self> {
        let sorted = |topics: &[Arc<str>]| topics.iter().cloned().collect::<BTreeSet<_>>();
        let first = sorted(&group.members.first()?.topics);
        if group.members.iter().any(|member| sorted(&member.topics) != first) {
            return None;
        }
        let members = group.members.len();
        Some(Self { each: partitions.len() / members, members_with_one_more: partitions.len() % members })
    }
}
