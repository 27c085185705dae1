//! What the consumer's handle and its background tasks share: the fetcher, the reader's place, wake-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use super::acks::AckTracker;
use super::builder::Options;
use super::commits::CommitQueue;
use super::fetch::{Currency, Fetcher, Next, Position};
use super::listener::RebalanceEvent;
use super::metrics::Metrics;
use super::records::{ConsumerRecord, IntoRecords, PartitionRecords};
use super::streams::{Lease, StreamEnd};
use super::{ConsumeError, OffsetReset};
use crate::TopicPartition;
use crate::client::Client;
use crate::group::classic::Identity;
use crate::net::Pool;

/// Rebalance events that a slow receiver may fall behind by.
const MAX_EVENTS: usize = 64;

/// A wake-up that cannot be missed: waiters note the count before they look at the state.
pub(super) struct Signal(watch::Sender<()>);

impl Signal {
    fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(super) fn notify(&self) {
        self.0.send_replace(());
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// What the handle asks of the group's task.
#[derive(Debug)]
pub(super) enum Command {
    Subscribe(Vec<Arc<str>>),
    EnforceRebalance,
    /// A commit under this generation was refused for good.
    CommitRefused {
        generation: i32,
        code: kafka_wire::ErrorCode,
    },
}

pub(super) struct Shared {
    pub(super) client: Client,
    /// This consumer's own connections.
    pub(super) pool: Pool,
    pub(super) options: Options,
    pub(super) fetcher: Mutex<Fetcher>,
    reader: Mutex<Reader>,
    /// Changes when records in the reader's hand may have become void or paused.
    version: AtomicU64,
    /// Readers blocked in a call for records.
    pub(super) waiting: AtomicUsize,
    /// A stream of a partition was asked for records since this was last looked at.
    pub(super) polled: AtomicBool,
    /// Partitions that have a stream of their own.
    pub(super) leases: Mutex<FxHashMap<TopicPartition, Arc<Lease>>>,
    /// What the application has to acknowledge, if it does.
    acks: Mutex<AckTracker>,
    pub(super) commits: CommitQueue,
    pub(super) metrics: Metrics,
    /// There may be something for the reader.
    pub(super) readable: Signal,
    /// There may be something to fetch.
    pub(super) fetchable: Signal,
    /// Offsets or leaders may have to be looked up.
    pub(super) upkeep: Signal,
    /// The reader is done with what it had.
    pub(super) returned: Signal,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) events: broadcast::Sender<RebalanceEvent>,
    pub(super) identity: Mutex<Option<Identity>>,
    pub(super) committed: Mutex<BTreeMap<TopicPartition, i64>>,
    failure: Mutex<Option<ConsumeError>>,
    closing: AtomicBool,
    /// Closing does not give up the membership (KIP-1092).
    pub(super) stays_in_group: AtomicBool,
    /// No record comes any more.
    closed: AtomicBool,
}

#[derive(Default)]
struct Reader {
    cursor: Option<Cursor>,
    /// Something was handed out, and the application has not come back for more.
    busy: bool,
    /// A rebalance is under way: nothing is handed out.
    gate: bool,
    /// The application asked for records since this was last looked at.
    polled: bool,
    /// The partition of the last batch that was handed out whole, and the position before it.
    last_batch: Option<(TopicPartition, Position)>,
}

pub(super) struct Cursor {
    records: IntoRecords,
    version: u64,
    failure: Option<ConsumeError>,
}

impl Cursor {
    fn new(records: PartitionRecords, version: u64) -> Self {
        Self { records: records.into_iter(), version, failure: None }
    }

    /// The assignment or seek that the records belong to.
    pub(super) fn epoch(&self) -> u64 {
        self.records.records().epoch
    }

