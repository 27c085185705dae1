use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::balance::balanced;
use super::{
    AssignError, Assignments, Assignor, GroupState, RebalanceProtocol, withhold_partitions_in_transfer,
};

/// `cooperative-sticky`: balanced, keeps partitions where they are, and never gives one to a new owner while
/// the old one still holds it (KIP-429).
///
/// Members that say where they are (`client.rack`) get partitions that have a replica there, as far as the balance
/// allows (KIP-881); a partition leaves its owner for that only if more are read within a rack then.
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
        let mut assignments = balanced(&group);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Member;
    use super::super::testing::{
        any_group, any_group_in_racks, check_assignments, topics, tp, wanted_partitions,
    };
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
            .with_replica_racks(group.replica_racks.clone())
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

        #[test]
        fn groups_in_racks_settle_too(group in any_group_in_racks(), drop in 0..8usize) {
            let (mut group, _) = settle(group, 0);
            if drop < group.members.len() && group.members.len() > 1 {
                group.members.remove(drop);
            }
            settle(group, 8);
        }
    }
}
