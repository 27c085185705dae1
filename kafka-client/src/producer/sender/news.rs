//! What the core tells its shell about what became of batches, for those who watch.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::batch::{Batch, Lane};
use super::super::delivery::Outcome;
use super::super::error::SendError;
use super::super::events::ProducerEvent;

#[derive(Debug)]
pub(in super::super) enum News {
    Event(ProducerEvent),
    Settled(Settled),
}

/// A batch whose callers know.
#[derive(Debug)]
pub(in super::super) struct Settled {
    pub(in super::super) lane: Arc<Lane>,
    pub(in super::super) records: i32,
    pub(in super::super) created_at: Instant,
    /// The base offset and the leader's clock.
    pub(in super::super) result: Result<(i64, Option<i64>), SendError>,
}

/// Gathers news until the shell takes them.
#[derive(Debug, Default)]
pub(super) struct Newsroom {
    pub(super) news: Vec<News>,
    /// Why the first of the batches failed that did since somebody asked.
    pub(super) failure: Option<SendError>,
}

impl Newsroom {
    pub(super) fn event(&mut self, event: ProducerEvent) {
        self.news.push(News::Event(event));
    }

    pub(super) fn written(&mut self, batch: &Batch, base_offset: i64, log_append_time: Option<i64>) {
        batch.completion.complete(Outcome::Written { base_offset, log_append_time });
        self.settled(batch, Ok((base_offset, log_append_time)));
    }

    pub(super) fn failed(&mut self, batch: &Batch, error: SendError) {
        self.event(ProducerEvent::BatchFailed {
            partition: batch.lane.name.clone(),
            records: batch.record_count(),
            error: error.clone(),
        });
        self.settled(batch, Err(error.clone()));
        if batch.lane.transactional && !matches!(error, SendError::NoTransaction) {
            self.failure.get_or_insert_with(|| error.clone());
        }
        batch.completion.complete(Outcome::Failed(error));
    }

    fn settled(&mut self, batch: &Batch, result: Result<(i64, Option<i64>), SendError>) {
        self.news.push(News::Settled(Settled {
            lane: batch.lane.clone(),
            records: batch.record_count(),
            created_at: batch.created_at,
            result,
        }));
    }
}