    pub(super) fn into_rest(self) -> PartitionRecords {
        self.records.into_rest()
    }
}

/// Counts a reader that waits, also when its future is dropped.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(client: Client, options: Options) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, received) = mpsc::unbounded_channel();
        let client_id = client.client_id();
        let shared = Self {
            pool: client.own_connections(),
            fetcher: Mutex::new(Fetcher::new(options.fetch_config(client.config().metadata_max_age))),
            client,
            metrics: Metrics::new(&client_id, options.group.as_deref()),
            options,
            reader: Mutex::default(),
            version: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            polled: AtomicBool::new(false),
            leases: Mutex::default(),
            acks: Mutex::default(),
            commits: CommitQueue::default(),
            readable: Signal::new(),
            fetchable: Signal::new(),
            upkeep: Signal::new(),
            returned: Signal::new(),
            commands,
            events: broadcast::Sender::new(MAX_EVENTS),
            identity: Mutex::new(None),
            committed: Mutex::default(),
            failure: Mutex::new(None),
            closing: AtomicBool::new(false),
            stays_in_group: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        (shared, received)
    }

    // ---- the reader

    /// The next record of the batch at hand, if nothing happened that concerns it: the path of almost every record.
    #[inline]
    pub(super) fn next_at_hand(&self) -> Option<ConsumerRecord> {
        if self.options.acknowledgements {
            return None;
        }
        let mut reader = self.reader.lock();
        let version = self.version.load(Ordering::Acquire);
        let cursor = reader.cursor.as_mut().filter(|cursor| cursor.version == version)?;
        match cursor.records.next()? {
            Ok(record) => {
                reader.polled = true;
                Some(record)
            }
            Err(error) => {
                cursor.failure = Some(error);
                None
            }
        }
    }

    pub(super) async fn next_record(&self) -> Result<Option<ConsumerRecord>, ConsumeError> {
        self.next_with(Self::take_record).await
    }

    pub(super) async fn next_batch(&self) -> Result<Option<PartitionRecords>, ConsumeError> {
        self.next_with(Self::take_batch).await
    }

