//! What the producer counts, for whatever recorder the application gave to the `metrics` crate.
//!
//! Everything is counted once a batch or a request; without a recorder that is next to nothing. Install the recorder
//! before the first record is sent. Java reports rates, averages and maxima of a window; here counters and histograms
//! stand for them, from which a monitoring system makes all three.
//!
//! | Java's `producer-metrics`, `producer-topic-metrics`, `producer-node-metrics` | here, each with `client_id` |
//! |---|---|
//! | `record-send-rate`, `-total` | counter `kafka_producer_record_send_total{topic}` |
//! | `byte-rate`, `-total` | counter `kafka_producer_byte_total{topic}`, compressed bytes |
//! | `record-retry-rate`, `-total` | counter `kafka_producer_record_retry_total{topic}` |
//! | `record-error-rate`, `-total` | counter `kafka_producer_record_error_total{topic}` |
//! | `compression-rate`, `-avg` | histogram `kafka_producer_compression_ratio{topic}`, 1 is uncompressed |
//! | `batch-size-avg`, `-max` | histogram `kafka_producer_batch_size_bytes` |
//! | `batch-split-rate`, `-total` | counter `kafka_producer_batch_split_total` |
//! | `record-size-avg` | `kafka_producer_byte_total` by `kafka_producer_record_send_total` |
//! | `record-queue-time-avg`, `-max` | histogram `kafka_producer_record_queue_time_seconds`, of a batch's first record |
//! | `records-per-request-avg` | histogram `kafka_producer_records_per_request` |
//! | `request-rate`, `-total`, `request-size-avg`, `-max` | histogram `kafka_producer_request_size_bytes{broker}`, records only |
//! | `request-latency-avg`, `-max` | histogram `kafka_producer_request_latency_seconds{broker}` |
//! | `requests-in-flight` | gauge `kafka_producer_requests_in_flight` |
//! | `produce-throttle-time-avg`, `-max` | histogram `kafka_producer_throttle_seconds{broker}` |
//! | `buffer-total-bytes` | gauge `kafka_producer_buffer_total_bytes` |
//! | `buffer-available-bytes` | gauge `kafka_producer_buffer_available_bytes` |
//! | `waiting-threads` | gauge `kafka_producer_waiting_senders` |
//! | `buffer-exhausted-rate`, `-total` | counter `kafka_producer_buffer_exhausted_total` |
//! | `bufferpool-wait-ratio`, `bufferpool-wait-time-ns-total` | histogram `kafka_producer_buffer_wait_seconds` |
//! | `metadata-wait-time-ns-total` | histogram `kafka_producer_metadata_wait_seconds` |
//! | `flush-time-ns-total` | histogram `kafka_producer_flush_seconds` |
//! | (not in Java) | histogram `kafka_producer_delivery_seconds`, from a batch's first record to its end |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, SharedString, counter, gauge, histogram};
use rustc_hash::FxBuildHasher;
use tokio::time::Instant;

use super::events::ProducerEvent;
use super::sender::{Part, Settled};

/// The handles of a producer's task. Handles are looked up once: a recorder's look-up takes as long as a batch does.
pub(super) struct Meters {
    client_id: SharedString,
    topics: HashMap<Arc<str>, TopicMeters, FxBuildHasher>,
    brokers: HashMap<i32, BrokerMeters, FxBuildHasher>,
    batch_size: Histogram,
    batch_splits: Counter,
    queue_time: Histogram,
    records_per_request: Histogram,
    requests_in_flight: Gauge,
    buffer_available: Gauge,
    waiting_senders: Gauge,
    delivery: Histogram,
}

struct TopicMeters {
    records: Counter,
    bytes: Counter,
    retries: Counter,
    errors: Counter,
    compression: Histogram,
}

struct BrokerMeters {
    request_size: Histogram,
    latency: Histogram,
    throttle: Histogram,
}

