//! One partition's closed batches: waiting in order, and in flight.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::add_to_sequence;
use tokio::time::Instant;

use super::super::batch::{Batch, Identity, Lane, Place, Sequence};
use super::super::error::SendError;
use super::super::snapshot::PartitionSnapshot;
use super::{Leader, PartAnswer, RequestId};

#[derive(Debug)]
pub(super) struct PartitionQueue {
    pub(super) lane: Arc<Lane>,
    pub(super) leader: Option<Leader>,
    /// In the order of their places: retries first, under the sequence numbers that they have.
    waiting: VecDeque<Batch>,
    /// In the order in which they were sent.
    in_flight: Vec<InFlight>,
    next_ordinal: u64,
    /// Under which identity numbers are given, and the next number.
    identity: Option<Identity>,
    next_sequence: i32,
    /// The identity under which the leader wrote a batch: from then on it checks that nothing is missing. Of a producer
    /// that it does not know it takes any number, so until then one batch goes at a time, or the second could be
    /// written without the first.
    known_as: Option<Identity>,
    /// The broker's picture of the sequence has a hole: once nothing is in flight, waiting batches get new numbers.
    resequence: bool,
    /// The last batch that the leader wrote: who wrote it, the number after it, and its base offset.
    acknowledged: Option<Acknowledged>,
    /// Why nothing is sent any more, if so.
    ended: Option<End>,
    /// Batches, from the front, that were given to be compressed.
    compressing: usize,
    /// When to say again that the leader is unknown.
    pub(super) ask_leader_at: Option<Instant>,
}

/// Why a partition takes no more batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its topic was made anew.
    TopicRecreated,
    /// Acknowledged records are gone, and nothing may follow the gap.
    DataLost,
}

impl End {
    /// What a batch fails with.
    pub(super) fn error(self, batch: &Batch) -> SendError {
        let (partition, possibly_written) = (batch.lane.name.clone(), batch.possibly_written);
        match self {
            Self::TopicRecreated => SendError::TopicRecreated { partition, possibly_written },
            Self::DataLost => SendError::DataLoss { partition, possibly_written },
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    identity: Option<Identity>,
    next_sequence: i32,
    last_offset: i64,
    place: Place,
}

#[derive(Debug)]
struct InFlight {
    request: RequestId,
    leader: Leader,
    batch: Batch,
    /// The caller was told already that time is over; the answer only matters to the sequence.
    expired: bool,
}

/// A batch that came back, with whether its caller still waits.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) batch: Batch,
    pub(super) expired: bool,
    /// To whom it was sent.
    pub(super) leader: Leader,
    /// Nothing sent before it is still open: the leader's "out of order" is then about this batch.
    pub(super) first_in_line: bool,
}

impl PartitionQueue {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            leader: None,
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            next_ordinal: 0,
            identity: None,
            next_sequence: 0,
            known_as: None,
            resequence: false,
            acknowledged: None,
            ended: None,
            compressing: 0,
            ask_leader_at: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn head(&self) -> Option<&Batch> {
        self.waiting.front()
    }

    /// What waits to be sent.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Batch> {
        self.waiting.iter()
    }

    /// A new leader need not be spared for what the old one answered (KIP-951).
    pub(super) fn leader_changed(&mut self, leader: Option<Leader>) {
        self.leader = leader;
        self.ask_leader_at = None;
        for batch in &mut self.waiting {
            batch.retry_at = None;
        }
    }

    pub(super) fn push(&mut self, mut batch: Batch) {
        batch.place = Place::new(self.next_ordinal);
        self.next_ordinal += 1;
        self.waiting.push_back(batch);
        self.note_load();
    }

    fn note_load(&self) {
        self.lane.load.set_queued(self.waiting.len());
    }

    /// Puts a batch back in its place, before everything that came after it.
    pub(super) fn put_back(&mut self, batch: Batch) {
        let at = self.waiting.partition_point(|other| other.place <= batch.place);
        self.waiting.insert(at, batch);
        self.note_load();
        self.compressing = 0;
    }

