//! One partition: its log behind a lock, and the fetches that wait for its next records.
//!
//! An append runs in the task of the connection that brought it, under the partition's lock. Handing it to an owner
//! task would cost a queue, two wake-ups and a cache line's journey for work that takes a microsecond; the lock is
//! contended only when two connections write one partition at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use crate::config::topic::TopicConfig;
use crate::log::{Append, AppendError, Appended, FoundOffset, Origin, PartitionLog, ReadError};
use crate::scatter::Records;
use crate::waiter::{WaitList, Waiter};

/// A partition that this node hosts, and leads.
pub(crate) struct Partition {
    topic: Arc<str>,
    index: i32,
    leader_epoch: AtomicI32,
    min_insync_replicas: AtomicI64,
    is_synced_by_time: AtomicBool,
    log: Mutex<Hosted>,
    waiters: WaitList,
}

/// What stands behind the lock.
pub(crate) enum Hosted {
    Online(Box<PartitionLog>),
    /// The log could not be opened, or broke: clients are told to come back.
    Failed,
    /// The topic is gone.
    Deleted,
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Written {
    pub(crate) base_offset: i64,
    /// -1 unless the topic's records carry the time of their append.
    pub(crate) log_append_time_ms: i64,
    pub(crate) log_start_offset: i64,
}

/// Why nothing was appended.
#[derive(Debug, Clone)]
pub(crate) struct ProduceError {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    /// Records of the batch, by index, that are to blame (KIP-467).
    pub(crate) record_errors: Vec<(i32, String)>,
}

impl From<ErrorCode> for ProduceError {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, record_errors: Vec::new() }
    }
}

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        index: i32,
        leader_epoch: i32,
        config: &TopicConfig,
        log: Hosted,
    ) -> Self {
        Self {
            topic,
            index,
            leader_epoch: AtomicI32::new(leader_epoch),
            min_insync_replicas: AtomicI64::new(config.min_insync_replicas),
            is_synced_by_time: AtomicBool::new(config.flush_ms != i64::MAX),
            log: Mutex::new(log),
            waiters: WaitList::default(),
        }
    }

    pub(crate) fn leader_epoch(&self) -> i32 {
        self.leader_epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn min_insync_replicas(&self) -> i64 {
        self.min_insync_replicas.load(Ordering::Relaxed)
    }

    /// Whether the topic sets `flush.ms`.
    pub(crate) fn is_synced_by_time(&self) -> bool {
        self.is_synced_by_time.load(Ordering::Relaxed)
    }

    /// The topic's configuration changed.
    pub(crate) fn reconfigure(&self, config: &TopicConfig) {
        self.min_insync_replicas.store(config.min_insync_replicas, Ordering::Relaxed);
        self.is_synced_by_time.store(config.flush_ms != i64::MAX, Ordering::Relaxed);
        self.maintain(|log| log.reconfigure(config.log.clone()));
    }

    /// Compares the epoch that a client believes in with ours (KIP-320). Negative: the client does not say.
    pub(crate) fn check_leader_epoch(&self, claimed: i32) -> Result<(), ErrorCode> {
        let current = self.leader_epoch();
        match claimed {
            claimed if claimed < 0 || claimed == current => Ok(()),
            claimed if claimed < current => Err(ErrorCode::FencedLeaderEpoch),
            _ => Err(ErrorCode::UnknownLeaderEpoch),
        }
    }

    /// The log, locked.
    pub(crate) fn lock(&self) -> Result<Log<'_>, ErrorCode> {
        let log = MutexGuard::try_map(self.log.lock(), |hosted| match hosted {
            Hosted::Online(log) => Some(&mut **log),
            Hosted::Failed | Hosted::Deleted => None,
        });
        log.map(|log| Log { log }).map_err(|hosted| match &*hosted {
            Hosted::Deleted => ErrorCode::UnknownTopicOrPartition,
            _ => ErrorCode::KafkaStorageError,
        })
    }

    /// Appends what a client sent.
    pub(crate) fn produce(&self, records: Bytes, now_ms: i64) -> Result<Written, ProduceError> {
        self.append(records, Origin::Client, now_ms).map(|appended| Written {
            base_offset: appended.base_offset,
            log_append_time_ms: appended.log_append_time.unwrap_or(-1),
            log_start_offset: appended.log_start_offset,
        })
    }

    /// Appends batches and wakes who waits for them.
    pub(crate) fn append(
        &self,
        records: Bytes,
        origin: Origin,
        now_ms: i64,
    ) -> Result<Appended, ProduceError> {
        let size_bytes = records.len();
        let append = Append { leader_epoch: self.leader_epoch(), origin, now_ms };
        let mut log = self.lock()?;
        let appended = log.log.append(records, append).map_err(|error| self.refusal(error))?;
        if appended.flush_due {
            log.log.flush().map_err(|error| self.refusal(error.into()))?;
        }
        drop(log);
        if !appended.duplicate {
            self.waiters.appended(size_bytes);
        }
        Ok(appended)
    }

    fn refusal(&self, error: AppendError) -> ProduceError {
        let code = error.error_code();
        if code == ErrorCode::KafkaStorageError {
            tracing::error!(topic = &*self.topic, partition = self.index, %error, "append failed");
        }
        ProduceError { code, message: Some(error.to_string()), record_errors: error.record_errors().to_vec() }
    }

    /// Wakes `waiter` on appends until the registration is dropped.
    pub(crate) fn register(self: &Arc<Self>, waiter: &Arc<Waiter>) -> Registration {
        self.waiters.add(waiter);
        Registration { partition: Arc::clone(self), waiter: Arc::clone(waiter) }
    }

    /// Takes the log away because the topic was deleted; fetches that wait are answered.
    pub(crate) fn delete(&self) -> Option<Box<PartitionLog>> {
        let hosted = std::mem::replace(&mut *self.log.lock(), Hosted::Deleted);
        self.waiters.wake_all();
        match hosted {
            Hosted::Online(log) => Some(log),
            Hosted::Failed | Hosted::Deleted => None,
        }
    }

    /// Takes the log away because the broker stops.
    pub(crate) fn take(&self) -> Option<Box<PartitionLog>> {
        match std::mem::replace(&mut *self.log.lock(), Hosted::Failed) {
            Hosted::Online(log) => Some(log),
            Hosted::Failed | Hosted::Deleted => None,
        }
    }

    /// Runs work that is not a client's on the log, if there is one.
    pub(crate) fn maintain<R>(&self, work: impl FnOnce(&mut PartitionLog) -> R) -> Option<R> {
        match &mut *self.log.lock() {
            Hosted::Online(log) => Some(work(log)),
            Hosted::Failed | Hosted::Deleted => None,
        }
    }

    /// `topic-index`, as Kafka names the partition in logs and folders.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.topic, self.index)
    }
}

