//! Three nodes without sockets or tasks: every step of replication, every stop and every election is the test's own, in an
//! order that proptest chooses. Checked against what acks=all promises.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal};
use proptest::prelude::*;
use uuid::Uuid;

use crate::Profile;
use crate::clock::Clock;
use crate::cluster::topics::NewTopic;
use crate::cluster::{Cluster, elections};
use crate::config::broker::BrokerConfig;
use crate::folder::Logs;
use crate::node::open_state;
use crate::partition::{Partition, Uncommitted};
use crate::replica::Place;
use crate::replicator::{Step, alter_partition, copy_step};
use crate::state::BrokerState;

const NODES: [i32; 3] = [1, 2, 3];

#[derive(Debug, Clone)]
enum Event {
    /// A produce request with `acks=all` (or 1), to whoever leads.
    Append {
        all: bool,
    },
    /// A node does some steps of copying.
    Copy {
        node: i32,
        steps: usize,
    },
    Stop {
        node: i32,
        crash: bool,
    },
    Start {
        node: i32,
    },
    /// Whoever lags is taken out of the in-sync replicas.
    Lag,
    Move {
        node: i32,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let node = prop::sample::select(&NODES[..]);
    prop_oneof![
        6 => any::<bool>().prop_map(|all| Event::Append { all }),
        8 => (node.clone(), 1usize..5).prop_map(|(node, steps)| Event::Copy { node, steps }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, crash)| Event::Stop { node, crash }),
        2 => node.clone().prop_map(|node| Event::Start { node }),
        1 => Just(Event::Lag),
        1 => node.prop_map(|node| Event::Move { node }),
    ]
}

struct Nodes {
    cluster: Arc<Cluster>,
    logs: BTreeMap<i32, Logs>,
    running: BTreeMap<i32, Arc<BrokerState>>,
    config: Vec<(String, String)>,
    topic_id: Uuid,
    clock: Clock,
    sent: u64,
    /// Appends that `acks=all` waits for, and what they wrote.
    waiting: Vec<(Arc<Partition>, Uncommitted, i64, u64)>,
    /// Offset and number of every acknowledged record.
    acknowledged: BTreeMap<i64, u64>,
}

impl Nodes {
    fn new(min_insync: &str, unclean: bool) -> Self {
        let config = vec![
            ("min.insync.replicas".to_owned(), min_insync.to_owned()),
            ("unclean.leader.election.enable".to_owned(), unclean.to_string()),
        ];
        let logs: BTreeMap<i32, Logs> =
            NODES.iter().map(|&node| (node, Logs::open(None, node, Some("c")).unwrap())).collect();
        let cluster = Arc::new(Cluster::open(logs[&1].metadata_log().unwrap(), 1).unwrap());
        let clock = Clock::start();
        let mut nodes = Self {
            cluster,
            logs,
            running: BTreeMap::new(),
            config,
            topic_id: Uuid::nil(),
            clock,
            sent: 0,
            waiting: Vec::new(),
            acknowledged: BTreeMap::new(),
        };
        NODES.iter().for_each(|&node| nodes.start(node));
        let new =
            NewTopic { name: "t".to_owned(), partitions: 1, replication_factor: 3, ..Default::default() };
        nodes.topic_id = nodes.running[&1].create_topic(&new).unwrap().id;
        nodes
    }

    fn start(&mut self, node: i32) {
        if self.running.contains_key(&node) {
            return;
        }
        let logs = match self.sent {
            0 if self.topic_id.is_nil() => self.logs[&node].clone(),
            _ => self.logs[&node].reopened().unwrap(),
        };
        self.logs.insert(node, logs.clone());
        let config = BrokerConfig::new(Profile::Embedded, &self.config).unwrap();
        let cluster = Arc::clone(&self.cluster);
        let state = open_state(config, logs, node, self.clock, cluster, "localhost".to_owned(), 1).unwrap();
        self.running.insert(node, state);
    }

    fn stop(&mut self, node: i32, crash: bool, unclean: bool) {
        let Some(state) = self.running.get(&node).cloned() else { return };
        let fence = || {
            self.cluster.change(0, |image| Ok(elections::fence(image, node, unclean))).unwrap();
        };
        if crash {
            self.cluster.leave(node);
            state.topics.all_partitions().iter().for_each(|partition| drop(partition.take()));
            fence();
        } else {
            fence();
            crate::maintenance::close(&state);
            self.cluster.leave(node);
        }
        self.running.remove(&node);
    }

    fn partition(&self, node: i32) -> Option<Arc<Partition>> {
        self.running.get(&node)?.topics.by_id(self.topic_id)?.partition(0)
    }

    fn append(&mut self, all: bool) {
        let leader = self.cluster.read(|image, _| image.partition("t", 0).map_or(-1, |state| state.leader));
        let Some(partition) = self.partition(leader) else { return };
        self.sent += 1;
        let mut batch = BatchBuilder::new(64);
        batch.append(self.clock.now_ms(), None, Some(&self.sent.to_be_bytes()), &[]);
        let bytes = batch.finish(&Seal::default()).unwrap();
        match partition.produce(bytes, if all { -1 } else { 1 }, None, self.clock.now_ms()) {
            Ok(written) if all => match written.uncommitted {
                Some(append) => self.waiting.push((partition, append, written.base_offset, self.sent)),
                None => drop(self.acknowledged.insert(written.base_offset, self.sent)),
            },
            Ok(_) => {}
            Err(error) => assert_eq!(error.code, ErrorCode::NotEnoughReplicas),
        }
    }

