//! The simple share assignor (`SimpleAssignor`): every partition has a member, every member has a partition, and as little
//! moves as possible. Several members may have the same partition.

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::Uuid;

use super::record::Assignment;

type Partition = (Uuid, i32);

/// Assigns the partitions of each member's subscription. `current` is what members have.
pub(crate) fn assign(
    subscriptions: &BTreeMap<String, BTreeSet<Partition>>,
    current: &BTreeMap<String, Assignment>,
) -> BTreeMap<String, Assignment> {
    let partitions: BTreeSet<Partition> = subscriptions.values().flatten().copied().collect();
    let readers = subscriptions.values().filter(|subscribed| !subscribed.is_empty()).count();
    if partitions.is_empty() || readers == 0 {
        return subscriptions.keys().map(|member| (member.clone(), Assignment::new())).collect();
    }
    let per_member = partitions.len().max(readers).div_ceil(readers);
    let per_partition = partitions.len().max(readers).div_ceil(partitions.len());
    // How often a partition may have one member more: the others are for partitions without any.
    let mut seconds = readers.saturating_sub(partitions.len());
    let mut holders: BTreeMap<Partition, usize> =
        partitions.iter().map(|partition| (*partition, 0)).collect();
    let mut assigned: BTreeMap<&String, BTreeSet<Partition>> =
        subscriptions.keys().map(|member| (member, BTreeSet::new())).collect();
    // What members have they keep, as long as that is their share.
    for (member, had) in current {
        let (Some(subscribed), Some(has)) = (subscriptions.get(member), assigned.get_mut(member)) else {
            continue;
        };
        let had = had.iter().flat_map(|(topic_id, indexes)| indexes.iter().map(|index| (*topic_id, *index)));
        for partition in had.filter(|partition| subscribed.contains(partition)) {
            let Some(held) = holders.get_mut(&partition).filter(|held| **held < per_partition) else {
                continue;
            };
            let is_second = *held > 0;
            if has.len() < per_member && (!is_second || seconds > 0) && has.insert(partition) {
                *held += 1;
                seconds -= usize::from(is_second);
            }
        }
    }
    // Partitions without a member go to whoever has the fewest.
    for (partition, held) in &mut holders {
        if *held > 0 {
            continue;
        }
        let mut members = assigned.iter_mut().filter(|(member, _)| {
            subscriptions.get(**member).is_some_and(|subscribed| subscribed.contains(partition))
        });
        let first = members.next();
        let fewest = members.fold(first, |best, other| match best {
            Some(best) if best.1.len() <= other.1.len() => Some(best),
            _ => Some(other),
        });
        if let Some((_, has)) = fewest {
            has.insert(*partition);
            *held = 1;
        }
    }
    // Members without a partition get the one that fewest others have.
    for (member, has) in &mut assigned {
        let Some(subscribed) = subscriptions.get(*member).filter(|_| has.is_empty()) else { continue };
        let fewest = subscribed.iter().min_by_key(|partition| holders.get(partition).copied().unwrap_or(0));
        if let Some(partition) = fewest {
            has.insert(*partition);
            holders.entry(*partition).and_modify(|held| *held += 1);
        }
    }
    let by_topic = |has: BTreeSet<Partition>| {
        let mut assignment = Assignment::new();
        for (topic_id, index) in has {
            assignment.entry(topic_id).or_default().insert(index);
        }
        assignment
    };
    assigned.into_iter().map(|(member, has)| (member.clone(), by_topic(has))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(1);

    fn group(members: usize, partitions: i32) -> BTreeMap<String, BTreeSet<Partition>> {
        let all: BTreeSet<_> = (0..partitions).map(|index| (TOPIC, index)).collect();
        (0..members).map(|member| (format!("m{member:02}"), all.clone())).collect()
    }

    fn count(assignment: &Assignment) -> usize {
        assignment.values().map(BTreeSet::len).sum()
    }

    proptest! {
        #[test]
        fn every_partition_has_a_member_and_every_member_a_fair_share(
            members in 1usize..12,
            partitions in 1i32..12,
            before in (1usize..12, 1i32..12),
        ) {
            let had = assign(&group(before.0, before.1), &BTreeMap::new());
            let assigned = assign(&group(members, partitions), &had);
            let held: BTreeSet<i32> =
                assigned.values().flat_map(|has| has.get(&TOPIC).into_iter().flatten().copied()).collect();
            prop_assert_eq!(held, (0..partitions).collect());
            let most = (partitions as usize).max(members).div_ceil(members);
            for has in assigned.values() {
                prop_assert!((1..=most).contains(&count(has)), "{has:?}");
            }
            // Nothing moves without a reason.
            prop_assert_eq!(assign(&group(members, partitions), &assigned), assigned);
        }
    }

    #[test]
    fn members_get_only_what_they_subscribe_to() {
        let other = Uuid::from_u128(2);
        let subscriptions: BTreeMap<String, BTreeSet<Partition>> = [
            ("a".to_owned(), [(TOPIC, 0), (TOPIC, 1)].into()),
            ("b".to_owned(), [(other, 0)].into()),
            ("c".to_owned(), BTreeSet::new()),
        ]
        .into();
        let assigned = assign(&subscriptions, &BTreeMap::new());
        assert_eq!(assigned["a"], [(TOPIC, [0, 1].into())].into());
        assert_eq!(assigned["b"], [(other, [0].into())].into());
        assert!(assigned["c"].is_empty());
    }
}
