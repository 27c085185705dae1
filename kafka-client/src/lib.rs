//! A Kafka client on tokio: connections, metadata, requests, a producer and a consumer.
//!
//! ```no_run
//! # async fn f() -> Result<(), kafka_client::Error> {
//! use kafka_client::{Client, Record};
//!
//! let client = Client::connect("localhost:9092").await?;
//! let producer = client.producer().build()?;
//! let written = producer.send(Record::to("orders").key("42").value("paid")).await?.await?;
//! println!("{} at offset {}", written.topic_partition(), written.offset);
//! # Ok(()) }
//! ```

mod backoff;
pub mod client;
pub mod cluster;
pub mod config;
pub mod consumer;
mod error;
pub mod exactly_once;
pub mod group;
pub mod net;
mod news;
pub mod producer;
pub mod serde;
pub mod share;
#[cfg(test)]
mod testing;
mod topic_partition;

#[doc(hidden)]
pub use backoff::seed_randomness;
pub use client::{Client, ClientBuilder, Target};
pub use cluster::Cluster;
pub use config::ConfigError;
pub use consumer::{Consumer, ConsumerRecord, OffsetReset};
pub use error::Error;
/// Kafka's protocol: messages for [`Client::request`], error codes, record batches.
pub use kafka_wire as wire;
pub use net::{ConnectionError, RequestError};
pub use producer::{Producer, Record, SendError};
pub use topic_partition::TopicPartition;
