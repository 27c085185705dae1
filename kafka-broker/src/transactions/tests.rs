//! The coordinator alone: every step of a transaction cut before and after its record is written, and random producers
//! that share an id while the coordinator is restarted at any time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_wire::ErrorCode;
use proptest::prelude::*;

use super::{Coordinator, End, Ending, Identity, LAST_EPOCH, State, Step, TopicPartition, TransactionRecord};

const ID: &str = "id";
const V1: i16 = 0;
const V2: i16 = 2;
const TIMEOUT_MS: i32 = 60_000;
const EXPIRATION_MS: i64 = 7 * 24 * 3_600_000;

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    /// The coordinator crashes before its record is written.
    CutBefore,
    /// It crashes with the record written, before it answers.
    CutAfter,
}

/// A coordinator with its log, and the markers in the partitions' logs.
#[derive(Default)]
struct World {
    coordinator: Coordinator,
    log: Vec<(Bytes, Option<Bytes>)>,
    markers: BTreeMap<TopicPartition, Vec<(Identity, bool)>>,
    next_producer_id: i64,
    now_ms: i64,
}

fn at(partition: i32) -> TopicPartition {
    ("t".to_owned(), partition)
}

fn end(producer: Identity, is_commit: bool, version: i16) -> End<'static> {
    End { id: ID, producer, is_commit, version }
}

impl World {
    fn write(&mut self, record: &TransactionRecord) {
        self.log.push(record.encode().unwrap());
        self.coordinator.replay(record);
    }

    fn restart(&mut self) {
        self.coordinator = Coordinator::default();
        for (key, value) in &self.log {
            let record = TransactionRecord::decode(key.clone(), value.clone()).unwrap().unwrap();
            self.coordinator.replay(&record);
        }
    }

    /// `None`: the answer is lost.
    fn settle<T>(&mut self, step: Result<Step<T>, ErrorCode>, fate: Fate) -> Option<Result<T, ErrorCode>> {
        let step = match step {
            Ok(step) => step,
            Err(code) => return Some(Err(code)),
        };
        if let Some(record) = step.record.filter(|_| fate != Fate::CutBefore) {
            self.write(&record);
        }
        if fate != Fate::Goes {
            self.restart();
            return None;
        }
        Some(Ok(step.answer))
    }

    fn init(&mut self, expected: Option<Identity>, fate: Fate) -> Option<Result<Identity, ErrorCode>> {
        self.next_producer_id += 1;
        let fresh = self.next_producer_id;
        let step = self.coordinator.init(ID, TIMEOUT_MS, expected, || Ok(fresh), self.now_ms);
        self.settle(step, fate).map(|answer| answer.and_then(|identity| identity))
    }

    fn add(
        &mut self,
        producer: Identity,
        partition: i32,
        version: i16,
        fate: Fate,
    ) -> Option<Result<(), ErrorCode>> {
        let step = self.coordinator.add(ID, producer, &BTreeSet::from([at(partition)]), version, self.now_ms);
        self.settle(step, fate)
    }

    fn end(&mut self, end: End<'_>, fate: Fate) -> Option<Result<Identity, ErrorCode>> {
        self.next_producer_id += 1;
        let fresh = self.next_producer_id;
        let step = self.coordinator.end(end, || Ok(fresh), self.now_ms);
        self.settle(step, fate)
    }

    /// Writes the markers of what is ending, up to `most` of them, and then puts on record that they are written.
    fn tell(&mut self, most: usize, fate: Fate) {
        let Some(ending) = self.coordinator.ending(ID) else { return };
        let is_all = most >= ending.partitions.len();
        for partition in ending.partitions.iter().take(most) {
            let markers = self.markers.entry(partition.clone()).or_default();
            let marker = (ending.producer, ending.is_commit);
            // The log takes a marker again, which then says nothing new.
            if markers.last() != Some(&marker) {
                markers.push(marker);
            }
        }
        if is_all {
            let record = self.coordinator.complete(ID, &ending, self.now_ms);
            let answered = self.settle(Ok(Step { record, answer: () }), fate);
            assert!(answered.is_none_or(|answer| answer.is_ok()));
        } else if fate != Fate::Goes {
            self.restart();
        }
    }

