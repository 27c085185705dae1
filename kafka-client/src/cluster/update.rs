//! The rules by which what brokers say changes the snapshot.
//!
//! Answers come from brokers that lag behind the controller and behind each other. What makes one answer newer than
//! another is the leader epoch, of each partition alone, and the topic's id (KIP-320, KIP-516, KIP-951).

use std::sync::Arc;

use kafka_wire::ErrorCode;
use kafka_wire::messages::MetadataResponse;
use kafka_wire::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};

use super::snapshot::{Asked, Broker, Cluster, Partition, Topic};

/// Topics that are gone and still remembered. A client that saw more than that go is better off without.
const MAX_GONE: usize = 1000;

impl Cluster {
    /// The snapshot after a broker answered `asked`.
    pub(crate) fn updated(&self, response: MetadataResponse, asked: &Asked) -> Self {
        let cluster_id: Option<Arc<str>> = response.cluster_id.map(|id| Arc::from(id.as_str()));
        // After a rebootstrap it may be another cluster that answers (KIP-899). Nothing that was known holds there.
        let moved = matches!((&self.cluster_id, &cluster_id), (Some(ours), Some(theirs)) if ours != theirs);
        let mut next = if moved { Self::default() } else { self.clone() };
        next.cluster_id = cluster_id.or(next.cluster_id);
        next.controller_id = (response.controller_id.0 >= 0).then_some(response.controller_id.0);
        if !response.brokers.is_empty() {
            next.brokers = response
                .brokers
                .into_iter()
                .filter_map(|broker| {
                    let rack = broker.rack.as_deref();
                    Broker::described(broker.node_id.0, &broker.host, broker.port, rack)
                })
                .map(|broker| (broker.id, Arc::new(broker)))
                .collect();
        }
        if *asked == Asked::All {
            for (name, topic) in std::mem::take(&mut next.topics) {
                next.leave(name, topic);
            }
            next.topic_errors.clear();
        }
        for topic in response.topics {
            next.take_topic(topic);
        }
        next.topic_names =
            next.topics.values().filter_map(|topic| Some((topic.id?, topic.name.clone()))).collect();
        next
    }

    fn take_topic(&mut self, topic: MetadataResponseTopic) {
        let Some(name) = topic.name.as_ref().map(|name| name.as_str()) else {
            return;
        };
        let known = self.topics.get(name).or_else(|| self.gone.get(name)).cloned();
        let name = known.as_ref().map_or_else(|| Arc::from(name), |known| known.name.clone());
        let code = ErrorCode::from(topic.error_code);
        if !code.is_ok() {
            // While a leader is being elected the old picture is still the best one; a topic that is gone is gone.
            if !matches!(code, ErrorCode::LeaderNotAvailable | ErrorCode::RequestTimedOut)
                && let Some(topic) = self.topics.remove(&name)
            {
                self.leave(name.clone(), topic);
            }
            self.topic_errors.insert(name, code);
            return;
        }
        let id = Some(topic.topic_id).filter(|id| !id.is_nil());
        self.topic_errors.remove(&name);
        self.gone.remove(&name);
        let mut partitions = whole(topic.partitions);
        let mut topic_id = id;
        if let Some(known) = known {
            match (known.id, id) {
                // Made anew: its epochs start over.
                (Some(old), Some(new)) if old != new => {}
                (Some(_), Some(_)) => {
                    keep_newer(&mut partitions, &known.partitions);
                    // Partitions of a topic are added, never taken away.
                    partitions.extend(known.partitions.iter().skip(partitions.len()).cloned());
                }
                // From a broker before Kafka 2.8.
                _ => {
                    keep_newer(&mut partitions, &known.partitions);
                    topic_id = id.or(known.id);
                }
            }
        }
        let topic = Topic { name: name.clone(), id: topic_id, is_internal: topic.is_internal, partitions };
        self.topics.insert(name, Arc::new(topic));
    }

    /// Remembers a topic that was said to be missing. Without an id it could not be told from one made anew.
    fn leave(&mut self, name: Arc<str>, topic: Arc<Topic>) {
        if topic.id.is_some() {
            if self.gone.len() >= MAX_GONE {
                self.gone.clear();
            }
            self.gone.insert(name, topic);
        }
    }

