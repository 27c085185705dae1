use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::balance::balanced;
use super::{AssignError, Assignment, Assignments, Assignor, GroupState};
use crate::TopicPartition;
use crate::group::protocol;

/// `sticky`: balanced, and partitions stay where they were, though everyone gives up everything in between.
///
/// Members of the eager protocol own nothing when they join, so each remembers what it had and says so in its
/// subscription, in the words of Java's `StickyAssignor`. Give each consumer an assignor of its own.
/// [`CooperativeStickyAssignor`](super::CooperativeStickyAssignor) goes on reading while the group rebalances; it is the
/// better choice for a new group. It minds racks as that one does (KIP-881).
#[derive(Debug, Default)]
pub struct StickyAssignor {
    previous: Mutex<Option<Previous>>,
}

/// What a member had, and in which generation; old clients (`STICKY_ASSIGNOR_USER_DATA_V0`) do not say the latter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Previous {
    partitions: Vec<TopicPartition>,
    generation: Option<i32>,
}

impl Assignor for StickyAssignor {
    fn name(&self) -> &str {
        "sticky"
    }

    fn subscription_user_data(&self, _topics: &[Arc<str>], _generation: Option<i32>) -> Option<Bytes> {
        self.previous.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.encode()
    }

    fn assign(&self, group: &GroupState) -> Result<Assignments, AssignError> {
        let mut group = group.clone();
        for member in &mut group.members {
            let previous = member.user_data.clone().and_then(Previous::decode).unwrap_or_default();
            member.owned = previous.partitions;
            member.generation = previous.generation;
        }
        Ok(balanced(&group))
    }

    fn on_assignment(&self, assignment: &Assignment, generation: i32) {
        let previous = Previous { partitions: assignment.partitions.clone(), generation: Some(generation) };
        *self.previous.lock().unwrap_or_else(PoisonError::into_inner) = Some(previous);
    }
}

impl Previous {
    fn encode(&self) -> Option<Bytes> {
        let mut data = BytesMut::new();
        protocol::put_partitions(&mut data, &self.partitions)?;
        if let Some(generation) = self.generation {
            data.put_i32(generation);
        }
        Some(data.freeze())
    }

    fn decode(mut data: Bytes) -> Option<Self> {
        let partitions = protocol::take_partitions(&mut data)?;
        let generation = data.try_get_i32().ok().filter(|generation| *generation >= 0);
        Some(Self { partitions, generation })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Member;
    use super::super::testing::{
        any_group, any_group_in_racks, check_assignments, read_within_a_rack, topics, tp, wanted_partitions,
    };
    use super::*;

    fn assign(group: &GroupState) -> Assignments {
        StickyAssignor::default().assign(group).unwrap()
    }

    /// The members as they join the next rebalance: owning nothing, and remembering what they were given.
    fn next_round(group: &GroupState, assignments: &Assignments, generation: i32) -> GroupState {
        let members = group.members.iter().cloned().map(|mut member| {
            let assignor = StickyAssignor::default();
            assignor.on_assignment(&assignments[&member.member_id], generation);
            member.user_data = assignor.subscription_user_data(&member.topics, None);
            member
        });
        GroupState::new(group.topics.clone(), members.collect())
    }

    fn remembering(id: &str, partitions: &[i32], generation: Option<i32>) -> Member {
        let partitions = partitions.iter().map(|p| tp("t", *p)).collect();
        let mut member = Member::new(id, ["t"]);
        member.user_data = Previous { partitions, generation }.encode();
        member
    }

    #[test]
    fn a_newcomer_gets_its_share_at_once() {
        let group = GroupState::new(topics(&[("t", 4)]), vec![Member::new("b", ["t"])]);
        let mut group = next_round(&group, &assign(&group), 1);
        group.members.insert(0, Member::new("a", ["t"]));
        let assignments = assign(&group);
        assert_eq!(assignments["a"].partitions, [tp("t", 2), tp("t", 3)]);
        assert_eq!(assignments["b"].partitions, [tp("t", 0), tp("t", 1)]);
    }

    #[test]
    fn a_claim_of_an_older_generation_or_of_none_loses() {
        for older in [Some(4), None] {
            let members = vec![remembering("a", &[0, 1], older), remembering("b", &[0], Some(5))];
            let assignments = assign(&GroupState::new(topics(&[("t", 2)]), members));
            assert_eq!(assignments["a"].partitions, [tp("t", 1)]);
            assert_eq!(assignments["b"].partitions, [tp("t", 0)]);
        }
    }

    #[test]
    fn user_data_that_cannot_be_read_is_a_member_that_had_nothing() {
        let mut broken = Member::new("a", ["t"]);
        broken.user_data = Some(Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0]));
        let group = GroupState::new(topics(&[("t", 2)]), vec![broken, remembering("b", &[0], Some(1))]);
        assert_eq!(assign(&group)["a"].partitions, [tp("t", 1)]);
        assert_eq!(assign(&group)["b"].partitions, [tp("t", 0)]);
    }

    proptest! {
        #[test]
        fn every_wanted_partition_has_one_owner_and_nothing_moves_without_a_change(group in any_group()) {
            let first = assign(&group);
            prop_assert_eq!(check_assignments(&group, &first), wanted_partitions(&group));
            prop_assert_eq!(assign(&next_round(&group, &first, 1)), first);
        }

        #[test]
        fn no_single_move_is_left_that_would_even_the_loads(group in any_group()) {
            let assignments = assign(&group);
            for assignment in assignments.values() {
                for partition in &assignment.partitions {
                    for to in group.members.iter().filter(|m| m.topics.contains(&partition.topic)) {
                        prop_assert!(assignments[&to.member_id].partitions.len() + 1 >= assignment.partitions.len());
                    }
                }
            }
        }

        #[test]
        fn who_stays_keeps_everything_when_others_leave(
            partitions in 0..40i32, members in 2..9usize, leaving in 1..8usize,
        ) {
            let all = (0..members).map(|i| Member::new(format!("m{i}"), ["t"])).collect();
            let group = GroupState::new(topics(&[("t", partitions)]), all);
            let before = assign(&group);
            let mut group = next_round(&group, &before, 1);
            group.members.truncate(members.saturating_sub(leaving).max(1));
            let after = assign(&group);
            prop_assert_eq!(check_assignments(&group, &after), wanted_partitions(&group));
            for member in &group.members {
                let kept = &after[&member.member_id].partitions;
                prop_assert!(before[&member.member_id].partitions.iter().all(|p| kept.contains(p)));
            }
        }

        #[test]
        fn racks_take_nothing_from_the_balance_and_nothing_moves_without_a_change(group in any_group_in_racks()) {
            let within = assign(&group);
            prop_assert_eq!(check_assignments(&group, &within), wanted_partitions(&group));
            for assignment in within.values() {
                for partition in &assignment.partitions {
                    for to in group.members.iter().filter(|m| m.topics.contains(&partition.topic)) {
                        prop_assert!(within[&to.member_id].partitions.len() + 1 >= assignment.partitions.len());
                    }
                }
            }
            let mut blind = group.clone();
            blind.replica_racks.clear();
            prop_assert!(read_within_a_rack(&group, &within) >= read_within_a_rack(&group, &assign(&blind)));
            // More reads within a rack are a reason to move, nothing else is.
            let next = next_round(&group, &within, 1).with_replica_racks(group.replica_racks.clone());
            let again = assign(&next);
            let more = read_within_a_rack(&group, &again) > read_within_a_rack(&group, &within);
            prop_assert!(more || again == within);
        }

        #[test]
        fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Previous::decode(Bytes::from(data));
        }
    }
}
