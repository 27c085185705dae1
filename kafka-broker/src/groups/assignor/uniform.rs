//! The uniform assignor: every member gets as many partitions as every other, give or take one, and keeps what it has
//! as far as that allows. Where members subscribe to different topics, no partition can be moved to a subscriber that
//! has two fewer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::Uuid;

use super::{Partitions, Spec};

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Partitions> {
    if spec.members.is_empty() {
        return Vec::new();
    }
    if spec.is_homogeneous() { homogeneous(spec) } else { heterogeneous(spec) }
}

/// What each member keeps of its earlier assignment, and what nobody has then. A partition that two members claim, which
/// no assignment of ours leads to, goes to the first.
fn kept_and_free(spec: &Spec<'_>, mut room: impl FnMut(usize) -> usize) -> (Vec<Partitions>, Partitions) {
    let mut free: Partitions = spec
        .partition_counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(topic, count)| (*topic, (0..*count).collect()))
        .collect();
    let mut kept = vec![Partitions::new(); spec.members.len()];
    for (at, member) in spec.members.iter().enumerate() {
        let mut room = room(at);
        for (topic, partitions) in member.assigned.iter().filter(|(topic, _)| member.topics.contains(topic)) {
            let Some(of_topic) = free.get_mut(topic) else { continue };
            for partition in partitions {
                if room == 0 {
                    break;
                }
                if of_topic.remove(partition) {
                    kept[at].entry(*topic).or_default().insert(*partition);
                    room -= 1;
                }
            }
        }
    }
    free.retain(|_, partitions| !partitions.is_empty());
    (kept, free)
}

fn len(partitions: &Partitions) -> usize {
    partitions.values().map(BTreeSet::len).sum()
}

fn homogeneous(spec: &Spec<'_>) -> Vec<Partitions> {
    let topics = &spec.members[0].topics;
    let total: usize =
        topics.iter().map(|topic| usize::try_from(spec.partition_count(*topic)).unwrap_or(0)).sum();
    let (quota, longer) = (total / spec.members.len(), total % spec.members.len());
    // Those that have the most keep one more than the others.
    let mut by_size: Vec<usize> = (0..spec.members.len()).collect();
    by_size.sort_by_key(|&at| Reverse(len(spec.members[at].assigned)));
    let mut quotas = vec![quota; spec.members.len()];
    for at in by_size.into_iter().take(longer) {
        quotas[at] += 1;
    }
    let (mut assignments, free) = kept_and_free(spec, |at| quotas[at]);
    // Round and round over who has room, so that a topic's partitions are spread.
    let mut room: Vec<usize> =
        assignments.iter().zip(&quotas).map(|(kept, quota)| quota.saturating_sub(len(kept))).collect();
    let (mut at, left) = (0, room.iter().sum());
    let free = free.iter().flat_map(|(topic, all)| all.iter().map(move |partition| (*topic, *partition)));
    for (topic, partition) in free.take(left) {
        while room[at] == 0 {
            at = (at + 1) % room.len();
        }
        assignments[at].entry(topic).or_default().insert(partition);
        room[at] -= 1;
        at = (at + 1) % room.len();
    }
    assignments
}

fn heterogeneous(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut subscribers: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
    for (at, member) in spec.members.iter().enumerate() {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(at);
        }
    }
    let (mut assignments, free) = kept_and_free(spec, |_| usize::MAX);
    let mut sizes: Vec<usize> = assignments.iter().map(len).collect();

    // The partitions that the fewest can take first.
    let mut free: Vec<(Uuid, BTreeSet<i32>)> = free.into_iter().collect();
    free.sort_by_key(|(topic, _)| subscribers.get(topic).map_or(0, Vec::len));
    for (topic, partitions) in free {
        let Some(members) = subscribers.get(&topic) else { continue };
        for partition in partitions {
            let Some(&least) = members.iter().min_by_key(|&&at| sizes[at]) else { continue };
            assignments[least].entry(topic).or_default().insert(partition);
            sizes[least] += 1;
        }
    }

    // A partition moves only from a member to one that has at least two fewer: the sum of squares falls with each move,
    // so this ends.
    let mut moved = true;
    while moved {
        moved = false;
        for (topic, members) in &subscribers {
            loop {
                let holders = members.iter().filter(|&&at| assignments[at].contains_key(topic));
                let most = holders.copied().max_by_key(|&at| (sizes[at], Reverse(at)));
                let least = members.iter().copied().min_by_key(|&at| sizes[at]);
                let (Some(most), Some(least)) = (most, least) else { break };
                if sizes[most] < sizes[least] + 2 {
                    break;
                }
                let Some(partition) = assignments[most].get_mut(topic).and_then(BTreeSet::pop_last) else {
                    break;
                };
                if assignments[most].get(topic).is_some_and(BTreeSet::is_empty) {
                    assignments[most].remove(topic);
                }
                assignments[least].entry(*topic).or_default().insert(partition);
                sizes[most] -= 1;
                sizes[least] += 1;
                moved = true;
            }
        }
    }
    assignments
}