    /// The snapshot after an answer named a newer leader, and perhaps in `nodes` where it listens (KIP-951); `None` where
    /// it is no news, or the leader is not known.
    pub(crate) fn with_leader(
        &self,
        topic: &str,
        partition: i32,
        leader: i32,
        epoch: i32,
        nodes: &[Broker],
    ) -> Option<Self> {
        let known = self.topic(topic)?;
        if known.partition(partition)?.leader_epoch >= epoch {
            return None;
        }
        let told = nodes.iter().find(|node| node.id == leader);
        if told.is_none() && !self.brokers.contains_key(&leader) {
            return None;
        }
        let mut changed = Topic::clone(known);
        let at = usize::try_from(partition).ok()?;
        let slot = changed.partitions.get_mut(at)?;
        slot.leader = Some(leader);
        slot.leader_epoch = epoch;
        let mut next = self.clone();
        next.topics.insert(changed.name.clone(), Arc::new(changed));
        // A broker that started anew elsewhere is told of here first.
        if let Some(node) = told
            && self.broker(leader).is_none_or(|broker| broker.address != node.address)
        {
            next.brokers.insert(leader, Arc::new(node.clone()));
        }
        Some(next)
    }

    /// The snapshot without topics that nobody uses any more.
    pub(crate) fn without_topics(&self, unused: &[Arc<str>]) -> Self {
        let mut next = self.clone();
        for name in unused {
            if let Some(topic) = next.topics.remove(name)
                && let Some(id) = topic.id
            {
                next.topic_names.remove(&id);
            }
            next.topic_errors.remove(name);
            next.gone.remove(name);
        }
        next
    }
}

/// The partitions in order from 0. Numbers are positions from here on; a hole could only come from a broker that is out
/// of its mind.
fn whole(answered: Vec<MetadataResponsePartition>) -> Vec<Partition> {
    let mut partitions: Vec<Partition> = answered.into_iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.id);
    partitions.dedup_by_key(|partition| partition.id);
    let whole = partitions.iter().zip(0..).take_while(|(partition, at)| partition.id == *at).count();
    partitions.truncate(whole);
    partitions
}

/// A broker that lags does not take a leader back. One that tells no epoch is believed: it is the only word there is.
fn keep_newer(answered: &mut [Partition], known: &[Partition]) {
    for (answered, known) in answered.iter_mut().zip(known) {
        if answered.leader_epoch >= 0 && answered.leader_epoch < known.leader_epoch {
            *answered = known.clone();
        }
    }
}

