//! Promises about numbers, epochs, back-off and order, one test for each.

use std::time::Duration;

use kafka_wire::compression::Compression;

use super::model::{Mood, World, config};
use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn lost(event: &ProducerEvent) -> bool {
    matches!(event, ProducerEvent::PossibleDataLoss { .. })
}

#[test]
fn numbers_are_given_once_and_a_retry_carries_its_own() {
    let mut world = World::acquainted(1);
    (0..2).for_each(|_| world.send(0, 3));
    let first = world.numbers_on_the_way(0);
    assert_eq!(first, [(0, 1), (0, 4)]);
    world.cut(0, false);
    world.move_leader(0);
    world.tell_leaders();
    world.act();
    assert_eq!(world.numbers_on_the_way(1), [(0, 1)]);
    world.settle();
    assert_eq!(world.offsets(), (0..7).collect::<Vec<_>>());
}

#[test]
fn retries_go_one_at_a_time_in_the_order_of_their_numbers() {
    let mut world = World::acquainted(1);
    (0..3).for_each(|_| world.send(0, 1));
    (0..3).for_each(|_| assert!(world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas))));
    (0..3).for_each(|_| assert!(world.answer(0)));
    world.advance(secs(1));
    assert_eq!(world.numbers_on_the_way(0), [(0, 1)]);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2, 3]);
}

#[test]
fn batches_of_a_new_epoch_wait_until_those_of_the_old_one_are_through() {
    let mut world = World::acquainted(2);
    // Partition 1 has a batch in flight under epoch 0 when partition 0's gap brings epoch 1.
    world.send(1, 1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::OutOfOrderSequenceNumber));
    world.answer(0);
    world.send(1, 1);
    assert_eq!(world.numbers_on_the_way(1), [(0, 1)]);
    world.process(1, Mood::Fine);
    world.answer(1);
    assert_eq!(world.numbers_on_the_way(1), [(1, 0)]);
    world.settle();
    assert_eq!(world.logs[1].records.len(), 3);
}

#[test]
fn while_the_fate_of_an_expired_batch_is_unknown_nothing_follows_it() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    world.advance(secs(120));
    world.send(0, 1);
    assert_eq!(world.on_the_way(0), 1);
    world.process(0, Mood::Fine);
    world.answer(0);
    assert_eq!(world.numbers_on_the_way(0), [(0, 2)]);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2]);
}

#[test]
fn without_numbers_an_expired_batch_holds_nobody_up() {
    let config = SenderConfig { idempotent: false, acks: Acks::Leader, ..config() };
    let mut world = World::new(config, 1);
    world.send(0, 1);
    world.advance(secs(120));
    world.send(0, 1);
    assert_eq!(world.on_the_way(0), 2);
}

#[test]
fn a_gap_behind_a_batch_that_is_still_open_changes_no_epoch() {
    let mut world = World::acquainted(1);
    (0..2).for_each(|_| world.send(0, 1));
    world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas));
    // The leader misses the first one and says so of the second.
    world.process(0, Mood::Fine);
    world.settle();
    assert!(!world.events().iter().any(|event| matches!(event, ProducerEvent::EpochBumped { .. })));
    assert_eq!(world.logs[0].records, [0, 1, 2]);
}

#[test]
fn a_real_gap_starts_an_epoch_in_which_what_follows_counts_from_zero() {
    let mut world = World::acquainted(1);
    (0..3).for_each(|_| world.send(0, 2));
    (0..3).for_each(|_| assert!(world.process(0, Mood::Refuses(ErrorCode::OutOfOrderSequenceNumber))));
    (0..3).for_each(|_| assert!(world.answer(0)));
    world.advance(secs(1));
    assert_eq!(world.numbers_on_the_way(0), [(1, 0)]);
    let bumps = world.events();
    assert_eq!(
        bumps.iter().filter(|e| matches!(e, ProducerEvent::EpochBumped { epoch: Some(1), .. })).count(),
        1
    );
    world.settle();
    assert_eq!(world.logs[0].records, (0..7).collect::<Vec<_>>());
}

