//! Encodes records straight into the buffer that becomes the batch.

use bytes::Bytes;

use super::records::Header;
use super::{
    ATTRIBUTES_AT, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_HEADER_BYTES,
    BATCH_LOG_OVERHEAD, CONTROL, LAST_OFFSET_DELTA_AT, LENGTH_AT, LOG_APPEND_TIME, MAGIC, MAGIC_AT,
    MAX_TIMESTAMP_AT, NO_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP,
    PRODUCER_EPOCH_AT, PRODUCER_ID_AT, RECORD_COUNT_AT, TRANSACTIONAL, TimestampType, patch,
    patch_leader_epoch, seal_crc,
};
use crate::compression::{Compression, CompressionError, CompressionType, Compressor};
use crate::varint::{
    MAX_VARINT_BYTES, MAX_VARLONG_BYTES, SCRATCH_BYTES, Scratch, put_varint, varint_size, varlong_size,
    zigzag, zigzag_long,
};

/// A batch that is being filled.
#[derive(Debug)]
pub struct BatchBuilder {
    buf: Vec<u8>,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

/// What is known only when a batch is closed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Seal {
    /// The producer's id; [`NO_PRODUCER_ID`] by default.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The sequence number of the first record.
    pub base_sequence: i32,
    /// The offset of the first record: 0 from producers, the log's end from brokers.
    pub base_offset: i64,
    /// The leader's epoch: unknown (-1) from producers.
    pub leader_epoch: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether it holds a control record.
    pub control: bool,
    /// Which clock the timestamps come from.
    pub timestamp_type: TimestampType,
    /// How to compress the records.
    pub compression: Compression,
}

impl Default for Seal {
    fn default() -> Self {
        Self {
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            base_offset: 0,
            leader_epoch: NO_LEADER_EPOCH,
            transactional: false,
            control: false,
            timestamp_type: TimestampType::CreateTime,
            compression: Compression::None,
        }
    }
}

impl Seal {
    /// The seal of an idempotent producer's batch.
    pub fn idempotent(producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        Self { producer_id, producer_epoch, base_sequence, ..Self::default() }
    }

    /// Compresses the records with `compression`.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }
}

/// Why a batch could not be sealed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The codec failed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The batch grew beyond what its length field can say.
    #[error("a batch of {size} bytes exceeds the format's limit of 2 GiB")]
    TooLarge {
        /// The batch's size in bytes.
        size: usize,
    },
}

