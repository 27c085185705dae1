//! What an answer, or its absence, means for a batch.

use std::time::Duration;

use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::super::Acks;
use super::super::batch::{Batch, Lane};
use super::super::error::SendError;
use super::super::events::{DataLoss, ProducerEvent};
use super::queue::{End, Returned};
use super::{Action, OpenRequest, PartAnswer, RequestId, Sender};

impl Sender {
    /// The answer to a request; `answer_for` finds what it says of a partition.
    pub(in super::super) fn answered(
        &mut self,
        now: Instant,
        id: RequestId,
        mut answer_for: impl FnMut(&Lane) -> Option<PartAnswer>,
        actions: &mut Vec<Action>,
    ) {
        for slot in self.close_request(id) {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            let Some(returned) = queue.returned(id) else { continue };
            match answer_for(&returned.batch.lane) {
                Some(answer) => self.take_answer(now, slot, returned, &answer, actions),
                // The broker left it out: nobody knows.
                None => self.take_failure(now, slot, returned, true),
            }
        }
        self.forget_idle();
    }

    /// A request has no answer; `possibly_written` unless no byte of it left.
    pub(in super::super) fn failed(
        &mut self,
        now: Instant,
        id: RequestId,
        possibly_written: bool,
        actions: &mut Vec<Action>,
    ) {
        for slot in self.close_request(id) {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            let Some(returned) = queue.returned(id) else { continue };
            actions.push(Action::RefreshMetadata { lane: queue.lane.clone() });
            self.take_failure(now, slot, returned, possibly_written);
        }
        self.forget_idle();
    }

    fn close_request(&mut self, id: RequestId) -> Vec<usize> {
        let Some(OpenRequest { broker, slots }) = self.requests.remove(&id) else {
            return Vec::new();
        };
        if let Some(state) = self.brokers.get_mut(&broker) {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.batches_in_flight = state.batches_in_flight.saturating_sub(slots.len());
        }
        slots
    }

    fn take_answer(
        &mut self,
        now: Instant,
        slot: usize,
        mut returned: Returned,
        answer: &PartAnswer,
        actions: &mut Vec<Action>,
    ) {
        let batch = &mut returned.batch;
        batch.last_error = Some(answer.code);
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        match answer.code {
            ErrorCode::None => {
                queue.written(batch, answer.base_offset);
                self.news.written(batch, answer.base_offset, answer.log_append_time);
            }
            // Written before, and the leader has forgotten where.
            ErrorCode::DuplicateSequenceNumber => {
                queue.written(batch, -1);
                self.news.written(batch, -1, None);
            }
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge
                if batch.record_count() > 1 && !returned.expired =>
            {
                self.split(slot, returned.batch, answer.code);
            }
            // A gap. Before this batch there is another one open: that one comes first, then this one fits.
            // It needs no back-off of its own: it is held until that one is through.
            ErrorCode::OutOfOrderSequenceNumber if !returned.first_in_line => {
                self.retry(now, slot, returned, Some(Duration::ZERO));
            }
            // A leader that restarted remembers a producer's last batch only, and finds an older one out of order though
            // it has it. And where the batch before was given up, the requests of a connection that was lost may still
            // lie with the broker, all of them. New numbers could write it twice, and to call it written could be wrong:
            // its caller decides.
            ErrorCode::OutOfOrderSequenceNumber
                if batch.possibly_written
                    && (queue.may_be_behind_the_leader(batch)
                        || (batch.may_still_arrive && queue.lost(batch, answer).is_none())) =>
            {
                self.refuse(&returned, answer.code);
            }
            // The broker does not know where its log starts, for instance because it just stopped leading: whether
            // retention took what the producer wrote cannot be told yet (`TransactionManager.canRetry`).
            ErrorCode::UnknownProducerId if batch.sequence.is_some() && answer.log_start_offset < 0 => {
                actions.push(Action::RefreshMetadata { lane: queue.lane.clone() });
                self.retry(now, slot, returned, None);
            }
            // The gap is real (an earlier batch expired or was refused), or the leader forgot or fenced the producer.
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
                if batch.sequence.is_some() && self.transactions.is_none() =>
            {
                batch.possibly_written = false;
                if let Some(last_acknowledged_offset) = queue.lost(batch, answer)
                    && queue.ended().is_none()
                {
                    self.news.event(ProducerEvent::PossibleDataLoss {
                        partition: batch.lane.name.clone(),
                        last_acknowledged_offset,
                        log_start_offset: answer.log_start_offset,
                        cause: answer.code,
                    });
                    if self.config.on_data_loss == DataLoss::Stop {
                        queue.end(End::DataLost);
                        for batch in queue.drain_waiting() {
                            self.news.failed(&batch, End::DataLost.error(&batch));
                        }
                    }
                }
                queue.request_restart();
                let identity = batch.sequence.map(|s| s.identity);
                self.bump_epoch(identity, answer.code);
                self.retry(now, slot, returned, None);
            }
            code if code.is_retriable() => {
                if code.is_stale_metadata() {
                    actions.push(Action::RefreshMetadata { lane: queue.lane.clone() });
                }
                batch.possibly_written |= may_follow_an_append(code, self.config.acks);
                self.retry(now, slot, returned, None);
            }
            code => self.refuse(&returned, code),
        }
    }