/// Found by the simulation: a leader whose sync fails, or that loses its place while it waits for its followers, has the
/// batch in its log, and callers were told that it was not written.
#[test]
fn errors_that_may_follow_an_append_are_told_as_possibly_written() {
    for (code, possibly_written) in [
        (ErrorCode::RequestTimedOut, true),
        (ErrorCode::NotEnoughReplicasAfterAppend, true),
        (ErrorCode::KafkaStorageError, true),
        (ErrorCode::NotLeaderOrFollower, true),
        (ErrorCode::NotEnoughReplicas, false),
        (ErrorCode::UnknownTopicOrPartition, false),
    ] {
        let mut world = World::acquainted(1);
        world.send(0, 1);
        assert!(world.process(0, Mood::Refuses(code)) && world.answer(0));
        world.advance(secs(120));
        let error = world.fates().remove(1).unwrap().unwrap_err();
        assert_eq!(error.possibly_written(), possibly_written, "{code}: {error}");
    }
}

/// Found by the simulation: the first of two written batches got new numbers and was written twice.
#[test]
fn a_written_batch_that_a_restarted_leader_forgot_is_not_written_again() {
    let mut world = World::acquainted(1);
    (0..2).for_each(|_| world.send(0, 1));
    (0..2).for_each(|_| assert!(world.process(0, Mood::Fine)));
    world.cut(0, false);
    world.restart_leader(0);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2]);
    let fates = world.fates();
    assert!(fates[1].as_ref().unwrap().as_ref().unwrap_err().possibly_written());
    assert_eq!(fates[2].as_ref().unwrap().as_ref().unwrap().offset, 2);
}

/// Found by the simulation: the batch before the last was acknowledged after the last, by its second answer. The one between
/// them, which the restarted leader had forgotten, was then taken for one that it had never seen.
#[test]
fn what_was_acknowledged_last_is_not_always_the_last_that_was_written() {
    let mut world = World::acquainted(1);
    (0..3).for_each(|_| world.send(0, 1));
    // Of three that were written the last is acknowledged, then the first.
    (0..2).for_each(|_| assert!(world.process(0, Mood::WritesAndComplains) && world.answer(0)));
    assert!(world.process(0, Mood::Fine) && world.answer(0));
    world.advance(secs(1));
    assert!(world.process(0, Mood::Fine) && world.answer(0));
    world.restart_leader(0);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2, 3]);
    assert!(world.fates()[2].as_ref().unwrap().as_ref().unwrap_err().possibly_written());
}

/// Found by the simulation: a batch was given up, the one behind it was refused for the gap and written under new numbers,
/// and then the broker came to both in what it had read from the lost connection.
#[test]
fn a_batch_that_may_still_lie_with_the_broker_gets_no_new_numbers() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    world.advance(secs(60));
    world.send(0, 1);
    world.advance(secs(60));
    assert!(world.fates()[1].as_ref().unwrap().is_err(), "its time is over");
    world.cut(0, true);
    world.advance(secs(1));
    assert!(world.process(0, Mood::Fine) && world.answer(0));
    world.haunt();
    world.haunt();
    world.send(0, 1);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2, 3]);
    assert!(world.fates()[2].as_ref().unwrap().as_ref().unwrap_err().possibly_written());
}

#[test]
fn an_acknowledged_record_that_the_leader_misses_is_told_as_possible_loss() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::OutOfOrderSequenceNumber));
    world.settle();
    assert!(world.events().iter().any(lost));
}

#[test]
fn a_leader_that_forgot_the_producer_and_knows_no_log_start_is_asked_again_under_the_same_number() {
    let mut world = World::acquainted(1);
    world.log_start_offset = -1;
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::UnknownProducerId));
    world.answer(0);
    world.advance(secs(1));
    assert_eq!(world.numbers_on_the_way(0), [(0, 1)]);
}

#[test]
fn retention_that_took_the_producers_records_costs_an_epoch_and_no_record() {
    let mut world = World::acquainted(1);
    world.forget_producers(0);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::UnknownProducerId));
    world.answer(0);
    world.advance(secs(1));
    assert_eq!(world.numbers_on_the_way(0), [(1, 0)]);
    world.settle();
    assert!(world.fates().into_iter().all(|fate| fate.unwrap().is_ok()));
    assert!(!world.events().iter().any(lost));
}

