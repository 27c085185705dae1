//! kafka-client

mod topic_partition;

pub use topic_partition::TopicPartition;
