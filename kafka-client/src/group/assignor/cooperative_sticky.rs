use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    AssignError, Assignment, Assignments, Assignor, GroupState, RebalanceProtocol, rightful_partitions,
    withhold_partitions_in_transfer,
};
use crate::TopicPartition;

/// `cooperative-sticky`: balanced, keeps partitions where they are, and never gives one to a new owner while
/// the old one still holds it (KIP-429).
#[derive(Debug, Clone, Copy, Default)]
pub struct CooperativeStickyAssignor;

impl Assignor for CooperativeStickyAssignor {
    fn name(&self) -> &str {
        "cooperative-sticky"
    }

    fn protocols(&self) -> &[RebalanceProtocol] {
        &[RebalanceProtocol::Eager, RebalanceProtocol::Cooperative]
    }

    /// The generation, as Java's assignor sends it to members whose subscription has no field for it (before
    /// KIP-792's version 2).
    fn subscription_user_data(&self, _topics: &[Arc<str>], generation: Option<i32>) -> Option<Bytes> {
        let mut data = BytesMut::with_capacity(4);
        data.put_i32(generation.unwrap_or(-1));
        Some(data.freeze())
    }

    fn assign(&self, group: &GroupState) -> Result<Assignments, AssignError> {
        let group = with_generations_from_user_data(group);
        let mut balance = Balance::new(&group);
        balance.keep_rightful(rightful_partitions(&group));
        balance.place_unassigned();
        balance.even_out();
        let mut assignments = balance.into_assignments();
        withhold_partitions_in_transfer(&group.members, &mut assignments);
        Ok(assignments)
    }
}

