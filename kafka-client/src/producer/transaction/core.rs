//! What a transactional producer asks of its coordinators, and when: one request at a time.
//!
//! Pure: calls and `now` in, [`Ask`]s and [`Told`] out. With version 1 of the protocol (KIP-98) a partition is added to the
//! transaction before the first batch for it may leave. With version 2 (KIP-890) leaders and group coordinators add it
//! themselves, and each end gives the producer a new epoch. Which one holds is decided when a transaction begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::super::batch::Identity;
use super::super::error::SendError;
use super::error::{AbortCause, CommitError, CommitOffsetsError, FatalError};
use super::{GroupMetadata, Outcome};
use crate::TopicPartition;
use crate::consumer::OffsetAndMetadata;

/// The protocol between producer and coordinators (`transaction.version`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Version {
    /// Partitions are added explicitly, the epoch stays (levels 0 and 1).
    V1,
    /// KIP-890.
    V2,
}

/// Offsets that are to be committed with the transaction.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct OffsetsJob {
    pub(in super::super) number: u64,
    pub(in super::super) group: GroupMetadata,
    pub(in super::super) offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
}

/// A request to a coordinator.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Ask {
    /// Whether the transaction before is over everywhere: CONCURRENT_TRANSACTIONS while it is not.
    IsOver,
    AddPartitions(BTreeSet<TopicPartition>),
    AddGroup(String),
    CommitOffsets(OffsetsJob),
    End {
        commit: bool,
    },
}

/// With version 2 a leader that gets the first batch of a transaction while the markers of the one before are still being
/// written holds it back for 20 ms at least (`add.partitions.to.txn.retry.backoff.ms`), though they take a few at most. So
/// whoever begins again within this time asks first.
const SETTLES_WITHIN: Duration = Duration::from_millis(20);
/// How long to wait before asking again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Reply {
    Done,
    /// An end, with the identity that holds from now on if the coordinator gave one.
    Ended(Option<Identity>),
    Refused(ErrorCode),
    /// Nobody knows whether it was carried out. Asking again does no harm.
    Unanswered,
}

/// How an earlier transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Previous {
    pub(crate) serial: u64,
    /// `None`: nobody knows.
    pub(crate) outcome: Option<Outcome>,
}

