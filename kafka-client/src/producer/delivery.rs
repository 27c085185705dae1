//! What became of a record: one completion for each batch, shared by the deliveries of its records.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::SendError;
use crate::TopicPartition;

/// Where a record was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acknowledgement {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The record's offset, or -1 where it is not known: with `acks=0`, and for a batch which the leader recognised as
    /// written before and whose place it has forgotten.
    pub offset: i64,
    /// The record's timestamp in milliseconds since 1970: its own, or the leader's clock on topics with
    /// `message.timestamp.type=LogAppendTime`.
    pub timestamp: i64,
}

impl Acknowledgement {
    /// The topic and the partition.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }
}

/// What becomes of a record that was sent: await it to know. Dropping it costs nothing; the record is still sent.
#[derive(Debug)]
#[must_use = "dropping a delivery is fine, but then nobody learns whether the record was written; say so with `drop`"]
pub struct Delivery {
    completion: Arc<Completion>,
    index: u32,
    /// Where this delivery's waker is in the completion's list, or [`NO_WAKER`].
    waker: u32,
    timestamp: i64,
}

/// Beyond every list.
const NO_WAKER: u32 = u32::MAX;

/// What becomes of records that were sent together; [`Producer::send_all`](super::Producer::send_all) gives it.
///
/// It keeps one entry for each batch, not for each record. Dropping it costs nothing; the records are still sent.
#[derive(Debug, Default)]
#[must_use = "dropping deliveries is fine, but then nobody learns whether the records were written; say so with `drop`"]
pub struct Deliveries {
    runs: Vec<Run>,
}

/// Neighbours in a batch.
#[derive(Debug)]
struct Run {
    completion: Arc<Completion>,
    first: u32,
    /// Timestamps of the records.
    timestamps: Timestamps,
}

#[derive(Debug)]
enum Timestamps {
    Same { timestamp: i64, count: u32 },
    Each(Vec<i64>),
}

impl Timestamps {
    fn len(&self) -> usize {
        match self {
            Self::Same { count, .. } => *count as usize,
            Self::Each(each) => each.len(),
        }
    }

    fn get(&self, at: usize) -> i64 {
        match self {
            Self::Same { timestamp, .. } => *timestamp,
            Self::Each(each) => each.get(at).copied().unwrap_or(-1),
        }
    }

    fn push(&mut self, next: i64) {
        match self {
            Self::Same { timestamp, count } if *timestamp == next => *count += 1,
            Self::Same { timestamp, count } => {
                let mut each = vec![*timestamp; *count as usize];
                each.push(next);
                *self = Self::Each(each);
            }
            Self::Each(each) => each.push(next),
        }
    }
}

impl Deliveries {
    /// How many records.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.timestamps.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Waits until every record is acknowledged or has failed; the first failure, if any, in the order of sending.
    ///
    /// Looks at batches, not at records. Dropping the future only ends the wait.
    pub async fn all(&self) -> Result<(), SendError> {
        let mut failure = None;
        for run in &self.runs {
            run.completion.clone().settled().await;
            failure = failure.or_else(|| run.completion.failure());
        }
        failure.map_or(Ok(()), Err)
    }

    /// A delivery for each record, in the order of sending.
    pub fn into_each(self) -> impl Iterator<Item = Delivery> {
        self.runs.into_iter().flat_map(|run| {
            let Run { completion, first, timestamps } = run;
            (0..timestamps.len())
                .map(move |at| Delivery::new(completion.clone(), first + at as u32, timestamps.get(at)))
        })
    }

    pub(super) fn push_delivery(&mut self, delivery: &Delivery) {
        self.push(&delivery.completion, delivery.index, delivery.timestamp);
    }

    pub(super) fn push(&mut self, completion: &Arc<Completion>, index: u32, timestamp: i64) {
        match self.runs.last_mut() {
            Some(run)
                if Arc::ptr_eq(&run.completion, completion)
                    && run.first as usize + run.timestamps.len() == index as usize =>
            {
                run.timestamps.push(timestamp);
            }
            _ => self.runs.push(Run {
                completion: completion.clone(),
                first: index,
                timestamps: Timestamps::Same { timestamp, count: 1 },
            }),
        }
    }
}

/// The fate of a batch.
#[derive(Debug)]
pub(super) struct Completion {
    partition: TopicPartition,
    outcome: OnceLock<Outcome>,
    wakers: Mutex<Vec<Waker>>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Written {
        base_offset: i64,
        log_append_time: Option<i64>,
    },
    Failed(SendError),
    /// The batch was too large and was cut (KIP-126): from each index on, another completion tells.
    Split(Vec<(u32, Arc<Completion>)>),
}

