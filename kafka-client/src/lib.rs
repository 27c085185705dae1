//! kafka-client

pub mod group;
mod topic_partition;

pub use topic_partition::TopicPartition;