/// What the shell passes on to those who wait.
#[derive(Debug, Clone)]
pub(in super::super) enum Told {
    Begun { serial: u64, previous: Option<Previous> },
    NotBegun(FatalError),
    Offsets { number: u64, result: Result<(), CommitOffsetsError> },
    Ended(Result<Outcome, CommitError>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    /// Somebody waits for the producer's identity.
    Opening,
    Open,
    /// No more is to come; what was sent is waited for.
    Closing {
        commit: bool,
    },
    /// The coordinator is told.
    Ending {
        commit: bool,
    },
    Dead(FatalError),
}

#[derive(Debug)]
pub(in super::super) struct Transactions {
    phase: Phase,
    /// Of the transaction that is open.
    version: Version,
    /// Of the next one.
    latest: Version,
    /// Partitions that the coordinator was told of (version 1), and those that batches wait for.
    added: BTreeSet<TopicPartition>,
    wanted: BTreeSet<TopicPartition>,
    groups: BTreeSet<String>,
    offsets: VecDeque<OffsetsJob>,
    /// The coordinator may have heard of the transaction.
    touched: bool,
    /// Why it can only be aborted.
    cause: Option<AbortCause>,
    /// The numbers of this epoch have holes, or the coordinator has forgotten it: another one is needed (KIP-360).
    needs_epoch: bool,
    asked: Option<Ask>,
    /// A commit was asked for and not answered: it may have happened.
    may_be_committed: bool,
    retry_at: Option<Instant>,
    failures: u32,
    /// Until when the transaction before may not be over everywhere.
    settled_at: Option<Instant>,
    /// Numbers the transactions.
    serial: u64,
    /// Somebody knew of the present one.
    counts: bool,
    previous: Option<Previous>,
    told: Vec<Told>,
}

impl Transactions {
    pub(in super::super) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            version: Version::V1,
            latest: Version::V1,
            added: BTreeSet::new(),
            wanted: BTreeSet::new(),
            groups: BTreeSet::new(),
            offsets: VecDeque::new(),
            touched: false,
            cause: None,
            needs_epoch: false,
            asked: None,
            may_be_committed: false,
            retry_at: None,
            failures: 0,
            settled_at: None,
            serial: 0,
            counts: true,
            previous: None,
            told: Vec::new(),
        }
    }

    /// What the cluster speaks now; holds from the next transaction on.
    pub(in super::super) fn speaks(&mut self, version: Version) {
        self.latest = version;
    }

    /// The version of the transaction that is open.
    pub(in super::super) fn version(&self) -> Version {
        self.version
    }

    /// Whether another transaction may begin.
    pub(in super::super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Dead(_))
    }

    /// Whether an end is under way that nobody need wait for.
    pub(in super::super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::Ending { .. })
    }

    /// Whether somebody waits for the producer's identity.
    pub(in super::super) fn wants_identity(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Dead(_))
    }

    pub(in super::super) fn take_told(&mut self) -> std::vec::Drain<'_, Told> {
        self.told.drain(..)
    }

    /// Somebody wants a transaction. It begins once the producer has an identity.
    pub(in super::super) fn begin(&mut self) {
        match &self.phase {
            Phase::Idle => self.phase = Phase::Opening,
            Phase::Dead(fatal) => self.told.push(Told::NotBegun(fatal.clone())),
            Phase::Opening | Phase::Open | Phase::Closing { .. } | Phase::Ending { .. } => {}
        }
    }

    /// Whoever wanted a transaction does not want it any more.
    pub(in super::super) fn not_wanted(&mut self) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Idle;
        }
    }

    /// The producer has an identity.
    pub(in super::super) fn identified(&mut self) {
        if self.phase != Phase::Opening {
            return;
        }
        self.phase = Phase::Open;
        self.version = self.latest;
        self.added.clear();
        self.groups.clear();
        self.touched = false;
        self.may_be_committed = false;
        self.cause = None;
        self.serial += 1;
        self.told.push(Told::Begun { serial: self.serial, previous: self.previous });
    }

    /// The coordinator will never give the producer an identity.
    pub(in super::super) fn denied(&mut self, code: ErrorCode) {
        self.die(code);
    }

    /// Whether a batch may join those that wait: it is in the transaction then.
    pub(in super::super) fn accepts(&self) -> bool {
        self.is_sound() && matches!(self.phase, Phase::Open | Phase::Closing { commit: true })
    }

    fn is_sound(&self) -> bool {
        self.cause.is_none()
    }

    /// Whether what waits to be sent is not to be sent any more.
    pub(in super::super) fn drops_batches(&self) -> bool {
        !self.accepts()
    }

    /// Whether a batch for the partition may leave now; if not yet, the coordinator is told of the partition.
    pub(in super::super) fn may_send(&mut self, partition: &TopicPartition) -> bool {
        if !self.accepts() || self.settled_at.is_some() {
            return false;
        }
        if self.version == Version::V2 || self.added.contains(partition) {
            return true;
        }
        if !self.wanted.contains(partition) {
            self.wanted.insert(partition.clone());
        }
        false
    }

    /// A batch leaves: its leader may tell the coordinator.
    pub(in super::super) fn sent(&mut self) {
        self.touched = true;
    }

    /// A batch that had its numbers is not sent again.
    pub(in super::super) fn left_a_hole(&mut self) {
        self.needs_epoch = true;
    }

    /// A record was not written: the transaction can only be aborted.
    pub(in super::super) fn failed(&mut self, error: &SendError) {
        if matches!(self.phase, Phase::Open | Phase::Closing { .. }) && self.cause.is_none() {
            self.needs_epoch = true;
            self.cause = Some(AbortCause::Send(Box::new(error.clone())));
        }
    }

    /// Offsets that the transaction is to commit.
    pub(in super::super) fn commit_offsets(&mut self, job: OffsetsJob) {
        match (&self.phase, &self.cause) {
            (Phase::Open, None) => self.offsets.push_back(job),
            (Phase::Dead(fatal), _) => {
                let result = Err(CommitOffsetsError::Fatal(fatal.clone()));
                self.told.push(Told::Offsets { number: job.number, result });
            }
            (_, cause) => {
                let nothing_open = AbortCause::Coordinator { code: ErrorCode::InvalidTxnState };
                let cause = cause.clone().unwrap_or(nothing_open);
                let result = Err(CommitOffsetsError::Abort(cause));
                self.told.push(Told::Offsets { number: job.number, result });
            }
        }
    }

    /// Ends the transaction once all that was sent is settled. `counts`: not one of which nobody ever heard that it had
    /// begun.
    pub(in super::super) fn close(&mut self, commit: bool, counts: bool) {
        match &self.phase {
            Phase::Open => {
                self.phase = Phase::Closing { commit };
                self.counts = counts;
            }
            Phase::Opening => {
                self.phase = Phase::Idle;
                self.told.push(Told::Ended(Ok(Outcome::Aborted)));
            }
            Phase::Idle => self.told.push(Told::Ended(Ok(Outcome::Aborted))),
            Phase::Dead(fatal) => self.told.push(Told::Ended(Err(CommitError::Fatal(fatal.clone())))),
            Phase::Closing { .. } | Phase::Ending { .. } => {}
        }
    }

    /// The next request, if it is time for one. `is_settled`: no batch is on its way.
    pub(in super::super) fn poll(&mut self, now: Instant, is_settled: bool) -> Option<Ask> {
        if self.settled_at.is_some_and(|at| at <= now) {
            self.settled_at = None;
        }
        if self.asked.is_some() {
            return None;
        }
        if !self.is_sound() {
            // Whoever waits for them would else wait for the end that only he can ask for.
            self.refuse_offsets();
        }
        if self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let ask = match self.phase {
            Phase::Open | Phase::Closing { .. } if self.settled_at.is_some() => Ask::IsOver,
            Phase::Open if self.is_sound() => self.next_step()?,
            Phase::Closing { commit: true } if self.is_sound() => match self.next_step() {
                Some(step) => step,
                None if is_settled => self.end(true)?,
                None => return None,
            },
            Phase::Closing { .. } => {
                self.refuse_offsets();
                self.wanted.clear();
                if !is_settled {
                    return None;
                }
                self.end(false)?
            }
            Phase::Ending { commit } => Ask::End { commit },
            Phase::Idle | Phase::Opening | Phase::Open | Phase::Dead(_) => return None,
        };
        self.retry_at = None;
        self.asked = Some(ask.clone());
        Some(ask)
    }

    /// When [`poll`](Self::poll) is due after that of `now`, if nothing happens before. What was due then and not done
    /// waits for something else: batches on their way, an identity, the caller.
    pub(in super::super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let settled_at = self.settled_at.filter(|_| self.wants_identity());
        let retry_at = self.retry_at.filter(|_| self.asked.is_none());
        retry_at.into_iter().chain(settled_at).filter(|&at| at > now).min()
    }

    fn next_step(&mut self) -> Option<Ask> {
        let step = if !self.wanted.is_empty() {
            Ask::AddPartitions(self.wanted.clone())
        } else {
            let job = self.offsets.front()?;
            let is_known = self.version == Version::V2 || self.groups.contains(&job.group.group_id);
            if is_known { Ask::CommitOffsets(job.clone()) } else { Ask::AddGroup(job.group.group_id.clone()) }
        };
        self.touched = true;
        Some(step)
    }

    /// A transaction that the coordinator cannot have heard of ends without a word.
    fn end(&mut self, commit: bool) -> Option<Ask> {
        if !self.touched {
            self.ended(commit);
            return None;
        }
        self.phase = Phase::Ending { commit };
        Some(Ask::End { commit })
    }

    fn refuse_offsets(&mut self) {
        let aborted = || AbortCause::Coordinator { code: ErrorCode::TransactionAbortable };
        let cause = self.cause.clone().unwrap_or_else(aborted);
        for job in self.offsets.drain(..) {
            let result = Err(CommitOffsetsError::Abort(cause.clone()));
            self.told.push(Told::Offsets { number: job.number, result });
        }
    }

    /// Takes a reply; `backoff` tells how long to wait after so many failures. Returns the identity that holds from now
    /// on, if it is another.
    pub(in super::super) fn replied(
        &mut self,
        now: Instant,
        reply: Reply,
        backoff: impl FnOnce(u32) -> Duration,
    ) -> Option<Identity> {
        let ask = self.asked.take()?;
        match reply {
            Reply::Done => {
                self.failures = 0;
                self.done(ask);
                None
            }
            Reply::Ended(identity) => {
                self.failures = 0;
                if self.version == Version::V2 {
                    self.settled_at = Some(now + SETTLES_WITHIN);
                }
                self.ended(ask == Ask::End { commit: true });
                identity
            }
            Reply::Refused(ErrorCode::ConcurrentTransactions) if ask == Ask::IsOver => {
                self.retry_at = Some(now + ASK_AGAIN_AFTER);
                None
            }
            // Somebody who does not know is not asked again.
            Reply::Refused(_) | Reply::Unanswered if ask == Ask::IsOver => {
                self.settled_at = None;
                None
            }
            Reply::Refused(code) if !code.is_retriable() => {
                self.failures = 0;
                self.refused(&ask, code);
                None
            }
            Reply::Refused(_) | Reply::Unanswered => {
                self.may_be_committed |= reply == Reply::Unanswered && ask == Ask::End { commit: true };
                self.failures += 1;
                self.retry_at = Some(now + backoff(self.failures));
                None
            }
        }
    }

    fn done(&mut self, ask: Ask) {
        match ask {
            Ask::IsOver => self.settled_at = None,
            Ask::AddPartitions(partitions) => {
                self.wanted.retain(|partition| !partitions.contains(partition));
                self.added.extend(partitions);
            }
            Ask::AddGroup(group) => {
                self.groups.insert(group);
            }
            Ask::CommitOffsets(job) => {
                if self.offsets.front().is_some_and(|front| front.number == job.number) {
                    self.offsets.pop_front();
                }
                self.told.push(Told::Offsets { number: job.number, result: Ok(()) });
            }
            Ask::End { commit } => self.ended(commit),
        }
    }

    fn refused(&mut self, ask: &Ask, code: ErrorCode) {
        if is_fatal(ask, code) {
            self.die(code);
            return;
        }
        match ask {
            Ask::End { commit: true } if code == ErrorCode::TransactionAbortable => {
                self.cause = Some(AbortCause::Coordinator { code });
                self.phase = Phase::Ending { commit: false };
            }
            // The coordinator has forgotten the producer, and how its transaction ended.
            Ask::End { commit: true }
                if self.may_be_committed && code == ErrorCode::InvalidProducerIdMapping =>
            {
                self.needs_epoch = true;
                self.over(None, Err(CommitError::Unresolved { fatal: None }));
            }
            // There is no such transaction any more: the coordinator has aborted it.
            Ask::End { commit } => {
                self.needs_epoch = true;
                if *commit {
                    self.cause = Some(AbortCause::Coordinator { code });
                }
                self.ended(false);
            }
            Ask::CommitOffsets(job) => {
                let cause = AbortCause::Offsets { group: job.group.group_id.clone(), code };
                self.cause.get_or_insert(cause);
                self.refuse_offsets();
            }
            Ask::IsOver => {}
            Ask::AddPartitions(_) | Ask::AddGroup(_) => {
                self.needs_epoch |= code == ErrorCode::InvalidProducerIdMapping;
                self.cause.get_or_insert(AbortCause::Coordinator { code });
                self.refuse_offsets();
            }
        }
    }

    fn ended(&mut self, commit: bool) {
        let outcome = if commit { Outcome::Committed } else { Outcome::Aborted };
        let result = match self.cause.take() {
            Some(cause) if !commit => Err(CommitError::Aborted(cause)),
            _ => Ok(outcome),
        };
        self.over(Some(outcome), result);
    }

    fn over(&mut self, outcome: Option<Outcome>, result: Result<Outcome, CommitError>) {
        if self.counts {
            self.previous = Some(Previous { serial: self.serial, outcome });
        }
        self.phase = Phase::Idle;
        self.wanted.clear();
        self.told.push(Told::Ended(result));
    }

    /// Whether the identity has to be asked for again before the next transaction. The end of a transaction of version 2
    /// brought a new one, where the coordinator heard of it.
    pub(in super::super) fn take_needs_epoch(&mut self, has_new_identity: bool) -> bool {
        self.is_idle() && std::mem::take(&mut self.needs_epoch) && !has_new_identity
    }

    fn die(&mut self, code: ErrorCode) {
        let fatal = match code {
            ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch => FatalError::Fenced,
            code => FatalError::Refused { code },
        };
        for job in self.offsets.drain(..) {
            let result = Err(CommitOffsetsError::Fatal(fatal.clone()));
            self.told.push(Told::Offsets { number: job.number, result });
        }
        match std::mem::replace(&mut self.phase, Phase::Dead(fatal.clone())) {
            Phase::Opening => self.told.push(Told::NotBegun(fatal)),
            Phase::Closing { .. } | Phase::Ending { .. } => {
                let error = match self.may_be_committed {
                    true => CommitError::Unresolved { fatal: Some(fatal) },
                    false => CommitError::Fatal(fatal),
                };
                self.told.push(Told::Ended(Err(error)));
            }
            Phase::Idle | Phase::Open | Phase::Dead(_) => {}
        }
        self.wanted.clear();
    }
}

/// Whether the producer can do no more (`TransactionManager.TxnRequestHandler`).
fn is_fatal(ask: &Ask, code: ErrorCode) -> bool {
    match code {
        ErrorCode::ProducerFenced
        | ErrorCode::InvalidProducerEpoch
        | ErrorCode::TransactionalIdAuthorizationFailed
        | ErrorCode::ClusterAuthorizationFailed
        | ErrorCode::UnsupportedVersion
        | ErrorCode::UnsupportedForMessageFormat => true,
        ErrorCode::InvalidTxnState => !matches!(ask, Ask::End { .. }),
        _ => false,
    }
}
