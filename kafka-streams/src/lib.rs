//! Stream processing on Kafka: a typed DSL, state with changelogs, and a test driver that needs no broker.
//!
//! ```
//! use kafka_streams::{Store, StreamsBuilder, testing::TestDriver};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let builder = StreamsBuilder::new();
//! builder
//!     .stream::<(), String>("lines")
//!     .flat_map_values(|_, line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
//!     .group_by("by-word", |_, word| word.clone())
//!     .count(Store::kv("counts"))
//!     .to_stream()
//!     .to("word-counts");
//! let topology = builder.build()?;
//!
//! let mut driver = TestDriver::new(&topology)?;
//! driver.input::<(), String>("lines").pipe((), "hello kafka Hello".to_owned(), 5)?;
//! let counts = driver.output::<String, i64>("word-counts").read_all()?;
//! assert_eq!(counts, [("hello".into(), 1), ("kafka".into(), 1), ("hello".into(), 2)]);
//! # Ok(()) }
//! ```
//!
//! Names, sub-topologies, internal topics and byte formats are those of Java's Kafka Streams 4.3:
//! [`topology::Topology::describe`] prints the same text.

pub mod config;
pub mod dsl;
mod error;
mod handlers;
pub mod processor;
pub mod runtime;
pub use kafka_client::serde;
pub mod state;
pub mod testing;
pub mod topology;

pub use config::StreamsConfig;
pub use dsl::{
    BufferConfig, CogroupedKStream, Consumed, Emit, ForeignKeyJoined, Grouped, JoinWindows, Joined,
    KGroupedStream, KGroupedTable, KStream, KTable, Produced, Repartitioned, SessionWindowedKStream,
    SessionWindows, SlidingWindowedKStream, SlidingWindows, SplitStream, Store, StreamJoined, StreamsBuilder,
    Suppressed, TableJoined, TimeWindowedKStream, TimeWindows, UnlimitedWindows, Windowed, WindowedBy,
    Windows,
};
pub use error::{InvalidTopology, Part, RecordPosition, StreamsError, TaskId, TopologyError};
pub use processor::{
    Change, FixedKeyProcessor, FixedKeyRecord, Partitions, Processor, ProcessorError, ProcessorResult,
    PunctuationType, Record, TimestampExtractor,
};
pub use runtime::{KafkaStreams, State};
pub use state::ChangelogRecords;
pub use topology::{Optimizations, Topology};
