//! What every assignment must be: complete, within subscriptions, even, and no move more than needed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use kafka_wire::Uuid;
use proptest::prelude::*;

use super::{Assignor, Partitions, Spec, Subscriber};

fn topic(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

/// Members as (name, instance, topics, assigned before).
type Members = Vec<(String, Option<String>, Vec<usize>, Partitions)>;

fn assign(assignor: Assignor, counts: &[i32], members: &Members) -> Vec<Partitions> {
    let is_read = |number: usize| members.iter().any(|member| member.2.contains(&number));
    let counts = counts.iter().enumerate().filter(|(number, _)| is_read(*number));
    let counts = counts.map(|(number, &count)| (topic(number), count)).collect();
    let members = members.iter().map(|(id, instance, topics, assigned)| Subscriber {
        id,
        instance_id: instance.as_deref(),
        topics: Rc::new(topics.iter().map(|&number| topic(number)).collect()),
        assigned,
    });
    assignor.assign(&Spec { members: members.collect(), partition_counts: counts })
}

fn member(id: &str, topics: &[usize]) -> (String, Option<String>, Vec<usize>, Partitions) {
    (id.to_owned(), None, topics.to_vec(), Partitions::new())
}

fn partitions(of: &Partitions, number: usize) -> Vec<i32> {
    of.get(&topic(number)).into_iter().flatten().copied().collect()
}

#[test]
fn range_gives_members_the_same_partition_numbers_of_topics_of_one_size() {
    let members = vec![member("b", &[0, 1]), member("a", &[0, 1])];
    let assigned = assign(Assignor::Range, &[3, 3], &members);
    for number in [0, 1] {
        assert_eq!(partitions(&assigned[1], number), [0, 1]);
        assert_eq!(partitions(&assigned[0], number), [2]);
    }
}

#[test]
fn range_puts_static_members_first_in_the_order_of_their_instances() {
    let mut members = vec![member("a", &[0]), member("x", &[0]), member("y", &[0])];
    members[1].1 = Some("2".into());
    members[2].1 = Some("1".into());
    let assigned = assign(Assignor::Range, &[3], &members);
    assert_eq!(assigned.iter().map(|a| partitions(a, 0)).collect::<Vec<_>>(), [[2], [1], [0]]);
}

#[test]
fn range_cuts_a_topic_among_those_that_read_it() {
    let members = vec![member("a", &[0]), member("b", &[0, 1]), member("c", &[1])];
    let assigned = assign(Assignor::Range, &[3, 1], &members);
    assert_eq!((partitions(&assigned[0], 0), partitions(&assigned[1], 0)), (vec![0, 1], vec![2]));
    assert_eq!((partitions(&assigned[1], 1), partitions(&assigned[2], 1)), (vec![0], vec![]));
}

#[test]
fn uniform_moves_no_more_than_a_newcomer_needs() {
    let mut members = vec![member("a", &[0]), member("b", &[0])];
    let before = assign(Assignor::Uniform, &[9], &members);
    for (member, assigned) in members.iter_mut().zip(&before) {
        member.3 = assigned.clone();
    }
    members.push(member("c", &[0]));
    let after = assign(Assignor::Uniform, &[9], &members);
    assert_eq!(after.iter().map(|a| partitions(a, 0).len()).collect::<Vec<_>>(), [3, 3, 3]);
    for (before, after) in before.iter().zip(&after) {
        assert!(partitions(after, 0).iter().all(|p| partitions(before, 0).contains(p)));
    }
}

fn members() -> impl Strategy<Value = (Vec<i32>, Members, bool)> {
    let counts = proptest::collection::vec(0..12i32, 1..5);
    let topics = proptest::collection::vec(proptest::collection::btree_set(0..5usize, 0..5), 1..9);
    (counts, topics, any::<bool>()).prop_map(|(counts, topics, same)| {
        let first = topics[0].clone();
        let members = topics.into_iter().enumerate().map(|(at, topics)| {
            let topics = if same { &first } else { &topics };
            let topics: Vec<usize> = topics.iter().copied().filter(|topic| *topic < counts.len()).collect();
            (format!("m{at}"), (at % 3 == 0).then(|| format!("i{at}")), topics, Partitions::new())
        });
        let members = members.collect();
        (counts, members, same)
    })
}

/// Complete, nothing twice, and nobody gets what it does not read.
fn check_sound(counts: &[i32], members: &Members, assigned: &[Partitions]) {
    let mut seen = BTreeSet::new();
    for ((_, _, topics, _), assigned) in members.iter().zip(assigned) {
        for (id, partitions) in assigned {
            let number = (0..counts.len()).find(|&number| topic(number) == *id).expect("a topic");
            assert!(topics.contains(&number));
            assert!(!partitions.is_empty());
            for partition in partitions {
                assert!((0..counts[number]).contains(partition));
                assert!(seen.insert((number, *partition)), "assigned twice");
            }
        }
    }
    let read: BTreeSet<usize> = members.iter().flat_map(|member| member.2.iter().copied()).collect();
    let expected: usize = read.into_iter().map(|number| counts[number] as usize).sum();
    assert_eq!(seen.len(), expected, "every partition that is read is assigned");
}

fn size(assigned: &Partitions) -> usize {
    assigned.values().map(BTreeSet::len).sum()
}

proptest! {
    #[test]
    fn assignments_are_sound_even_and_sticky((counts, mut members, same) in members(), gone in 0..9usize) {
        let ranges = assign(Assignor::Range, &counts, &members);
        check_sound(&counts, &members, &ranges);

        let first = assign(Assignor::Uniform, &counts, &members);
        check_sound(&counts, &members, &first);
        for (member, assigned) in members.iter_mut().zip(&first) {
            member.3 = assigned.clone();
        }
        prop_assert_eq!(&assign(Assignor::Uniform, &counts, &members), &first, "nothing changed, nothing moves");

        if members.len() > 1 {
            members.remove(gone % members.len());
        }
        let second = assign(Assignor::Uniform, &counts, &members);
        check_sound(&counts, &members, &second);
        let sizes: Vec<usize> = second.iter().map(size).collect();
        if same {
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
            // Who stays loses nothing when another goes.
            for (member, assigned) in members.iter().zip(&second) {
                for (topic, partitions) in &member.3 {
                    prop_assert!(partitions.is_subset(assigned.get(topic).unwrap_or(&BTreeSet::new())));
                }
            }
        }
        // No partition could go to a subscriber with two fewer.
        let holders: BTreeMap<usize, usize> = sizes.iter().copied().enumerate().collect();
        for (at, assigned) in second.iter().enumerate() {
            for id in assigned.keys() {
                for (other, member) in members.iter().enumerate() {
                    let reads = member.2.iter().any(|&number| topic(number) == *id);
                    prop_assert!(!reads || holders[&other] + 2 > holders[&at]);
                }
            }
        }
    }
}
