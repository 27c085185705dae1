//! The transaction coordinator: which producer holds a transactional id, what its transaction includes, how it ends.
//!
//! A [`Coordinator`] is the state of one partition of `__transaction_state` and decides without clock, socket or log: a
//! call in, a [`Step`] out, whose record is appended and then [replayed](Coordinator::replay). A step that is not written
//! has not happened. The rules are Kafka's (`TransactionCoordinator`, `TransactionMetadata`), for clients of transaction
//! version 1 and of version 2 (KIP-890), where each end bumps the epoch. Where Kafka keeps a state "pending" while its
//! record is being written, nothing can come in between here: a step is written before the next one is decided.
//!
//! [`service`] is the shell around it, [`markers`] tells the partitions how a transaction ended.

pub(crate) mod markers;
pub(crate) mod record;
pub(crate) mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::ErrorCode;

pub(crate) use record::{State, TopicPartition, Transaction, TransactionRecord};

/// The transaction version whose ends bump the epoch (KIP-890).
pub(crate) const EPOCH_BUMP_VERSION: i16 = 2;
/// The last epoch that a producer gets; the one after it is left for fencing.
const LAST_EPOCH: i16 = i16::MAX - 1;
const NO_PRODUCER_ID: i64 = -1;
const NO_EPOCH: i16 = -1;

/// A producer's id and epoch.
pub(crate) type Identity = (i64, i16);

/// What a call decided: a record to be written, if any, and what to answer once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step<T> {
    pub(crate) record: Option<TransactionRecord>,
    pub(crate) answer: T,
}

/// How a transaction is to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) id: &'a str,
    pub(crate) producer: Identity,
    pub(crate) is_commit: bool,
    /// The transaction version that the client speaks.
    pub(crate) version: i16,
}

/// What a transaction's partitions are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) producer: Identity,
    pub(crate) is_commit: bool,
    /// Its epoch is no earlier one's.
    pub(crate) bumps: bool,
    pub(crate) partitions: BTreeSet<TopicPartition>,
}

/// The transactional ids of one partition of `__transaction_state`.
#[derive(Debug, Default)]
pub(crate) struct Coordinator {
    transactions: BTreeMap<String, Transaction>,
}

impl Transaction {
    fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            epoch: NO_EPOCH,
            last_epoch: NO_EPOCH,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            started_ms: -1,
            updated_ms: now_ms,
            version: 0,
        }
    }

    fn is_epoch_exhausted(&self) -> bool {
        self.epoch >= LAST_EPOCH
    }

    fn is_ending(&self) -> bool {
        matches!(self.state, State::PrepareCommit | State::PrepareAbort)
    }

    /// What the producer is from the end of its transaction on.
    fn after_end(&self) -> Identity {
        match self.next_producer_id {
            NO_PRODUCER_ID => (self.producer_id, self.epoch),
            next => (next, 0),
        }
    }

    /// A transaction that has to be over by now.
    fn is_timed_out(&self, now_ms: i64) -> bool {
        self.state == State::Ongoing && self.started_ms.saturating_add(self.timeout_ms.into()) < now_ms
    }

    /// (`prepareAbortOrCommit`)
    fn prepared(&self, is_commit: bool, version: i16, next_producer_id: i64, now_ms: i64) -> Self {
        let bumps = version >= EPOCH_BUMP_VERSION;
        Self {
            state: if is_commit { State::PrepareCommit } else { State::PrepareAbort },
            epoch: if bumps { self.epoch.saturating_add(1) } else { self.epoch },
            last_epoch: if bumps { self.epoch } else { self.last_epoch },
            next_producer_id,
            started_ms: if self.state == State::Ongoing { self.started_ms } else { now_ms },
            updated_ms: now_ms,
            version,
            ..self.clone()
        }
    }

    /// The producer lost its transaction: it is aborted with an epoch that nobody holds.
    fn fenced(&self, now_ms: i64) -> Self {
        // The bump of version 2 is what fences; the client's own version does not matter to who is fenced.
        self.prepared(false, EPOCH_BUMP_VERSION, NO_PRODUCER_ID, now_ms)
    }
}