/// Members whose subscription has no generation field (versions 0 and 1) carry it in the user data.
fn with_generations_from_user_data(group: &GroupState) -> GroupState {
    let mut group = group.clone();
    for member in &mut group.members {
        if member.generation.is_none()
            && let Some(data) = member.user_data.as_ref().and_then(|data| data.first_chunk::<4>())
        {
            member.generation = Some(i32::from_be_bytes(*data)).filter(|generation| *generation >= 0);
        }
    }
    group
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Member;
    use super::super::testing::{any_group, check_assignments, topics, tp, wanted_partitions};
    use super::*;

    fn assign(group: &GroupState) -> Assignments {
        CooperativeStickyAssignor.assign(group).unwrap()
    }

    /// The members as they join the next rebalance: owning what they were given.
    fn next_round(group: &GroupState, assignments: &Assignments, generation: i32) -> GroupState {
        let members = group.members.iter().cloned().map(|member| {
            let owned = assignments.get(&member.member_id).map(|a| a.partitions.clone()).unwrap_or_default();
            member.owning(owned, generation)
        });
        GroupState::new(group.topics.clone(), members.collect())
    }

    /// Rebalances until nothing is held back, as the members do.
    fn settle(mut group: GroupState, mut generation: i32) -> (GroupState, Assignments) {
        for _ in 0..4 {
            let assignments = assign(&group);
            generation += 1;
            let complete = check_assignments(&group, &assignments) == wanted_partitions(&group);
            group = next_round(&group, &assignments, generation);
            if complete {
                return (group, assignments);
            }
        }
        panic!("still moving after four rebalances: {group:?}");
    }

    #[test]
    fn a_newcomer_gets_its_share_one_rebalance_after_the_owner_gave_it_up() {
        let (mut group, _) = settle(GroupState::new(topics(&[("t", 4)]), vec![Member::new("a", ["t"])]), 0);
        group.members.push(Member::new("b", ["t"]));

        let first = assign(&group);
        assert_eq!(first["a"].partitions, [tp("t", 0), tp("t", 1)]);
        assert_eq!(first["b"].partitions, [], "a still owns what b will get");

        let second = assign(&next_round(&group, &first, 2));
        assert_eq!(second["a"].partitions, [tp("t", 0), tp("t", 1)]);
        assert_eq!(second["b"].partitions, [tp("t", 2), tp("t", 3)]);
    }

    #[test]
    fn a_claim_of_an_older_generation_loses() {
        let group = GroupState::new(
            topics(&[("t", 2)]),
            vec![
                Member::new("late", ["t"]).owning([tp("t", 0), tp("t", 1)], 4),
                Member::new("present", ["t"]).owning([tp("t", 0)], 5),
            ],
        );
        let assignments = assign(&group);
        assert_eq!(assignments["present"].partitions, [tp("t", 0)]);
        assert_eq!(assignments["late"].partitions, [tp("t", 1)]);
    }

    #[test]
    fn the_generation_of_old_clients_is_read_from_their_user_data() {
        let mut late = Member::new("late", ["t"]);
        late.owned = vec![tp("t", 0)];
        late.user_data = CooperativeStickyAssignor.subscription_user_data(&[], Some(4));
        let mut present = late.clone();
        present.member_id = "present".to_owned();
        present.user_data = CooperativeStickyAssignor.subscription_user_data(&[], Some(5));
        let assignments = assign(&GroupState::new(topics(&[("t", 1)]), vec![late, present]));
        assert_eq!(assignments["present"].partitions, [tp("t", 0)]);
    }

    #[test]
    fn a_member_that_lost_a_subscription_gives_the_partition_up() {
        let group = GroupState::new(
            topics(&[("t", 1), ("u", 1)]),
            vec![Member::new("a", ["u"]).owning([tp("t", 0)], 1), Member::new("b", ["t", "u"])],
        );
        let (_, settled) = settle(group, 1);
        assert_eq!(settled["a"].partitions, [tp("u", 0)]);
        assert_eq!(settled["b"].partitions, [tp("t", 0)]);
    }

    proptest! {
        #[test]
        fn no_partition_changes_hands_within_one_generation(group in any_group(), drop in 0..8usize, add in any::<bool>()) {
            let (mut group, before) = settle(group, 0);
            if drop < group.members.len() && group.members.len() > 1 {
                group.members.remove(drop);
            }
            if add {
                group.members.push(Member::new("newcomer", group.topics.keys().cloned()));
            }
            let group = GroupState::new(group.topics, group.members);
            let after = assign(&group);
            check_assignments(&group, &after);
            for (id, assignment) in &after {
                for partition in &assignment.partitions {
                    let holder = group.members.iter().find(|m| m.owned.contains(partition));
                    prop_assert!(holder.is_none_or(|holder| holder.member_id == *id));
                }
            }
            let _ = before;
            settle(group, 1);
        }

        #[test]
        fn equal_subscriptions_settle_balanced_and_nothing_moves_without_need(
            partitions in 0..40i32, members in 1..9usize, joining in 0..4usize,
        ) {
            let all = (0..members).map(|i| Member::new(format!("m{i}"), ["t"])).collect();
            let (mut group, before) = settle(GroupState::new(topics(&[("t", partitions)]), all), 0);
            prop_assert_eq!(&assign(&group), &before, "a rebalance without a change moves nothing");
            group.members.extend((0..joining).map(|i| Member::new(format!("n{i}"), ["t"])));
            let (group, after) = settle(GroupState::new(group.topics, group.members), 1);
            let loads: Vec<usize> = after.values().map(|a| a.partitions.len()).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
            // An old member only loses what the newcomers need.
            for member in group.members.iter().filter(|m| m.member_id.starts_with('m')) {
                let old = &before[&member.member_id].partitions;
                let new = &after[&member.member_id].partitions;
                prop_assert!(new.iter().all(|p| old.contains(p)), "{} gained while others joined", member.member_id);
            }
        }

        #[test]
        fn unequal_subscriptions_settle_with_no_single_move_left_that_would_help(group in any_group()) {
            let (group, settled) = settle(group, 0);
            for (from, assignment) in &settled {
                for partition in &assignment.partitions {
                    for to in group.members.iter().filter(|m| m.topics.contains(&partition.topic)) {
                        let load = settled[&to.member_id].partitions.len();
                        prop_assert!(load + 1 >= assignment.partitions.len(), "{partition} could move {from} -> {}", to.member_id);
                    }
                }
            }
        }
    }
}