    /// Batches that may not have been given to be compressed yet.
    pub(super) fn uncompressed(&mut self) -> impl Iterator<Item = &mut Batch> {
        let from = self.compressing.min(self.waiting.len());
        self.compressing = self.waiting.len();
        self.waiting.range_mut(from..)
    }

    /// A batch is back; it is returned where it cannot be sent.
    pub(super) fn compressed(
        &mut self,
        ticket: u64,
        result: Result<Bytes, String>,
    ) -> Option<(Batch, String)> {
        let at = self.waiting.iter().position(|batch| batch.ticket() == Some(ticket))?;
        match result {
            Ok(bytes) => {
                self.waiting.get_mut(at)?.compressed(bytes);
                None
            }
            Err(error) => {
                self.compressing = 0;
                self.waiting.remove(at).map(|batch| (batch, error))
            }
        }
    }

    /// Nothing is sent from now on.
    pub(super) fn end(&mut self, end: End) {
        self.ended = Some(end);
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.ended
    }

    /// Whether the head may go to `broker` now, as far as order is concerned.
    ///
    /// While retries are out, they go one at a time, oldest first (`RecordAccumulator.shouldStopDrainBatchesForPartition`):
    /// otherwise one more failure would make the leader refuse all that follow. And nothing goes to a new leader while
    /// the old one may still answer.
    pub(super) fn may_send(&self, broker: i32, max_in_flight: usize, identity: Option<Identity>) -> bool {
        let Some(head) = self.waiting.front() else {
            return false;
        };
        if self.in_flight.is_empty() {
            return true;
        }
        if identity.is_some() && self.known_as != self.identity {
            return false;
        }
        let in_order = self.in_flight.iter().all(|sent| {
            sent.leader.broker == broker
                // Its fate decides whether what follows fits.
                && (identity.is_none() || !sent.expired)
                && sent.batch.attempts <= 1
                && (head.sequence.is_none() || sent.batch.place > head.place)
        });
        // Batches of a new epoch start at 0 and must not overtake those of the old one.
        let same_identity = self.identity.is_none() || self.identity == identity || head.sequence.is_some();
        in_order && same_identity && !self.resequence && self.in_flight.len() < max_in_flight
    }

    /// The sequence for the head: its own if it was sent before, the partition's next one otherwise.
    pub(super) fn take_head(&mut self, identity: Option<Identity>) -> Option<(Batch, Option<Sequence>)> {
        if self.resequence && self.in_flight.is_empty() {
            self.restart_sequence();
        }
        let batch = self.waiting.pop_front()?;
        self.compressing = self.compressing.saturating_sub(1);
        self.note_load();
        let Some(identity) = identity else {
            return Some((batch, None));
        };
        if batch.sequence.is_some() {
            let sequence = batch.sequence;
            return Some((batch, sequence));
        }
        if self.identity != Some(identity) {
            self.identity = Some(identity);
            self.next_sequence = 0;
        }
        let base = self.next_sequence;
        self.next_sequence = add_to_sequence(base, batch.record_count());
        Some((batch, Some(Sequence { identity, base })))
    }

    fn restart_sequence(&mut self) {
        self.resequence = false;
        self.identity = None;
        for batch in &mut self.waiting {
            batch.sequence = None;
        }
    }

    /// The leader wrote a batch.
    pub(super) fn written(&mut self, batch: &Batch, base_offset: i64) {
        self.known_as = batch.sequence.map(|s| s.identity);
        // One that is sent again may be answered after those behind it.
        let is_behind = |last: Acknowledged| last.identity == self.known_as && last.place > batch.place;
        if self.acknowledged.is_some_and(is_behind) {
            return;
        }
        let last_offset =
            if base_offset < 0 { -1 } else { base_offset + i64::from(batch.record_count()) - 1 };
        self.acknowledged = Some(Acknowledged {
            identity: self.known_as,
            next_sequence: batch.sequence.map_or(0, |s| add_to_sequence(s.base, batch.record_count())),
            last_offset,
            place: batch.place,
        });
    }