impl Coordinator {
    /// Applies a record of the log, as it was appended or as it is read back.
    pub(crate) fn replay(&mut self, record: &TransactionRecord) {
        match &record.value {
            Some(value) => self.transactions.insert(record.id.clone(), value.clone()),
            None => self.transactions.remove(&record.id),
        };
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Transaction> {
        self.transactions.get(id)
    }

    pub(crate) fn transactions(&self) -> impl Iterator<Item = (&str, &Transaction)> {
        self.transactions.iter().map(|(id, transaction)| (id.as_str(), transaction))
    }

    /// InitProducerId: the id and epoch that fence whoever held the transactional id before. `expected` is what a producer
    /// that recovers believes to be (KIP-360).
    ///
    /// An open transaction is aborted first, for which the client is told to come back.
    pub(crate) fn init(
        &self,
        id: &str,
        timeout_ms: i32,
        expected: Option<Identity>,
        new_producer_id: impl FnOnce() -> Result<i64, ErrorCode>,
        now_ms: i64,
    ) -> Result<Step<Result<Identity, ErrorCode>>, ErrorCode> {
        let (current, new_producer_id) = match self.transactions.get(id) {
            Some(current) => (current.clone(), Some(new_producer_id)),
            None => (Transaction::new(new_producer_id()?, timeout_ms, now_ms), None),
        };
        let is_known = expected.is_none_or(|(producer_id, epoch)| {
            current.epoch == NO_EPOCH
                || producer_id == current.producer_id
                || (producer_id == current.previous_producer_id && epoch >= LAST_EPOCH)
        });
        if !is_known {
            return Err(ErrorCode::ProducerFenced);
        }
        if current.is_ending() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if current.state == State::Ongoing {
            let record = TransactionRecord { id: id.to_owned(), value: Some(current.fenced(now_ms)) };
            return Ok(Step { record: Some(record), answer: Err(ErrorCode::ConcurrentTransactions) });
        }
        let mut next = Transaction {
            state: State::Empty,
            timeout_ms,
            partitions: BTreeSet::new(),
            started_ms: -1,
            updated_ms: now_ms,
            next_producer_id: NO_PRODUCER_ID,
            ..current.clone()
        };
        let is_current = expected.is_none_or(|(_, epoch)| epoch == current.epoch);
        match new_producer_id {
            Some(new_producer_id) if current.is_epoch_exhausted() && is_current => {
                next.previous_producer_id = current.producer_id;
                next.producer_id = new_producer_id()?;
                next.epoch = 0;
                next.last_epoch = if expected.is_some() { current.epoch } else { NO_EPOCH };
            }
            _ => match expected {
                None => (next.epoch, next.last_epoch) = (current.epoch.saturating_add(1), NO_EPOCH),
                Some((_, epoch)) if current.epoch == NO_EPOCH || epoch == current.epoch => {
                    (next.epoch, next.last_epoch) = (current.epoch.saturating_add(1), current.epoch);
                }
                // The answer to a bump was lost.
                Some((producer_id, epoch))
                    if epoch == current.last_epoch || producer_id == current.previous_producer_id => {}
                Some(_) => return Err(ErrorCode::ProducerFenced),
            },
        }
        let answer = Ok((next.producer_id, next.epoch));
        Ok(Step { record: Some(TransactionRecord { id: id.to_owned(), value: Some(next) }), answer })
    }

    fn held_by(&self, id: &str, (producer_id, epoch): Identity) -> Result<&Transaction, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let current = self.transactions.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        if current.producer_id != producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if current.epoch != epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if current.is_ending() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        Ok(current)
    }

    /// AddPartitionsToTxn, AddOffsetsToTxn, and the first write to a partition of a client that speaks version 2.
    pub(crate) fn add(
        &self,
        id: &str,
        producer: Identity,
        partitions: &BTreeSet<TopicPartition>,
        version: i16,
        now_ms: i64,
    ) -> Result<Step<()>, ErrorCode> {
        let current = self.held_by(id, producer)?;
        let is_ongoing = current.state == State::Ongoing;
        if is_ongoing && partitions.is_subset(&current.partitions) {
            return Ok(Step { record: None, answer: () });
        }
        let mut next = Transaction { state: State::Ongoing, updated_ms: now_ms, version, ..current.clone() };
        if !is_ongoing {
            next.started_ms = now_ms;
            next.partitions.clear();
        }
        next.partitions.extend(partitions.iter().cloned());
        let record = TransactionRecord { id: id.to_owned(), value: Some(next) };
        Ok(Step { record: Some(record), answer: () })
    }

    /// Whether a partition is in the producer's transaction (KIP-890).
    pub(crate) fn verify(
        &self,
        id: &str,
        producer: Identity,
        partition: &TopicPartition,
    ) -> Result<(), ErrorCode> {
        let current = self.held_by(id, producer)?;
        match current.state == State::Ongoing && current.partitions.contains(partition) {
            true => Ok(()),
            false => Err(ErrorCode::TransactionAbortable),
        }
    }

