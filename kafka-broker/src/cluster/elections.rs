//! Decisions about who leads and who is in sync: the image and an event in, records out. Nothing is written here.
//!
//! The rules are those of Kafka's `PartitionChangeBuilder` and `ReplicationControlManager`: a leader comes from the
//! in-sync replicas that are there, in the order of the assignment; the last in-sync replica stays on the list when it
//! goes, because only it is known to have everything; any other replica leads only if the topic allows to lose records
//! (`unclean.leader.election.enable`).

use kafka_wire::error_code::ErrorCode;
use uuid::Uuid;

use super::image::Image;
use super::reassignments::completed;
use super::record::{ConfigResource, MetadataRecord, NO_LEADER, PartitionState};
use super::topics::{Refusal, refuse};

const UNCLEAN: &str = "unclean.leader.election.enable";

/// `ElectionType` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Election {
    /// The first replica of the assignment leads again.
    Preferred,
    /// A partition without a leader gets one, at the price of records.
    Unclean,
}

/// What a leader asks to be done to its in-sync replicas (KIP-497).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AlterPartition {
    pub(crate) topic_id: Uuid,
    pub(crate) index: i32,
    pub(crate) node_id: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) partition_epoch: i32,
    pub(crate) isr: Vec<i32>,
}

/// Whether the topic may be led by a replica that misses records.
pub(super) fn allows_unclean(image: &Image, topic: &str, default: bool) -> bool {
    let own = image.configs(&ConfigResource::Topic(topic.to_owned())).and_then(|own| own.get(UNCLEAN));
    own.map_or(default, |value| value == "true")
}

/// The partition's next state, with the epochs that the change needs.
fn changed(from: &PartitionState, to: PartitionState) -> PartitionState {
    // Who is not a replica any more must not fetch as one: it is fenced by the epoch
    // (`triggerLeaderEpochBumpForReplicaReassignmentIfNeeded`).
    let leaves = from.replicas.iter().any(|node| !to.replicas.contains(node));
    let leader_epoch = from.leader_epoch + i32::from(from.leader != to.leader || leaves);
    PartitionState { leader_epoch, partition_epoch: from.partition_epoch + 1, ..to }
}

/// The same, with the reassignment ended that the change may have completed.
pub(super) fn settled(image: &Image, from: &PartitionState, to: PartitionState) -> PartitionState {
    let mut next = completed(to);
    if next.leader != NO_LEADER && !next.replicas.contains(&next.leader) {
        next = elect(&next, |node| image.is_live(node), false);
    }
    changed(from, next)
}

/// Gives the partition a leader if one can be had; `is_live` decides who is there.
fn elect(state: &PartitionState, is_live: impl Fn(i32) -> bool, unclean: bool) -> PartitionState {
    let mut next = state.clone();
    let in_sync = |node: &&i32| state.isr.contains(node) && is_live(**node);
    match state.replicas.iter().find(in_sync) {
        Some(&leader) => next.leader = leader,
        None => match state.replicas.iter().find(|&&node| unclean && is_live(node)) {
            Some(&leader) => {
                next.leader = leader;
                next.isr = vec![leader];
            }
            None => next.leader = NO_LEADER,
        },
    }
    next
}

pub(super) fn record(topic_id: Uuid, index: i32, state: PartitionState) -> MetadataRecord {
    MetadataRecord::Partition { topic_id, index, state }
}

/// Every partition with its topic's name and id.
fn partitions(image: &Image) -> impl Iterator<Item = (&str, Uuid, i32, &PartitionState)> {
    image.topics().iter().flat_map(|(name, topic)| {
        topic.partitions.iter().map(|(&index, state)| (name.as_str(), topic.id, index, state))
    })
}

/// A broker is gone: it is fenced, leads nothing and is in sync with nothing, unless it alone was.
pub(crate) fn fence(image: &Image, node_id: i32, unclean_default: bool) -> Vec<MetadataRecord> {
    let Some(broker) = image.brokers().get(&node_id).filter(|broker| !broker.fenced) else {
        return Vec::new();
    };
    let change = MetadataRecord::BrokerRegistrationChange { node_id, epoch: broker.epoch, fenced: true };
    let is_live = |node: i32| node != node_id && image.is_live(node);
    let affected = partitions(image).filter(|(.., state)| state.isr.contains(&node_id));
    let changes = affected.filter_map(|(name, topic_id, index, state)| {
        let mut next = state.clone();
        next.isr.retain(|&node| node != node_id);
        if next.isr.is_empty() {
            next.isr = vec![node_id];
        }
        if state.leader == node_id {
            next = elect(&next, is_live, allows_unclean(image, name, unclean_default));
        }
        (next != *state).then(|| record(topic_id, index, changed(state, next)))
    });
    std::iter::once(change).chain(changes).collect()
}

