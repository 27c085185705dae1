//! An embeddable Kafka broker: one node or several, in this process, on ports of their own, in memory or on disk.
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
//! Kafka's own clients, command-line tools and librdkafka work against it. It is meant for development and tests: nodes
//! share a process, and there is no authentication. With [`nodes`](Builder::nodes) replicas, leaders, elections and lag
//! are real, and [`control`](Broker::control) stops nodes, moves leaders and delays answers.

mod api;
mod broker;
mod checkpoint;
mod cleaner;
mod clock;
mod cluster;
mod config;
mod control;
mod coordinator_log;
mod data_dir;
mod dispatch;
mod faults;
mod fetch_session;
mod folder;
mod group_commit;
mod groups;
mod ids;
mod log;
mod maintenance;
mod node;
mod partition;
mod prefault;
mod replica;
mod replication;
mod replication_quota;
#[cfg(test)]
mod replication_tests;
mod replicator;
mod scatter;
mod server;
mod share;
mod state;
mod storage;
mod topics;
mod transactions;
mod waiter;

pub use broker::{Broker, Builder, StartError};
pub use cluster::ReplayError;
pub use config::ConfigError;
pub use config::broker::Profile;
pub use control::{Control, ControlError, PartitionLeader};
pub use faults::Fault;
pub use ids::seed_randomness;
pub use storage::{MemoryDisk, UnsyncedTail};