    /// EndTxn: how it ends is decided once the record is written; the partitions are told afterwards.
    pub(crate) fn end(
        &self,
        end: End<'_>,
        new_producer_id: impl FnOnce() -> Result<i64, ErrorCode>,
        now_ms: i64,
    ) -> Result<Step<Identity>, ErrorCode> {
        let End { id, producer: (producer_id, epoch), is_commit, version } = end;
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let current = self.transactions.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        let bumped = current.version >= EPOCH_BUMP_VERSION;
        // The same request again, because its answer was lost.
        let repeats_rotation = bumped
            && current.previous_producer_id == producer_id
            && epoch >= LAST_EPOCH
            && current.epoch == 0
            && !current.is_ending();
        let repeats = repeats_rotation
            || (bumped
                && current.producer_id == producer_id
                && epoch.checked_add(1) == Some(current.epoch)
                && !matches!(current.state, State::Ongoing | State::Empty));
        if current.producer_id != producer_id && !repeats_rotation {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if !repeats && current.epoch != epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if current.is_ending() && bumped && !repeats {
            // The bumped epoch is nobody's before the end.
            return Err(ErrorCode::ProducerFenced);
        }
        let is_new_client = version >= EPOCH_BUMP_VERSION;
        match (current.state, is_commit) {
            (State::Ongoing, _) => {}
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => {
                return Err(ErrorCode::ConcurrentTransactions);
            }
            (State::CompleteCommit, true) | (State::CompleteAbort, false) if repeats || !is_new_client => {
                return Ok(Step { record: None, answer: (current.producer_id, current.epoch) });
            }
            // A transaction of nothing: the coordinator has not heard of it, but the client may abort it.
            (State::Empty | State::CompleteCommit | State::CompleteAbort, false)
                if is_new_client && !repeats => {}
            _ => return Err(ErrorCode::InvalidTxnState),
        }
        let next_producer_id = match is_new_client && current.is_epoch_exhausted() {
            true => new_producer_id()?,
            false => NO_PRODUCER_ID,
        };
        let next = current.prepared(is_commit, version, next_producer_id, now_ms);
        let answer = next.after_end();
        Ok(Step { record: Some(TransactionRecord { id: id.to_owned(), value: Some(next) }), answer })
    }

    /// What the partitions of an ending transaction are to be told; `None`: it is not ending.
    pub(crate) fn ending(&self, id: &str) -> Option<Ending> {
        let current = self.transactions.get(id).filter(|current| current.is_ending())?;
        Some(Ending {
            producer: (current.producer_id, current.epoch),
            is_commit: current.state == State::PrepareCommit,
            bumps: current.version >= EPOCH_BUMP_VERSION,
            partitions: current.partitions.clone(),
        })
    }

    /// The transactional ids whose transactions are ending: after a restart their partitions are told (again).
    pub(crate) fn endings(&self) -> impl Iterator<Item = &str> {
        self.transactions().filter(|(_, current)| current.is_ending()).map(|(id, _)| id)
    }

    /// All partitions of `ending` know. `None`: that transaction is over already.
    pub(crate) fn complete(&self, id: &str, ending: &Ending, now_ms: i64) -> Option<TransactionRecord> {
        let current = self.transactions.get(id)?;
        if self.ending(id).as_ref() != Some(ending) {
            return None;
        }
        let (producer_id, epoch) = current.after_end();
        let rotates = producer_id != current.producer_id;
        let next = Transaction {
            producer_id,
            previous_producer_id: if rotates { current.producer_id } else { current.previous_producer_id },
            next_producer_id: NO_PRODUCER_ID,
            epoch,
            state: if ending.is_commit { State::CompleteCommit } else { State::CompleteAbort },
            partitions: BTreeSet::new(),
            updated_ms: now_ms,
            ..current.clone()
        };
        Some(TransactionRecord { id: id.to_owned(), value: Some(next) })
    }

    /// What time does: transactions that are open for too long are aborted and their producers fenced; ids that were not
    /// used for `expiration_ms` are forgotten.
    pub(crate) fn expire(&self, expiration_ms: i64, now_ms: i64) -> Vec<TransactionRecord> {
        let due = self.transactions.iter().filter_map(|(id, current)| {
            let is_idle =
                matches!(current.state, State::Empty | State::CompleteCommit | State::CompleteAbort);
            let value = if current.is_timed_out(now_ms) {
                Some(current.fenced(now_ms))
            } else if is_idle && current.updated_ms.saturating_add(expiration_ms) <= now_ms {
                None
            } else {
                return None;
            };
            Some(TransactionRecord { id: id.clone(), value })
        });
        due.collect()
    }
}
