//! The records of Kafka's internal topics: `__consumer_offsets`, `__transaction_state`, `__share_group_state` and
//! `__cluster_metadata`.
//!
//! The structs are generated from the schemas in Kafka's jars (`cargo xtask generate`) behind `kafka-protocol`'s traits. This
//! module adds how Kafka frames them inside a record: coordinator keys and values behind two bytes (Kafka's
//! `CoordinatorRecordSerde`), metadata records behind three varints (`MetadataRecordSerde`).
//!
//! ```
//! use kafka_wire::records::{self, OffsetCommitKey};
//!
//! let key = OffsetCommitKey::default().with_group("g".into()).with_topic("t".into()).with_partition(3);
//! let bytes = records::encode_key(&key)?;
//! assert_eq!(records::key_type(&bytes)?, OffsetCommitKey::API_KEY);
//! assert_eq!(records::decode_key::<OffsetCommitKey>(bytes)?, key);
//! # Ok::<(), records::RecordError>(())
//! ```

mod schemas;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, Message};

pub use schemas::*;

use crate::{codec, varint};

/// A generated record.
pub trait Record: Message + Encodable + Decodable {
    /// What names this kind of record where it is stored.
    const API_KEY: i16;
}

/// Why the bytes of an internal topic's record could not be read, or a record not written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end inside the prefix that names the record.
    #[error("{length} bytes are too few for the record's prefix")]
    NoPrefix {
        /// How many bytes there are.
        length: usize,
    },
    /// Another kind of record than the one asked for.
    #[error("the record has key {found}, not {expected}")]
    OtherKey {
        /// The key asked for.
        expected: i16,
        /// The key found.
        found: i16,
    },
    /// No metadata record has this key.
    #[error("no metadata record has key {api_key}")]
    UnknownKey {
        /// The key found.
        api_key: i16,
    },
    /// The frame around a metadata record is of an unknown version.
    #[error("metadata frame version {found} is unknown")]
    UnknownFrame {
        /// The version found.
        found: u32,
    },
    /// The fields do not follow the schema.
    #[error("record {api_key} version {version}: {reason}")]
    Fields {
        /// The record's key.
        api_key: i16,
        /// The version written or read.
        version: i16,
        /// What was wrong.
        reason: String,
    },
}

/// The version of the frame around a metadata record.
const METADATA_FRAME_VERSION: u32 = 1;

/// A coordinator record's key: its API key in two bytes, then its fields in version 0, the only one keys have.
pub fn encode_key<K: Record>(key: &K) -> Result<Bytes, RecordError> {
    encode(K::API_KEY, key, K::API_KEY, K::VERSIONS.min)
}

/// A coordinator record's value: its version in two bytes, then its fields.
pub fn encode_value<V: Record>(value: &V, version: i16) -> Result<Bytes, RecordError> {
    encode(version, value, V::API_KEY, version)
}

fn encode(prefix: i16, record: &impl Encodable, api_key: i16, version: i16) -> Result<Bytes, RecordError> {
    let mut buf = BytesMut::new();
    buf.put_i16(prefix);
    record.encode(&mut buf, version).map_err(in_fields(api_key, version))?;
    Ok(buf.freeze())
}

/// Which record a coordinator's key names, to be compared with `OffsetCommitKey::API_KEY` and its siblings.
///
/// In `__consumer_offsets`, 0 is an offset commit as well: Kafka before 0.9 wrote that, and [`decode_key`] takes it.
pub fn key_type(mut key: &[u8]) -> Result<i16, RecordError> {
    let length = key.len();
    key.try_get_i16().map_err(|_| RecordError::NoPrefix { length })
}

/// Reads a coordinator record's key.
pub fn decode_key<K: Record>(mut key: Bytes) -> Result<K, RecordError> {
    let found = key_type(&key)?;
    let old_offset_commit = found == 0 && K::API_KEY == OffsetCommitKey::API_KEY;
    if found != K::API_KEY && !old_offset_commit {
        return Err(RecordError::OtherKey { expected: K::API_KEY, found });
    }
    key.advance(2);
    K::decode(&mut key, K::VERSIONS.min).map_err(in_fields(K::API_KEY, K::VERSIONS.min))
}

/// Reads a coordinator record's value, of whichever version it is.
pub fn decode_value<V: Record>(mut value: Bytes) -> Result<V, RecordError> {
    let length = value.len();
    let version = value.try_get_i16().map_err(|_| RecordError::NoPrefix { length })?;
    V::decode(&mut value, version).map_err(in_fields(V::API_KEY, version))
}

/// A metadata record's value: varints of the frame's version, the API key and the version, then the fields.
pub fn encode_metadata(record: &MetadataRecord, version: i16) -> Result<Bytes, RecordError> {
    let mut buf = BytesMut::new();
    varint::put_unsigned_varint(&mut buf, METADATA_FRAME_VERSION);
    for number in [record.api_key(), version] {
        let number =
            u32::try_from(number).map_err(|error| in_fields(record.api_key(), version)(error.into()))?;
        varint::put_unsigned_varint(&mut buf, number);
    }
    record.encode(&mut buf, version).map_err(in_fields(record.api_key(), version))?;
    Ok(buf.freeze())
}

/// Reads a metadata record's value.
pub fn decode_metadata(mut value: Bytes) -> Result<MetadataRecord, RecordError> {
    let frame = prefix_varint(&mut value)?;
    if frame != METADATA_FRAME_VERSION {
        return Err(RecordError::UnknownFrame { found: frame });
    }
    let api_key = prefix_short(&mut value)?;
    let version = prefix_short(&mut value)?;
    let record = MetadataRecord::decode(api_key, &mut value, version).map_err(in_fields(api_key, version))?;
    record.ok_or(RecordError::UnknownKey { api_key })
}

fn prefix_short(value: &mut Bytes) -> Result<i16, RecordError> {
    let length = value.len();
    i16::try_from(prefix_varint(value)?).map_err(|_| RecordError::NoPrefix { length })
}

fn prefix_varint(value: &mut Bytes) -> Result<u32, RecordError> {
    let length = value.len();
    let mut number = 0;
    // The largest number here has 16 bits.
    for shift in [0, 7, 14] {
        let byte = value.try_get_u8().map_err(|_| RecordError::NoPrefix { length })?;
        number |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(RecordError::NoPrefix { length })
}

fn in_fields(api_key: i16, version: i16) -> impl Fn(codec::Error) -> RecordError {
    move |error| RecordError::Fields { api_key, version, reason: error.to_string() }
}
