use std::fmt;
use std::sync::Arc;

use kafka_client::TopicPartition;

use crate::serde::SerdeError;
use crate::state::StoreError;

/// One instance of a sub-topology: it owns partition `partition` of all the sub-topology's source topics.
///
/// Written `subtopology_partition`, as in Java.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The sub-topology's number, as [`crate::topology::Topology::describe`] prints it.
    pub subtopology: usize,
    /// The partition's number.
    pub partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

/// The input record that was being processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPosition {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// Offset in the partition.
    pub offset: i64,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.partition, self.offset)
    }
}

/// Whether a key or a value could not be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The record's key.
    Key,
    /// The record's value.
    Value,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Key => "key",
            Part::Value => "value",
        })
    }
}

/// Why a task, or the whole application, stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// An input record's bytes are not what the source's type says, and the handler chose to fail.
    #[error("task {task}, node {node}: cannot read the {part} of {position}")]
    Deserialize {
        /// The task.
        task: TaskId,
        /// The source node.
        node: Arc<str>,
        /// Where the record is.
        position: RecordPosition,
        /// Key or value.
        part: Part,
        /// What is wrong with the bytes.
        source: SerdeError,
    },
    /// A result could not be turned into bytes.
    #[error("task {task}, node {node}: cannot write the {part} for {topic} while processing {position}")]
    Serialize {
        /// The task.
        task: TaskId,
        /// The sink or the stateful node.
        node: Arc<str>,
        /// The topic it was for, a changelog too.
        topic: Arc<str>,
        /// The input record that led to it.
        position: RecordPosition,
        /// Key or value.
        part: Part,
        /// Why.
        source: SerdeError,
    },
    /// A state store failed.
    #[error("task {task}: store {store} failed: {source}")]
    Store {
        /// The task.
        task: TaskId,
        /// The store's name.
        store: Arc<str>,
        /// Why.
        source: StoreError,
    },
    /// The application's code failed with an error, and the handler chose to fail.
    #[error("task {task}, node {node}: failed while processing {position}: {source}")]
    Processing {
        /// The task.
        task: TaskId,
        /// The operator or the processor.
        node: Arc<str>,
        /// The input record; without a topic and at offset -1 in a punctuator.
        position: RecordPosition,
        /// The application's error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// An input record has no valid timestamp, and the source's extractor chose to fail.
    #[error("task {task}, node {node}: {position} has the timestamp {timestamp}")]
    InvalidTimestamp {
        /// The task.
        task: TaskId,
        /// The source node.
        node: Arc<str>,
        /// Where the record is.
        position: RecordPosition,
        /// What was extracted.
        timestamp: i64,
    },
    /// A closure of the application panicked.
    #[error("task {task}: the application's code panicked while processing {position}: {message}")]
    Panicked {
        /// The task.
        task: TaskId,
        /// The input record.
        position: RecordPosition,
        /// The panic's message.
        message: String,
    },
    /// A result could not be sent.
    #[error("task {task}: cannot send a record to {topic}: {reason}")]
    Send {
        /// The task.
        task: TaskId,
        /// The topic.
        topic: Arc<str>,
        /// What the producer said.
        reason: String,
    },
    /// A suppression that is to shut down when its buffer is full has come to that.
    #[error("task {task}, node {node}: the buffer is full: {records} records, {bytes} bytes")]
    BufferFull {
        /// The task.
        task: TaskId,
        /// The suppression.
        node: Arc<str>,
        /// Rows that are held back.
        records: u64,
        /// Their size.
        bytes: u64,
    },
    /// Fetched bytes could not be parsed.
    #[error("task {task}: corrupt records in {partition}: {reason}")]
    Corrupt {
        /// The task.
        task: TaskId,
        /// The partition.
        partition: TopicPartition,
        /// What is wrong.
        reason: String,
    },
    /// The topology and a store or shared node disagree on types; a name was used for two different things.
    #[error("{name} is used with two different types")]
    TypeMismatch {
        /// The store's or the node's name.
        name: Arc<str>,
    },
    /// An operation on the cluster failed: reading topics, committing offsets, restoring state.
    #[error("{operation} failed: {reason}")]
    Cluster {
        /// What was attempted.
        operation: String,
        /// What came back.
        reason: String,
    },
    /// A source topic does not exist.
    #[error("source topic {topic} does not exist")]
    MissingSourceTopic {
        /// The topic.
        topic: Arc<str>,
    },
    /// An internal topic exists with a partition count that does not fit.
    #[error("internal topic {topic} has {actual} partitions where {expected} are needed")]
    InternalTopicPartitions {
        /// The topic.
        topic: Arc<str>,
        /// What the topology needs.
        expected: i32,
        /// What the topic has.
        actual: i32,
    },
    /// Topics that are joined have different numbers of partitions, so records of one key would not meet.
    #[error("joined topics need the same number of partitions: {}", problems.join("; "))]
    NotCopartitioned {
        /// Each join where it is so, with its topics and their partitions.
        problems: Vec<String>,
    },
    /// A call came in a state that does not allow it.
    #[error("the application is {state}")]
    InvalidState {
        /// The state it is in.
        state: &'static str,
    },
    /// The deadline passed first.
    #[error("not closed within the deadline")]
    DeadlinePassed,
}

