//! A share partition against a model that knows each offset by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const LOCK: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits { delivery_count: 5, record_locks: 60, lock_duration: LOCK };

#[derive(Debug, Clone)]
enum Step {
    /// How many records each batch read has, and whether it was aborted.
    Acquire {
        member: usize,
        batches: Vec<(i64, bool)>,
        max_records: i64,
        strict: bool,
    },
    Acknowledge {
        member: usize,
        first: i64,
        count: i64,
        types: Vec<AcknowledgeType>,
        recorded: bool,
    },
    Leave {
        member: usize,
        recorded: bool,
    },
    Wait {
        secs: u64,
        recorded: bool,
    },
    LogStarts {
        by: i64,
    },
    Restart,
}

#[derive(Debug, Clone, PartialEq)]
enum Offset {
    Available(i16),
    Acquired(i16, usize, Instant),
    Done,
}

/// All that is known, offset by offset. What is missing is beyond the end.
struct Model {
    start: i64,
    end: i64,
    offsets: BTreeMap<i64, Offset>,
    /// What is on record, with the start on record.
    recorded: BTreeMap<i64, (i8, i16)>,
    recorded_start: i64,
}

impl Model {
    fn advance(&mut self) {
        while self.start < self.end && self.offsets[&self.start] == Offset::Done {
            self.offsets.remove(&self.start);
            self.start += 1;
        }
    }

    fn record(&mut self, transition: &Transition) {
        self.recorded_start = transition.start_offset;
        for batch in &transition.batches {
            for offset in batch.first..=batch.last {
                self.recorded.insert(offset, (batch.state, batch.delivery_count));
            }
        }
        let start = self.recorded_start;
        self.recorded.retain(|&offset, _| offset >= start);
    }

    fn end_locks(&mut self, ends: impl Fn(usize, Instant) -> bool) {
        for state in self.offsets.values_mut() {
            if let Offset::Acquired(count, member, until) = *state
                && ends(member, until)
            {
                *state = if count >= LIMITS.delivery_count { Offset::Done } else { Offset::Available(count) };
            }
        }
    }

    fn acknowledge(&mut self, member: usize, asked: &Acknowledgement, now: Instant) -> Result<(), ()> {
        if asked.last < self.start {
            return Ok(());
        }
        let range = asked.first.max(self.start)..=asked.last;
        let held = |offset: &i64| matches!(self.offsets.get(offset), Some(Offset::Acquired(_, holder, _)) if *holder == member);
        if asked.last >= self.end || !range.clone().all(|offset| held(&offset)) {
            return Err(());
        }
        for offset in range {
            let Some(Offset::Acquired(count, ..)) = self.offsets.get(&offset) else { return Err(()) };
            let kind = match asked.types.as_slice() {
                [one] => *one,
                types => types[usize::try_from(offset - asked.first).unwrap()],
            };
            let next = match kind {
                AcknowledgeType::Release if *count < LIMITS.delivery_count => Offset::Available(*count),
                AcknowledgeType::Renew => Offset::Acquired(*count, member, now + LOCK),
                _ => Offset::Done,
            };
            self.offsets.insert(offset, next);
        }
        Ok(())
    }
}

fn check(partition: &mut SharePartition, model: &Model) {
    assert_eq!((partition.start_offset(), partition.end_offset()), (model.start, model.end));
    let mut known = BTreeMap::new();
    for run in partition.in_flight.iter() {
        for offset in run.first..=run.last {
            known.insert(
                offset,
                match &run.value.state {
                    RecordState::Available => Offset::Available(run.value.delivery_count),
                    RecordState::Acquired { member, until } => {
                        Offset::Acquired(run.value.delivery_count, member.parse().unwrap(), *until)
                    }
                    _ => Offset::Done,
                },
            );
        }
    }
    assert_eq!(known, model.offsets);
    let available = model.offsets.iter().find(|(_, state)| matches!(state, Offset::Available(_)));
    assert_eq!(partition.next_fetch_offset(), available.map_or(model.end, |(&offset, _)| offset));
    let until = |state: &Offset| if let Offset::Acquired(_, _, until) = state { Some(*until) } else { None };
    assert_eq!(partition.next_deadline(), model.offsets.values().filter_map(until).min());
}

