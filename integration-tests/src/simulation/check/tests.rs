//! Histories that are broken on purpose: each promise's breach is noticed, and nothing else is taken for one.

use super::*;

const STRICT: Promises = Promises {
    idempotent: true,
    acknowledged_means_written: true,
    loss: Loss::None,
    kept_until_deleted: false,
    answered_within: secs(10),
};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn record(id: u64, outcome: Outcome) -> Sent {
    Sent { id, sender: 0, partition: Some(0), taken_at: Some(secs(0)), told_at: Some(secs(1)), outcome }
}

fn acknowledged(id: u64, offset: i64) -> Sent {
    record(id, Outcome::Acknowledged { partition: 0, offset })
}

fn acknowledged_at(id: u64, offset: i64, told_at: Duration) -> Sent {
    Sent { told_at: Some(told_at), ..acknowledged(id, offset) }
}

fn log(ids: &[u64]) -> Incarnation {
    let records = ids.iter().zip(0..).map(|(&id, offset)| (offset, Some(id))).collect();
    Incarnation {
        log: BTreeMap::from([(0, Written { records, ..Written::default() })]),
        ..Default::default()
    }
}

fn begins_at(log_start_offset: i64) -> Incarnation {
    let mut log = log(&[]);
    log.log.entry(0).or_default().log_start_offset = log_start_offset;
    log
}

fn strictly(sent: &[Sent], topic: Incarnation) -> Vec<Violation> {
    check(sent, &[topic], &STRICT)
}

fn lost(id: u64, offset: i64) -> Violation {
    Violation::Lost { id, partition: 0, offset, found: None }
}

#[test]
fn a_history_that_keeps_every_promise_passes() {
    let sent = [
        acknowledged(0, 0),
        record(1, Outcome::Failed("expired".into())),
        record(2, Outcome::PossiblyWritten("unanswered".into())),
        record(3, Outcome::PossiblyWritten("unanswered".into())),
        record(4, Outcome::Ignored),
        acknowledged(5, 2),
    ];
    assert_eq!(strictly(&sent, log(&[0, 3, 5])), []);
}

#[test]
fn an_acknowledged_record_that_is_lost_is_noticed() {
    assert_eq!(strictly(&[acknowledged(0, 0)], log(&[])), [lost(0, 0)]);
    let elsewhere = Violation::Lost { id: 0, partition: 0, offset: 1, found: Some((0, 0)) };
    assert_eq!(strictly(&[acknowledged(0, 1)], log(&[0])), [elsewhere]);
    let any = Promises { loss: Loss::Any, ..STRICT };
    assert_eq!(check(&[acknowledged(0, 0)], &[log(&[])], &any), []);
}

#[test]
fn what_was_deleted_is_not_lost() {
    assert_eq!(strictly(&[acknowledged(0, 0)], begins_at(1)), []);
}

#[test]
fn a_log_that_begins_behind_what_was_to_be_deleted_is_noticed() {
    let kept = Promises { kept_until_deleted: true, ..STRICT };
    let asked = |offset| Incarnation { deleted_up_to: BTreeMap::from([(0, offset)]), ..begins_at(3) };
    assert_eq!(check(&[], &[asked(3)], &kept), []);
    let too_much = Violation::DeletedTooMuch { partition: 0, log_start_offset: 3, asked: 2 };
    assert_eq!(check(&[], &[asked(2)], &kept), [too_much]);
}

#[test]
fn records_that_come_back_after_their_deletion_are_noticed() {
    let deleted =
        |offset| Incarnation { surely_deleted_up_to: BTreeMap::from([(0, offset)]), ..begins_at(3) };
    assert_eq!(strictly(&[], deleted(3)), []);
    let back = Violation::StillThere { partition: 0, log_start_offset: 3, deleted: 4 };
    assert_eq!(strictly(&[], deleted(4)), [back]);
}

#[test]
fn a_power_cut_may_take_the_newest_records_and_no_others() {
    let cuts =
        |unsynced_for| Promises { loss: Loss::PowerCuts { at: vec![secs(5)], unsynced_for }, ..STRICT };
    let sent = [acknowledged(0, 0), acknowledged_at(1, 1, secs(4)), acknowledged_at(2, 1, secs(6))];
    // Record 1 is gone, and record 2 stands where it was.
    assert_eq!(check(&sent, &[log(&[0, 2])], &cuts(None)), []);
    assert_eq!(check(&sent, &[log(&[0])], &cuts(None)), [lost(2, 1)]);
    // What was synced is not lost.
    assert_eq!(check(&sent, &[log(&[2])], &cuts(Some(secs(2)))).first(), Some(&lost(0, 0)));
    assert_eq!(check(&sent, &[log(&[0, 2])], &cuts(Some(secs(2)))), []);
}

