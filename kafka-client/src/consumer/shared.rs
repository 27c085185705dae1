//! What the consumer's handle and its background tasks share: the fetcher, the reader's place, wake-ups.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{broadcast, mpsc};

use super::acks::AckTracker;
use super::builder::Options;
use super::commits::CommitQueue;
use super::fetch::{Fetcher, Position};
use super::listener::RebalanceEvent;
use super::metrics::Metrics;
use super::records::{IntoRecords, PartitionRecords};
use super::streams::{Lease, StreamEnd};
use super::{ConsumeError, OffsetReset};
use crate::TopicPartition;
use crate::client::Client;
use crate::group::GroupProtocol;
use crate::group::member::{Identity, Topics};
use crate::net::Pool;
use crate::news::News;

/// Rebalance events that a slow receiver may fall behind by.
const MAX_EVENTS: usize = 64;

/// A wake-up that cannot be missed: waiters catch up with it before they look at the state.
pub(super) type Signal = News<()>;

/// What the handle asks of the group's task.
#[derive(Debug)]
pub(super) enum Command {
    Subscribe(Topics),
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
    /// A stream of a partition was asked for records, or work that was in progress ended, since this was last looked at.
    pub(super) polled: AtomicBool,
    /// Guards that say that the application is at work.
    working: AtomicUsize,
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
    /// The group goes from one generation to the next, and this member with it.
    pub(super) changes_generation: AtomicBool,
    /// What the group speaks, once that is settled.
    pub(super) group_protocol: Mutex<Option<GroupProtocol>>,
    pub(super) committed: Mutex<BTreeMap<TopicPartition, i64>>,
    failure: Mutex<Option<ConsumeError>>,
    closing: AtomicBool,
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
            working: AtomicUsize::new(0),
            leases: Mutex::default(),
            acks: Mutex::default(),
            commits: CommitQueue::default(),
            readable: Signal::default(),
            fetchable: Signal::default(),
            upkeep: Signal::default(),
            returned: Signal::default(),
            commands,
            events: broadcast::Sender::new(MAX_EVENTS),
            identity: Mutex::new(None),
            changes_generation: AtomicBool::new(false),
            group_protocol: Mutex::new(None),
            committed: Mutex::default(),
            failure: Mutex::new(None),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        (shared, received)
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
            self.returned.tell(());
        }
        if settled > 0 && left + settled >= self.options.max_unacknowledged {
            self.readable.tell(());
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
        self.upkeep.tell(());
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
        self.readable.tell(());
        self.fetchable.tell(());
    }

    // ---- assignment

    pub(super) fn assign(&self, partitions: Vec<TopicPartition>, from_committed: bool) {
        self.fetcher.lock().assign(partitions, from_committed);
        self.upkeep.tell(());
        self.readable.tell(());
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

    pub(super) fn begin_work(&self) {
        self.working.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_work(&self) {
        // Before it counts as ended; see `take_polled`.
        self.polled.store(true, Ordering::Release);
        self.working.fetch_sub(1, Ordering::Release);
    }

    /// Whether the application asked for records since the last call, or is waiting for some, or is at work.
    pub(super) fn take_polled(&self) -> bool {
        // In this order: work that ends now has left its mark in `polled`.
        let working = self.working.load(Ordering::Acquire) > 0;
        let noted = self.polled.swap(false, Ordering::Acquire);
        let polled = std::mem::take(&mut self.reader.lock().polled);
        working || noted || polled || self.waiting.load(Ordering::Relaxed) > 0
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
        self.readable.tell(());
    }

    /// Rebalances do not wait for the reader any more.
    pub(super) fn begin_close(&self) {
        self.closing.store(true, Ordering::Release);
        self.returned.tell(());
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The application says that it is done with everything it got.
    pub(super) fn finish_reading(&self) {
        self.reader.lock().busy = false;
        self.returned.tell(());
    }

    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.readable.tell(());
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
