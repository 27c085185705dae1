//! What becomes of a Fetch answer.

use std::collections::VecDeque;

use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::budget::Charge;
use super::scan::{Scan, Scanned};
use super::{
    Ends, FetchPart, FetchPlan, Fetcher, OVERHEAD_UNIT, PARTITION_BACKOFF, PartitionAnswer, Place, Position,
    Preferred, REPORTED_BACKOFF, TELLING_ANSWER_BYTES,
};
use crate::TopicPartition;
use crate::consumer::{ConsumeError, PartitionRecords};

impl Fetcher {
    /// Takes an answer in, with the session that the broker opened (0: none). Returns whether the reader has something
    /// new.
    pub(crate) fn answered(
        &mut self,
        plan: &FetchPlan,
        session_id: i32,
        answers: Vec<PartitionAnswer>,
        now: Instant,
    ) -> bool {
        // What is void keeps its frame in memory no less than what is not.
        let frame_bytes: usize = answers.iter().map(|answer| answer.records.len()).sum();
        let charge = self.budget.charge(frame_bytes);
        let valid: Vec<PartitionAnswer> = answers
            .into_iter()
            .filter(|answer| {
                plan.parts.get(answer.part).is_some_and(|part| {
                    self.partitions
                        .get(&part.partition)
                        .is_some_and(|state| state.epoch == part.epoch && state.in_flight == Some(plan.id))
                })
            })
            .collect();
        self.finish(plan);
        self.brokers.entry(plan.broker).or_default().session.answered(session_id);
        self.largest_batch -= self.largest_batch.div_ceil(16).min(self.largest_batch);
        self.budget.decay();
        let before = self.ready.len();
        for answer in valid {
            if let Some(part) = plan.parts.get(answer.part) {
                self.take_answer(plan.broker, part, answer, &charge, now);
            }
        }
        if frame_bytes >= TELLING_ANSWER_BYTES {
            let overhead = charge.bytes().saturating_sub(frame_bytes) * OVERHEAD_UNIT / frame_bytes;
            self.overhead = overhead.max(self.overhead - self.overhead.div_ceil(16).min(self.overhead));
        }
        self.ready.len() > before
    }

    fn take_answer(
        &mut self,
        broker: i32,
        part: &FetchPart,
        answer: PartitionAnswer,
        charge: &Charge,
        now: Instant,
    ) {
        let served = self.next_id();
        let lifetime = self.config.preferred_replica_lifetime;
        let Some(state) = self.partitions.get_mut(&part.partition) else { return };
        match answer.code {
            ErrorCode::None => {
                state.ends = Some(Ends {
                    log_start_offset: answer.log_start_offset,
                    last_stable_offset: answer.last_stable_offset,
                    high_watermark: answer.high_watermark,
                });
                if let Some((epoch, offset)) = answer.diverging {
                    return self.truncated(&part.partition, Some(Position { offset, leader_epoch: epoch }));
                }
                if let Some(follower) = answer.preferred_replica.filter(|follower| *follower != broker) {
                    state.preferred = Some(Preferred { broker: follower, until: now + lifetime });
                    self.sources_changed = true;
                    return;
                }
                if answer.records.is_empty() {
                    return;
                }
                state.served = served;
                let Scanned { mut pieces, end, largest_batch, damage } =
                    Scan::new(&self.config, part, answer, charge).run();
                for piece in &mut pieces {
                    piece.budget = Some(self.budget.clone());
                    charge.add(piece.overhead_bytes());
                }
                self.largest_batch = self.largest_batch.max(largest_batch);
                self.take_pieces(&part.partition, pieces, end, now);
                if let Some(source) = damage.filter(|_| end.offset == part.offset) {
                    let (partition, offset) = (part.partition.clone(), end.offset);
                    let error = ConsumeError::CorruptBatch { partition, offset, source };
                    self.report_in_place(&part.partition, error, now);
                }
            }
            ErrorCode::OffsetOutOfRange => {
                if state.preferred.take().is_some() {
                    // A follower may lag behind; only the leader knows (`FetchCollector`).
                    self.sources_changed = true;
                    return;
                }
                let Place::At { position, fetch, .. } = state.place else { return };
                if position.offset != fetch.offset {
                    // What is buffered is read first.
                    state.not_before = Some(now + PARTITION_BACKOFF);
                    return;
                }
                match self.reset_place(&part.partition) {
                    Some(place) => {
                        self.move_to(&part.partition, place);
                    }
                    None => {
                        let (partition, position) = (part.partition.clone(), Some(fetch.offset));
                        let error = ConsumeError::NoOffset { partition, position };
                        self.report(&part.partition, error, Place::Nowhere);
                    }
                }
            }
            code if code.is_retriable()
                || code.is_stale_metadata()
                || matches!(code, ErrorCode::UnknownServerError | ErrorCode::UnknownTopicId) =>
            {
                self.sources_changed |= state.preferred.take().is_some();
                state.not_before = Some(now + PARTITION_BACKOFF);
                self.needs_metadata |= code != ErrorCode::CorruptMessage;
            }
            code => {
                let error = ConsumeError::Refused { partition: part.partition.clone(), code };
                self.report_in_place(&part.partition, error, now);
            }
        }
    }

    fn take_pieces(
        &mut self,
        partition: &TopicPartition,
        pieces: Vec<PartitionRecords>,
        end: Position,
        now: Instant,
    ) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let Place::At { position, fetch, .. } = &mut state.place else { return };
        if end.offset <= fetch.offset {
            // Not one whole batch: the broker cut it off. Kafka never does so to the first partition of a
            // request (KIP-74); for others, ask for more.
            state.max_bytes = state.max_bytes.saturating_mul(2).min(self.config.max_bytes);
            state.not_before = Some(now + PARTITION_BACKOFF);
            return;
        }
        state.max_bytes = self.config.max_partition_bytes;
        let all_read = position.offset == fetch.offset;
        *fetch = end;
        if pieces.is_empty() {
            // Only control, aborted or compacted batches: nothing for the reader, but a step forward.
            match state.pieces.back_mut() {
                Some(last) => last.end = end,
                None if all_read => *position = end,
                // The reader holds the last piece; the position follows when it comes back for more.
                None => state.pieces.push_back(PartitionRecords {
                    partition: partition.clone(),
                    epoch: state.epoch,
                    position: end.offset,
                    end,
                    batches: VecDeque::new(),
                    high_watermark: -1,
                    max_decompressed: 0,
                    size: 0,
                    charge: None,
                    budget: None,
                }),
            }
        }
        state.pieces.extend(pieces);
        self.enqueue(partition);
    }

    /// Tells the reader, and tries again after a while.
    fn report_in_place(&mut self, partition: &TopicPartition, error: ConsumeError, now: Instant) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.not_before = Some(now + REPORTED_BACKOFF);
            let place = state.place;
            self.report(partition, error, place);
        }
    }
}
