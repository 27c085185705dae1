//! What was promised, against what is in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::trace::lock;

/// What a caller was told about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: the call, or the delivery, is still open.
    Open,
    /// It was not taken: `send` failed, or was dropped before it was ready.
    NotTaken(String),
    /// It was written.
    Acknowledged {
        /// The partition.
        partition: i32,
        /// The offset; -1 where it is not known.
        offset: i64,
    },
    /// It was not acknowledged, and is not in the log.
    Failed(String),
    /// It was not acknowledged, and may be in the log.
    PossiblyWritten(String),
    /// Nobody asked.
    Ignored,
}

/// A record that was given to a producer.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its number in the whole run, which is also its value.
    pub id: u64,
    /// The task that sent it; records of one task have an order.
    pub sender: u32,
    /// The partition that was asked for.
    pub partition: Option<i32>,
    /// When `send` returned it, since the start of the run.
    pub taken_at: Option<Duration>,
    /// When its outcome was told, since the start of the run.
    pub told_at: Option<Duration>,
    /// What was told.
    pub outcome: Outcome,
}

/// Everything that was given to producers. Clones are the same history.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Vec<Sent>>>);

impl History {
    /// Notes a record that is about to be sent, and numbers it. `None` once there are `limit` of them.
    pub fn begin(&self, sender: u32, partition: Option<i32>, limit: u32) -> Option<u64> {
        let mut sent = lock(&self.0);
        let id = sent.len() as u64;
        if id >= u64::from(limit) {
            return None;
        }
        sent.push(Sent { id, sender, partition, taken_at: None, told_at: None, outcome: Outcome::Open });
        Some(id)
    }

    /// Notes that a producer took it.
    pub fn taken(&self, id: u64, at: Duration) {
        if let Some(sent) = lock(&self.0).get_mut(id as usize) {
            sent.taken_at = Some(at);
        }
    }

    /// Notes what was told.
    pub fn told(&self, id: u64, at: Duration, outcome: Outcome) {
        if let Some(sent) = lock(&self.0).get_mut(id as usize) {
            sent.told_at = Some(at);
            sent.outcome = outcome;
        }
    }

    /// The records so far.
    pub fn records(&self) -> Vec<Sent> {
        lock(&self.0).clone()
    }
}

/// A partition's records, as a consumer would see them.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// The first offset that is still there.
    pub log_start_offset: i64,
    /// The offset after the last one.
    pub next_offset: i64,
    /// Offsets and the records' numbers, in the order of the log; `None` for what is no record of ours.
    pub records: Vec<(i64, Option<u64>)>,
}

