use futures::FutureExt;
use proptest::prelude::*;

use super::model::{BROKERS, Mood, World, config};
use super::*;
use crate::producer::Acknowledgement;
use crate::producer::batch::Identity;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl World {
    /// A world whose leaders have written a record of the producer, so that batches are pipelined.
    pub(super) fn acquainted(partitions: usize) -> Self {
        let mut world = Self::new(config(), partitions);
        (0..partitions).for_each(|partition| world.send(partition, 1));
        world.settle();
        world
    }

    /// What became of each record so far, in the order in which they were sent.
    pub(super) fn fates(&mut self) -> Vec<Option<Result<Acknowledgement, SendError>>> {
        self.deliveries.iter_mut().map(|(_, _, delivery)| delivery.now_or_never()).collect()
    }

    pub(super) fn offsets(&mut self) -> Vec<i64> {
        self.fates().into_iter().map(|fate| fate.unwrap().unwrap().offset).collect()
    }
}

#[test]
fn batches_of_a_partition_are_pipelined_up_to_five() {
    let mut world = World::acquainted(1);
    (0..7).for_each(|_| world.send(0, 2));
    assert_eq!(world.on_the_way(0), 5);
    world.process(0, Mood::Fine);
    world.answer(0);
    assert_eq!(world.on_the_way(0), 5);
    world.settle();
    assert_eq!(world.logs[0].records, (0..15).collect::<Vec<_>>());
    assert_eq!(world.offsets(), (0..15).collect::<Vec<_>>());
}

#[test]
fn the_first_batch_goes_alone_since_a_leader_takes_any_number_of_a_stranger() {
    let mut world = World::new(config(), 1);
    (0..3).for_each(|_| world.send(0, 2));
    assert_eq!(world.on_the_way(0), 1);
    world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas));
    world.settle();
    assert_eq!(world.logs[0].records, (0..6).collect::<Vec<_>>());
}

#[test]
fn partitions_of_one_broker_share_a_request() {
    let mut world = World::acquainted(4);
    // Throttled, so that batches gather.
    (0..BROKERS).for_each(|broker| world.sender.throttled(world.now, broker, world.now + secs(1)));
    for partition in [0, 1, 2, 3, 0] {
        world.send(partition, 1);
    }
    world.advance(secs(1));
    assert_eq!((world.on_the_way(0), world.on_the_way(1)), (2, 1));
    world.settle();
    assert!(world.offsets().iter().all(|&offset| offset >= 0));
}

#[test]
fn after_a_failed_batch_those_behind_it_are_sent_again_in_order() {
    let mut world = World::acquainted(1);
    (0..4).for_each(|_| world.send(0, 3));
    world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas));
    (0..3).for_each(|_| assert!(world.process(0, Mood::Fine)));
    world.settle();
    assert_eq!(world.logs[0].records, (0..13).collect::<Vec<_>>());
    assert_eq!(world.offsets(), (0..13).collect::<Vec<_>>());
}

#[test]
fn a_lost_answer_is_not_a_lost_record_nor_a_second_one() {
    let mut world = World::acquainted(1);
    (0..3).for_each(|_| world.send(0, 2));
    world.process(0, Mood::Fine);
    world.process(0, Mood::Fine);
    world.cut(0, false);
    world.settle();
    assert_eq!(world.logs[0].records, (0..7).collect::<Vec<_>>());
    assert_eq!(world.offsets(), (0..7).collect::<Vec<_>>());
}

#[test]
fn a_batch_that_follows_its_leader_keeps_its_number() {
    let mut world = World::acquainted(1);
    (0..3).for_each(|_| world.send(0, 2));
    // Written by the old leader, whose answer is lost together with its leadership.
    world.process(0, Mood::Fine);
    world.move_leader(0);
    world.cut(0, false);
    assert!(world.on_the_way(1) > 0);
    world.settle();
    assert_eq!(world.logs[0].records, (0..7).collect::<Vec<_>>());
    assert_eq!(world.offsets(), (0..7).collect::<Vec<_>>());
}

#[test]
fn a_new_leader_is_asked_without_back_off() {
    let mut world = World::new(config(), 1);
    world.send(0, 1);
    world.fresh_metadata = false;
    world.move_leader(0);
    world.process(0, Mood::Fine);
    world.answer(0);
    assert_eq!(world.on_the_way(1), 0);
    world.fresh_metadata = true;
    world.tell_leaders();
    world.act();
    assert_eq!(world.on_the_way(1), 1);
}

