//! What a Kafka client and a Kafka broker share: bytes, not sockets.
//!
//! - [`frame`]: bytes to whole frames, messages to segments for a vectored write, bounded decoding
//! - [`messages`] and [`protocol`]: Kafka's requests and responses, from the `kafka-protocol` crate, and those it lacks
//! - [`records`]: the records of Kafka's internal topics, generated from its schemas
//! - [`record_batch`]: batches of records, built in place and read without copying
//! - [`compression`], [`varint`], [`murmur2`], [`error_code`], [`versions`], [`spelling`]: the small parts
//!
//! ```
//! use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal};
//!
//! let mut builder = BatchBuilder::new(16 * 1024);
//! builder.append(1_700_000_000_000, Some(b"user-1"), Some(b"clicked"), &[]);
//! let mut bytes = builder.finish(&Seal::default())?;
//!
//! let batch = RecordBatch::split_from(&mut bytes)?.expect("one whole batch");
//! batch.verify_crc()?;
//! for record in batch.records(1 << 20)? {
//!     assert_eq!(record?.value.as_deref(), Some(&b"clicked"[..]));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codec;
pub mod compression;
pub mod error_code;
pub mod frame;
mod frame_memory;
pub mod messages;
pub mod murmur2;
pub mod record_batch;
pub mod records;
mod scatter;
mod shape;
pub mod spelling;
pub mod varint;
pub mod versions;

pub use error_code::ErrorCode;
/// The traits that messages implement, and their string type.
pub use kafka_protocol::protocol;
pub use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange,
};
pub use shape::ShapeError;
pub use uuid::Uuid;