    fn copy(&self, node: i32, steps: usize) {
        let Some(state) = self.running.get(&node) else { return };
        for _ in 0..steps {
            let Step::More(proposal) = copy_step(state, self.topic_id, 0) else { return };
            if proposal.is_some_and(|proposal| alter_partition(state, &proposal).is_err()) {
                return;
            }
        }
    }

    fn run(&mut self, event: &Event, unclean: bool) {
        match *event {
            Event::Append { all } => self.append(all),
            Event::Copy { node, steps } => self.copy(node, steps),
            Event::Stop { node, crash } => self.stop(node, crash, unclean),
            Event::Start { node } => self.start(node),
            Event::Lag => {
                for state in self.running.values() {
                    let partition = state.topics.by_id(self.topic_id).and_then(|topic| topic.partition(0));
                    // A limit below any lag: whoever is not at the end now is out.
                    if let Some(proposal) = partition.and_then(|it| it.shrink_isr(-1, self.clock.now_ms())) {
                        let _ = alter_partition(state, &proposal);
                    }
                }
            }
            Event::Move { node } => {
                let _ = self.cluster.change(0, |image| elections::move_leader(image, "t", 0, node));
            }
        }
        let acknowledged = &mut self.acknowledged;
        self.waiting.retain(|(partition, append, offset, number)| match partition.is_committed(*append) {
            None => true,
            Some(Ok(())) => {
                acknowledged.insert(*offset, *number);
                false
            }
            Some(Err(_)) => false,
        });
    }

    /// A replica's records by offset: epoch and number.
    fn records(&self, node: i32) -> BTreeMap<i64, (i32, u64)> {
        let Some(partition) = self.partition(node) else { return BTreeMap::new() };
        let pieces =
            partition.maintain(|log| log.read(0, usize::MAX >> 1, true).unwrap()).unwrap_or_default();
        let mut records = BTreeMap::new();
        for batch in pieces.into_iter().flat_map(RecordBatch::iter) {
            let batch = batch.unwrap();
            for record in batch.records(1 << 20).unwrap() {
                let record = record.unwrap();
                let value: Bytes = record.value.unwrap();
                let number = u64::from_be_bytes(value[..].try_into().unwrap());
                records.insert(record.offset, (batch.leader_epoch(), number));
            }
        }
        records
    }

    /// No two replicas differ where both say that it is committed.
    fn check_committed_prefixes(&self) {
        let committed: Vec<_> = self
            .running
            .keys()
            .filter_map(|&node| {
                let high_watermark = self.partition(node)?.high_watermark()?;
                Some((node, high_watermark, self.records(node)))
            })
            .collect();
        for (a, high_a, records_a) in &committed {
            for (b, high_b, records_b) in &committed {
                let both = *high_a.min(high_b);
                assert!(
                    records_a.range(..both).eq(records_b.range(..both)),
                    "nodes {a} and {b} differ below {both}"
                );
            }
        }
    }

    /// Everyone is back and has caught up.
    fn settle(&mut self) {
        NODES.iter().for_each(|&node| self.start(node));
        for _ in 0..20 {
            NODES.iter().for_each(|&node| self.copy(node, 100));
        }
    }
}

/// A follower that came back while another's joining was under way was sent home, and may have looked again on the
/// controller's word before the leader heard it.
#[test]
fn a_leader_calls_its_followers_whenever_the_controller_changes_who_is_in_sync() {
    let nodes = Nodes::new("1", false);
    let state = nodes.cluster.read(|image, _| image.partition("t", 0).cloned()).unwrap();
    let inbox = |node| nodes.cluster.inbox(node);
    let place = Place { node_id: state.leader, now_ms: 0, inbox: &inbox };
    let applied = nodes.partition(state.leader).unwrap().apply(&state, &place, || None);
    assert!(!applied.elected && !applied.resigned);
    assert!(NODES.iter().all(|node| applied.call.contains(node) == (*node != state.leader)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_acks_all_acknowledged_is_never_lost(
        events in prop::collection::vec(event(), 1..120),
        min_insync in prop::sample::select(&["1", "2"][..]),
    ) {
        let mut nodes = Nodes::new(min_insync, false);
        for event in &events {
            nodes.run(event, false);
            nodes.check_committed_prefixes();
        }
        nodes.settle();
        let expected = nodes.records(1);
        for node in NODES {
            let records = nodes.records(node);
            prop_assert_eq!(&records, &expected, "node {}", node);
            for (offset, number) in &nodes.acknowledged {
                prop_assert_eq!(records.get(offset).map(|(_, number)| number), Some(number));
            }
        }
    }

    #[test]
    fn after_unclean_elections_all_replicas_agree_again(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut nodes = Nodes::new("1", true);
        for event in &events {
            nodes.run(event, true);
        }
        nodes.settle();
        let expected = nodes.records(1);
        for node in NODES {
            prop_assert_eq!(nodes.records(node), expected.clone(), "node {}", node);
        }
    }
}
