//! Which open batches are closed, and when.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::accumulator::{Lingering, PartitionBuffer};
use super::super::batch::Batch;
use super::request::standing;
use super::{LONGEST_SLEEP, Task};

impl Task {
    /// Takes closed batches, and closes those that have lingered long enough; all if `flush`.
    ///
    /// A batch that no broker would take now stays open, and grows: of thousands of partitions each has a record or two
    /// after `linger.ms`, and a request for all of them costs what a batch costs for each record. Java's producer drains
    /// its open batches in the same way.
    pub(super) fn collect(&mut self, flush: bool) {
        let accumulator = &self.shared.accumulator;
        accumulator.take_inbox(&mut self.closed, &mut self.opened);
        self.enqueue_closed();
        let now = Instant::now();
        let accumulator = &self.shared.accumulator;
        if flush || accumulator.is_closed() {
            self.close_all(now);
        } else {
            self.close_wanted(now, accumulator.is_exhausted());
        }
    }

    fn close_all(&mut self, now: Instant) {
        self.lingering.extend(self.opened.drain(..));
        self.next_linger = None;
        while let Some(buffer) = self.lingering.pop_front() {
            self.close(buffer, now, Duration::ZERO);
        }
    }

    /// Closes what lingered long enough, or everything where somebody waits for memory (`pressed`), as far as brokers
    /// would take it.
    fn close_wanted(&mut self, now: Instant, pressed: bool) {
        let linger = self.shared.accumulator.linger();
        let overdue = self.next_look.is_none_or(|at| at <= now);
        let due = self.next_linger.is_some_and(|at| at <= now);
        let again = std::mem::take(&mut self.look_again);
        if !(due || pressed || again || overdue) {
            // Of thousands of partitions only the new ones are looked at every time.
            for buffer in std::mem::take(&mut self.opened) {
                self.close(buffer, now, linger);
            }
            return;
        }
        self.lingering.extend(self.opened.drain(..));
        self.next_linger = None;
        let age = if pressed { Duration::ZERO } else { linger };
        let delivery_timeout = self.shared.options.sender.delivery_timeout;
        // What opens from now on may wait so long at least.
        let mut next_look = now + LONGEST_SLEEP.min(delivery_timeout);
        let mut appetite = self.sender.appetite();
        for _ in 0..self.lingering.len() {
            if appetite.is_gone() && !overdue {
                break;
            }
            let Some(buffer) = self.lingering.pop_front() else { break };
            if overdue {
                // No batch waits longer than its records may.
                match self.shared.accumulator.close_aged(&buffer, now, delivery_timeout) {
                    Lingering::Until(expires_at) => next_look = next_look.min(expires_at),
                    ended => {
                        self.settle(buffer, ended);
                        continue;
                    }
                }
            }
            let leader = self.sender.leader_of(buffer.lane.slot);
            if appetite.is_for(leader) {
                if let Some(bytes) = self.close(buffer, now, age) {
                    appetite.took(leader, bytes);
                }
            } else {
                self.lingering.push_back(buffer);
            }
        }
        if overdue {
            self.next_look = Some(next_look);
        }
    }

    /// Closes the partition's batch if it is of that age, and says how large it was; else its turn comes again.
    fn close(&mut self, buffer: Arc<PartitionBuffer>, now: Instant, age: Duration) -> Option<usize> {
        let lingering = self.shared.accumulator.close_aged(&buffer, now, age);
        if let Lingering::Until(at) = lingering {
            self.next_linger = Some(self.next_linger.map_or(at, |next| next.min(at)));
        }
        self.settle(buffer, lingering)
    }

    fn settle(&mut self, buffer: Arc<PartitionBuffer>, lingering: Lingering) -> Option<usize> {
        match lingering {
            Lingering::Nothing => None,
            Lingering::Until(_) => {
                self.lingering.push_back(buffer);
                None
            }
            Lingering::Closed(batch) => {
                let bytes = batch.raw_bytes();
                // Batches that filled up meanwhile are older: they come first.
                self.shared.accumulator.take_inbox(&mut self.closed, &mut self.opened);
                self.enqueue_closed();
                self.enqueue(batch);
                Some(bytes)
            }
        }
    }

    fn enqueue_closed(&mut self) {
        let mut closed = std::mem::take(&mut self.closed);
        for batch in closed.drain(..) {
            self.enqueue(batch);
        }
        self.closed = closed;
    }

    fn enqueue(&mut self, batch: Batch) {
        let lane = batch.lane.clone();
        let new = self.sender.is_new(&lane);
        self.sender.enqueue(batch);
        if new {
            self.follow(lane.slot, standing(&self.cluster, &lane));
        }
    }
}