#[test]
fn a_batch_that_never_left_expires_and_is_surely_not_written() {
    let mut world = World::new(config(), 1);
    world.fresh_metadata = false;
    world.send(0, 1);
    world.advance(secs(119));
    assert!(world.fates()[0].is_none());
    assert_eq!(
        world.sender.next_wake(world.now).map(|at| at.min(world.started + secs(120)) > world.now),
        Some(true)
    );
    world.advance(secs(1));
    let error = world.fates().remove(0).unwrap().unwrap_err();
    assert!(matches!(error, SendError::Expired { .. }), "{error}");
    assert!(error.is_retriable() && !error.possibly_written());
    assert!(world.sender.is_idle());
}

#[test]
fn a_batch_in_flight_at_its_deadline_is_told_as_possibly_written() {
    let mut world = World::new(config(), 1);
    world.send(0, 1);
    world.process(0, Mood::Fine);
    world.advance(secs(120));
    let error = world.fates().remove(0).unwrap().unwrap_err();
    assert!(matches!(error, SendError::Unanswered { .. }) && error.possibly_written(), "{error}");
    // Its answer still comes, and the next batch follows without a gap.
    world.answer(0);
    world.send(0, 1);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1]);
}

#[test]
fn after_an_expired_batch_left_a_gap_the_next_one_starts_a_new_epoch() {
    let mut world = World::new(config(), 1);
    world.send(0, 1);
    world.process(0, Mood::Fine);
    world.answer(0);
    world.send(0, 2);
    world.cut(0, false);
    // Sent, never processed, and out of time before it can be sent again.
    world.leaders[0] = 1;
    world.fresh_metadata = false;
    world.advance(secs(120));
    world.send(0, 3);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 3, 4, 5]);
}

#[test]
fn a_duplicate_is_a_success_without_an_offset() {
    let mut world = World::new(config(), 1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::DuplicateSequenceNumber));
    world.answer(0);
    assert_eq!(world.offsets(), [-1]);
}

#[test]
fn a_batch_too_large_for_the_topic_is_cut_until_it_fits() {
    let mut world = World::new(config(), 1);
    world.refuse_larger_than = Some(100);
    world.send(0, 9);
    world.send(0, 2);
    world.settle();
    assert_eq!(world.logs[0].records, (0..11).collect::<Vec<_>>());
    assert_eq!(world.offsets(), (0..11).collect::<Vec<_>>());
}

#[test]
fn a_single_record_too_large_for_the_topic_fails_and_the_next_one_goes_on() {
    let mut world = World::new(config(), 1);
    world.send(0, 1);
    world.process(0, Mood::Fine);
    world.answer(0);
    world.send(0, 1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::MessageTooLarge));
    world.settle();
    let fates = world.fates();
    assert!(matches!(
        fates[1].as_ref().unwrap(),
        Err(SendError::Refused { code: ErrorCode::MessageTooLarge, possibly_written: false, .. })
    ));
    assert_eq!(world.logs[0].records, [0, 2]);
}

#[test]
fn a_throttled_broker_is_left_in_peace() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    world.sender.throttled(world.now, 0, world.now + millis(500));
    world.send(0, 1);
    assert_eq!(world.on_the_way(0), 1);
    assert_eq!(world.sender.next_wake(world.now), Some(world.now + millis(500)));
    world.advance(millis(500));
    assert_eq!(world.on_the_way(0), 2);
}

#[test]
fn a_refused_producer_id_fails_every_batch() {
    let mut sender = Sender::new(config(), 1);
    let mut world = World::new(config(), 1);
    world.fresh_metadata = false;
    std::mem::swap(&mut sender, &mut world.sender);
    let now = world.now;
    world.sender.not_identified(now, ErrorCode::ClusterAuthorizationFailed);
    world.send(0, 1);
    let error = world.fates().remove(0).unwrap().unwrap_err();
    assert!(error.is_fatal() && !error.is_retriable(), "{error}");
}

#[test]
fn an_exhausted_epoch_becomes_a_new_producer_id() {
    let mut world = World::new(config(), 1);
    world.sender.identified(Identity { producer_id: 5, epoch: i16::MAX - 1 });
    world.send(0, 1);
    world.process(0, Mood::Fine);
    world.answer(0);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::OutOfOrderSequenceNumber));
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1]);
    assert_eq!(world.offsets(), [0, 1]);
}

#[test]
fn aborting_tells_what_was_sent_from_what_was_not() {
    let mut world = World::new(config(), 2);
    world.send(0, 1);
    world.fresh_metadata = false;
    world.leaders[1] = 7;
    world.send(1, 1);
    let now = world.now;
    world.sender.abort(now);
    let fates = world.fates();
    assert!(matches!(fates[0], Some(Err(SendError::Unanswered { .. }))));
    assert!(matches!(fates[1], Some(Err(SendError::Closed | SendError::Unanswered { .. }))));
}