fn run(steps: Vec<Step>) {
    let mut now = Instant::now();
    let mut partition = SharePartition::new(10, &[], LIMITS);
    let mut model =
        Model { start: 10, end: 10, offsets: BTreeMap::new(), recorded: BTreeMap::new(), recorded_start: 10 };
    let settle = |partition: &mut SharePartition, model: &mut Model, transition: Transition| {
        model.record(&transition);
        partition.commit(transition);
        model.advance();
    };
    for step in steps {
        match step {
            Step::Acquire { member, batches, max_records, strict } => {
                let mut base = partition.next_fetch_offset();
                let read: Vec<_> = batches
                    .iter()
                    .map(|&(count, is_aborted)| {
                        let batch = LogBatch { base_offset: base, last_offset: base + count - 1, is_aborted };
                        base += count;
                        batch
                    })
                    .collect();
                let name: Arc<str> = member.to_string().into();
                let mode = if strict { AcquireMode::RecordLimit } else { AcquireMode::BatchOptimized };
                let could = partition.can_acquire();
                let acquired = partition.acquire(&Acquire {
                    member: &name,
                    read: &read,
                    max_records,
                    batch_size: 4,
                    mode,
                    now,
                });
                let count: i64 = acquired.iter().map(|run| run.last - run.first + 1).sum();
                assert!(could || count == 0, "acquired from a full window");
                assert!(!strict || count <= max_records);
                let whole = batches.iter().map(|(count, _)| *count).max().unwrap_or(0);
                assert!(count < max_records + whole.max(1));
                let was_aborted = |offset: i64| {
                    read.iter().any(|it| it.is_aborted && (it.base_offset..=it.last_offset).contains(&offset))
                };
                // What was aborted is archived as far as it would have been acquired; the model takes that as it is.
                let mut withheld = 0;
                for run in partition.in_flight.iter().filter(|run| run.value.state == RecordState::Archived) {
                    for offset in run.first..=run.last {
                        let known = model.offsets.get(&offset);
                        if matches!(known, None | Some(Offset::Available(_))) && was_aborted(offset) {
                            model.offsets.insert(offset, Offset::Done);
                            withheld += 1;
                        }
                    }
                }
                for offset in model.end..partition.end_offset() {
                    let gone = offset < partition.start_offset();
                    assert!(!gone || was_aborted(offset), "{offset} is passed over");
                }
                for offset in model.start..partition.start_offset() {
                    let is_done = matches!(model.offsets.get(&offset), Some(Offset::Done));
                    assert!(is_done || was_aborted(offset), "{offset} is passed over");
                    model.offsets.insert(offset, Offset::Done);
                    withheld += 1;
                }
                // Somebody who reads from the next fetch offset gets something.
                assert!(!could || read.is_empty() || count + withheld > 0, "nothing acquired");
                for run in acquired {
                    for offset in run.first..=run.last {
                        let delivered = match model.offsets.get(&offset) {
                            Some(Offset::Available(count)) => *count,
                            None => {
                                assert!(offset >= model.end);
                                0
                            }
                            other => panic!("{offset} was {other:?}"),
                        };
                        assert_eq!(run.delivery_count, delivered + 1);
                        assert!(!was_aborted(offset), "{offset} was aborted");
                        model.offsets.insert(offset, Offset::Acquired(delivered + 1, member, now + LOCK));
                    }
                }
                model.end = model.end.max(partition.end_offset());
                model.advance();
            }
            Step::Acknowledge { member, first, count, types, recorded } => {
                let types = if types.len() == 1 {
                    types
                } else {
                    types.iter().cycle().take(usize::try_from(count).unwrap()).copied().collect()
                };
                let first = model.start + first;
                let asked = Acknowledgement { first, last: first + count - 1, types };
                let answer = partition.acknowledge(&member.to_string(), std::slice::from_ref(&asked), now);
                let before = model.offsets.clone();
                let expected = model.acknowledge(member, &asked, now);
                assert_eq!(answer.is_ok(), expected.is_ok(), "{asked:?}");
                match answer {
                    Ok(transition) if recorded => settle(&mut partition, &mut model, transition),
                    Ok(transition) => {
                        model.offsets = before;
                        partition.roll_back(transition);
                    }
                    Err(_) => {}
                }
            }
            Step::Leave { member, recorded } => {
                let transition = partition.release_member(&member.to_string());
                match recorded {
                    true => {
                        model.end_locks(|holder, _| holder == member);
                        settle(&mut partition, &mut model, transition);
                    }
                    false => partition.roll_back(transition),
                }
            }
            Step::Wait { secs, recorded } => {
                now += Duration::from_secs(secs);
                let transition = partition.expire(now);
                match recorded {
                    true => {
                        model.end_locks(|_, until| until <= now);
                        settle(&mut partition, &mut model, transition);
                    }
                    false => partition.roll_back(transition),
                }
            }
            Step::LogStarts { by } => {
                let start = model.start + by;
                let transition = partition.log_starts_at(start);
                model.offsets.retain(|&offset, _| offset >= start);
                model.start = start;
                model.end = model.end.max(start);
                settle(&mut partition, &mut model, transition);
            }
            Step::Restart => {
                let batches: Vec<_> = model
                    .recorded
                    .iter()
                    .map(|(&offset, &(state, delivery_count))| StateBatch {
                        first: offset,
                        last: offset,
                        state,
                        delivery_count,
                    })
                    .collect();
                partition = SharePartition::new(model.recorded_start, &batches, LIMITS);
                // What is on record as done stays done, and nothing else is.
                assert!(partition.start_offset() >= model.recorded_start);
                let done = |offset| matches!(model.recorded.get(&offset), Some((2 | 4, _)));
                for run in partition.in_flight.iter() {
                    for offset in run.first..=run.last {
                        assert_eq!(run.value.state.is_done(), done(offset), "{offset}");
                    }
                }
                model.start = partition.start_offset();
                model.end = partition.end_offset();
                model.offsets.clear();
                for run in partition.in_flight.iter() {
                    for offset in run.first..=run.last {
                        let state = match run.value.state {
                            RecordState::Available => Offset::Available(run.value.delivery_count),
                            _ => Offset::Done,
                        };
                        model.offsets.insert(offset, state);
                    }
                }
            }
        }
        check(&mut partition, &model);
    }
}

