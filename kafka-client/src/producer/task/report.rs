//! What the task tells to those who watch: events, interceptors, metrics, spans and snapshots.

use kafka_wire::ErrorCode;
use metrics::SharedString;
use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use super::super::sender::{News, Part};
use super::Task;
use crate::net::RequestError;

impl Task {
    /// Tells what happened since the last time.
    pub(super) fn publish(&mut self) {
        for news in self.sender.take_news() {
            match news {
                News::Event(event) => {
                    self.meters.event(&event);
                    // Nobody may be listening.
                    drop(self.shared.events.send(event));
                }
                News::Settled(settled) => {
                    let age = settled.created_at.elapsed();
                    self.meters.settled(&settled, age);
                    self.shared.options.interceptors.on_acknowledgement(&settled, age);
                }
            }
        }
        let memory = self.shared.accumulator.memory();
        self.meters.buffer(memory.available(), memory.waiting());
    }

    /// Answers those who asked for a snapshot.
    pub(super) fn show(&self) {
        let asked = std::mem::take(&mut *self.shared.commands.inspections.lock());
        if asked.is_empty() {
            return;
        }
        let mut snapshot = self.shared.accumulator.show();
        self.sender.show(Instant::now(), &mut snapshot);
        for whoever in asked {
            // They may have stopped waiting.
            drop(whoever.send(snapshot.clone()));
        }
    }
}

/// A span for each batch of a request, named as OpenTelemetry's conventions for messaging say; none where no
/// subscriber wants them.
#[derive(Debug, Default)]
pub(super) struct Spans(Vec<(usize, Span)>);

impl Spans {
    pub(super) fn open(parts: &[Part], broker: i32, client_id: &SharedString) -> Self {
        let mut spans = Self::default();
        for part in parts {
            let name = &part.lane.name;
            let span = tracing::info_span!(
                target: "kafka_client::producer",
                parent: None,
                "send",
                otel.name = format!("send {}", name.topic),
                otel.kind = "producer",
                otel.status_code = Empty,
                messaging.system = "kafka",
                messaging.operation.name = "send",
                messaging.operation.r#type = "send",
                messaging.client.id = &**client_id,
                messaging.destination.name = &*name.topic,
                messaging.destination.partition.id = name.partition,
                messaging.batch.message_count = part.records,
                messaging.message.envelope.size = part.bytes.len(),
                messaging.kafka.broker.id = broker,
                messaging.kafka.attempt = part.attempts,
                messaging.kafka.offset = Empty,
                error.r#type = Empty,
            );
            if !span.is_disabled() {
                spans.0.push((part.lane.slot, span));
            }
        }
        spans
    }

    pub(super) fn answered(&self, slot: usize, code: ErrorCode, base_offset: i64) {
        for (_, span) in self.0.iter().filter(|(other, _)| *other == slot) {
            if code.is_ok() {
                span.record("messaging.kafka.offset", base_offset);
            } else {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", tracing::field::display(code));
            }
        }
    }

    pub(super) fn lost(&self, error: &RequestError) {
        for (_, span) in &self.0 {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", tracing::field::display(error));
        }
    }
}