/// A broker is there (again): partitions without a leader may have found one. Call it with an image that has the broker
/// registered.
pub(crate) fn elect_offline(image: &Image, unclean_default: bool) -> Vec<MetadataRecord> {
    let offline = partitions(image).filter(|(.., state)| state.leader == NO_LEADER);
    let changes = offline.filter_map(|(name, topic_id, index, state)| {
        let unclean = allows_unclean(image, name, unclean_default);
        let next = elect(state, |node| image.is_live(node), unclean);
        (next.leader != NO_LEADER).then(|| record(topic_id, index, changed(state, next)))
    });
    changes.collect()
}

/// A leader's report of who is in sync with it (`ReplicationControlManager.alterPartition`).
pub(crate) fn alter_partition(image: &Image, asked: &AlterPartition) -> Result<MetadataRecord, Refusal> {
    let found = image.topic_by_id(asked.topic_id).and_then(|(_, topic)| topic.partitions.get(&asked.index));
    let Some(state) = found else {
        return refuse(ErrorCode::UnknownTopicOrPartition, "The partition does not exist.");
    };
    if asked.leader_epoch < state.leader_epoch || asked.node_id != state.leader {
        return refuse(ErrorCode::FencedLeaderEpoch, "Another leader was elected.");
    }
    if asked.leader_epoch > state.leader_epoch || asked.partition_epoch > state.partition_epoch {
        return refuse(ErrorCode::NotController, "The epoch is of the future.");
    }
    if asked.partition_epoch < state.partition_epoch {
        return refuse(ErrorCode::InvalidUpdateVersion, "The partition has changed since.");
    }
    if !asked.isr.contains(&asked.node_id) || asked.isr.iter().any(|node| !state.replicas.contains(node)) {
        return refuse(ErrorCode::InvalidRequest, "The in-sync replicas are not replicas with their leader.");
    }
    if let Some(gone) = asked.isr.iter().find(|&&node| !image.is_live(node)) {
        return refuse(ErrorCode::IneligibleReplica, format!("Broker {gone} is not there."));
    }
    let isr = state.replicas.iter().copied().filter(|node| asked.isr.contains(node)).collect();
    let next = settled(image, state, PartitionState { isr, ..state.clone() });
    Ok(record(asked.topic_id, asked.index, next))
}

/// One partition of an `ElectLeaders` request.
pub(crate) fn elect_leader(
    image: &Image,
    topic: &str,
    index: i32,
    election: Election,
) -> Result<MetadataRecord, Refusal> {
    let (topic_id, state) = known(image, topic, index)?;
    let not_needed = "Leader election not needed for topic partition.";
    let next = match election {
        Election::Preferred => {
            let preferred = state.replicas.first().copied().unwrap_or(NO_LEADER);
            if state.leader == preferred {
                return refuse(ErrorCode::ElectionNotNeeded, not_needed);
            }
            if !may_lead(image, state, preferred) {
                return refuse(
                    ErrorCode::PreferredLeaderNotAvailable,
                    "The preferred leader was not available.",
                );
            }
            PartitionState { leader: preferred, ..state.clone() }
        }
        Election::Unclean if state.leader != NO_LEADER => {
            return refuse(ErrorCode::ElectionNotNeeded, not_needed);
        }
        Election::Unclean => elect(state, |node| image.is_live(node), true),
    };
    match next.leader {
        NO_LEADER => refuse(
            ErrorCode::EligibleLeadersNotAvailable,
            "Eligible topic partition leaders are not available.",
        ),
        _ => Ok(record(topic_id, index, changed(state, next))),
    }
}

/// The partition is to be led by `node_id`, which must be in sync and there.
pub(crate) fn move_leader(
    image: &Image,
    topic: &str,
    index: i32,
    node_id: i32,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let (topic_id, state) = known(image, topic, index)?;
    if state.leader == node_id {
        return Ok(Vec::new());
    }
    if !may_lead(image, state, node_id) {
        return refuse(
            ErrorCode::IneligibleReplica,
            format!("Broker {node_id} is not in sync with {topic}-{index}."),
        );
    }
    let next = PartitionState { leader: node_id, ..state.clone() };
    Ok(vec![record(topic_id, index, changed(state, next))])
}