#[test]
fn a_leader_that_forgot_records_which_it_should_still_have_is_told_as_possible_loss() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::UnknownProducerId));
    world.settle();
    assert!(world.events().iter().any(lost));
    assert!(world.fates().into_iter().all(|fate| fate.unwrap().is_ok()));
}

#[test]
fn nothing_follows_lost_records_where_that_was_asked_for() {
    let mut world = World::new(SenderConfig { on_data_loss: DataLoss::Stop, ..config() }, 2);
    world.send(0, 1);
    world.settle();
    (0..7).for_each(|_| world.send(0, 1));
    world.send(1, 1);
    (0..5).for_each(|_| assert!(world.process(0, Mood::Refuses(ErrorCode::OutOfOrderSequenceNumber))));
    world.settle();
    world.send(0, 1);
    assert_eq!(world.logs[0].records, [0]);
    let fates = world.fates();
    let stopped =
        |at: usize| matches!(fates[at], Some(Err(SendError::DataLoss { possibly_written: false, .. })));
    assert!((1..=7).all(stopped) && stopped(9));
    assert!(matches!(fates[8], Some(Ok(_))));
    assert_eq!(world.events().iter().filter(|event| lost(event)).count(), 1);
}

#[test]
fn numbers_go_on_at_zero_after_the_largest() {
    let mut world = World::acquainted(1);
    world.skip_to_sequence(0, i32::MAX - 1);
    world.send(0, 4);
    world.send(0, 1);
    assert_eq!(world.numbers_on_the_way(0), [(0, i32::MAX - 1), (0, 2)]);
    world.settle();
    assert_eq!(world.logs[0].records, (0..6).collect::<Vec<_>>());
    assert!(!world.events().iter().any(|event| matches!(event, ProducerEvent::EpochBumped { .. })));
}

#[test]
fn a_refused_batch_is_cut_to_batch_size_first_and_then_in_halves() {
    let mut world = World::new(SenderConfig { batch_size: 300, ..config() }, 1);
    world.send(0, 100);
    world.process(0, Mood::Refuses(ErrorCode::MessageTooLarge));
    world.answer(0);
    let parts = world.events().into_iter().find_map(|event| match event {
        ProducerEvent::BatchSplit { parts, .. } => Some(parts),
        _ => None,
    });
    assert!(parts.unwrap() > 4, "{parts:?}");
    world.refuse_larger_than = Some(200);
    world.settle();
    assert_eq!(world.logs[0].records, (0..100).collect::<Vec<_>>());
    assert_eq!(world.offsets(), (0..100).collect::<Vec<_>>());
}

/// Parts of a cut batch once shared one place in line: a part that was refused went behind the others.
#[test]
fn a_part_of_a_cut_batch_that_is_refused_stays_before_the_others() {
    let mut world = World::acquainted(1);
    world.send(0, 8);
    world.process(0, Mood::Refuses(ErrorCode::MessageTooLarge));
    world.answer(0);
    world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas));
    world.answer(0);
    world.settle();
    assert_eq!(world.logs[0].records, (0..9).collect::<Vec<_>>());
}

#[test]
fn cutting_a_batch_resets_the_topics_estimate_and_charges_no_retry() {
    let config = SenderConfig { compression: Compression::Lz4, retries: 0, ..config() };
    let mut world = World::new(config, 1);
    world.send(0, 50);
    world.lanes[0].ratio.observe(1000, 10);
    assert!(world.lanes[0].ratio.get() < 1.0);
    world.process(0, Mood::Refuses(ErrorCode::MessageTooLarge));
    world.answer(0);
    world.settle();
    assert_eq!(world.offsets(), (0..50).collect::<Vec<_>>());
}

#[test]
fn a_retry_to_a_leader_that_moved_meanwhile_skips_its_back_off() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    // Metadata tells of the new leader before the old one refuses.
    world.move_leader(0);
    world.tell_leaders();
    world.process(0, Mood::Fine);
    world.answer(0);
    assert_eq!(world.on_the_way(1), 1);
}