    fn state(&self) -> State {
        self.coordinator.get(ID).unwrap().state
    }
}

/// Asks again until there is an answer that is not about an earlier end.
fn insist<T>(
    world: &mut World,
    mut ask: impl FnMut(&mut World) -> Option<Result<T, ErrorCode>>,
) -> Result<T, ErrorCode> {
    for _ in 0..10 {
        match ask(world) {
            None => {}
            Some(Err(ErrorCode::ConcurrentTransactions)) => world.tell(usize::MAX, Fate::Goes),
            Some(answer) => return answer,
        }
    }
    panic!("no answer")
}

#[test]
fn each_holder_of_the_id_gets_the_next_epoch_and_the_one_before_is_fenced() {
    let mut world = World::default();
    let first = world.init(None, Fate::Goes).unwrap().unwrap();
    let second = world.init(None, Fate::Goes).unwrap().unwrap();
    assert_eq!((second.0, second.1), (first.0, first.1 + 1));
    assert_eq!(world.add(first, 0, V1, Fate::Goes), Some(Err(ErrorCode::ProducerFenced)));
    assert_eq!(world.end(end(first, true, V1), Fate::Goes), Some(Err(ErrorCode::ProducerFenced)));
    assert_eq!(
        world.add((second.0 + 9, second.1), 0, V1, Fate::Goes),
        Some(Err(ErrorCode::InvalidProducerIdMapping))
    );
    assert_eq!(world.add(second, 0, V1, Fate::Goes), Some(Ok(())));
}

#[test]
fn a_producer_that_recovers_is_told_the_same_epoch_again_if_the_answer_was_lost() {
    let mut world = World::default();
    let first = world.init(None, Fate::Goes).unwrap().unwrap();
    // The record is there, the answer is not; this process still knows what it answered.
    let step = world.coordinator.init(ID, TIMEOUT_MS, Some(first), || Ok(99), 0).unwrap();
    world.write(&step.record.unwrap());
    let bumped = step.answer.unwrap();
    assert_eq!(world.init(Some(first), Fate::Goes), Some(Ok(bumped)));
    assert_eq!(world.init(Some(bumped), Fate::Goes), Some(Ok((bumped.0, bumped.1 + 1))));
    assert_eq!(world.init(Some(first), Fate::Goes), Some(Err(ErrorCode::ProducerFenced)));
    assert_eq!(world.init(Some((first.0 + 5, 0)), Fate::Goes), Some(Err(ErrorCode::ProducerFenced)));
}