impl Meters {
    pub(super) fn new(client_id: &SharedString, buffer_total: usize) -> Self {
        let labels = || vec![Label::new("client_id", client_id.clone())];
        gauge!("kafka_producer_buffer_total_bytes", labels()).set(buffer_total as f64);
        Self {
            client_id: client_id.clone(),
            topics: HashMap::default(),
            brokers: HashMap::default(),
            batch_size: histogram!("kafka_producer_batch_size_bytes", labels()),
            batch_splits: counter!("kafka_producer_batch_split_total", labels()),
            queue_time: histogram!("kafka_producer_record_queue_time_seconds", labels()),
            records_per_request: histogram!("kafka_producer_records_per_request", labels()),
            requests_in_flight: gauge!("kafka_producer_requests_in_flight", labels()),
            buffer_available: gauge!("kafka_producer_buffer_available_bytes", labels()),
            waiting_senders: gauge!("kafka_producer_waiting_senders", labels()),
            delivery: histogram!("kafka_producer_delivery_seconds", labels()),
        }
    }

    /// A request leaves.
    pub(super) fn request(&mut self, now: Instant, broker: i32, parts: &[Part]) {
        let (mut records, mut bytes) = (0, 0);
        for part in parts {
            records += part.records;
            bytes += part.bytes.len();
            let size = part.bytes.len() as f64;
            self.batch_size.record(size);
            let topic = self.topic(&part.lane.name.topic);
            if part.attempts > 1 {
                topic.retries.increment(part.records.unsigned_abs().into());
            } else {
                topic.records.increment(part.records.unsigned_abs().into());
                topic.bytes.increment(part.bytes.len() as u64);
                topic.compression.record(size / part.raw_bytes.max(1) as f64);
                self.queue_time.record(now.saturating_duration_since(part.created_at));
            }
        }
        self.records_per_request.record(f64::from(records));
        self.requests_in_flight.increment(1.0);
        self.broker(broker).request_size.record(bytes as f64);
    }

    /// A request is answered, or will not be.
    pub(super) fn answered(&mut self, broker: i32, latency: Duration) {
        self.requests_in_flight.decrement(1.0);
        self.broker(broker).latency.record(latency);
    }

    pub(super) fn settled(&mut self, settled: &Settled, age: Duration) {
        self.delivery.record(age);
        if settled.result.is_err() {
            self.topic(&settled.lane.name.topic).errors.increment(settled.records.unsigned_abs().into());
        }
    }

    pub(super) fn event(&mut self, event: &ProducerEvent) {
        match event {
            ProducerEvent::Throttled { broker, pause } => self.broker(*broker).throttle.record(*pause),
            ProducerEvent::BatchSplit { .. } => self.batch_splits.increment(1),
            _ => {}
        }
    }

    pub(super) fn buffer(&self, available: usize, waiting: usize) {
        self.buffer_available.set(available as f64);
        self.waiting_senders.set(waiting as f64);
    }

    fn topic(&mut self, name: &Arc<str>) -> &TopicMeters {
        let client_id = &self.client_id;
        self.topics.entry(name.clone()).or_insert_with(|| {
            let labels =
                || vec![Label::new("client_id", client_id.clone()), Label::new("topic", name.clone())];
            TopicMeters {
                records: counter!("kafka_producer_record_send_total", labels()),
                bytes: counter!("kafka_producer_byte_total", labels()),
                retries: counter!("kafka_producer_record_retry_total", labels()),
                errors: counter!("kafka_producer_record_error_total", labels()),
                compression: histogram!("kafka_producer_compression_ratio", labels()),
            }
        })
    }

    fn broker(&mut self, id: i32) -> &BrokerMeters {
        let client_id = &self.client_id;
        self.brokers.entry(id).or_insert_with(|| {
            let labels =
                || vec![Label::new("client_id", client_id.clone()), Label::new("broker", id.to_string())];
            BrokerMeters {
                request_size: histogram!("kafka_producer_request_size_bytes", labels()),
                latency: histogram!("kafka_producer_request_latency_seconds", labels()),
                throttle: histogram!("kafka_producer_throttle_seconds", labels()),
            }
        })
    }
}

/// What callers wait for, counted where they wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    Buffer,
    Metadata,
    Flush,
}

pub(super) fn waited(client_id: &SharedString, what: Wait, since: Instant) {
    let name = match what {
        Wait::Buffer => "kafka_producer_buffer_wait_seconds",
        Wait::Metadata => "kafka_producer_metadata_wait_seconds",
        Wait::Flush => "kafka_producer_flush_seconds",
    };
    histogram!(name, "client_id" => client_id.clone()).record(since.elapsed());
}

pub(super) fn buffer_exhausted(client_id: &SharedString) {
    counter!("kafka_producer_buffer_exhausted_total", "client_id" => client_id.clone()).increment(1);
}
