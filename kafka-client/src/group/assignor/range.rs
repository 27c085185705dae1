use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AssignError, Assignments, Assignor, GroupState, Member, in_order, nothing_for_anyone, racks};
use crate::TopicPartition;

/// `range`: for each topic, consecutive partitions to the members in order, the first few getting one more.
///
/// Topics with as many partitions and the same subscribers are divided alike, so that a member gets the same
/// partition numbers of each: what a join of co-partitioned topics needs.
///
/// Members that say where they are (`client.rack`) get partitions that have a replica there, as far as that leaves
/// the balance and the co-partitioning as they are (KIP-881). All replicas count, those that are out of sync too: they are
/// likely to be back soon.
#[derive(Debug, Clone, Copy, Default)]
pub struct RangeAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(&self, group: &GroupState) -> Result<Assignments, AssignError> {
        let ordered = in_order(group);
        let mut topics: Vec<Division<'_>> = group
            .topics
            .iter()
            .map(|(topic, &partitions)| Division::new(group, &ordered, topic, partitions))
            .collect();
        if topics.iter().any(|topic| topic.rack_aware) {
            within_racks(&mut topics);
        }
        let mut assignments = nothing_for_anyone(group);
        for topic in &mut topics {
            topic.give_ranges(|_, _| true);
            for (member, partitions) in topic.members.iter().zip(&mut topic.assigned) {
                partitions.sort_unstable();
                if let Some(assignment) = assignments.get_mut(&member.member_id) {
                    let named = partitions.iter().map(|p| TopicPartition::new(Arc::clone(topic.topic), *p));
                    assignment.partitions.extend(named);
                }
            }
        }
        Ok(assignments)
    }
}

/// One topic while it is divided. Members are positions among its subscribers.
struct Division<'a> {
    group: &'a GroupState,
    topic: &'a Arc<str>,
    partitions: i32,
    members: Vec<&'a Member>,
    /// In ascending order.
    free: Vec<i32>,
    assigned: Vec<Vec<i32>>,
    each: usize,
    /// How many members may still get one more.
    extra: usize,
    rack_aware: bool,
}

impl<'a> Division<'a> {
    fn new(group: &'a GroupState, ordered: &[&'a Member], topic: &'a Arc<str>, partitions: i32) -> Self {
        let members: Vec<&Member> = ordered.iter().copied().filter(|m| m.topics.contains(topic)).collect();
        let free: Vec<i32> = (0..partitions).collect();
        Self {
            group,
            topic,
            partitions,
            each: free.len().checked_div(members.len()).unwrap_or_default(),
            extra: free.len().checked_rem(members.len()).unwrap_or_default(),
            assigned: vec![Vec::new(); members.len()],
            rack_aware: racks::matter(group, [topic], members.iter().copied()),
            free,
            members,
        }
    }

    fn room(&self, member: usize) -> usize {
        let has = self.assigned.get(member).map_or(0, Vec::len);
        (self.each + usize::from(self.extra > 0)).saturating_sub(has)
    }

    fn is_local(&self, member: usize, partition: i32) -> bool {
        let member = self.members.get(member);
        member.is_some_and(|member| racks::match_member(self.group, member, self.topic, partition))
    }

    fn give(&mut self, member: usize, partitions: &[i32]) {
        let Some(has) = self.assigned.get_mut(member) else { return };
        has.extend(partitions);
        if has.len() > self.each {
            self.extra = self.extra.saturating_sub(1);
        }
        self.free.retain(|partition| !partitions.contains(partition));
    }

    /// To each member in turn the first free partitions that it may have, as many as there is room for.
    fn give_ranges(&mut self, may_have: impl Fn(&Self, (usize, i32)) -> bool) {
        for member in 0..self.members.len() {
            let free = self.free.iter().copied().filter(|partition| may_have(self, (member, *partition)));
            let range: Vec<i32> = free.take(self.room(member)).collect();
            if !range.is_empty() {
                self.give(member, &range);
            }
        }
    }
}