/// What is wrong with a topology; [`crate::StreamsBuilder::build`] lists every problem it finds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Nothing reads a topic.
    #[error("the topology has no source")]
    NoSource,
    /// Two nodes have one name.
    #[error("two nodes are named {name}")]
    DuplicateNode {
        /// The name.
        name: String,
    },
    /// Two stores have one name.
    #[error("two state stores are named {name}")]
    DuplicateStore {
        /// The name.
        name: String,
    },
    /// Two repartition topics have one name.
    #[error("two repartition topics are named {name}")]
    DuplicateRepartition {
        /// The name.
        name: String,
    },
    /// A name cannot be (part of) a topic's name.
    #[error("{name:?} cannot be a name: only letters, digits, '.', '_' and '-', at most 249 of them")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Two sources read topic sets that overlap but differ: no one of them could own the topic.
    #[error("topic {topic} is read by the sources {first} and {second}, which read different sets of topics")]
    OverlappingSources {
        /// A topic that both read.
        topic: String,
        /// One source.
        first: String,
        /// The other source.
        second: String,
    },
    /// A window's rows would be forgotten while records can still change them.
    #[error("{node} keeps windows for {retention_ms} ms, but they can change for {needed_ms} ms")]
    RetentionTooShort {
        /// What keeps them.
        node: String,
        /// What was asked for.
        retention_ms: i64,
        /// Size and grace.
        needed_ms: i64,
    },
    /// Final results that would not be final: a buffer lets windows go early when it is full.
    #[error(
        "{node} waits for windows to close, so its buffer must be unbounded or shut down when it is full"
    )]
    EarlyResults {
        /// The suppression.
        node: String,
    },
    /// Nothing upstream makes windows that could close.
    #[error("{node} waits for windows to close, but no windowed aggregation leads to it")]
    NoWindows {
        /// The suppression.
        node: String,
    },
    /// A suppression of a table that knows what its rows were: it would hold back updates of different times as one.
    #[error(
        "{node} cannot hold back changes of a versioned table: filter or map it into a store without history"
    )]
    VersionedTable {
        /// The suppression.
        node: String,
    },
    /// A join waits for late updates of a table that does not know what its rows were, or not for so long.
    #[error(
        "{node} waits {grace_ms} ms for late updates of its table, whose store must be versioned with a history as long"
    )]
    HistoryTooShort {
        /// The join.
        node: String,
        /// How long records wait.
        grace_ms: i64,
    },
    /// The table's own serdes are not known there.
    #[error("{node} needs serdes for what it keeps: the table's are not known after map_values or a join")]
    SerdesUnknown {
        /// The node.
        node: String,
    },
    /// A source without a topic.
    #[error("source {node} reads no topic")]
    NoTopic {
        /// The source.
        node: String,
    },
    /// Streams of two different builders were combined.
    #[error("{node} combines streams of two builders")]
    ForeignStream {
        /// The node that does.
        node: String,
    },
}

/// Every problem of a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTopology {
    /// The problems, at least one.
    pub problems: Vec<TopologyError>,
}

impl fmt::Display for InvalidTopology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid topology: ")?;
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidTopology {}