/// A replica's log is given up while its broker runs: another one in sync leads, and the broken one is out of sync until its
/// broker has restarted. The last in-sync replica stays what it is.
pub(crate) fn replica_failed(
    image: &Image,
    topic: &str,
    index: i32,
    node_id: i32,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let (topic_id, state) = known(image, topic, index)?;
    let mut next = state.clone();
    next.isr.retain(|&node| node != node_id);
    if next.leader == node_id {
        next = elect(&next, |node| image.is_live(node), false);
    }
    let is_better = next.leader != NO_LEADER && next.isr != state.isr;
    Ok(if is_better { vec![record(topic_id, index, changed(state, next))] } else { Vec::new() })
}

/// A replica is added at the end of the assignment; it becomes in sync by and by.
pub(crate) fn add_replica(
    image: &Image,
    topic: &str,
    index: i32,
    node_id: i32,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let (topic_id, state) = known(image, topic, index)?;
    if state.replicas.contains(&node_id) {
        return Ok(Vec::new());
    }
    if !image.is_live(node_id) {
        return refuse(ErrorCode::BrokerIdNotRegistered, format!("Broker {node_id} is not there."));
    }
    let mut next = state.clone();
    next.replicas.push(node_id);
    Ok(vec![record(topic_id, index, changed(state, next))])
}

/// A replica is taken out of the assignment; another one must be in sync.
pub(crate) fn remove_replica(
    image: &Image,
    topic: &str,
    index: i32,
    node_id: i32,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let (topic_id, state) = known(image, topic, index)?;
    if !state.replicas.contains(&node_id) {
        return Ok(Vec::new());
    }
    let mut next = state.clone();
    for nodes in [&mut next.replicas, &mut next.isr, &mut next.adding, &mut next.removing] {
        nodes.retain(|&node| node != node_id);
    }
    if next.isr.is_empty() {
        return refuse(ErrorCode::IneligibleReplica, "No other replica is in sync.");
    }
    if state.leader == node_id {
        next = elect(&next, |node| image.is_live(node), false);
    }
    Ok(vec![record(topic_id, index, changed(state, next))])
}

/// Whether a replica has everything and is there.
fn may_lead(image: &Image, state: &PartitionState, node_id: i32) -> bool {
    state.isr.contains(&node_id) && image.is_live(node_id)
}