/// What the settings promise.
#[derive(Debug, Clone, Copy)]
pub struct Promises {
    /// Records are written at most once and in order.
    pub idempotent: bool,
    /// An acknowledgement means that a broker wrote the record.
    pub acknowledged_means_written: bool,
    /// How long a record may take from `send` to its outcome.
    pub answered_within: Duration,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A send that nobody answered.
    Unanswered {
        /// The record.
        id: u64,
    },
    /// A send that was answered later than it may be.
    AnsweredLate {
        /// The record.
        id: u64,
        /// How long it took.
        after: Duration,
    },
    /// An acknowledged record that is not in the log, or not where it was said to be.
    Lost {
        /// The record.
        id: u64,
        /// Where it was said to be.
        partition: i32,
        /// Where it was said to be.
        offset: i64,
        /// Where it is.
        found: Option<(i32, i64)>,
    },
    /// A record that is in the log more than once.
    Duplicated {
        /// The record.
        id: u64,
        /// Partitions and offsets.
        at: Vec<(i32, i64)>,
    },
    /// A record that is in the log although the caller was told that it is not.
    WrittenAfterAll {
        /// The record.
        id: u64,
        /// Where it is.
        at: (i32, i64),
        /// What was told.
        told: Outcome,
    },
    /// A record in another partition than the one asked for.
    Misplaced {
        /// The record.
        id: u64,
        /// Where it is.
        at: (i32, i64),
    },
    /// A record that stands behind one which its sender sent later.
    OutOfOrder {
        /// The record.
        id: u64,
        /// The later one that stands before it.
        behind: u64,
        /// Where it is.
        at: (i32, i64),
    },
    /// Something in the log that nobody sent.
    Unknown {
        /// Where it is.
        at: (i32, i64),
    },
    /// Offsets that do not grow.
    Offsets {
        /// Where.
        at: (i32, i64),
    },
    /// Something else went wrong.
    Other(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered { id } => write!(f, "record {id} was never answered"),
            Self::AnsweredLate { id, after } => write!(f, "record {id} was answered only after {after:?}"),
            Self::Lost { id, partition, offset, found } => {
                write!(f, "record {id}, acknowledged at {offset} of partition {partition}, is ")?;
                match found {
                    Some((partition, offset)) => write!(f, "at {offset} of partition {partition}"),
                    None => f.write_str("lost"),
                }
            }
            Self::Duplicated { id, at } => write!(f, "record {id} was written {} times: {at:?}", at.len()),
            Self::WrittenAfterAll { id, at, told } => {
                write!(f, "record {id} is at {at:?}, although its sender was told {told:?}")
            }
            Self::Misplaced { id, at } => write!(f, "record {id} went to {at:?}, not where it was sent"),
            Self::OutOfOrder { id, behind, at } => {
                write!(f, "record {id} at {at:?} stands behind record {behind}, which was sent later")
            }
            Self::Unknown { at } => write!(f, "nobody sent what is at {at:?}"),
            Self::Offsets { at } => write!(f, "offsets do not grow at {at:?}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Compares what callers were told with what is in the log.
pub fn check(sent: &[Sent], log: &BTreeMap<i32, Written>, promises: Promises) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut places: BTreeMap<u64, Vec<(i32, i64)>> = BTreeMap::new();
    for (&partition, written) in log {
        let mut previous = -1;
        for &(offset, id) in &written.records {
            let at = (partition, offset);
            if offset <= previous {
                violations.push(Violation::Offsets { at });
            }
            previous = offset;
            match id.filter(|id| (*id as usize) < sent.len()) {
                Some(id) => places.entry(id).or_default().push(at),
                None => violations.push(Violation::Unknown { at }),
            }
        }
    }
    for record in sent {
        let at = places.get(&record.id).map_or(&[][..], Vec::as_slice);
        check_record(record, at, log, promises, &mut violations);
    }
    if promises.idempotent {
        check_order(sent, log, &mut violations);
    }
    violations
}

fn check_record(
    record: &Sent,
    places: &[(i32, i64)],
    log: &BTreeMap<i32, Written>,
    promises: Promises,
    violations: &mut Vec<Violation>,
) {
    let id = record.id;
    if let (Some(taken_at), Some(told_at)) = (record.taken_at, record.told_at) {
        let after = told_at.saturating_sub(taken_at);
        if after > promises.answered_within {
            violations.push(Violation::AnsweredLate { id, after });
        }
    }
    if promises.idempotent && places.len() > 1 {
        violations.push(Violation::Duplicated { id, at: places.to_vec() });
    }
    if let (Some(asked), Some(&at)) = (record.partition, places.first())
        && at.0 != asked
    {
        violations.push(Violation::Misplaced { id, at });
    }
    match &record.outcome {
        Outcome::Open => violations.push(Violation::Unanswered { id }),
        Outcome::Acknowledged { partition, offset } if promises.acknowledged_means_written => {
            let deleted = log.get(partition).is_some_and(|log| log.log_start_offset > *offset);
            let there = match offset {
                // Its place is not known: anywhere in the partition will do.
                -1 => places.iter().any(|(found, _)| found == partition),
                _ => places.contains(&(*partition, *offset)),
            };
            if !there && !deleted {
                let (partition, offset) = (*partition, *offset);
                violations.push(Violation::Lost { id, partition, offset, found: places.first().copied() });
            }
        }
        told @ (Outcome::NotTaken(_) | Outcome::Failed(_)) => {
            if let Some(&at) = places.first() {
                violations.push(Violation::WrittenAfterAll { id, at, told: told.clone() });
            }
        }
        Outcome::Acknowledged { .. } | Outcome::PossiblyWritten(_) | Outcome::Ignored => {}
    }
}

/// Numbers grow in the order of `send`, so within a partition each sender's numbers must grow too.
fn check_order(sent: &[Sent], log: &BTreeMap<i32, Written>, violations: &mut Vec<Violation>) {
    for (&partition, written) in log {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for &(offset, id) in &written.records {
            let Some(record) = id.and_then(|id| sent.get(id as usize)) else { continue };
            let latest = last.entry(record.sender).or_insert(record.id);
            if record.id < *latest {
                let at = (partition, offset);
                violations.push(Violation::OutOfOrder { id: record.id, behind: *latest, at });
            }
            *latest = record.id.max(*latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Promises = Promises {
        idempotent: true,
        acknowledged_means_written: true,
        answered_within: Duration::from_secs(10),
    };

    fn record(id: u64, outcome: Outcome) -> Sent {
        let (taken_at, told_at) = (Some(Duration::ZERO), Some(Duration::from_secs(1)));
        Sent { id, sender: 0, partition: Some(0), taken_at, told_at, outcome }
    }

    fn acknowledged(id: u64, offset: i64) -> Sent {
        record(id, Outcome::Acknowledged { partition: 0, offset })
    }

    fn log(ids: &[u64]) -> BTreeMap<i32, Written> {
        let records = ids.iter().zip(0..).map(|(&id, offset)| (offset, Some(id))).collect();
        BTreeMap::from([(0, Written { records, ..Written::default() })])
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
        assert_eq!(check(&sent, &log(&[0, 3, 5]), STRICT), []);
    }

    #[test]
    fn an_acknowledged_record_that_is_lost_is_noticed() {
        let lost = Violation::Lost { id: 0, partition: 0, offset: 0, found: None };
        assert_eq!(check(&[acknowledged(0, 0)], &log(&[]), STRICT), [lost]);
        let elsewhere = Violation::Lost { id: 0, partition: 0, offset: 1, found: Some((0, 0)) };
        assert_eq!(check(&[acknowledged(0, 1)], &log(&[0]), STRICT), [elsewhere]);
    }

    #[test]
    fn what_retention_deleted_is_not_lost() {
        let mut log = log(&[]);
        log.get_mut(&0).unwrap().log_start_offset = 1;
        assert_eq!(check(&[acknowledged(0, 0)], &log, STRICT), []);
    }

    #[test]
    fn a_record_that_was_written_twice_is_noticed_with_idempotence_only() {
        let sent = [acknowledged(0, 0)];
        let twice = Violation::Duplicated { id: 0, at: vec![(0, 0), (0, 1)] };
        assert_eq!(check(&sent, &log(&[0, 0]), STRICT), [twice]);
        assert_eq!(check(&sent, &log(&[0, 0]), Promises { idempotent: false, ..STRICT }), []);
    }

    #[test]
    fn disorder_is_noticed_for_each_sender() {
        let sent = [acknowledged(0, 1), acknowledged(1, 0)];
        let disorder = Violation::OutOfOrder { id: 0, behind: 1, at: (0, 1) };
        assert_eq!(check(&sent, &log(&[1, 0]), STRICT), [disorder]);
        let other = Sent { sender: 1, ..acknowledged(0, 1) };
        assert_eq!(check(&[other, acknowledged(1, 0)], &log(&[1, 0]), STRICT), []);
    }

    #[test]
    fn a_failed_record_that_was_written_is_noticed() {
        for outcome in [Outcome::Failed("expired".into()), Outcome::NotTaken("full".into())] {
            let sent = [record(0, outcome.clone())];
            let there = Violation::WrittenAfterAll { id: 0, at: (0, 0), told: outcome };
            assert_eq!(check(&sent, &log(&[0]), STRICT), [there]);
        }
    }

    #[test]
    fn a_send_without_an_answer_or_with_a_late_one_is_noticed() {
        let late = Sent { told_at: Some(Duration::from_secs(11)), ..acknowledged(1, 0) };
        let sent = [Sent { told_at: None, ..record(0, Outcome::Open) }, late];
        let after = Duration::from_secs(11);
        let expected = [Violation::Unanswered { id: 0 }, Violation::AnsweredLate { id: 1, after }];
        assert_eq!(check(&sent, &log(&[1]), STRICT), expected);
    }

    #[test]
    fn what_nobody_sent_or_sent_elsewhere_is_noticed() {
        assert_eq!(check(&[], &log(&[7]), STRICT), [Violation::Unknown { at: (0, 0) }]);
        let sent = [Sent { partition: Some(1), ..record(0, Outcome::Ignored) }];
        assert_eq!(check(&sent, &log(&[0]), STRICT), [Violation::Misplaced { id: 0, at: (0, 0) }]);
    }
}