    fn take_failure(&mut self, now: Instant, slot: usize, mut returned: Returned, possibly_written: bool) {
        returned.batch.possibly_written |= possibly_written;
        returned.batch.may_still_arrive |= possibly_written;
        returned.batch.last_error = Some(ErrorCode::NetworkException);
        self.retry(now, slot, returned, None);
    }

    /// Puts a batch back in line, unless its caller was told already. `delay` is the back-off where it is not given.
    ///
    /// What the old leader answered is no reason to spare a new one (KIP-951).
    fn retry(&mut self, now: Instant, slot: usize, returned: Returned, delay: Option<Duration>) {
        if returned.expired {
            return;
        }
        if self.is_aborting() {
            self.drop_batch(&returned.batch);
            return;
        }
        let code = returned.batch.last_error.unwrap_or(ErrorCode::None);
        let backoff = delay.unwrap_or_else(|| self.delay_after(code, returned.batch.attempts));
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        if let Some(end) = queue.ended() {
            self.news.failed(&returned.batch, end.error(&returned.batch));
            return;
        }
        if returned.batch.attempts > self.config.retries {
            let code = returned.batch.last_error.unwrap_or(ErrorCode::NetworkException);
            self.refuse(&returned, code);
            return;
        }
        let leader_moved = queue.leader.is_some() && queue.leader != Some(returned.leader);
        let delay = if leader_moved { Duration::ZERO } else { backoff };
        let mut batch = returned.batch;
        batch.retry_at = (!delay.is_zero()).then(|| now + delay);
        queue.put_back(batch);
    }

    /// Cuts a batch that the broker finds too large and puts the parts in its place. No retry is charged for that.
    fn split(&mut self, slot: usize, batch: Batch, code: ErrorCode) {
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        let size_bytes = batch.size_bytes();
        batch.lane.ratio.reset();
        match batch.split(self.config.batch_size) {
            Ok(parts) => {
                let partition = queue.lane.name.clone();
                self.news.event(ProducerEvent::BatchSplit { partition, size_bytes, parts: parts.len() });
                for mut part in parts {
                    part.attempts = part.attempts.saturating_sub(1);
                    queue.put_back(part);
                }
            }
            Err(whole) => self.news.failed(&whole, refused(&whole, code)),
        }
    }

    fn refuse(&mut self, returned: &Returned, code: ErrorCode) {
        if !returned.expired {
            self.news.failed(&returned.batch, refused(&returned.batch, code));
        }
    }

    /// Fails what is older than `delivery.timeout`, which counts from the batch's first record: linger, the search for
    /// a leader, and every retry are in it.
    pub(super) fn expire(&mut self, now: Instant) {
        let timeout = self.config.delivery_timeout;
        let Some(limit) = now.checked_sub(timeout) else { return };
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            if queue.oldest().is_none_or(|oldest| oldest > limit) {
                continue;
            }
            let partition = queue.lane.name.clone();
            queue.expire(limit, |batch, in_flight| {
                let partition = partition.clone();
                let error = if in_flight || batch.possibly_written {
                    SendError::Unanswered { partition, waited: timeout }
                } else {
                    SendError::Expired { partition, waited: timeout, last: batch.last_error }
                };
                self.news.failed(batch, error);
            });
        }
    }

    /// Gives up everything: the producer is closed for good.
    pub(in super::super) fn abort(&mut self, now: Instant) {
        for queue in self.partitions.iter_mut().flatten() {
            let partition = queue.lane.name.clone();
            queue.expire(now, |batch, in_flight| {
                let error = if in_flight || batch.possibly_written {
                    let waited = now.duration_since(batch.created_at);
                    SendError::Unanswered { partition: partition.clone(), waited }
                } else {
                    SendError::Closed
                };
                self.news.failed(batch, error);
            });
        }
        self.forget_idle();
    }

    /// The topic of this lane is gone; another one has its name. What waits fails now, and what is in flight once it is
    /// known not to be written: the records were meant for the old topic, and so were their numbers.
    pub(in super::super) fn retire(&mut self, slot: usize) {
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        if queue.ended().is_some() {
            return;
        }
        let end = End::TopicRecreated;
        queue.end(end);
        self.news.event(ProducerEvent::TopicRecreated { partition: queue.lane.name.clone() });
        for batch in queue.drain_waiting() {
            self.news.failed(&batch, end.error(&batch));
        }
        self.forget_idle();
    }
}

fn refused(batch: &Batch, code: ErrorCode) -> SendError {
    SendError::Refused { partition: batch.lane.name.clone(), code, possibly_written: batch.possibly_written }
}

/// Whether a leader may say so of what is in its log: it waits in vain for its followers, loses its place while it
/// waits (`DelayedProduce` ends with NOT_LEADER_OR_FOLLOWER then), or cannot sync what it wrote.
fn may_follow_an_append(code: ErrorCode, acks: Acks) -> bool {
    match code {
        ErrorCode::RequestTimedOut
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::KafkaStorageError => true,
        ErrorCode::NotLeaderOrFollower => acks == Acks::All,
        _ => false,
    }
}
