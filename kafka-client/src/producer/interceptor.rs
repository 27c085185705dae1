//! Hooks before a record is encoded and after its batch is settled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::record::Record;
use super::sender::Settled;
use super::{ProducerBuilder, SendError};
use crate::TopicPartition;

/// Sees every record on its way in, and every batch on its way out (Java's `ProducerInterceptor`).
///
/// Interceptors run in the order in which they were given to the builder. A producer without any pays nothing.
pub trait ProducerInterceptor: Send + Sync + fmt::Debug {
    /// Called by the sending task before a partition is chosen; may change the record.
    fn on_send<'a>(&self, record: Record<'a>) -> Record<'a> {
        record
    }

    /// Called once for each batch, when it is acknowledged or has failed, by the producer's task: be quick.
    ///
    /// Java calls this for every record; here the batch tells how many there were and where they are.
    fn on_acknowledgement(&self, batch: &AcknowledgedBatch<'_>) {
        let _ = batch;
    }
}

/// A batch that is acknowledged or has failed.
#[derive(Debug)]
pub struct AcknowledgedBatch<'a> {
    settled: &'a Settled,
    age: Duration,
}

impl AcknowledgedBatch<'_> {
    /// Where it was sent.
    pub fn partition(&self) -> &TopicPartition {
        &self.settled.lane.name
    }

    /// How many records it has.
    pub fn record_count(&self) -> i32 {
        self.settled.records
    }

    /// The offset of its first record, or why it was not written. -1 where the offset is not known, as with `acks=0`.
    pub fn base_offset(&self) -> Result<i64, &SendError> {
        self.settled.result.as_ref().map(|&(base_offset, _)| base_offset)
    }

    /// The leader's clock, on topics with `message.timestamp.type=LogAppendTime`.
    pub fn log_append_time(&self) -> Option<i64> {
        self.settled.result.as_ref().ok()?.1
    }

    /// The time since its first record was sent.
    pub fn age(&self) -> Duration {
        self.age
    }
}

/// The interceptors of a producer.
#[derive(Debug, Clone, Default)]
pub(super) struct Interceptors(Vec<Arc<dyn ProducerInterceptor>>);

impl Interceptors {
    pub(super) fn add(&mut self, interceptor: Arc<dyn ProducerInterceptor>) {
        self.0.push(interceptor);
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn on_send<'a>(&self, record: Record<'a>) -> Record<'a> {
        self.0.iter().fold(record, |record, interceptor| interceptor.on_send(record))
    }

    pub(super) fn on_acknowledgement(&self, settled: &Settled, age: Duration) {
        let batch = AcknowledgedBatch { settled, age };
        for interceptor in &self.0 {
            interceptor.on_acknowledgement(&batch);
        }
    }
}

impl ProducerBuilder {
    /// Adds an interceptor (`interceptor.classes`).
    pub fn interceptor(mut self, interceptor: impl ProducerInterceptor + 'static) -> Self {
        self.interceptors.add(Arc::new(interceptor));
        self
    }
}
