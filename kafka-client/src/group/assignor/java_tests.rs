//! The answers of Java's own assignors, recorded in `java_vectors.txt` and `java_rack_vectors.txt`.

use bytes::Bytes;

use super::testing::{check_assignments, read_within_a_rack, topics, tp};
use super::*;
use crate::group::protocol;

const VECTORS: &str = include_str!("java_vectors.txt");
const RACK_VECTORS: &str = include_str!("java_rack_vectors.txt");

/// A group as Java's assignor saw it, and what it answered.
struct Recorded {
    line: &'static str,
    assignor: &'static str,
    group: GroupState,
    java: BTreeMap<String, Vec<TopicPartition>>,
}

fn recorded(kinds: &[&str]) -> Vec<Recorded> {
    let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let &[assignor, counts, members, answer] = fields.as_slice() else { return None };
            kinds.contains(&assignor).then(|| Recorded {
                line,
                assignor,
                group: GroupState::new(topics(&pairs(counts, |n| n.parse().unwrap())), members_of(members)),
                java: pairs(answer, partitions).into_iter().map(|(id, of)| (id.to_owned(), of)).collect(),
            })
        })
        .collect()
}

fn pairs<T>(text: &'static str, value: impl Fn(&str) -> T) -> Vec<(&'static str, T)> {
    text.split(' ').map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k, value(v))).collect()
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.is_empty())
}

fn partitions(text: &str) -> Vec<TopicPartition> {
    list(text).map(|of| of.split_once('-').unwrap()).map(|(t, p)| tp(t, p.parse().unwrap())).collect()
}

fn members_of(text: &str) -> Vec<Member> {
    text.split(' ')
        .map(|member| {
            let &[id, instance, topics, user_data] = member.split('/').collect::<Vec<_>>().as_slice() else {
                panic!("{member}")
            };
            let mut member = Member::new(id, list(topics));
            member.instance_id = (!instance.is_empty()).then(|| instance.to_owned());
            member.user_data = (!user_data.is_empty()).then(|| bytes(user_data));
            member
        })
        .collect()
}

