//! What was promised, against what is in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::history::{Outcome, Sent};

/// A partition's records, as a consumer would see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The first offset that is still there.
    pub log_start_offset: i64,
    /// The offset after the last one.
    pub next_offset: i64,
    /// Offsets and the records' numbers, in the order of the log; `None` for what is no record of ours.
    pub records: Vec<(i64, Option<u64>)>,
}

/// The partitions of a topic from its creation to its deletion.
#[derive(Debug, Clone, Default)]
pub struct Incarnation {
    /// What is in them, or was when they were deleted.
    pub log: BTreeMap<i32, Written>,
    /// When the topic was deleted, since the start of the run.
    pub deleted_at: Option<Duration>,
    /// How far an admin asked to delete records, by partition.
    pub deleted_up_to: BTreeMap<i32, i64>,
    /// How far it was told that they are deleted.
    pub surely_deleted_up_to: BTreeMap<i32, i64>,
}

/// Which acknowledged records may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// None.
    None,
    /// The newest ones at a power cut.
    PowerCuts {
        /// When the power was cut, since the start of the run.
        at: Vec<Duration>,
        /// Only what was acknowledged at most that long before; `None` for any time.
        unsynced_for: Option<Duration>,
    },
    /// Any: the settings promise nothing.
    Any,
}