    /// Whether the leader, refusing `batch` as it did, misses what it acknowledged: the offset of that, or -1.
    ///
    /// Not if retention took it, and not if the gap is the client's own: a batch in between expired or was refused.
    pub(super) fn lost(&self, batch: &Batch, answer: &PartAnswer) -> Option<i64> {
        let acknowledged = self.acknowledged?;
        let sequence = batch.sequence?;
        let lost = match answer.code {
            ErrorCode::OutOfOrderSequenceNumber => {
                acknowledged.identity == Some(sequence.identity)
                    && acknowledged.next_sequence == sequence.base
            }
            ErrorCode::UnknownProducerId => acknowledged.last_offset >= answer.log_start_offset,
            _ => false,
        };
        lost.then_some(acknowledged.last_offset)
    }

    /// Whether batches after this one are, or may be, in the log, and so this one too.
    pub(super) fn may_be_behind_the_leader(&self, batch: &Batch) -> bool {
        let Some(sequence) = batch.sequence else { return false };
        let acknowledged = self
            .acknowledged
            .is_some_and(|last| last.identity == Some(sequence.identity) && last.place > batch.place);
        acknowledged
            || self.waiting.iter().any(|later| {
                later.place > batch.place
                    && later.possibly_written
                    && later.sequence.is_some_and(|other| other.identity == sequence.identity)
            })
    }

    /// The numbers from here on are of no use: start over under the producer's current identity when nothing is open.
    pub(super) fn request_restart(&mut self) {
        self.resequence = true;
    }

    pub(super) fn sent(&mut self, request: RequestId, leader: Leader, batch: Batch) {
        self.in_flight.push(InFlight { request, leader, batch, expired: false });
    }

    pub(super) fn returned(&mut self, request: RequestId) -> Option<Returned> {
        let at = self.in_flight.iter().position(|sent| sent.request == request)?;
        let InFlight { batch, expired, leader, .. } = self.in_flight.remove(at);
        let earlier = |other: &Batch| other.place < batch.place;
        let first_in_line = !self.in_flight.iter().any(|sent| earlier(&sent.batch))
            && !self.waiting.front().is_some_and(earlier);
        Some(Returned { batch, expired, leader, first_in_line })
    }

    /// Takes waiting batches that were created at or before `limit`, and tells of those in flight by `expire`.
    pub(super) fn expire(&mut self, limit: Instant, mut expire: impl FnMut(&Batch, bool)) {
        for sent in &mut self.in_flight {
            if !sent.expired && sent.batch.created_at <= limit {
                sent.expired = true;
                expire(&sent.batch, true);
            }
        }
        while self.waiting.front().is_some_and(|head| head.created_at <= limit) {
            if let Some(batch) = self.waiting.pop_front() {
                expire(&batch, false);
            }
            self.compressing = self.compressing.saturating_sub(1);
        }
        self.note_load();
    }

    /// When the oldest batch whose caller still waits was created.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let sent = self.in_flight.iter().filter(|sent| !sent.expired).map(|sent| sent.batch.created_at);
        sent.chain(self.waiting.front().map(|head| head.created_at)).min()
    }

    /// Goes on at a number that a test chose.
    #[cfg(test)]
    pub(super) fn set_next_sequence(&mut self, next: i32) {
        self.next_sequence = next;
    }

    pub(super) fn show(&self, now: Instant) -> PartitionSnapshot {
        PartitionSnapshot {
            partition: self.lane.name.clone(),
            leader: self.leader.map(|leader| leader.broker),
            waiting_batches: self.waiting.len(),
            in_flight_batches: self.in_flight.len(),
            next_sequence: self.identity.map(|_| self.next_sequence),
            oldest_batch: self.oldest().map(|since| now.saturating_duration_since(since)),
        }
    }

    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.in_flight.iter().map(|sent| &sent.batch).chain(&self.waiting)
    }

    /// Takes every waiting batch.
    pub(super) fn drain_waiting(&mut self) -> impl Iterator<Item = Batch> + '_ {
        self.lane.load.set_queued(0);
        self.compressing = 0;
        self.waiting.drain(..)
    }
}