/// No record is larger in a batch than this, whatever its place in it.
pub fn record_size_upper_bound(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> usize {
    // Length, attributes, timestamp delta, offset delta, key length, value length, header count.
    const FIXED: usize = 5 * MAX_VARINT_BYTES + 1 + MAX_VARLONG_BYTES;
    FIXED
        + key.map_or(0, <[u8]>::len)
        + value.map_or(0, <[u8]>::len)
        + headers.iter().map(header_size).sum::<usize>()
}

/// What a record may need beyond its size for a moment: its length, and the ends of two copies that are cut off again.
const SLACK_BYTES: usize = MAX_VARINT_BYTES + 2 * SCRATCH_BYTES;

impl BatchBuilder {
    /// A batch whose buffer has room for `capacity` bytes, header included; it grows when records need more.
    pub fn new(capacity: usize) -> Self {
        Self::with_buffer(Vec::with_capacity(Self::buffer_bytes(capacity)))
    }

    /// The capacity of a buffer that never grows while a batch of `size` bytes is written to it.
    pub const fn buffer_bytes(size: usize) -> usize {
        (if size > BATCH_HEADER_BYTES { size } else { BATCH_HEADER_BYTES }) + SLACK_BYTES
    }

    /// A batch in a buffer of the caller's, which is cleared first.
    pub fn with_buffer(mut buf: Vec<u8>) -> Self {
        buf.clear();
        buf.resize(BATCH_HEADER_BYTES, 0);
        Self { buf, base_timestamp: NO_TIMESTAMP, max_timestamp: NO_TIMESTAMP, count: 0 }
    }

    /// Appends a record and returns its index in the batch.
    ///
    /// `timestamp` is in milliseconds since 1970.
    #[inline]
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> i32 {
        let index = self.count;
        if index == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
        }
        self.put_record(index, timestamp.wrapping_sub(self.base_timestamp), key, value, headers);
        self.count += 1;
        index
    }

    /// The record with an offset delta of its own, for logs that keep gaps. Deltas must grow.
    fn put_record(
        &mut self,
        offset_delta: i32,
        timestamp_delta: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        let key_length = key.map_or(-1, |key| key.len() as i32);
        let value_length = value.map_or(-1, |value| value.len() as i32);
        let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
        let size = 1
            + varlong_size(timestamp_delta)
            + varint_size(offset_delta)
            + varint_size(key_length)
            + key.len()
            + varint_size(value_length)
            + value.len()
            + varint_size(headers.len() as i32)
            + headers.iter().map(header_size).sum::<usize>();
        self.buf.reserve(size + SLACK_BYTES);
        // Small fields are gathered on the stack; up to two copies of theirs suffice for a record.
        let mut fields = Scratch::default();
        fields.put(zigzag(size as i32));
        fields.put(0);
        fields.put(zigzag_long(timestamp_delta));
        fields.put(zigzag(offset_delta));
        fields.put(zigzag(key_length));
        if !key.is_empty() {
            fields.append_to(&mut self.buf);
            self.buf.extend_from_slice(key);
            fields = Scratch::default();
        }
        fields.put(zigzag(value_length));
        fields.append_to(&mut self.buf);
        self.buf.extend_from_slice(value);
        put_varint(&mut self.buf, headers.len() as i32);
        for header in headers {
            header.append_to(&mut self.buf);
        }
    }

    /// Gives the buffer back, with what the batch holds, for another one.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buf
    }

    /// How many records the batch holds.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether the batch holds no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch's size so far, header included, before compression.
    pub fn size_bytes(&self) -> usize {
        self.buf.len()
    }

    /// The largest timestamp so far, or [`NO_TIMESTAMP`].
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Writes the header, compresses if asked to, and computes the checksum.
    pub fn finish(self, seal: &Seal) -> Result<Bytes, SealError> {
        match seal.compression {
            Compression::None => self.finish_in_place(seal).map(Bytes::from),
            _ => self.finish_compressed(seal, &mut Compressor::default()),
        }
    }

    /// [`finish`](Self::finish) without compression, whatever the seal says: the batch in the builder's own buffer.
    pub fn finish_in_place(mut self, seal: &Seal) -> Result<Vec<u8>, SealError> {
        let mut batch = std::mem::take(&mut self.buf);
        self.put_batch_header(seal, CompressionType::None, &mut batch)?;
        Ok(batch)
    }

    /// [`finish`](Self::finish) by a compressor that is used again. The builder's own buffer may be too, by
    /// [`into_buffer`](Self::into_buffer).
    pub fn finish_compressed(&self, seal: &Seal, compressor: &mut Compressor) -> Result<Bytes, SealError> {
        let records = self.buf.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        compressor.compress(seal.compression, records, &mut batch)?;
        self.put_batch_header(seal, seal.compression.kind(), &mut batch)?;
        Ok(batch.into())
    }

    fn put_batch_header(
        &self,
        seal: &Seal,
        codec: CompressionType,
        batch: &mut [u8],
    ) -> Result<(), SealError> {
        let length = i32::try_from(batch.len() - BATCH_LOG_OVERHEAD)
            .map_err(|_| SealError::TooLarge { size: batch.len() })?;
        let mut attributes = i16::from(codec.id());
        for (flag, set) in [
            (LOG_APPEND_TIME, seal.timestamp_type == TimestampType::LogAppendTime),
            (TRANSACTIONAL, seal.transactional),
            (CONTROL, seal.control),
        ] {
            if set {
                attributes |= flag;
            }
        }
        patch(batch, BASE_OFFSET_AT, seal.base_offset.to_be_bytes());
        patch(batch, LENGTH_AT, length.to_be_bytes());
        patch_leader_epoch(batch, seal.leader_epoch);
        patch(batch, MAGIC_AT, [MAGIC]);
        patch(batch, ATTRIBUTES_AT, attributes.to_be_bytes());
        patch(batch, LAST_OFFSET_DELTA_AT, (self.count - 1).to_be_bytes());
        patch(batch, BASE_TIMESTAMP_AT, self.base_timestamp.to_be_bytes());
        patch(batch, MAX_TIMESTAMP_AT, self.max_timestamp.to_be_bytes());
        patch(batch, PRODUCER_ID_AT, seal.producer_id.to_be_bytes());
        patch(batch, PRODUCER_EPOCH_AT, seal.producer_epoch.to_be_bytes());
        patch(batch, BASE_SEQUENCE_AT, seal.base_sequence.to_be_bytes());
        patch(batch, RECORD_COUNT_AT, self.count.to_be_bytes());
        seal_crc(batch);
        Ok(())
    }
}

fn header_size(header: &Header) -> usize {
    let value = header.value.as_ref();
    varint_size(header.key.len() as i32)
        + header.key.len()
        + varint_size(value.map_or(-1, |value| value.len() as i32))
        + value.map_or(0, Bytes::len)
}
