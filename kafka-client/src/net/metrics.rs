//! What connections count, for whatever recorder the application gave to the `metrics` crate.
//!
//! Without a recorder that is next to nothing: handles are looked up once for each connection. Install the recorder
//! before the client is built. Java reports rates, averages and maxima of a window; here counters and histograms stand
//! for them.
//!
//! | Java's `*-metrics` and `*-node-metrics` | here, with `client_id`, `broker` and `purpose` |
//! |---|---|
//! | `connection-count` | gauge `kafka_connections` |
//! | `connection-creation-rate`, `-total` | counter `kafka_connection_creation_total` |
//! | `connection-close-rate`, `-total` | counter `kafka_connection_close_total{reason}` |
//! | (not in Java) | counter `kafka_connection_failure_total`: attempts that led to no broker |
//! | `outgoing-byte-rate`, `-total` | counter `kafka_outgoing_byte_total` |
//! | `incoming-byte-rate`, `-total` | counter `kafka_incoming_byte_total` |
//! | `request-rate`, `-total`, `request-size-avg`, `-max` | histogram `kafka_request_size_bytes` |
//! | `response-rate`, `-total`, `request-latency-avg`, `-max` | histogram `kafka_request_latency_seconds` |
//! | `network-io-rate`, `-total` | requests and answers together |
//! | `produce-throttle-time-*`, `fetch-throttle-time-*` | histogram `kafka_throttle_seconds` |
//! | `metadata-age` | gauge `kafka_metadata_refreshed_timestamp_seconds`, with `client_id` only: now less this |
//! | `failed-authentication-*`, `successful-authentication-*`, `reauthentication-latency-*` | none: connections do not authenticate yet |
//! | `select-*`, `io-*` | none: waiting is the runtime's affair |

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};

use super::{ConnectionError, Node, Purpose};

/// Whom a connection's numbers are about.
#[derive(Debug, Clone)]
pub(super) struct Labels(Vec<Label>);

/// The handles of one connection.
pub(super) struct Meters {
    labels: Labels,
    connections: Gauge,
    pub(super) outgoing_bytes: Counter,
    pub(super) incoming_bytes: Counter,
    pub(super) request_size: Histogram,
    pub(super) latency: Histogram,
    pub(super) throttle: Histogram,
}

impl Labels {
    pub(super) fn new(client_id: Option<&Arc<str>>, node: &Node, purpose: Purpose) -> Self {
        Self(vec![
            Label::new("client_id", name(client_id)),
            Label::new("broker", node.id.to_string()),
            Label::new("purpose", purpose.name()),
        ])
    }

    /// An attempt led to no broker.
    pub(super) fn failed(&self) {
        counter!("kafka_connection_failure_total", self.0.clone()).increment(1);
    }
}

impl Meters {
    /// A connection is up.
    pub(super) fn opened(labels: Labels) -> Self {
        let all = || labels.0.clone();
        counter!("kafka_connection_creation_total", all()).increment(1);
        let connections = gauge!("kafka_connections", all());
        connections.increment(1.0);
        Self {
            connections,
            outgoing_bytes: counter!("kafka_outgoing_byte_total", all()),
            incoming_bytes: counter!("kafka_incoming_byte_total", all()),
            request_size: histogram!("kafka_request_size_bytes", all()),
            latency: histogram!("kafka_request_latency_seconds", all()),
            throttle: histogram!("kafka_throttle_seconds", all()),
            labels,
        }
    }

    /// It ended, `None` if nobody needed it any more.
    pub(super) fn closed(&self, cause: Option<&ConnectionError>) {
        self.connections.decrement(1.0);
        let mut labels = self.labels.0.clone();
        labels.push(Label::new("reason", cause.map_or("released", ConnectionError::reason)));
        counter!("kafka_connection_close_total", labels).increment(1);
    }
}

/// Metadata is as of now.
pub(crate) fn metadata_refreshed(client_id: Option<&Arc<str>>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!("kafka_metadata_refreshed_timestamp_seconds", "client_id" => name(client_id))
        .set(now.as_secs_f64());
}

fn name(client_id: Option<&Arc<str>>) -> Arc<str> {
    client_id.cloned().unwrap_or_else(|| Arc::from(""))
}