#[test]
fn an_exhausted_epoch_is_followed_by_another_producer_id() {
    for version in [V1, V2] {
        let mut world = World::default();
        let first = world.init(None, Fate::Goes).unwrap().unwrap();
        let mut transaction = world.coordinator.get(ID).unwrap().clone();
        transaction.epoch = LAST_EPOCH;
        world.write(&TransactionRecord { id: ID.to_owned(), value: Some(transaction) });
        let last = (first.0, LAST_EPOCH);
        world.add(last, 0, version, Fate::Goes).unwrap().unwrap();
        let ended = world.end(end(last, true, version), Fate::Goes).unwrap().unwrap();
        // The answer was lost: the same again.
        let again = insist(&mut world, |world| world.end(end(last, true, version), Fate::Goes)).unwrap();
        assert_eq!(again, ended);
        let next = match version {
            V2 => ended,
            _ => world.init(Some(last), Fate::Goes).unwrap().unwrap(),
        };
        assert!(next.0 != first.0 && next.1 == 0, "{next:?}");
        assert_eq!(world.add(next, 1, version, Fate::Goes), Some(Ok(())));
    }
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted_and_an_idle_id_is_forgotten() {
    let mut world = World::default();
    let producer = world.init(None, Fate::Goes).unwrap().unwrap();
    world.add(producer, 0, V2, Fate::Goes).unwrap().unwrap();
    world.now_ms = i64::from(TIMEOUT_MS);
    assert!(world.coordinator.expire(EXPIRATION_MS, world.now_ms).is_empty());
    world.now_ms += 1;
    for record in world.coordinator.expire(EXPIRATION_MS, world.now_ms) {
        world.write(&record);
    }
    assert_eq!(world.state(), State::PrepareAbort);
    assert_eq!(world.add(producer, 1, V2, Fate::Goes), Some(Err(ErrorCode::ProducerFenced)));
    world.tell(usize::MAX, Fate::Goes);
    assert_eq!(world.state(), State::CompleteAbort);
    assert!(!world.markers[&at(0)][0].1);
    world.now_ms += EXPIRATION_MS;
    for record in world.coordinator.expire(EXPIRATION_MS, world.now_ms) {
        world.write(&record);
    }
    assert!(world.coordinator.get(ID).is_none());
    world.restart();
    assert!(world.coordinator.get(ID).is_none());
}

/// Whatever step is cut, and on which side of its write: a producer that asks again gets its transaction ended as it
/// asked for, everywhere, and once.
#[test]
fn every_step_may_be_cut_before_and_after_its_write() {
    const STEPS: usize = 6;
    let fates = [Fate::CutBefore, Fate::CutAfter];
    for version in [V1, V2] {
        for is_commit in [true, false] {
            for (cut, fate) in (0..STEPS).flat_map(|step| fates.map(|fate| (step, fate))) {
                let mut world = World::default();
                let mut step = 0;
                let mut fate_now = || {
                    step += 1;
                    if step - 1 == cut { fate } else { Fate::Goes }
                };
                let producer = insist(&mut world, |world| world.init(None, fate_now())).unwrap();
                for partition in [0, 1] {
                    insist(&mut world, |world| world.add(producer, partition, version, fate_now())).unwrap();
                }
                let after =
                    insist(&mut world, |world| world.end(end(producer, is_commit, version), fate_now()));
                // Of version 1 the same answer comes again; of version 2 one that names the next epoch.
                let after = after.unwrap();
                assert_eq!(after.1, producer.1 + i16::from(version == V2), "{cut} {fate:?}");
                world.tell(1, fate_now());
                while world.coordinator.ending(ID).is_some() {
                    world.tell(usize::MAX, fate_now());
                }
                let complete = if is_commit { State::CompleteCommit } else { State::CompleteAbort };
                assert_eq!(world.state(), complete);
                for partition in [0, 1] {
                    let markers = &world.markers[&at(partition)];
                    assert_eq!(markers.len(), 1, "{cut} {fate:?}: {markers:?}");
                    assert_eq!(markers[0].1, is_commit);
                }
                assert_eq!(world.add(after, 0, version, Fate::Goes), Some(Ok(())), "the next transaction");
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Call {
    Init { who: usize, recovers: bool, fate: Fate },
    Add { who: usize, partition: i32, fate: Fate },
    End { who: usize, is_commit: bool, fate: Fate },
    Tell { most: usize, fate: Fate },
    Wait { ms: i64 },
}

fn call() -> impl Strategy<Value = Call> {
    let who = 0..2usize;
    let fate = || prop_oneof![8 => Just(Fate::Goes), 1 => Just(Fate::CutBefore), 1 => Just(Fate::CutAfter)];
    prop_oneof![
        1 => (who.clone(), any::<bool>(), fate()).prop_map(|(who, recovers, fate)| Call::Init { who, recovers, fate }),
        5 => (who.clone(), 0..3i32, fate()).prop_map(|(who, partition, fate)| Call::Add { who, partition, fate }),
        3 => (who, any::<bool>(), fate()).prop_map(|(who, is_commit, fate)| Call::End { who, is_commit, fate }),
        5 => (0..4usize, fate()).prop_map(|(most, fate)| Call::Tell { most, fate }),
        1 => (0..90_000i64).prop_map(|ms| Call::Wait { ms }),
    ]
}

/// What a producer knows of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Producer {
    identity: Option<Identity>,
    /// The end that it asked for and whose answer it did not get.
    asked: Option<bool>,
}

proptest! {
    #[test]
    fn no_transaction_ends_in_two_ways_and_nobody_writes_in_anothers_name(
        version in prop::sample::select(&[V1, V2][..]),
        calls in prop::collection::vec(call(), 0..120),
    ) {
        let mut world = World::default();
        let mut producers = [Producer::default(); 2];
        // Who got an identity last: it alone may write.
        let mut holder: Option<usize> = None;
        let mut decided: Option<Ending> = None;
        for call in calls {
            match call {
                Call::Init { who, recovers, fate } => {
                    let expected = producers[who].identity.filter(|_| recovers);
                    match world.init(expected, fate) {
                        Some(Ok(identity)) => {
                            if let Some(other) = producers[1 - who].identity {
                                prop_assert_ne!(identity, other, "two hold the same epoch");
                            }
                            producers[who] = Producer { identity: Some(identity), asked: None };
                            holder = Some(who);
                        }
                        // The epoch may be given out to nobody: then nobody holds the id.
                        None => holder = None,
                        Some(Err(_)) => {}
                    }
                }
                Call::Add { who, partition, fate } => {
                    let Some(identity) = producers[who].identity else { continue };
                    if let Some(Ok(())) = world.add(identity, partition, version, fate) {
                        prop_assert!(holder.is_none_or(|holder| holder == who), "a zombie wrote");
                    }
                }
                Call::End { who, is_commit, fate } => {
                    let Some(identity) = producers[who].identity else { continue };
                    // Nobody asks for the other end before the first was answered.
                    let is_commit = producers[who].asked.unwrap_or(is_commit);
                    let open = world.coordinator.get(ID).filter(|it| it.state == State::Ongoing).cloned();
                    match world.end(end(identity, is_commit, version), fate) {
                        Some(Ok(next)) => {
                            if let Some(open) = &open {
                                prop_assert_eq!((open.producer_id, open.epoch), identity, "a zombie ended it");
                            }
                            producers[who] = Producer { identity: Some(next), asked: None };
                        }
                        None => producers[who].asked = Some(is_commit),
                        Some(Err(ErrorCode::ConcurrentTransactions)) => producers[who].asked = Some(is_commit),
                        Some(Err(_)) => producers[who].asked = None,
                    }
                }
                Call::Tell { most, fate } => world.tell(most, fate),
                Call::Wait { ms } => {
                    world.now_ms += ms;
                    for record in world.coordinator.expire(EXPIRATION_MS, world.now_ms) {
                        world.write(&record);
                        holder = None;
                    }
                    let late = world.coordinator.transactions().any(|(_, it)| it.is_timed_out(world.now_ms));
                    prop_assert!(!late);
                }
            }
            // What was decided stays decided until it is told everywhere.
            let ending = world.coordinator.ending(ID);
            if let (Some(before), Some(now)) = (&decided, &ending)
                && before.producer == now.producer
            {
                prop_assert_eq!(before, now);
            }
            decided = ending;
        }
        // All partitions of a transaction heard the same.
        let mut ends: BTreeMap<Identity, BTreeSet<bool>> = BTreeMap::new();
        if version == V2 {
            for (identity, is_commit) in world.markers.values().flatten() {
                ends.entry(*identity).or_default().insert(*is_commit);
            }
            prop_assert!(ends.values().all(|ends| ends.len() == 1), "{:?}", ends);
        }
        // What is in memory is what the log says, but for what is not on record.
        let mut before: Vec<_> = world.coordinator.transactions().map(|(_, it)| it.clone()).collect();
        before.iter_mut().for_each(|it| it.last_epoch = -1);
        world.restart();
        let after: Vec<_> = world.coordinator.transactions().map(|(_, it)| it.clone()).collect();
        prop_assert_eq!(before, after);
    }
}
