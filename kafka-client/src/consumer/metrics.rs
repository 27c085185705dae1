//! What the consumer counts, for whatever recorder the application gave to the `metrics` crate.
//!
//! Everything is counted once a request or once for some consecutive batches that are handed out, never once a record.
//! Install the recorder before the consumer is built. Java reports rates, averages and maxima of a window; here counters
//! and histograms stand for them, from which a monitoring system makes all three.
//!
//! | Java's `consumer-fetch-manager-metrics`, `consumer-metrics`, `consumer-coordinator-metrics` | here, each with `client_id` and, in a group, `group` |
//! |---|---|
//! | `records-consumed-rate`, `-total` | counter `kafka_consumer_records_consumed_total{topic}`, by the batches' headers |
//! | `bytes-consumed-rate`, `-total` | counter `kafka_consumer_bytes_consumed_total{topic}`, compressed bytes |
//! | `records-lag`, `-avg`, `-max` | gauge `kafka_consumer_records_lag{topic,partition}`, when records are handed out |
//! | `records-lead`, `-avg`, `-min` | gauge `kafka_consumer_records_lead{topic,partition}` |
//! | `preferred-read-replica` | gauge `kafka_consumer_preferred_read_replica{topic,partition}`, -1 for the leader |
//! | `records-per-request-avg` | records consumed by the count of `kafka_consumer_fetch_latency_seconds` |
//! | `fetch-rate`, `-total`, `fetch-latency-avg`, `-max` | histogram `kafka_consumer_fetch_latency_seconds{broker}`, the broker's wait for records included |
//! | `fetch-size-avg`, `-max` | histogram `kafka_consumer_fetch_size_bytes{broker}`, records only |
//! | `fetch-throttle-time-avg`, `-max` | histogram `kafka_consumer_fetch_throttle_seconds{broker}` |
//! | `time-between-poll-avg`, `-max`, `last-poll-seconds-ago` | histogram `kafka_consumer_time_between_polls_seconds`, between calls that look beyond the records at hand |
//! | `poll-idle-ratio-avg` | histogram `kafka_consumer_poll_wait_seconds`, calls that had to wait |
//! | `commit-rate`, `-total`, `commit-latency-avg`, `-max`, `commit-sync-time-ns-total` | histogram `kafka_consumer_commit_latency_seconds` |
//! | `committed-time-ns-total` | histogram `kafka_consumer_committed_latency_seconds` |
//! | `assigned-partitions` | gauge `kafka_consumer_assigned_partitions` |
//! | (not in Java) | gauge `kafka_consumer_buffered_bytes`, of the budget `max_buffered_bytes` |
//! | (not in Java) | gauge `kafka_consumer_unacknowledged`, records handed out and not acknowledged |
//!
//! Spans have OpenTelemetry's names for messaging: what is handed out at once is a span `poll {topic}` of level debug
//! with `messaging.*` fields, and a record's `traceparent` header is
//! [`ConsumerRecord::trace_parent`](super::ConsumerRecord::trace_parent).

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::fetch::Ends;
use super::{IsolationLevel, PartitionRecords};
use crate::TopicPartition;

/// The handles of a consumer. They are looked up once: a recorder's look-up takes as long as a batch does.
pub(super) struct Metrics {
    labels: Vec<Label>,
    group: String,
    topics: Mutex<FxHashMap<Arc<str>, TopicMeters>>,
    partitions: Mutex<FxHashMap<TopicPartition, PartitionMeters>>,
    brokers: Mutex<FxHashMap<i32, BrokerMeters>>,
    last_poll: Mutex<Option<Instant>>,
    between_polls: Histogram,
    poll_wait: Histogram,
    commit: Histogram,
    committed: Histogram,
    assigned: Gauge,
    buffered: Gauge,
    unacknowledged: Gauge,
}

struct TopicMeters {
    records: Counter,
    bytes: Counter,
}

struct PartitionMeters {
    lag: Gauge,
    lead: Gauge,
    preferred_replica: Gauge,
}

struct BrokerMeters {
    latency: Histogram,
    size: Histogram,
    throttle: Histogram,
}

impl Metrics {
    pub(super) fn new(client_id: &str, group: Option<&str>) -> Self {
        let mut labels = vec![Label::new("client_id", client_id.to_owned())];
        labels.extend(group.map(|group| Label::new("group", group.to_owned())));
        Self {
            group: group.unwrap_or_default().to_owned(),
            topics: Mutex::default(),
            partitions: Mutex::default(),
            brokers: Mutex::default(),
            last_poll: Mutex::new(None),
            between_polls: histogram!("kafka_consumer_time_between_polls_seconds", labels.clone()),
            poll_wait: histogram!("kafka_consumer_poll_wait_seconds", labels.clone()),
            commit: histogram!("kafka_consumer_commit_latency_seconds", labels.clone()),
            committed: histogram!("kafka_consumer_committed_latency_seconds", labels.clone()),
            assigned: gauge!("kafka_consumer_assigned_partitions", labels.clone()),
            buffered: gauge!("kafka_consumer_buffered_bytes", labels.clone()),
            unacknowledged: gauge!("kafka_consumer_unacknowledged", labels.clone()),
            labels,
        }
    }