/// What can be read within a rack; the rest stays free. Co-partitioned topics are divided together.
fn within_racks(topics: &mut [Division<'_>]) {
    let mut alike: BTreeMap<(Vec<&str>, i32), Vec<&mut Division<'_>>> = BTreeMap::new();
    for topic in topics {
        let members = topic.members.iter().map(|member| member.member_id.as_str()).collect();
        alike.entry((members, topic.partitions)).or_default().push(topic);
    }
    for mut topics in alike.into_values() {
        match topics.as_mut_slice() {
            [topic] if topic.rack_aware => {
                topic.give_ranges(|topic, (member, partition)| topic.is_local(member, partition));
            }
            [] | [_] => {}
            topics => together_within_racks(topics),
        }
    }
}

/// Each partition number, of all the topics, to the first member that has room and a replica of each in its rack.
fn together_within_racks(topics: &mut [&mut Division<'_>]) {
    let Some((partitions, members)) = topics.first().map(|first| (first.partitions, &first.members)) else {
        return;
    };
    if members.iter().all(|member| member.rack().is_none()) {
        return;
    }
    let members = members.len();
    for partition in 0..partitions {
        let fits =
            |member: &usize| topics.iter().all(|t| t.room(*member) > 0 && t.is_local(*member, partition));
        if let Some(member) = (0..members).find(fits) {
            topics.iter_mut().for_each(|topic| topic.give(member, &[partition]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{
        any_group, any_group_in_racks, check_assignments, read_within_a_rack, topics, tp, wanted_partitions,
    };
    use super::*;

    #[test]
    fn the_first_members_get_the_extra_partitions_of_each_topic() {
        let group = GroupState::new(
            topics(&[("t0", 3), ("t1", 3)]),
            vec![Member::new("c1", ["t0", "t1"]), Member::new("c0", ["t0", "t1"])],
        );
        let assignments = RangeAssignor.assign(&group).unwrap();
        assert_eq!(assignments["c0"].partitions, [tp("t0", 0), tp("t0", 1), tp("t1", 0), tp("t1", 1)]);
        assert_eq!(assignments["c1"].partitions, [tp("t0", 2), tp("t1", 2)]);
    }

    #[test]
    fn static_members_are_ordered_by_instance_and_before_dynamic_ones() {
        let with_instance = |id: &str, instance: &str| {
            let mut member = Member::new(id, ["t"]);
            member.instance_id = Some(instance.to_owned());
            member
        };
        let group = GroupState::new(
            topics(&[("t", 3)]),
            vec![Member::new("a", ["t"]), with_instance("y", "2"), with_instance("z", "1")],
        );
        let assignments = RangeAssignor.assign(&group).unwrap();
        assert_eq!(assignments["z"].partitions, [tp("t", 0)]);
        assert_eq!(assignments["y"].partitions, [tp("t", 1)]);
        assert_eq!(assignments["a"].partitions, [tp("t", 2)]);
    }

    #[test]
    fn a_topic_that_does_not_exist_is_nobodys() {
        let group = GroupState::new(topics(&[]), vec![Member::new("a", ["gone"])]);
        assert_eq!(RangeAssignor.assign(&group).unwrap()["a"].partitions, []);
    }

    proptest! {
        #[test]
        fn every_wanted_partition_has_one_owner_and_topics_are_balanced(group in any_group()) {
            let assignments = RangeAssignor.assign(&group).unwrap();
            prop_assert_eq!(check_assignments(&group, &assignments), wanted_partitions(&group));
            for topic in group.topics.keys() {
                let loads: Vec<usize> = group.members.iter().filter(|m| m.topics.contains(topic)).map(|m| {
                    assignments[&m.member_id].partitions.iter().filter(|p| p.topic == *topic).count()
                }).collect();
                if let (Some(most), Some(least)) = (loads.iter().max(), loads.iter().min()) {
                    prop_assert!(most - least <= 1);
                }
            }
        }

        #[test]
        fn racks_bring_more_reads_within_a_rack_and_take_nothing_from_the_balance(group in any_group_in_racks()) {
            let within = RangeAssignor.assign(&group).unwrap();
            let mut blind = group.clone();
            blind.replica_racks.clear();
            let blind = RangeAssignor.assign(&blind).unwrap();
            prop_assert_eq!(check_assignments(&group, &within), check_assignments(&group, &blind));
            for topic in group.topics.keys() {
                let mut loads = [&within, &blind].map(|assignments| -> Vec<usize> {
                    let of = |a: &super::super::Assignment| a.partitions.iter().filter(|p| p.topic == *topic).count();
                    assignments.values().map(of).collect()
                });
                loads.iter_mut().for_each(|loads| loads.sort_unstable());
                prop_assert_eq!(&loads[0], &loads[1]);
            }
            if group.topics.len() == 1 && group.members.len() <= 2 {
                prop_assert!(read_within_a_rack(&group, &within) >= read_within_a_rack(&group, &blind));
            }
        }
    }
}
