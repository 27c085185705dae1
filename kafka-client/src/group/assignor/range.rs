use std::sync::Arc;

use super::{AssignError, Assignments, Assignor, GroupState, Member, in_order, nothing_for_anyone};
use crate::TopicPartition;

/// `range`: for each topic, consecutive partitions to the members in order, the first few getting one more.
///
/// Topics with as many partitions and the same subscribers are divided alike, so that a member gets the same
/// partition numbers of each: what a join of co-partitioned topics needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct RangeAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(&self, group: &GroupState) -> Result<Assignments, AssignError> {
        let mut assignments = nothing_for_anyone(group);
        let ordered = in_order(group);
        for (topic, &partitions) in &group.topics {
            let subscribers: Vec<&&Member> = ordered.iter().filter(|m| m.topics.contains(topic)).collect();
            let Ok(count) = i32::try_from(subscribers.len()) else { continue };
            if count == 0 {
                continue;
            }
            let (each, extra) = (partitions / count, partitions % count);
            let mut next = 0;
            for (index, member) in (0..count).zip(subscribers) {
                let end = next + each + i32::from(index < extra);
                if let Some(assignment) = assignments.get_mut(&member.member_id) {
                    assignment
                        .partitions
                        .extend((next..end).map(|p| TopicPartition::new(Arc::clone(topic), p)));
                }
                next = end;
            }
        }
        Ok(assignments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{any_group, check_assignments, topics, tp, wanted_partitions};
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
    }
}