    fn labelled<const N: usize>(&self, more: [Label; N]) -> Vec<Label> {
        self.labels.iter().cloned().chain(more).collect()
    }

    /// Records are about to be handed out.
    pub(super) fn handed_out(
        &self,
        records: &PartitionRecords,
        ends: Option<Ends>,
        preferred: Option<i32>,
        isolation: IsolationLevel,
    ) {
        let partition = records.topic_partition();
        let count = records.record_count_bound();
        let _span = tracing::debug_span!(
            "poll",
            otel.name = format!("poll {}", partition.topic()),
            otel.kind = "client",
            messaging.system = "kafka",
            messaging.operation.name = "poll",
            messaging.operation.r#type = "receive",
            messaging.destination.name = partition.topic(),
            messaging.destination.partition.id = partition.partition,
            messaging.consumer.group.name = &*self.group,
            messaging.kafka.offset = records.position(),
            messaging.batch.message_count = count,
        )
        .entered();
        {
            let mut topics = self.topics.lock();
            if !topics.contains_key(&partition.topic) {
                let labels = || self.labelled([Label::new("topic", Arc::clone(&partition.topic))]);
                let records = counter!("kafka_consumer_records_consumed_total", labels());
                let bytes = counter!("kafka_consumer_bytes_consumed_total", labels());
                topics.insert(Arc::clone(&partition.topic), TopicMeters { records, bytes });
            }
            if let Some(topic) = topics.get(&partition.topic) {
                topic.records.increment(count as u64);
                topic.bytes.increment(records.size_bytes() as u64);
            }
        }
        let Some(ends) = ends else { return };
        let end = ends.readable(isolation);
        let mut partitions = self.partitions.lock();
        if !partitions.contains_key(partition) {
            partitions.insert(partition.clone(), self.partition_meters(partition));
        }
        if let Some(meters) = partitions.get(partition) {
            meters.lag.set((end - records.next_offset()).max(0) as f64);
            meters.lead.set((records.next_offset() - ends.log_start_offset).max(0) as f64);
            meters.preferred_replica.set(f64::from(preferred.unwrap_or(-1)));
        }
    }

    fn partition_meters(&self, partition: &TopicPartition) -> PartitionMeters {
        let labels = || {
            let number = Label::new("partition", partition.partition.to_string());
            self.labelled([Label::new("topic", Arc::clone(&partition.topic)), number])
        };
        PartitionMeters {
            lag: gauge!("kafka_consumer_records_lag", labels()),
            lead: gauge!("kafka_consumer_records_lead", labels()),
            preferred_replica: gauge!("kafka_consumer_preferred_read_replica", labels()),
        }
    }

    /// A Fetch was answered.
    pub(super) fn fetched(&self, broker: i32, latency: Duration, bytes: usize, throttle_ms: i32) {
        let mut brokers = self.brokers.lock();
        let meters = brokers.entry(broker).or_insert_with(|| {
            let labels = || self.labelled([Label::new("broker", broker.to_string())]);
            BrokerMeters {
                latency: histogram!("kafka_consumer_fetch_latency_seconds", labels()),
                size: histogram!("kafka_consumer_fetch_size_bytes", labels()),
                throttle: histogram!("kafka_consumer_fetch_throttle_seconds", labels()),
            }
        });
        meters.latency.record(latency);
        meters.size.record(bytes as f64);
        // Zeros too: Java's average is over all answers.
        meters.throttle.record(f64::from(throttle_ms) / 1_000.0);
    }

    /// The application looks for more than the records at hand.
    pub(super) fn polled(&self) {
        let now = Instant::now();
        if let Some(before) = self.last_poll.lock().replace(now) {
            self.between_polls.record(now - before);
        }
    }

    pub(super) fn waited(&self, since: Instant) {
        self.poll_wait.record(since.elapsed());
    }

    pub(super) fn committed(&self, since: Instant) {
        self.commit.record(since.elapsed());
    }

    pub(super) fn read_committed_offsets(&self, since: Instant) {
        self.committed.record(since.elapsed());
    }

    /// How things stand, looked at now and then.
    pub(super) fn standing(&self, assigned: usize, buffered: usize, unacknowledged: usize) {
        self.assigned.set(assigned as f64);
        self.buffered.set(buffered as f64);
        self.unacknowledged.set(unacknowledged as f64);
    }

    /// Gauges of partitions that are read by others now say nothing any more.
    pub(super) fn forget(&self, partitions: &[TopicPartition]) {
        let mut known = self.partitions.lock();
        for meters in partitions.iter().filter_map(|partition| known.remove(partition)) {
            meters.lag.set(0.0);
            meters.lead.set(0.0);
        }
    }
}