fn acknowledge_type() -> impl Strategy<Value = AcknowledgeType> {
    prop_oneof![
        1 => Just(AcknowledgeType::Gap),
        3 => Just(AcknowledgeType::Accept),
        3 => Just(AcknowledgeType::Release),
        1 => Just(AcknowledgeType::Reject),
        1 => Just(AcknowledgeType::Renew),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let recorded = || prop::bool::weighted(0.9);
    prop_oneof![
        5 => (0usize..3, prop::collection::vec((1i64..8, prop::bool::weighted(0.2)), 0..5), 1i64..20, any::<bool>()).prop_map(
            |(member, batches, max_records, strict)| Step::Acquire { member, batches, max_records, strict }
        ),
        6 => (0usize..3, -3i64..12, 1i64..12, prop::collection::vec(acknowledge_type(), 1..4), recorded()).prop_map(
            |(member, first, count, types, recorded)| Step::Acknowledge { member, first, count, types, recorded }
        ),
        1 => (0usize..3, recorded()).prop_map(|(member, recorded)| Step::Leave { member, recorded }),
        2 => (0u64..40, recorded()).prop_map(|(secs, recorded)| Step::Wait { secs, recorded }),
        1 => (0i64..6).prop_map(|by| Step::LogStarts { by }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn a_share_partition_is_what_a_map_of_offsets_would_be(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}

fn acquire(partition: &mut SharePartition, last: i64, max_records: i64, now: Instant) -> Vec<Acquired> {
    let base_offset = partition.next_fetch_offset();
    let read = [LogBatch { base_offset, last_offset: last, is_aborted: false }];
    let member: Arc<str> = "m".into();
    let mode = AcquireMode::BatchOptimized;
    partition.acquire(&Acquire { member: &member, read: &read, max_records, batch_size: 500, mode, now })
}

#[test]
fn a_record_that_breaks_its_consumers_comes_in_ever_smaller_company_and_is_given_up() {
    let mut now = Instant::now();
    let mut partition = SharePartition::new(0, &[], LIMITS);
    let mut company = Vec::new();
    for _ in 0..5 {
        let acquired = acquire(&mut partition, 15, 500, now);
        company.push((acquired[0].last - acquired[0].first + 1, acquired[0].delivery_count));
        now += LOCK;
        let ended = partition.expire(now);
        partition.commit(ended);
    }
    // 16 records at first; from the third delivery of five on, half and a quarter of what is left, then one by one.
    assert_eq!(company, [(16, 1), (16, 2), (16, 3), (8, 4), (1, 5)]);
    assert_eq!(partition.start_offset(), 1);
}

#[test]
fn a_full_window_gives_nothing_until_its_front_is_done() {
    let now = Instant::now();
    let mut partition = SharePartition::new(0, &[], LIMITS);
    assert_eq!(acquire(&mut partition, 99, 500, now).last().map(|run| run.last), Some(99));
    assert!(!partition.can_acquire());
    let accept = Acknowledgement { first: 0, last: 49, types: vec![AcknowledgeType::Accept] };
    let accepted = partition.acknowledge("m", &[accept], now).unwrap();
    assert_eq!((accepted.start_offset, accepted.batches.len()), (50, 0));
    partition.commit(accepted);
    assert!(partition.can_acquire());
}

#[test]
fn what_compaction_took_away_is_not_waited_for() {
    let now = Instant::now();
    let mut partition = SharePartition::new(0, &[], LIMITS);
    let member: Arc<str> = "m".into();
    let read = [LogBatch { base_offset: 5, last_offset: 6, is_aborted: false }];
    let mode = AcquireMode::BatchOptimized;
    let acquired = partition.acquire(&Acquire {
        member: &member,
        read: &read,
        max_records: 9,
        batch_size: 9,
        mode,
        now,
    });
    assert_eq!(acquired, [Acquired { first: 5, last: 6, delivery_count: 1 }]);
    assert_eq!(partition.start_offset(), 5);
}

#[test]
fn an_acknowledgement_of_anothers_record_changes_nothing() {
    let now = Instant::now();
    let mut partition = SharePartition::new(0, &[], LIMITS);
    acquire(&mut partition, 9, 500, now);
    let accept = |first, last| Acknowledgement { first, last, types: vec![AcknowledgeType::Accept] };
    let refused = partition.acknowledge("m", &[accept(0, 4), accept(8, 12)], now);
    assert_eq!(refused, Err(Refused::PastTheEnd { offset: 12 }));
    assert_eq!(partition.acknowledge("n", &[accept(0, 4)], now), Err(Refused::NotTheOwner { offset: 0 }));
    assert_eq!(partition.start_offset(), 0);
    let transition = partition.acknowledge("m", &[accept(0, 9)], now).unwrap();
    partition.commit(transition);
    assert_eq!(partition.start_offset(), 10);
}

#[test]
fn what_was_aborted_is_given_to_nobody_and_not_waited_for() {
    let now = Instant::now();
    let mut partition = SharePartition::new(0, &[], LIMITS);
    let member: Arc<str> = "m".into();
    let batch = |base_offset, last_offset, is_aborted| LogBatch { base_offset, last_offset, is_aborted };
    let read = [batch(0, 3, true), batch(4, 5, false), batch(6, 8, true), batch(9, 9, false)];
    let mode = AcquireMode::BatchOptimized;
    let ask = Acquire { member: &member, read: &read, max_records: 10, batch_size: 500, mode, now };
    let acquired = partition.acquire(&ask);
    let given: Vec<_> = acquired.iter().map(|run| (run.first, run.last)).collect();
    assert_eq!(given, [(4, 5), (9, 9)]);
    assert_eq!(partition.start_offset(), 4);
    let accept = |first, last| Acknowledgement { first, last, types: vec![AcknowledgeType::Accept] };
    let accepted = partition.acknowledge("m", &[accept(4, 5), accept(9, 9)], now).unwrap();
    assert_eq!(accepted.start_offset, 10);
}