    async fn next_with<T>(
        &self,
        take: fn(&Self, &mut Reader) -> Option<Result<T, ConsumeError>>,
    ) -> Result<Option<T>, ConsumeError> {
        let mut readable = self.readable.subscribe();
        let mut waiting = None;
        loop {
            readable.borrow_and_update();
            if let Some(result) = self.come_back(take) {
                if let Some((_, since)) = waiting {
                    self.metrics.waited(since);
                }
                return result.map(Some);
            }
            if self.closed.load(Ordering::Acquire) {
                return Ok(None);
            }
            if waiting.is_none() {
                waiting = Some((Waiting::new(&self.waiting), Instant::now()));
            }
            if readable.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// The application is done with what it got before and wants more.
    fn come_back<T>(
        &self,
        take: fn(&Self, &mut Reader) -> Option<Result<T, ConsumeError>>,
    ) -> Option<Result<T, ConsumeError>> {
        self.metrics.polled();
        let mut reader = self.reader.lock();
        reader.polled = true;
        reader.last_batch = None;
        if std::mem::take(&mut reader.busy) {
            self.returned.notify();
        }
        if reader.gate {
            return None;
        }
        if let Some(failure) = self.take_failure() {
            return Some(Err(failure));
        }
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.revalidate(&mut reader.cursor);
        let taken = take(self, &mut reader)?;
        reader.busy = taken.is_ok();
        Some(taken)
    }

    fn take_record(&self, reader: &mut Reader) -> Option<Result<ConsumerRecord, ConsumeError>> {
        self.take_record_from(&mut reader.cursor, || self.fetcher.lock().next())
    }

    /// The next record of a cursor, or of what `next` brings.
    pub(super) fn take_record_from(
        &self,
        place: &mut Option<Cursor>,
        next: impl Fn() -> Option<Next>,
    ) -> Option<Result<ConsumerRecord, ConsumeError>> {
        if self.must_wait_for_acks() {
            return None;
        }
        loop {
            if let Some(cursor) = place {
                let next = match cursor.failure.take() {
                    Some(error) => Some(Err(error)),
                    None => cursor.records.next(),
                };
                match next {
                    Some(Ok(record)) => {
                        if self.options.acknowledgements {
                            let to =
                                Position { offset: record.offset + 1, leader_epoch: record.leader_epoch };
                            let partition = &cursor.records.records().partition;
                            self.acks.lock().handed_out(partition, record.offset, to);
                        }
                        return Some(Ok(record));
                    }
                    Some(Err(error)) => {
                        self.give_up_cursor(place);
                        return Some(Err(error));
                    }
                    None => self.finish_cursor(place),
                }
            }
            let version = self.version.load(Ordering::Acquire);
            match self.checked(next()?) {
                Ok(records) => *place = Some(Cursor::new(records, version)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn take_batch(&self, reader: &mut Reader) -> Option<Result<PartitionRecords, ConsumeError>> {
        if self.must_wait_for_acks() {
            return None;
        }
        if let Some(error) = reader.cursor.as_mut().and_then(|cursor| cursor.failure.take()) {
            self.give_up_cursor(&mut reader.cursor);
            return Some(Err(error));
        }
        let mut records = match reader.cursor.take() {
            Some(cursor) => cursor.records.into_rest(),
            None => {
                let next = self.fetcher.lock().next()?;
                match self.checked(next) {
                    Ok(records) => records,
                    Err(error) => return Some(Err(error)),
                }
            }
        };
        let before = Position { offset: records.position(), leader_epoch: -1 };
        reader.last_batch = Some((records.partition.clone(), before));
        self.fetcher.lock().read_to(&records.partition, records.epoch, records.end);
        if self.options.acknowledgements {
            self.acks.lock().handed_out(&records.partition, records.position(), records.end);
        }
        // From here on they are the application's.
        records.charge = None;
        self.fetchable.notify();
        Some(Ok(records))
    }

    /// What was fetched, checked.
    fn checked(&self, next: Next) -> Result<PartitionRecords, ConsumeError> {
        let mut records = match next {
            Next::Records(records) => records,
            Next::Error(error) => return Err(error),
        };
        let (ends, preferred) = self.fetcher.lock().ends_and_replica(&records.partition);
        self.metrics.handed_out(&records, ends, preferred, self.options.isolation);
        if !self.options.check_crcs {
            return Ok(records);
        }
        let Err((offset, source)) = records.verify() else { return Ok(records) };
        let mut fetcher = self.fetcher.lock();
        let epoch = fetcher.refetch(&records.partition, records.epoch, offset, Instant::now());
        if records.batches.is_empty() {
            drop(fetcher);
            let partition = records.partition.clone();
            drop(records);
            self.fetchable.notify();
            return Err(ConsumeError::CorruptBatch { partition, offset, source });
        }
        // What came before the damage is good; the rest is fetched again.
        records.epoch = epoch.unwrap_or(records.epoch);
        Ok(records)
    }

    /// After a seek, pause or rebalance: may the reader go on with the records at hand?
    pub(super) fn revalidate(&self, place: &mut Option<Cursor>) {
        let version = self.version.load(Ordering::Acquire);
        let Some(cursor) = place else { return };
        if cursor.version == version {
            return;
        }
        let records = cursor.records.records();
        let (partition, epoch) = (records.partition.clone(), records.epoch);
        let mut fetcher = self.fetcher.lock();
        match fetcher.is_current(&partition, epoch) {
            Currency::Current => cursor.version = version,
            Currency::Paused => {
                fold(cursor, &mut fetcher);
                if let Some(cursor) = place.take() {
                    fetcher.put_back(cursor.into_rest());
                }
            }
            Currency::Void => *place = None,
        }
        drop(fetcher);
        self.fetchable.notify();
    }

    fn finish_cursor(&self, place: &mut Option<Cursor>) {
        let Some(cursor) = place.take() else { return };
        let records = cursor.records.records();
        self.fetcher.lock().read_to(&records.partition, records.epoch, records.end);
        drop(cursor);
        self.fetchable.notify();
    }

    /// The records at hand cannot be decoded: the position stays where they stopped making sense.
    fn give_up_cursor(&self, place: &mut Option<Cursor>) {
        let Some(cursor) = place.take() else { return };
        let mut fetcher = self.fetcher.lock();
        fold(&cursor, &mut fetcher);
        let records = cursor.records.records();
        let offset = cursor.records.done_to().map_or(records.position, |(offset, _)| offset);
        fetcher.refetch(&records.partition, records.epoch, offset, Instant::now());
        drop(fetcher);
        drop(cursor);
        self.fetchable.notify();
    }

    /// What is left at hand of a batch goes back to its partition, for another reader. Returns the partition if the
    /// application still works on a record of it.
    pub(super) fn give_back_cursor(&self) -> Option<TopicPartition> {
        let mut reader = self.reader.lock();
        self.revalidate(&mut reader.cursor);
        if reader.busy
            && let Some(cursor) = &reader.cursor
        {
            return Some(cursor.records.records().partition.clone());
        }
        if let Some(cursor) = reader.cursor.take() {
            let mut fetcher = self.fetcher.lock();
            fold(&cursor, &mut fetcher);
            fetcher.put_back(cursor.into_rest());
        }
        None
    }

    pub(super) fn is_gated(&self) -> bool {
        self.reader.lock().gate
    }

    // ---- acknowledgements

    fn must_wait_for_acks(&self) -> bool {
        self.options.acknowledgements && self.acks.lock().unacknowledged() >= self.options.max_unacknowledged
    }

    /// The application is done with offsets from `from` up to but not including `to`.
    pub(super) fn acknowledge(&self, partition: &TopicPartition, from: i64, to: i64) {
        let (settled, left) = {
            let mut acks = self.acks.lock();
            (acks.acknowledge(partition, from, to), acks.unacknowledged())
        };
        if settled > 0 && left == 0 {
            self.returned.notify();
        }
        if settled > 0 && left + settled >= self.options.max_unacknowledged {
            self.readable.notify();
            self.leases.lock().values().for_each(|lease| lease.data.notify_one());
        }
    }

    /// Sets the gauges that tell how things stand.
    pub(super) fn take_stock(&self) {
        let (assigned, buffered) = {
            let fetcher = self.fetcher.lock();
            (fetcher.assigned_count(), fetcher.buffered_bytes())
        };
        self.metrics.standing(assigned, buffered, self.acks.lock().unacknowledged());
    }

    pub(super) fn oldest_unacknowledged(&self, partition: &TopicPartition) -> Option<i64> {
        self.acks.lock().oldest(partition)
    }

    // ---- positions

    /// The position of every assigned partition that has one: what was handed out lies before it.
    pub(super) fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        self.fold_leases();
        let reader = self.reader.lock();
        let mut fetcher = self.fetcher.lock();
        if let Some(cursor) = &reader.cursor {
            fold(cursor, &mut fetcher);
        }
        fetcher.positions()
    }

    /// What an explicit commit means: everything that was handed out, except by streams, whose tasks may be at work.
    pub(super) fn positions_to_commit(&self) -> BTreeMap<TopicPartition, Position> {
        if self.options.acknowledgements {
            return self.done_positions();
        }
        let mut positions = self.positions();
        for (partition, done) in self.undone_in_leases() {
            if let Some(position) = positions.get_mut(&partition) {
                *position = done;
            }
        }
        positions
    }

    /// As [`Shared::positions`], without what the application may still be working on.
    pub(super) fn done_positions(&self) -> BTreeMap<TopicPartition, Position> {
        if self.options.acknowledgements {
            let mut positions = self.positions();
            let acks = self.acks.lock();
            for (partition, position) in &mut positions {
                *position = acks.committable(partition, *position);
            }
            return positions;
        }
        let mut positions = self.positions_to_commit();
        let reader = self.reader.lock();
        if !reader.busy {
            return positions;
        }
        let unfinished = match (&reader.last_batch, &reader.cursor) {
            (Some((partition, before)), _) => Some((partition, *before)),
            (None, Some(cursor)) => cursor.records.done_to().map(|(offset, leader_epoch)| {
                let before = Position { offset: offset.saturating_sub(1), leader_epoch };
                (&cursor.records.records().partition, before)
            }),
            (None, None) => None,
        };
        if let Some((partition, before)) = unfinished
            && let Some(position) = positions.get_mut(partition)
            && position.offset > before.offset
        {
            *position = before;
        }
        positions
    }

    pub(super) fn seek(&self, partition: &TopicPartition, to: Position) -> bool {
        let assigned = self.fetcher.lock().seek(partition, to);
        self.acks.lock().forget(partition);
        self.invalidate();
        assigned
    }

    pub(super) fn seek_to(&self, partition: &TopicPartition, to: OffsetReset) -> bool {
        let assigned = self.fetcher.lock().seek_to(partition, to);
        self.acks.lock().forget(partition);
        self.invalidate();
        self.upkeep.notify();
        assigned
    }

    pub(super) fn pause(&self, partition: &TopicPartition) -> bool {
        let assigned = self.fetcher.lock().pause(partition);
        self.invalidate();
        assigned
    }

    pub(super) fn resume(&self, partition: &TopicPartition) -> bool {
        let assigned = self.fetcher.lock().resume(partition);
        self.invalidate();
        assigned
    }

    /// Makes readers look again before they go on with the records at hand.
    pub(super) fn invalidate(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.readable.notify();
        self.fetchable.notify();
    }

    // ---- assignment

    pub(super) fn assign(&self, partitions: Vec<TopicPartition>, from_committed: bool) {
        self.fetcher.lock().assign(partitions, from_committed);
        self.upkeep.notify();
        self.readable.notify();
    }

    pub(super) fn unassign(&self, partitions: &[TopicPartition]) {
        self.end_streams(partitions, StreamEnd::Lost);
        self.fetcher.lock().unassign(partitions);
        {
            let mut acks = self.acks.lock();
            partitions.iter().for_each(|partition| acks.forget(partition));
        }
        self.metrics.forget(partitions);
        let mut leases = self.leases.lock();
        partitions.iter().for_each(|partition| drop(leases.remove(partition)));
        drop(leases);
        self.invalidate();
    }

    /// Reads exactly these partitions from now on; those that stay keep their positions.
    pub(super) fn assign_exactly(&self, partitions: BTreeSet<TopicPartition>) {
        let now = self.fetcher.lock().assignment();
        let gone: Vec<TopicPartition> = now.difference(&partitions).cloned().collect();
        let added: Vec<TopicPartition> = partitions.difference(&now).cloned().collect();
        self.begin_revoke(&gone);
        self.unassign(&gone);
        self.assign(added, self.options.group.is_some());
    }

    /// Closes or opens the gate: nothing is handed out while a rebalance moves partitions.
    pub(super) fn set_gate(&self, closed: bool) {
        self.reader.lock().gate = closed;
        self.invalidate();
    }

    /// Whether the application still works on something that was handed out.
    pub(super) fn reader_is_busy(&self) -> bool {
        if self.streams_are_busy() {
            return true;
        }
        match self.options.acknowledgements {
            true => self.acks.lock().unacknowledged() > 0,
            false => self.reader.lock().busy,
        }
    }

    /// Whether the application asked for records since the last call, or is waiting for some.
    pub(super) fn take_polled(&self) -> bool {
        let polled = std::mem::take(&mut self.reader.lock().polled);
        let streams = self.polled.swap(false, Ordering::Relaxed);
        polled || streams || self.waiting.load(Ordering::Relaxed) > 0
    }

    // ---- the end

    /// A fatal failure stays, any other is told once.
    pub(super) fn take_failure(&self) -> Option<ConsumeError> {
        let mut failure = self.failure.lock();
        match &*failure {
            Some(error) if error.is_fatal() => Some(error.clone()),
            _ => failure.take(),
        }
    }

    /// Tells the reader with its next call.
    pub(super) fn fail(&self, error: ConsumeError) {
        *self.failure.lock() = Some(error);
        self.readable.notify();
    }

    /// Rebalances do not wait for the reader any more.
    pub(super) fn begin_close(&self) {
        self.closing.store(true, Ordering::Release);
        self.returned.notify();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The application says that it is done with everything it got.
    pub(super) fn finish_reading(&self) {
        self.reader.lock().busy = false;
        self.returned.notify();
    }

    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.readable.notify();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Tells the fetcher how far the reader is.
fn fold(cursor: &Cursor, fetcher: &mut Fetcher) {
    if let Some((offset, leader_epoch)) = cursor.records.done_to() {
        let records = cursor.records.records();
        fetcher.read_to(&records.partition, records.epoch, Position { offset, leader_epoch });
    }
}