/// Keeps a waiter in a partition's list.
pub(crate) struct Registration {
    partition: Arc<Partition>,
    waiter: Arc<Waiter>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.partition.waiters.remove(&self.waiter);
    }
}

/// A partition's log, locked, with answers in the wire's terms.
pub(crate) struct Log<'a> {
    log: MappedMutexGuard<'a, PartitionLog>,
}

fn unreadable(error: &ReadError) -> ErrorCode {
    let code = error.error_code();
    if code != ErrorCode::OffsetOutOfRange {
        tracing::error!(%error, "log cannot be read");
    }
    code
}

impl Log<'_> {
    pub(crate) fn log_start_offset(&self) -> i64 {
        self.log.log_start_offset()
    }

    pub(crate) fn log_end_offset(&self) -> i64 {
        self.log.log_end_offset()
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.log.high_watermark()
    }

    /// The epoch in which the record at `offset` was appended, -1 if that is not known.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        self.log.epoch_at(offset).unwrap_or(-1)
    }

    /// The first record with the largest timestamp.
    pub(crate) fn max_timestamp(&self) -> Result<Option<FoundOffset>, ErrorCode> {
        self.log.offset_for_max_timestamp().map_err(|error| unreadable(&error))
    }

    /// The first record with `timestamp` or a later one.
    pub(crate) fn by_timestamp(&self, timestamp: i64) -> Result<Option<FoundOffset>, ErrorCode> {
        self.log.offset_for_timestamp(timestamp).map_err(|error| unreadable(&error))
    }

    /// Where a reader's history parts from this log's, if it does: the last epoch that both may have, and where it
    /// ends here (KIP-595).
    pub(crate) fn diverging(&self, epoch: i32, offset: i64) -> Result<Option<(i32, i64)>, ErrorCode> {
        let (known, end) = self.log.end_offset_for_epoch(epoch).ok_or(ErrorCode::OffsetOutOfRange)?;
        Ok((known < epoch || end < offset).then_some((known, end)))
    }

    /// Whole batches from the one that holds `offset` on, up to `max_bytes`; with `at_least_one`, the first one even
    /// if it is larger.
    pub(crate) fn read_records(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Records, ErrorCode> {
        let batches = self.log.read(offset, max_bytes, at_least_one).map_err(|error| unreadable(&error))?;
        Ok(Records::new(batches))
    }

    /// The same in one piece, for readers inside the broker.
    pub(crate) fn read(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Bytes, ErrorCode> {
        self.read_records(offset, max_bytes, at_least_one).map(Records::into_bytes)
    }
}