fn partition(partition: MetadataResponsePartition) -> Partition {
    let ids = |ids: Vec<kafka_wire::messages::BrokerId>| ids.into_iter().map(|id| id.0).collect();
    Partition {
        id: partition.partition_index,
        leader: Some(partition.leader_id.0).filter(|&id| id >= 0),
        leader_epoch: partition.leader_epoch,
        replicas: ids(partition.replica_nodes),
        isr: ids(partition.isr_nodes),
        offline_replicas: ids(partition.offline_replicas),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;
    use kafka_wire::messages::metadata_response::MetadataResponseBroker;
    use kafka_wire::messages::{BrokerId, TopicName};
    use kafka_wire::{StrBytes, Uuid};
    use proptest::prelude::*;

    fn answer(topic_id: u128, leaders: &[(i32, i32)]) -> MetadataResponse {
        let brokers = (1..=3)
            .map(|id| {
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(id))
                    .with_host(StrBytes::from_string(format!("b{id}")))
                    .with_port(9092)
            })
            .collect();
        let partitions = leaders
            .iter()
            .zip(0..)
            .map(|(&(leader, epoch), at)| {
                MetadataResponsePartition::default()
                    .with_partition_index(at)
                    .with_leader_id(BrokerId(leader))
                    .with_leader_epoch(epoch)
            })
            .collect();
        MetadataResponse::default().with_controller_id(BrokerId(2)).with_brokers(brokers).with_topics(vec![
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
                .with_topic_id(Uuid::from_u128(topic_id))
                .with_partitions(partitions),
        ])
    }

    fn asked() -> Asked {
        Asked::Topics(vec![Arc::from("t")])
    }

    #[test]
    fn a_lagging_broker_does_not_take_a_leader_back() {
        let now = Cluster::default().updated(answer(1, &[(1, 5), (2, 5)]), &asked());
        let later = now.updated(answer(1, &[(3, 4), (3, 6)]), &asked());
        assert_eq!(later.leader("t", 0).unwrap().id, 1);
        assert_eq!(later.leader("t", 1).unwrap().id, 3);
        assert_eq!(later.controller().unwrap().id, 2);
    }

    #[test]
    fn a_topic_made_anew_starts_over() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        let anew = now.updated(answer(2, &[(3, 0)]), &asked());
        assert_eq!(anew.leader("t", 0).unwrap().id, 3);
        assert!(anew.topic_by_id(Uuid::from_u128(1)).is_none());
        assert_eq!(&*anew.topic_by_id(Uuid::from_u128(2)).unwrap().name, "t");
    }

    #[test]
    fn a_deleted_topic_leaves_the_snapshot_and_says_why() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        let mut gone = answer(1, &[]);
        gone.topics[0].error_code = ErrorCode::UnknownTopicOrPartition.code();
        let later = now.updated(gone, &asked());
        assert!(later.topic("t").is_none());
        assert_eq!(later.topic_error("t"), Some(ErrorCode::UnknownTopicOrPartition));
    }

    #[test]
    fn a_produce_answer_that_names_a_newer_leader_is_believed() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        assert!(now.with_leader("t", 0, 2, 5, &[]).is_none());
        assert!(now.with_leader("t", 0, 9, 6, &[]).is_none());
        assert!(now.with_leader("t", 0, -1, 6, &[]).is_none());
        assert_eq!(now.with_leader("t", 0, 2, 6, &[]).unwrap().leader("t", 0).unwrap().id, 2);
    }

    #[test]
    fn a_new_leaders_address_is_taken_from_news_only() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        let node = |id| Broker { id, address: Address::new("elsewhere", 9093), rack: None };
        for leader in [2, 9] {
            assert!(now.with_leader("t", 0, leader, 5, &[node(leader)]).is_none());
            let moved = now.with_leader("t", 0, leader, 6, &[node(3), node(leader)]).unwrap();
            assert_eq!(*moved.leader("t", 0).unwrap().address.host, *"elsewhere");
            assert_eq!(*moved.broker(3).unwrap().address.host, *"b3");
        }
    }

    #[test]
    fn partition_numbers_with_holes_do_not_shift_others() {
        let mut holed = answer(1, &[(1, 0), (2, 0), (3, 0)]);
        holed.topics[0].partitions.remove(1);
        let now = Cluster::default().updated(holed, &asked());
        assert_eq!(now.partition_count("t"), Some(1));
    }

    #[test]
    fn a_broker_that_forgot_a_topic_does_not_open_the_way_for_one_that_lags() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        let mut gone = answer(1, &[]);
        gone.topics[0].error_code = ErrorCode::UnknownTopicOrPartition.code();
        let later = now.updated(gone, &asked()).updated(answer(1, &[(3, 4)]), &asked());
        assert_eq!(later.leader("t", 0).unwrap().id, 1);
        assert_eq!(later.topic_error("t"), None);
    }

    #[test]
    fn partitions_do_not_become_fewer() {
        let now = Cluster::default().updated(answer(1, &[(1, 5), (2, 5)]), &asked());
        assert_eq!(now.updated(answer(1, &[(1, 6)]), &asked()).partition_count("t"), Some(2));
        assert_eq!(now.updated(answer(2, &[(1, 6)]), &asked()).partition_count("t"), Some(1));
    }

    #[test]
    fn another_cluster_starts_from_nothing() {
        let of = |cluster, response: MetadataResponse| {
            response.with_cluster_id(Some(StrBytes::from_static_str(cluster)))
        };
        let one = Cluster::default().updated(of("one", answer(0, &[(1, 5)])), &asked());
        let other = one.updated(of("other", answer(0, &[(2, 0)])), &asked());
        assert_eq!(other.leader("t", 0).unwrap().id, 2);
        let mut empty = answer(0, &[]);
        empty.topics.clear();
        assert!(one.updated(of("other", empty), &Asked::Topics(Vec::new())).topic("t").is_none());
    }

    #[test]
    fn a_broker_that_tells_no_epoch_is_believed() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        assert_eq!(now.updated(answer(1, &[(2, -1)]), &asked()).leader("t", 0).unwrap().id, 2);
    }

    /// The cluster as it really was at some time: the topic's id and each partition's leader epoch. A leader follows
    /// from its epoch here, as it does in a cluster: there is one election for each.
    #[derive(Debug, Clone)]
    struct Truth {
        id: u128,
        epochs: Vec<i32>,
    }

    fn leader_of(epoch: i32, at: usize) -> i32 {
        1 + (epoch + i32::try_from(at).unwrap()).rem_euclid(3)
    }

    impl Truth {
        fn answer(&self, known: bool) -> MetadataResponse {
            let leaders: Vec<_> =
                self.epochs.iter().zip(0..).map(|(&epoch, at)| (leader_of(epoch, at), epoch)).collect();
            let mut response = answer(self.id, &leaders);
            if !known {
                response.topics[0].error_code = ErrorCode::UnknownTopicOrPartition.code();
                response.topics[0].partitions.clear();
            }
            response
        }
    }

    proptest! {
        /// Brokers lag behind by any number of changes, forget the topic and name leaders in other answers. Within one
        /// incarnation of the topic the snapshot never goes back to an older epoch; what it says of an epoch is true; and
        /// once a broker has caught up, it is the truth.
        #[test]
        fn the_snapshot_never_goes_back(
            events in prop::collection::vec((0u8..10, 0usize..3, 0usize..100), 1..200),
        ) {
            let mut history = vec![Truth { id: 1, epochs: vec![0, 0] }];
            let mut cluster = Cluster::default();
            let mut seen: Option<(u128, Vec<i32>)> = None;
            for (event, partition, lag) in events {
                let mut truth = history.last().unwrap().clone();
                let stale = history[history.len() - 1 - lag.min(history.len() - 1)].clone();
                match event {
                    0..=2 => {
                        if let Some(epoch) = truth.epochs.get_mut(partition) {
                            *epoch += 1;
                        }
                        history.push(truth);
                    }
                    3 if truth.epochs.len() < 4 => {
                        truth.epochs.push(0);
                        history.push(truth);
                    }
                    4 if lag < 10 => {
                        history.push(Truth { id: truth.id + 1, epochs: vec![0] });
                    }
                    5 => {
                        let all = if lag % 2 == 0 { Asked::All } else { asked() };
                        cluster = cluster.updated(stale.answer(false), &all);
                    }
                    // A produce answer is about the topic that the batch was for.
                    6 if seen.as_ref().is_some_and(|(id, _)| *id == stale.id) => {
                        if let Some(&epoch) = stale.epochs.get(partition) {
                            let at = i32::try_from(partition).unwrap();
                            let hinted = cluster.with_leader("t", at, leader_of(epoch, partition), epoch, &[]);
                            cluster = hinted.unwrap_or(cluster);
                        }
                    }
                    _ => {
                        let all = if lag % 3 == 0 { Asked::All } else { asked() };
                        cluster = cluster.updated(stale.answer(true), &all);
                    }
                }
                let Some(topic) = cluster.topic("t") else { continue };
                let id = topic.id.unwrap().as_u128();
                prop_assert_eq!(cluster.topic_by_id(Uuid::from_u128(id)).map(|t| t.id), Some(topic.id));
                let epochs: Vec<i32> = topic.partitions.iter().map(|p| p.leader_epoch).collect();
                if let Some((before, older)) = &seen
                    && id == *before
                {
                    prop_assert!(epochs.len() >= older.len());
                    prop_assert!(epochs.iter().zip(older).all(|(new, old)| new >= old), "{older:?}, then {epochs:?}");
                }
                for (at, partition) in topic.partitions.iter().enumerate() {
                    prop_assert_eq!(partition.leader, Some(leader_of(partition.leader_epoch, at)));
                }
                seen = Some((id, epochs));
            }
            let truth = history.last().unwrap();
            cluster = cluster.updated(truth.answer(true), &asked());
            let topic = cluster.topic("t").unwrap();
            prop_assert_eq!(topic.id, Some(Uuid::from_u128(truth.id)));
            let epochs: Vec<i32> = topic.partitions.iter().map(|p| p.leader_epoch).collect();
            prop_assert_eq!(&epochs, &truth.epochs);
        }
    }
}
