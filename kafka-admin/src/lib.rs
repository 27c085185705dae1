//! Kafka's Admin operations: topics, partitions, configurations, the cluster, offsets, groups and
//! transactions.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use kafka_admin::{Admin, NewTopic};
//! use kafka_client::Client;
//!
//! let admin = Admin::new(Client::connect("localhost:9092").await?);
//! admin.create_topics([NewTopic::new("orders", 6, 1).config("retention.ms", "86400000")]).await?.all()?;
//! for (name, topic) in admin.describe_topics(["orders"]).await? {
//!     println!("{name}: {} partitions", topic?.partitions.len());
//! }
//! # Ok(()) }
//! ```
//!
//! An operation is sent when it is awaited; options are set before that. What takes several items answers for each of
//! them ([`ItemResults`]): one topic that cannot be created does not hide that the others were.

mod admin;
pub mod alter_configs;
mod brokers;
pub mod cluster;
pub mod configs;
mod coordinator;
mod driver;
mod error;
pub mod groups;
mod leaders;
mod named;
pub mod offsets;
mod operation;
pub mod partitions;
pub mod records;
mod results;
pub mod topics;
pub mod transactions;

pub use admin::Admin;
pub use alter_configs::ConfigChange;
pub use configs::ConfigResource;
pub use error::{AdminError, Resource};
pub use named::UnknownName;
pub use offsets::OffsetSpec;
pub use partitions::NewPartitions;
pub use records::RecordsToDelete;
pub use results::ItemResults;
pub use topics::{NewTopic, TopicDescription};
