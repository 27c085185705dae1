//! An embeddable Kafka broker: one node, in this process, on a port of its own, in memory or on disk.
//!
//! ```
//! use kafka_broker::Broker;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::builder().config("num.partitions", "3").start().await?;
//! println!("any Kafka client can connect to {}", broker.bootstrap_servers());
//! broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Kafka's own clients, command-line tools and librdkafka work against it. It is meant for development and tests:
//! one node, so one replica of everything, and no authentication.

mod api;
mod broker;
mod checkpoint;
mod clock;
mod cluster;
mod config;
mod data_dir;
mod dispatch;
mod folder;
mod groups;
mod ids;
mod log;
mod maintenance;
mod partition;
mod scatter;
mod server;
mod state;
mod storage;
mod topics;
mod waiter;

pub use broker::{Broker, Builder, StartError};
pub use cluster::ReplayError;
pub use config::ConfigError;
pub use config::broker::Profile;
pub use storage::MemoryDisk;