pub(super) fn known<'a>(
    image: &'a Image,
    topic: &str,
    index: i32,
) -> Result<(Uuid, &'a PartitionState), Refusal> {
    match image.topic(topic).and_then(|it| Some((it.id, it.partitions.get(&index)?))) {
        Some(known) => Ok(known),
        None => refuse(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition."),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cluster) fn image(brokers: &[i32], replicas: &[i32]) -> Image {
        let mut image = Image::default();
        for &node_id in brokers {
            image.replay(&MetadataRecord::RegisterBroker {
                node_id,
                incarnation: Uuid::nil(),
                epoch: i64::from(node_id),
                host: "localhost".to_owned(),
                port: 9092,
                rack: None,
            });
        }
        image.replay(&MetadataRecord::Topic { name: "t".to_owned(), id: Uuid::from_u128(1) });
        image.replay(&record(Uuid::from_u128(1), 0, PartitionState::new(replicas.to_vec())));
        image
    }

    pub(in crate::cluster) fn replay(image: &mut Image, records: Vec<MetadataRecord>) {
        records.iter().for_each(|record| image.replay(record));
    }

    fn fenced(image: &mut Image, node_id: i32) {
        let records = fence(image, node_id, false);
        replay(image, records);
    }

    fn back(image: &mut Image, node_id: i32, unclean: bool) {
        let epoch = image.brokers()[&node_id].epoch;
        image.replay(&MetadataRecord::BrokerRegistrationChange { node_id, epoch, fenced: false });
        let records = elect_offline(image, unclean);
        replay(image, records);
    }

    pub(in crate::cluster) fn t(image: &Image) -> &PartitionState {
        image.partition("t", 0).unwrap()
    }

    #[test]
    fn a_leader_that_goes_is_followed_by_the_next_in_sync_replica() {
        let mut image = image(&[1, 2, 3], &[2, 3, 1]);
        fenced(&mut image, 2);
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (3, 1));
        assert_eq!(t(&image).isr, [3, 1]);
        fenced(&mut image, 1);
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (3, 1), "a follower's end elects nobody");
        assert_eq!(t(&image).isr, [3]);
    }

    #[test]
    fn a_broken_log_gives_its_lead_to_another_in_sync_replica_if_there_is_one() {
        let mut image = image(&[1, 2, 3], &[1, 2, 3]);
        for (broken, leader, isr) in [(1, 2, &[2, 3][..]), (3, 2, &[2]), (2, 2, &[2])] {
            let records = replica_failed(&image, "t", 0, broken).unwrap();
            replay(&mut image, records);
            assert_eq!((t(&image).leader, t(&image).isr.as_slice()), (leader, isr), "after {broken}");
        }
        assert_eq!(t(&image).leader_epoch, 1);
    }

    #[test]
    fn the_last_in_sync_replica_is_waited_for() {
        let mut image = image(&[1, 2], &[1, 2]);
        fenced(&mut image, 2);
        fenced(&mut image, 1);
        assert_eq!((t(&image).leader, t(&image).isr.as_slice()), (NO_LEADER, &[1][..]));
        back(&mut image, 2, false);
        assert_eq!(t(&image).leader, NO_LEADER, "2 misses what 1 wrote alone");
        back(&mut image, 1, false);
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (1, 2));
    }

    #[test]
    fn an_unclean_election_takes_whoever_is_there() {
        let mut image = image(&[1, 2], &[1, 2]);
        fenced(&mut image, 2);
        fenced(&mut image, 1);
        let refused = elect_leader(&image, "t", 0, Election::Unclean).unwrap_err().code;
        assert_eq!(refused, ErrorCode::EligibleLeadersNotAvailable);
        back(&mut image, 2, true);
        assert_eq!((t(&image).leader, t(&image).isr.as_slice()), (2, &[2][..]));
    }

    #[test]
    fn the_preferred_leader_comes_back_only_when_it_is_in_sync() {
        let mut image = image(&[1, 2], &[1, 2]);
        let code = |image: &Image| elect_leader(image, "t", 0, Election::Preferred).unwrap_err().code;
        assert_eq!(code(&image), ErrorCode::ElectionNotNeeded);
        fenced(&mut image, 1);
        assert_eq!(code(&image), ErrorCode::PreferredLeaderNotAvailable);
        back(&mut image, 1, false);
        assert_eq!(code(&image), ErrorCode::PreferredLeaderNotAvailable);
        let joined = alter_partition(
            &image,
            &AlterPartition {
                topic_id: Uuid::from_u128(1),
                index: 0,
                node_id: 2,
                leader_epoch: 1,
                partition_epoch: t(&image).partition_epoch,
                isr: vec![2, 1],
            },
        );
        replay(&mut image, vec![joined.unwrap()]);
        assert_eq!(t(&image).isr, [1, 2]);
        let elected = elect_leader(&image, "t", 0, Election::Preferred).unwrap();
        replay(&mut image, vec![elected]);
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (1, 2));
    }

    #[test]
    fn a_report_of_an_old_leader_or_an_old_state_changes_nothing() {
        let mut image = image(&[1, 2, 3], &[1, 2, 3]);
        let asked = |image: &Image, node_id: i32, isr: &[i32]| AlterPartition {
            topic_id: Uuid::from_u128(1),
            index: 0,
            node_id,
            leader_epoch: t(image).leader_epoch,
            partition_epoch: t(image).partition_epoch,
            isr: isr.to_vec(),
        };
        let code = |image: &Image, asked: &AlterPartition| alter_partition(image, asked).unwrap_err().code;
        assert_eq!(code(&image, &asked(&image, 2, &[2])), ErrorCode::FencedLeaderEpoch);
        let old = asked(&image, 1, &[1, 2]);
        fenced(&mut image, 3);
        assert_eq!(code(&image, &old), ErrorCode::InvalidUpdateVersion);
        assert_eq!(code(&image, &asked(&image, 1, &[1, 3])), ErrorCode::IneligibleReplica);
        fenced(&mut image, 1);
        assert_eq!(code(&image, &old), ErrorCode::FencedLeaderEpoch);
    }

    #[test]
    fn a_partition_moves_to_a_broker_that_did_not_hold_it() {
        let mut image = image(&[1, 2], &[1]);
        assert_eq!(move_leader(&image, "t", 0, 2).unwrap_err().code, ErrorCode::IneligibleReplica);
        let records = add_replica(&image, "t", 0, 2).unwrap();
        replay(&mut image, records);
        assert_eq!(remove_replica(&image, "t", 0, 1).unwrap_err().code, ErrorCode::IneligibleReplica);
        let asked = AlterPartition {
            topic_id: Uuid::from_u128(1),
            index: 0,
            node_id: 1,
            leader_epoch: 0,
            partition_epoch: 1,
            isr: vec![1, 2],
        };
        let joined = alter_partition(&image, &asked).unwrap();
        replay(&mut image, vec![joined]);
        let records = remove_replica(&image, "t", 0, 1).unwrap();
        replay(&mut image, records);
        assert_eq!((t(&image).leader, t(&image).replicas.as_slice()), (2, &[2][..]));
        assert_eq!((t(&image).leader_epoch, t(&image).partition_epoch), (1, 3));
    }
}