fn bytes(hex: &str) -> Bytes {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn ours(recorded: &Recorded) -> BTreeMap<String, Vec<TopicPartition>> {
    let assignments = by_name(recorded.assignor).unwrap().assign(&recorded.group).unwrap();
    assignments.into_iter().map(|(id, assignment)| (id, assignment.partitions)).collect()
}

#[test]
fn range_and_round_robin_answer_as_javas_do() {
    let vectors = recorded(&["range", "roundrobin"]);
    assert!(vectors.len() > 20);
    for vector in vectors {
        assert_eq!(ours(&vector), vector.java, "{}", vector.line);
    }
}

/// Which of its partitions a member gives up may differ, how many it may not: Java takes them in the order of a hash map.
#[test]
fn sticky_keeps_and_moves_as_many_as_javas() {
    let vectors = recorded(&["sticky"]);
    assert!(vectors.len() > 30);
    for vector in vectors {
        let members = &vector.group.members;
        let kept_of_all = |assigned: &BTreeMap<String, Vec<TopicPartition>>| -> Vec<(usize, usize)> {
            let kept_of = |member: &Member| {
                let mut data = member.user_data.clone().unwrap_or_default();
                let had = protocol::take_partitions(&mut data).unwrap_or_default();
                let now = &assigned[&member.member_id];
                (now.len(), now.iter().filter(|partition| had.contains(partition)).count())
            };
            members.iter().map(kept_of).collect()
        };
        let ours = ours(&vector);
        assert_eq!(kept_of_all(&ours), kept_of_all(&vector.java), "{}", vector.line);
        if members.iter().all(|member| member.user_data.is_none()) {
            assert_eq!(ours, vector.java, "{}", vector.line);
        }
    }
}

fn recorded_with_racks(kind: &str) -> Vec<Recorded> {
    let racks_of = |partitions: &str| -> Vec<BTreeSet<Arc<str>>> {
        let racks = |of: &str| of.chars().map(|rack| Arc::from(rack.to_string())).collect();
        list(partitions).map(racks).collect()
    };
    let lines = RACK_VECTORS.lines().map(|line| (line, line.split('|').map(str::trim).collect::<Vec<_>>()));
    lines
        .filter(|(_, fields)| fields[0] == kind)
        .map(|(line, fields)| {
            let racks: ReplicaRacks = pairs(fields[1], racks_of)
                .into_iter()
                .map(|(topic, racks)| (Arc::from(topic), racks))
                .collect();
            let counts = racks.iter().map(|(topic, of)| (Arc::clone(topic), of.len() as i32)).collect();
            let members = fields[2].split(' ').map(|member| {
                let fields: Vec<&str> = member.split('/').collect();
                let member = Member::new(fields[0], list(fields[2])).in_rack(fields[1]);
                match (kind, partitions(fields[3])) {
                    ("sticky", owned) if !owned.is_empty() => {
                        let assignor = StickyAssignor::default();
                        assignor.on_assignment(&Assignment { partitions: owned, user_data: None }, 7);
                        let user_data = assignor.subscription_user_data(&[], None);
                        Member { user_data, ..member }
                    }
                    ("sticky", _) => member,
                    (_, owned) => member.owning(owned, 7),
                }
            });
            Recorded {
                line,
                assignor: fields[0],
                group: GroupState::new(counts, members.collect()).with_replica_racks(racks),
                java: pairs(fields[3], partitions).into_iter().map(|(id, of)| (id.to_owned(), of)).collect(),
            }
        })
        .collect()
}

#[test]
fn range_minds_racks_as_javas_does() {
    let vectors = recorded_with_racks("range");
    assert_eq!(vectors.len(), 40);
    for vector in vectors {
        assert_eq!(ours(&vector), vector.java, "{}", vector.line);
    }
}

/// Where Java's gives a partition up that nobody nearer can take, ours keeps it: so not who has what, but what matters.
#[test]
fn sticky_assignors_read_as_much_within_racks_as_javas_and_are_as_balanced() {
    for kind in ["sticky", "cooperative-sticky"] {
        let vectors = recorded_with_racks(kind);
        assert!(vectors.len() > 30);
        for vector in vectors {
            let java: Assignments = vector
                .java
                .iter()
                .map(|(id, of)| (id.clone(), Assignment { partitions: of.clone(), user_data: None }))
                .collect();
            // Before it holds back what has an owner: that comes with the next rebalance.
            let ours = match kind {
                "sticky" => by_name(kind).unwrap().assign(&vector.group).unwrap(),
                _ => balance::balanced(&vector.group),
            };
            check_assignments(&vector.group, &ours);
            let within = [&ours, &java].map(|assignments| read_within_a_rack(&vector.group, assignments));
            assert!(within[0] >= within[1], "{within:?} {}\n{ours:?}", vector.line);
            let unevenness = [&ours, &java]
                .map(|assignments| assignments.values().map(|a| a.partitions.len().pow(2)).sum::<usize>());
            assert!(unevenness[0] <= unevenness[1] || kind != "sticky", "{unevenness:?} {}", vector.line);
        }
    }
}

#[test]
fn sticky_members_say_what_they_had_in_javas_bytes() {
    let recorded = VECTORS.lines().find_map(|line| line.strip_prefix("userdata | ")).unwrap();
    let &[some, nothing, newcomer] = recorded.split(' ').collect::<Vec<_>>().as_slice() else {
        panic!("{recorded}")
    };
    let after = |partitions: &[TopicPartition], generation| {
        let assignor = StickyAssignor::default();
        let assignment = Assignment { partitions: partitions.to_vec(), user_data: None };
        assignor.on_assignment(&assignment, generation);
        assignor.subscription_user_data(&[], None)
    };
    assert_eq!(after(&[tp("t0", 0), tp("t0", 2), tp("t1", 1)], 7), Some(bytes(some)));
    assert_eq!(after(&[], 3), Some(bytes(nothing)));
    assert_eq!(newcomer, "null");
    assert_eq!(StickyAssignor::default().subscription_user_data(&[], None), None);
}

#[test]
fn kafkas_assignors_are_known_by_name_and_by_class() {
    for name in ["range", "roundrobin", "sticky", "cooperative-sticky"] {
        assert_eq!(by_name(name).unwrap().name(), name);
    }
    for (class, name) in [
        ("RangeAssignor", "range"),
        ("RoundRobinAssignor", "roundrobin"),
        ("StickyAssignor", "sticky"),
        ("CooperativeStickyAssignor", "cooperative-sticky"),
    ] {
        assert_eq!(by_name(&format!("org.apache.kafka.clients.consumer.{class}")).unwrap().name(), name);
    }
    assert!(by_name("com.example.MyAssignor").is_none());
}
