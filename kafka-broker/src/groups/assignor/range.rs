//! The range assignor: each topic is cut into one range for each of its subscribers, in the members' order, so that
//! members with the same topics own the same partition numbers of topics of the same size.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use kafka_wire::Uuid;

use super::{Partitions, Spec, Subscriber};

/// How a topic is cut: where the next range begins, how long ranges are, and how many are one longer.
struct Cut {
    subscribers: i32,
    next: i32,
    longer: i32,
}

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut order: Vec<usize> = (0..spec.members.len()).collect();
    order.sort_by(|&a, &b| in_order(&spec.members[a], &spec.members[b]));

    let mut cuts: BTreeMap<Uuid, Cut> = BTreeMap::new();
    for topic in spec.members.iter().flat_map(|member| member.topics.iter()) {
        cuts.entry(*topic).or_insert(Cut { subscribers: 0, next: 0, longer: 0 }).subscribers += 1;
    }
    for (topic, cut) in &mut cuts {
        cut.longer = spec.partition_count(*topic) % cut.subscribers.max(1);
    }
    let mut assignments = vec![Partitions::new(); spec.members.len()];
    for at in order {
        for topic in spec.members[at].topics.iter() {
            let Some(cut) = cuts.get_mut(topic) else { continue };
            let longer = i32::from(cut.longer > 0);
            cut.longer -= longer;
            let end = cut.next + spec.partition_count(*topic) / cut.subscribers.max(1) + longer;
            if cut.next < end {
                assignments[at].insert(*topic, (cut.next..end).collect());
            }
            cut.next = end;
        }
    }
    assignments
}

/// Static members first and by their instance ids, so that they keep their ranges when their processes change; then the
/// others by member id.
fn in_order(a: &Subscriber<'_>, b: &Subscriber<'_>) -> Ordering {
    match (a.instance_id, b.instance_id) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.id.cmp(b.id),
    }
}