/// What the settings promise.
#[derive(Debug, Clone)]
pub struct Promises {
    /// Records are written at most once and in order.
    pub idempotent: bool,
    /// An acknowledgement means that a broker wrote the record.
    pub acknowledged_means_written: bool,
    /// What is lost all the same.
    pub loss: Loss,
    /// Records are deleted by nobody but an admin who says up to where.
    pub kept_until_deleted: bool,
    /// How long a record may take from `send` to its outcome.
    pub answered_within: Duration,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A record that no member of the group processed.
    Skipped {
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// A partition that two members owned at a time.
    OwnedTwice {
        /// The partition.
        partition: i32,
        /// The members.
        members: Vec<u32>,
    },
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
    /// A record that a power cut took although a later one of its partition survived.
    LostBeforeTheEnd {
        /// The record.
        id: u64,
        /// Where it was said to be.
        at: (i32, i64),
        /// A survivor behind it.
        survivor: (i32, i64),
    },
    /// A log that begins behind what anybody asked to delete.
    DeletedTooMuch {
        /// The partition.
        partition: i32,
        /// Where it begins.
        log_start_offset: i64,
        /// Up to where records were to be deleted.
        asked: i64,
    },
    /// A log that has records which an admin was told are deleted.
    StillThere {
        /// The partition.
        partition: i32,
        /// Where it begins.
        log_start_offset: i64,
        /// Up to where records were deleted.
        deleted: i64,
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
    /// A replica that does not hold what the others do.
    ReplicasDiffer {
        /// The partition.
        partition: i32,
        /// The node that led before.
        node_id: i32,
        /// The node that has something else.
        other: i32,
    },
    /// Something else went wrong.
    Other(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped { partition, offset } => {
                write!(
                    f,
                    "nobody in the group processed the record at offset {offset} of partition {partition}"
                )
            }
            Self::OwnedTwice { partition, members } => {
                write!(f, "members {members:?} owned partition {partition} at the same time")
            }
            Self::Unanswered { id } => write!(f, "record {id} was never answered"),
            Self::AnsweredLate { id, after } => write!(f, "record {id} was answered only after {after:?}"),
            Self::Lost { id, partition, offset, found } => {
                write!(f, "record {id}, acknowledged at {offset} of partition {partition}, is ")?;
                match found {
                    Some((partition, offset)) => write!(f, "at {offset} of partition {partition}"),
                    None => f.write_str("lost"),
                }
            }
            Self::LostBeforeTheEnd { id, at, survivor } => {
                write!(f, "record {id} at {at:?} is lost, although what is behind it at {survivor:?} is not")
            }
            Self::DeletedTooMuch { partition, log_start_offset, asked } => write!(
                f,
                "partition {partition} begins at {log_start_offset}, deletion was asked for up to {asked}"
            ),
            Self::StillThere { partition, log_start_offset, deleted } => {
                write!(
                    f,
                    "partition {partition} begins at {log_start_offset}, and was emptied up to {deleted}"
                )
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
            Self::ReplicasDiffer { partition, node_id, other } => {
                write!(f, "nodes {node_id} and {other} hold different records of partition {partition}")
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A record's places: the incarnation of the topic, the partition and the offset.
type Places = BTreeMap<u64, Vec<(usize, i32, i64)>>;

/// Compares what callers were told with what is in the log: the topic's incarnations in order, the last one still there.
pub fn check(sent: &[Sent], topics: &[Incarnation], promises: &Promises) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut places = Places::new();
    for (incarnation, topic) in topics.iter().enumerate() {
        for (&partition, written) in &topic.log {
            let mut previous = -1;
            for &(offset, id) in &written.records {
                let at = (partition, offset);
                if offset <= previous {
                    violations.push(Violation::Offsets { at });
                }
                previous = offset;
                match id.filter(|id| (*id as usize) < sent.len()) {
                    Some(id) => places.entry(id).or_default().push((incarnation, partition, offset)),
                    None => violations.push(Violation::Unknown { at }),
                }
            }
            let asked = topic.deleted_up_to.get(&partition).copied().unwrap_or(0);
            if promises.kept_until_deleted && written.log_start_offset > asked {
                let log_start_offset = written.log_start_offset;
                violations.push(Violation::DeletedTooMuch { partition, log_start_offset, asked });
            }
            let deleted = topic.surely_deleted_up_to.get(&partition).copied().unwrap_or(0);
            if promises.loss == Loss::None && written.log_start_offset < deleted {
                let log_start_offset = written.log_start_offset;
                violations.push(Violation::StillThere { partition, log_start_offset, deleted });
            }
        }
        if promises.idempotent {
            check_order(sent, &topic.log, &mut violations);
        }
    }
    for record in sent {
        let at = places.get(&record.id).map_or(&[][..], Vec::as_slice);
        check_record(record, at, topics, promises, &mut violations);
    }
    if let Loss::PowerCuts { at, .. } = &promises.loss {
        check_survivors(sent, &places, topics, at, &mut violations);
    }
    violations
}

fn check_record(
    record: &Sent,
    places: &[(usize, i32, i64)],
    topics: &[Incarnation],
    promises: &Promises,
    violations: &mut Vec<Violation>,
) {
    let id = record.id;
    let first = places.first().map(|&(_, partition, offset)| (partition, offset));
    if let (Some(taken_at), Some(told_at)) = (record.taken_at, record.told_at) {
        let after = told_at.saturating_sub(taken_at);
        if after > promises.answered_within {
            violations.push(Violation::AnsweredLate { id, after });
        }
    }
    if promises.idempotent && places.len() > 1 {
        let at = places.iter().map(|&(_, partition, offset)| (partition, offset)).collect();
        violations.push(Violation::Duplicated { id, at });
    }
    if let (Some(asked), Some(at)) = (record.partition, first)
        && at.0 != asked
    {
        violations.push(Violation::Misplaced { id, at });
    }
    match record.outcome {
        Outcome::Open => violations.push(Violation::Unanswered { id }),
        Outcome::Acknowledged { partition, offset } if promises.acknowledged_means_written => {
            let there = is_at(places, partition, offset) || is_gone(record, partition, offset, topics);
            if !there && !may_be_lost(record, &promises.loss) {
                violations.push(Violation::Lost { id, partition, offset, found: first });
            }
        }
        Outcome::NotTaken(_) | Outcome::Failed(_) => {
            if let Some(at) = first {
                violations.push(Violation::WrittenAfterAll { id, at, told: record.outcome.clone() });
            }
        }
        Outcome::Acknowledged { .. } | Outcome::PossiblyWritten(_) | Outcome::Ignored => {}
    }
}

/// Whether a record is where it was said to be; -1 stands for anywhere in the partition.
fn is_at(places: &[(usize, i32, i64)], partition: i32, offset: i64) -> bool {
    places.iter().any(|&(_, found, at)| found == partition && (offset == -1 || at == offset))
}

/// Whether an acknowledged record was deleted, by itself or with its topic before anybody could see it there.
fn is_gone(record: &Sent, partition: i32, offset: i64, topics: &[Incarnation]) -> bool {
    topics.iter().any(|topic| {
        let deleted = topic.log.get(&partition).is_some_and(|log| log.log_start_offset > offset);
        let with_topic = topic.deleted_at.is_some_and(|at| {
            let seen_before = !topic.log.is_empty() && record.told_at.is_some_and(|told_at| told_at < at);
            record.taken_at.is_some_and(|taken_at| taken_at <= at) && !seen_before
        });
        deleted || with_topic
    })
}

/// An answer takes a moment from the broker to the caller.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

fn may_be_lost(record: &Sent, loss: &Loss) -> bool {
    match loss {
        Loss::None => false,
        Loss::Any => true,
        Loss::PowerCuts { at, unsynced_for } => at.iter().any(|&cut| {
            record.told_at.is_some_and(|told_at| {
                let is_recent = unsynced_for.is_none_or(|span| told_at + span >= cut);
                told_at <= cut + ON_ITS_WAY && is_recent
            })
        }),
    }
}

/// A power cut takes the end of a log: of what was acknowledged between two cuts, nothing survives behind what is lost.
fn check_survivors(
    sent: &[Sent],
    places: &Places,
    topics: &[Incarnation],
    cuts: &[Duration],
    violations: &mut Vec<Violation>,
) {
    let mut acknowledged: BTreeMap<(usize, i32), BTreeMap<i64, (u64, bool)>> = BTreeMap::new();
    for record in sent {
        let Outcome::Acknowledged { partition, offset: offset @ 0.. } = record.outcome else { continue };
        // Too close to a cut to say on which side of it the record was written.
        let told_at = record.told_at.unwrap_or_default();
        if cuts.iter().any(|&cut| told_at >= cut && told_at <= cut + ON_ITS_WAY) {
            continue;
        }
        let era = cuts.iter().filter(|&&cut| cut < told_at).count();
        let found = places.get(&record.id).map_or(&[][..], Vec::as_slice);
        let there = is_at(found, partition, offset) || is_gone(record, partition, offset, topics);
        acknowledged.entry((era, partition)).or_default().insert(offset, (record.id, there));
    }
    for ((_, partition), offsets) in acknowledged {
        let survivor = offsets.iter().rev().find(|(_, (_, there))| *there).map(|(&offset, _)| offset);
        let lost = offsets.iter().find(|(_, (_, there))| !there).map(|(&offset, &(id, _))| (offset, id));
        if let (Some(survivor), Some((offset, id))) = (survivor, lost)
            && survivor > offset
        {
            let (at, survivor) = ((partition, offset), (partition, survivor));
            violations.push(Violation::LostBeforeTheEnd { id, at, survivor });
        }
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
mod tests;
