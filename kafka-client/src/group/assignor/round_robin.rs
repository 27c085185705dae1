use std::collections::HashSet;
use std::sync::Arc;

use super::{AssignError, Assignments, Assignor, GroupState, in_order, nothing_for_anyone};
use crate::TopicPartition;

/// `roundrobin`: all partitions of all topics in one list, dealt to the members in turn; a member is passed over
/// where it does not subscribe to the topic.
///
/// Balanced when all members subscribe to the same topics. A rebalance may move any partition; static members
/// (`group.instance.id`) that come back get theirs again.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobinAssignor;

impl Assignor for RoundRobinAssignor {
    fn name(&self) -> &str {
        "roundrobin"
    }

    fn assign(&self, group: &GroupState) -> Result<Assignments, AssignError> {
        let mut assignments = nothing_for_anyone(group);
        let members: Vec<(&str, HashSet<&Arc<str>>)> = in_order(group)
            .into_iter()
            .map(|member| (member.member_id.as_str(), member.topics.iter().collect()))
            .collect();
        let mut next = 0;
        for (topic, &count) in &group.topics {
            for partition in 0..count {
                let turn = (next..members.len())
                    .chain(0..next)
                    .find_map(|turn| Some((turn, members.get(turn)?)).filter(|(_, m)| m.1.contains(topic)));
                let Some((turn, (member_id, _))) = turn else { break };
                if let Some(assignment) = assignments.get_mut(*member_id) {
                    assignment.partitions.push(TopicPartition::new(Arc::clone(topic), partition));
                }
                next = (turn + 1) % members.len();
            }
        }
        Ok(assignments)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::Member;
    use super::super::testing::{any_group, check_assignments, topics, tp, wanted_partitions};
    use super::*;

    fn assign(group: &GroupState) -> Assignments {
        RoundRobinAssignor.assign(group).unwrap()
    }

    #[test]
    fn the_turn_goes_on_from_one_topic_to_the_next() {
        let both = ["t0", "t1"];
        let group = GroupState::new(
            topics(&[("t0", 3), ("t1", 3)]),
            vec![Member::new("c0", both), Member::new("c1", both)],
        );
        let assignments = assign(&group);
        assert_eq!(assignments["c0"].partitions, [tp("t0", 0), tp("t0", 2), tp("t1", 1)]);
        assert_eq!(assignments["c1"].partitions, [tp("t0", 1), tp("t1", 0), tp("t1", 2)]);
    }

    #[test]
    fn a_static_member_that_comes_back_under_a_new_id_gets_its_partitions_again() {
        let with_instance = |id: &str, instance: &str| {
            let mut member = Member::new(id, ["t"]);
            member.instance_id = Some(instance.to_owned());
            member
        };
        let group = |id: &str| {
            GroupState::new(topics(&[("t", 5)]), vec![with_instance("m", "b"), with_instance(id, "a")])
        };
        assert_eq!(assign(&group("first"))["first"], assign(&group("zeroth"))["zeroth"]);
    }

    #[test]
    fn a_topic_without_a_subscriber_is_nobodys() {
        let group = GroupState::new(topics(&[("t", 2), ("u", 1)]), vec![Member::new("a", ["u"])]);
        assert_eq!(assign(&group)["a"].partitions, [tp("u", 0)]);
        assert!(assign(&GroupState::new(topics(&[("t", 2)]), Vec::new())).is_empty());
    }

    proptest! {
        #[test]
        fn partitions_go_round_a_table_where_strangers_pass(group in any_group()) {
            let assignments = assign(&group);
            let wanted = wanted_partitions(&group);
            prop_assert_eq!(check_assignments(&group, &assignments), wanted.clone());
            let mut table: VecDeque<&Member> = group.members.iter().collect();
            for partition in wanted {
                while !table[0].topics.contains(&partition.topic) {
                    table.rotate_left(1);
                }
                prop_assert!(assignments[&table[0].member_id].partitions.contains(&partition), "{}", partition);
                table.rotate_left(1);
            }
        }

        #[test]
        fn equal_subscriptions_are_balanced_over_all_topics(counts in prop::collection::vec(0..9i32, 1..5), members in 1..8usize) {
            let names: Vec<String> = (0..counts.len()).map(|i| format!("t{i}")).collect();
            let counts: Vec<(&str, i32)> = names.iter().map(String::as_str).zip(counts).collect();
            let all = (0..members).map(|i| Member::new(format!("m{i}"), names.iter().map(String::as_str)));
            let assignments = assign(&GroupState::new(topics(&counts), all.collect()));
            let loads: Vec<usize> = assignments.values().map(|a| a.partitions.len()).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        }
    }
}