#[test]
fn a_record_that_a_power_cut_took_from_the_middle_is_noticed() {
    let cut = Promises { loss: Loss::PowerCuts { at: vec![secs(5)], unsynced_for: None }, ..STRICT };
    let mut hole = log(&[]);
    hole.log.entry(0).or_default().records = vec![(1, Some(1))];
    let noticed = Violation::LostBeforeTheEnd { id: 0, at: (0, 0), survivor: (0, 1) };
    assert_eq!(check(&[acknowledged(0, 0), acknowledged(1, 1)], &[hole], &cut), [noticed]);
}

#[test]
fn a_topic_that_was_deleted_takes_its_records_with_it() {
    let old = |ids| Incarnation { deleted_at: Some(secs(3)), ..log(ids) };
    let before = acknowledged(0, 0);
    let meanwhile = acknowledged_at(1, 0, secs(4));
    let after = Sent { taken_at: Some(secs(4)), ..acknowledged_at(2, 0, secs(5)) };
    let sent = [before, meanwhile, after];
    assert_eq!(check(&sent, &[old(&[0]), log(&[2])], &STRICT), []);
    // What was acknowledged before was there, and what was sent afterwards is.
    assert_eq!(check(&sent, &[old(&[]), log(&[])], &STRICT), [lost(0, 0), lost(2, 0)]);
    // Nobody could look before it was gone.
    let unseen = Incarnation { log: BTreeMap::new(), ..old(&[]) };
    assert_eq!(check(&sent, &[unseen, log(&[2])], &STRICT), []);
}

#[test]
fn a_record_in_two_incarnations_of_a_topic_was_written_twice() {
    let old = Incarnation { deleted_at: Some(secs(3)), ..log(&[0]) };
    let twice = Violation::Duplicated { id: 0, at: vec![(0, 0), (0, 0)] };
    assert_eq!(check(&[acknowledged(0, 0)], &[old, log(&[0])], &STRICT), [twice]);
}

#[test]
fn a_record_that_was_written_twice_is_noticed_with_idempotence_only() {
    let sent = [acknowledged(0, 0)];
    let twice = Violation::Duplicated { id: 0, at: vec![(0, 0), (0, 1)] };
    assert_eq!(strictly(&sent, log(&[0, 0])), [twice]);
    assert_eq!(check(&sent, &[log(&[0, 0])], &Promises { idempotent: false, ..STRICT }), []);
}

#[test]
fn disorder_is_noticed_for_each_sender() {
    let sent = [acknowledged(0, 1), acknowledged(1, 0)];
    let disorder = Violation::OutOfOrder { id: 0, behind: 1, at: (0, 1) };
    assert_eq!(strictly(&sent, log(&[1, 0])), [disorder]);
    let other = Sent { sender: 1, ..acknowledged(0, 1) };
    assert_eq!(strictly(&[other, acknowledged(1, 0)], log(&[1, 0])), []);
}

#[test]
fn a_failed_record_that_was_written_is_noticed() {
    for outcome in [Outcome::Failed("expired".into()), Outcome::NotTaken("full".into())] {
        let sent = [record(0, outcome.clone())];
        let there = Violation::WrittenAfterAll { id: 0, at: (0, 0), told: outcome };
        assert_eq!(strictly(&sent, log(&[0])), [there]);
    }
}

#[test]
fn a_send_without_an_answer_or_with_a_late_one_is_noticed() {
    let sent = [Sent { told_at: None, ..record(0, Outcome::Open) }, acknowledged_at(1, 0, secs(11))];
    let expected = [Violation::Unanswered { id: 0 }, Violation::AnsweredLate { id: 1, after: secs(11) }];
    assert_eq!(strictly(&sent, log(&[1])), expected);
}

#[test]
fn what_nobody_sent_or_sent_elsewhere_is_noticed() {
    assert_eq!(strictly(&[], log(&[7])), [Violation::Unknown { at: (0, 0) }]);
    let sent = [Sent { partition: Some(1), ..record(0, Outcome::Ignored) }];
    assert_eq!(strictly(&sent, log(&[0])), [Violation::Misplaced { id: 0, at: (0, 0) }]);
}

/// Whatever single thing is done to a log that keeps every promise, the checker notices.
#[test]
fn every_single_mutation_of_a_good_log_is_noticed() {
    let count = 12;
    let sent: Vec<Sent> = (0..count).map(|id| acknowledged(id, id as i64)).collect();
    let ids: Vec<u64> = (0..count).collect();
    assert_eq!(strictly(&sent, log(&ids)), []);
    for at in 0..ids.len() {
        let (mut lost, mut doubled) = (ids.clone(), ids.clone());
        lost.remove(at);
        doubled.insert(at, ids[at]);
        assert_ne!(strictly(&sent, log(&lost)), [], "without record {at}");
        assert_ne!(strictly(&sent, log(&doubled)), [], "record {at} twice");
        for other in at + 1..ids.len() {
            let mut swapped = ids.clone();
            swapped.swap(at, other);
            let found = strictly(&sent, log(&swapped));
            let disorder = |it: &Violation| matches!(it, Violation::OutOfOrder { .. });
            assert!(found.iter().any(disorder), "records {at} and {other} swapped: {found:?}");
        }
    }
}