#[test]
fn a_retry_to_the_same_leader_waits_for_its_back_off() {
    let mut world = World::acquainted(1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas));
    world.answer(0);
    assert_eq!(world.on_the_way(0), 0);
    world.advance(millis(60));
    assert_eq!(world.on_the_way(0), 0);
    world.advance(millis(60));
    assert_eq!(world.on_the_way(0), 1);
}

#[test]
fn a_batch_may_be_sent_again_as_often_as_retries_says() {
    let mut world = World::new(SenderConfig { retries: 2, ..config() }, 1);
    world.send(0, 1);
    for _ in 0..3 {
        assert!(world.process(0, Mood::Refuses(ErrorCode::NotEnoughReplicas)));
        world.answer(0);
        world.advance(secs(2));
    }
    let error = world.fates().remove(0).unwrap().unwrap_err();
    assert!(matches!(error, SendError::Refused { code: ErrorCode::NotEnoughReplicas, .. }), "{error}");
}

#[test]
fn an_unknown_topic_id_is_transient_right_after_the_topic_was_made() {
    let mut world = World::new(config(), 1);
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::UnknownTopicId));
    world.settle();
    assert_eq!(world.offsets(), [0]);
}

#[test]
fn nothing_moves_to_a_topic_that_was_made_anew() {
    let mut world = World::acquainted(1);
    (0..6).for_each(|_| world.send(0, 1));
    world.process(0, Mood::Fine);
    assert_eq!(world.on_the_way(0), 4);
    world.sender.retire(0);
    // A record that was addressed to the old lane fails as well.
    world.send(0, 1);
    world.process(0, Mood::Refuses(ErrorCode::UnknownTopicId));
    world.cut(0, false);
    world.act();
    assert_eq!(world.on_the_way(0), 0);
    let fates = world.fates();
    let error = |at: usize| fates[at].as_ref().unwrap().as_ref().unwrap_err();
    // In flight when the connection broke: the old topic may have it. Never sent: surely not.
    assert!(matches!(error(1), SendError::TopicRecreated { possibly_written: true, .. }));
    assert!(matches!(error(6), SendError::TopicRecreated { possibly_written: false, .. }));
    assert!(matches!(error(7), SendError::TopicRecreated { possibly_written: false, .. }));
    assert!(error(6).is_retriable());
    assert!(world.sender.is_idle());
}

#[test]
fn batches_keep_their_order_while_the_codec_gives_them_back_in_another() {
    let mut world = World::new(SenderConfig { compression: Compression::Lz4, ..config() }, 1);
    world.hold_compression = true;
    (0..3).for_each(|_| world.send(0, 2));
    assert_eq!((world.held(), world.on_the_way(0)), (3, 0));
    world.bring_back(2);
    world.bring_back(1);
    world.act();
    assert_eq!(world.on_the_way(0), 0);
    world.bring_back(0);
    world.act();
    assert_eq!(world.on_the_way(0), 1);
    world.settle();
    assert_eq!(world.logs[0].records, (0..6).collect::<Vec<_>>());
}

#[test]
fn a_batch_that_expires_with_the_codec_was_surely_not_written() {
    let mut world = World::new(SenderConfig { compression: Compression::Lz4, ..config() }, 1);
    world.hold_compression = true;
    world.send(0, 1);
    world.advance(secs(120));
    let error = world.fates().remove(0).unwrap().unwrap_err();
    assert!(matches!(error, SendError::Expired { .. }), "{error}");
    world.bring_back(0);
    assert!(world.sender.is_idle());
}

#[test]
fn partitions_of_a_broker_that_takes_nothing_are_avoided_until_it_does() {
    let limit = Some(millis(500));
    let mut world = World::new(SenderConfig { availability_timeout: limit, ..config() }, 2);
    world.send(0, 1);
    world.send(0, 1);
    assert_eq!(world.sender.next_wake(world.now), Some(world.now + millis(500)));
    world.advance(millis(499));
    assert!(!world.lanes[0].load.is_stalled());
    world.advance(millis(1));
    assert!(world.lanes[0].load.is_stalled());
    assert!(!world.lanes[1].load.is_stalled());
    world.settle();
    world.act();
    assert!(!world.lanes[0].load.is_stalled());
}