#[derive(Debug, Clone)]
enum Step {
    Send { partition: usize, count: usize },
    Process { broker: i32, mood: Mood },
    Answer { broker: i32 },
    Cut { broker: i32, in_hand: bool },
    Haunt,
    MoveLeader { partition: usize },
    LearnLeaders,
    RestartLeader { partition: usize },
    HoldCodec(bool),
    BringBack(prop::sample::Index),
    Wait(Duration),
}

const PARTITIONS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let mood = prop_oneof![
        8 => Just(Mood::Fine),
        1 => Just(Mood::Refuses(ErrorCode::NotEnoughReplicas)),
        1 => Just(Mood::WritesAndComplains),
    ];
    prop_oneof![
        8 => (0..PARTITIONS, 1..4usize).prop_map(|(partition, count)| Step::Send { partition, count }),
        8 => (0..BROKERS, mood).prop_map(|(broker, mood)| Step::Process { broker, mood }),
        6 => (0..BROKERS).prop_map(|broker| Step::Answer { broker }),
        2 => (0..BROKERS, any::<bool>()).prop_map(|(broker, in_hand)| Step::Cut { broker, in_hand }),
        1 => Just(Step::Haunt),
        1 => (0..PARTITIONS).prop_map(|partition| Step::MoveLeader { partition }),
        2 => Just(Step::LearnLeaders),
        1 => (0..PARTITIONS).prop_map(|partition| Step::RestartLeader { partition }),
        1 => any::<bool>().prop_map(Step::HoldCodec),
        2 => any::<prop::sample::Index>().prop_map(Step::BringBack),
        4 => (1..400u64).prop_map(|n| Step::Wait(millis(n))),
        1 => (1..60u64).prop_map(|n| Step::Wait(secs(n))),
    ]
}

proptest! {
    /// Whatever is lost, repeated, delayed or moved: what was acknowledged is in the log once, where it was said to be
    /// and in the order of sending; what surely failed is not there; nothing is there twice.
    #[test]
    fn every_acknowledged_record_is_written_once_and_in_order(
        steps in prop::collection::vec(step(), 1..120),
        // Two records fit by the smallest limit; brokers do not change their minds about it.
        limit in prop::option::of(90..130usize),
        compression in prop::sample::select(vec![Compression::None, Compression::Snappy]),
    ) {
        let mut world = World::new(SenderConfig { compression, ..config() }, PARTITIONS);
        world.refuse_larger_than = limit;
        for step in steps {
            match step {
                Step::Send { partition, count } => world.send(partition, count),
                Step::Process { broker, mood } => drop(world.process(broker, mood)),
                Step::Answer { broker } => drop(world.answer(broker)),
                Step::Cut { broker, in_hand } => world.cut(broker, in_hand),
                Step::Haunt => world.haunt(),
                Step::MoveLeader { partition } => {
                    world.fresh_metadata = false;
                    world.move_leader(partition);
                }
                Step::LearnLeaders => {
                    world.fresh_metadata = true;
                    world.tell_leaders();
                    world.act();
                }
                Step::RestartLeader { partition } => world.restart_leader(partition),
                Step::HoldCodec(hold) => world.hold_compression = hold,
                Step::BringBack(which) => {
                    if world.held() > 0 {
                        world.bring_back(which.index(world.held()));
                        world.act();
                    }
                }
                Step::Wait(span) => world.advance(span),
            }
        }
        world.hold_compression = false;
        world.settle();
        world.haunt();
        let fates = world.fates();
        for (log, partition) in world.logs.iter().zip(0..) {
            prop_assert!(log.records.is_sorted_by(|a, b| a < b), "partition {}: {:?}", partition, log.records);
        }
        for ((partition, id, _), fate) in world.deliveries.iter().zip(fates) {
            let log = &world.logs[*partition].records;
            let at = log.iter().position(|other| other == id);
            match fate {
                None => prop_assert!(false, "record {} was never settled", id),
                Some(Ok(acknowledged)) => {
                    prop_assert!(at.is_some(), "record {} was acknowledged and is not there", id);
                    if acknowledged.offset >= 0 {
                        prop_assert_eq!(Some(acknowledged.offset as usize), at);
                    }
                }
                Some(Err(error)) => {
                    prop_assert!(at.is_none() || error.possibly_written(), "record {} is there: {}", id, error);
                }
            }
        }
    }
}