impl Completion {
    pub(super) fn new(partition: TopicPartition) -> Arc<Self> {
        Arc::new(Self { partition, outcome: OnceLock::new(), wakers: Mutex::default() })
    }

    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// Settles the batch. Only the first outcome counts.
    pub(super) fn complete(&self, outcome: Outcome) {
        // The callers may have dropped their deliveries; a loss must not pass without a trace. Of an aborted transaction
        // nothing else is expected.
        if let Outcome::Failed(error) = &outcome
            && !matches!(error, SendError::NoTransaction)
        {
            tracing::warn!(partition = %self.partition, %error, "batch not delivered");
        }
        if self.outcome.set(outcome).is_ok() {
            // Whoever registers after this sees the outcome, because both look under the lock.
            let wakers = std::mem::take(&mut *self.wakers.lock());
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Ready when the batch is settled; `slot` remembers where the waker is.
    fn poll_settled(&self, cx: &Context<'_>, slot: &mut u32) -> Poll<&Outcome> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut wakers = self.wakers.lock();
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        match wakers.get_mut(*slot as usize) {
            Some(known) => known.clone_from(cx.waker()),
            None => {
                *slot = u32::try_from(wakers.len()).unwrap_or(NO_WAKER);
                wakers.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Why some record of the batch failed, if one did.
    fn failure(&self) -> Option<SendError> {
        match self.outcome.get()? {
            Outcome::Written { .. } => None,
            Outcome::Failed(error) => Some(error.clone()),
            Outcome::Split(parts) => parts.iter().find_map(|(_, part)| part.failure()),
        }
    }

    /// Waits until every record of the batch is settled, wherever it ended up.
    pub(super) async fn settled(self: Arc<Self>) {
        let mut open = vec![self];
        while let Some(completion) = open.pop() {
            let mut slot = NO_WAKER;
            std::future::poll_fn(|cx| completion.poll_settled(cx, &mut slot).map(|_| ())).await;
            if let Some(Outcome::Split(parts)) = completion.outcome() {
                open.extend(parts.iter().map(|(_, part)| part.clone()));
            }
        }
    }
}

impl Delivery {
    pub(super) fn new(completion: Arc<Completion>, index: u32, timestamp: i64) -> Self {
        Self { completion, index, waker: NO_WAKER, timestamp }
    }

    /// The partition the record goes to.
    pub fn partition(&self) -> &TopicPartition {
        &self.completion.partition
    }
}

/// Dropping the future is harmless: the record is sent all the same.
impl Future for Delivery {
    type Output = Result<Acknowledgement, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = &mut *self;
            let Poll::Ready(outcome) = this.completion.poll_settled(cx, &mut this.waker) else {
                return Poll::Pending;
            };
            let part = match outcome {
                Outcome::Failed(error) => return Poll::Ready(Err(error.clone())),
                Outcome::Written { base_offset, log_append_time } => {
                    let partition = &this.completion.partition;
                    let offset = if *base_offset < 0 { -1 } else { base_offset + i64::from(this.index) };
                    return Poll::Ready(Ok(Acknowledgement {
                        topic: partition.topic.clone(),
                        partition: partition.partition,
                        offset,
                        timestamp: log_append_time.unwrap_or(this.timestamp),
                    }));
                }
                Outcome::Split(parts) => parts.iter().rev().find(|(from, _)| *from <= this.index).cloned(),
            };
            let Some((from, completion)) = part else {
                return Poll::Ready(Err(SendError::Closed));
            };
            this.completion = completion;
            this.index -= from;
            this.waker = NO_WAKER;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion() -> Arc<Completion> {
        Completion::new(TopicPartition::new("t", 3))
    }

    #[tokio::test]
    async fn every_record_of_a_batch_learns_its_own_offset() {
        let batch = completion();
        let deliveries: Vec<_> = (0..3).map(|i| Delivery::new(batch.clone(), i, 1000)).collect();
        let waiting = tokio::spawn(futures::future::join_all(deliveries));
        tokio::task::yield_now().await;
        batch.complete(Outcome::Written { base_offset: 40, log_append_time: None });
        let offsets: Vec<_> = waiting.await.unwrap().into_iter().map(|ack| ack.unwrap().offset).collect();
        assert_eq!(offsets, [40, 41, 42]);
    }

    #[tokio::test]
    async fn the_leaders_clock_wins_over_the_records_own() {
        let batch = completion();
        let delivery = Delivery::new(batch.clone(), 0, 1000);
        batch.complete(Outcome::Written { base_offset: 0, log_append_time: Some(2000) });
        assert_eq!(delivery.await.unwrap().timestamp, 2000);
    }

    #[tokio::test]
    async fn a_delivery_follows_its_record_through_a_split() {
        let (batch, first, second) = (completion(), completion(), completion());
        let delivery = Delivery::new(batch.clone(), 5, 0);
        batch.complete(Outcome::Split(vec![(0, first.clone()), (4, second.clone())]));
        second.complete(Outcome::Written { base_offset: 100, log_append_time: None });
        assert_eq!(delivery.await.unwrap().offset, 101);
        first.complete(Outcome::Failed(SendError::Closed));
        tokio::time::timeout(std::time::Duration::from_secs(1), batch.settled()).await.unwrap();
    }

    #[tokio::test]
    async fn a_delivery_that_was_dropped_leaves_the_others_alone() {
        let batch = completion();
        let mut dropped = Delivery::new(batch.clone(), 0, 0);
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        let kept = Delivery::new(batch.clone(), 1, 0);
        batch.complete(Outcome::Written { base_offset: -1, log_append_time: None });
        assert_eq!(kept.await.unwrap().offset, -1);
    }
}
