//! Record batches, format v2 (KIP-98): the unit in which records travel and rest.
//!
//! ```text
//!  0 base offset i64        21 attributes i16          43 producer id i64
//!  8 batch length i32       23 last offset delta i32   51 producer epoch i16
//! 12 leader epoch i32       27 base timestamp i64      53 base sequence i32
//! 16 magic i8 (2)           35 max timestamp i64       57 record count i32
//! 17 crc32c u32 (of everything from 21)                61 records, compressed as one block
//! ```
//!
//! [`BatchBuilder`] appends records straight into the batch's own buffer; [`RecordBatch`] reads a batch where it lies
//! and hands out slices of it. Base offset and leader epoch stand outside the checksum, so a broker patches them in
//! place and never encodes a batch again.

mod builder;
mod control;
mod records;
mod rewrite;

pub use builder::{BatchBuilder, Seal, SealError, record_size_upper_bound};
pub use control::{ControlType, end_transaction_marker};
pub use records::{Header, HeaderView, Headers, Record, RecordView, Records};

use bytes::{Bytes, BytesMut};

use crate::compression::{CompressionError, CompressionType, decompress};

/// Bytes before the first record.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes before the part that `batch length` counts.
pub const BATCH_LOG_OVERHEAD: usize = 12;
/// The producer id of a batch whose producer is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;
/// The epoch that goes with [`NO_PRODUCER_ID`].
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// The sequence that goes with [`NO_PRODUCER_ID`].
pub const NO_SEQUENCE: i32 = -1;
/// A leader epoch that is not known; what producers write.
pub const NO_LEADER_EPOCH: i32 = -1;
/// A timestamp that is not known.
pub const NO_TIMESTAMP: i64 = -1;

/// The only format read and written; v0 and v1 went with Kafka 4.0 (KIP-724).
const MAGIC: u8 = 2;

const BASE_OFFSET_AT: usize = 0;
const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const RECORD_COUNT_AT: usize = 57;

const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Why bytes are not a batch, or a batch's records cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The batch's own length cannot be true.
    #[error("batch at offset {base_offset} announces an impossible length of {length} bytes")]
    BadLength {
        /// The batch's base offset.
        base_offset: i64,
        /// The announced length.
        length: i32,
    },
    /// The batch is of another format.
    #[error(
        "batch at offset {base_offset} has format {magic}; only format 2 (Kafka 0.11 and later) is supported"
    )]
    UnsupportedMagic {
        /// The batch's base offset.
        base_offset: i64,
        /// Its format.
        magic: i8,
    },
    /// The checksum does not match: the bytes changed after the producer sealed them.
    #[error(
        "batch at offset {base_offset} is corrupt: its checksum is {stored:#010x}, its bytes give {computed:#010x}"
    )]
    BadCrc {
        /// The batch's base offset.
        base_offset: i64,
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A record inside the batch does not parse, or the batch holds fewer or more than its header says.
    #[error("record {index} of the batch at offset {base_offset} is malformed: {reason}")]
    BadRecord {
        /// The batch's base offset.
        base_offset: i64,
        /// Which record, counted from 0.
        index: i32,
        /// What does not fit.
        reason: &'static str,
    },
    /// The batch names a codec that does not exist.
    #[error("batch at offset {base_offset} uses unknown compression {id}")]
    UnknownCompression {
        /// The batch's base offset.
        base_offset: i64,
        /// The codec's number.
        id: u8,
    },
    /// The records cannot be decompressed.
    #[error("batch at offset {base_offset}: {source}")]
    Compression {
        /// The batch's base offset.
        base_offset: i64,
        /// What the codec says.
        source: CompressionError,
    },
}

/// Which clock a batch's timestamps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's, for each record.
    CreateTime,
    /// The broker's at append: every record then has the batch's maximal timestamp.
    LogAppendTime,
}

/// One batch, read where it lies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    bytes: Bytes,
}

impl RecordBatch {
    /// Splits the first batch off `input`.
    ///
    /// `None` when `input` is empty or holds only the beginning of a batch, which is how a fetch response normally
    /// ends; `input` is then left as it is. The checksum is not verified here: see [`verify_crc`](Self::verify_crc).
    pub fn split_from(input: &mut Bytes) -> Result<Option<Self>, BatchError> {
        match batch_length(input)? {
            Some(length) if length <= input.len() => Ok(Some(Self { bytes: input.split_to(length) })),
            _ => Ok(None),
        }
    }

    /// A batch of which only the header is at hand: what it says of itself can be asked, its records cannot.
    ///
    /// For readers that walk a log by headers. `None` when `header` is shorter than one.
    pub fn header_only(mut header: Bytes) -> Option<Self> {
        header.truncate(BATCH_HEADER_BYTES);
        (header.len() == BATCH_HEADER_BYTES).then_some(Self { bytes: header })
    }

    /// All whole batches of `input`, in order; a cut tail ends the iteration.
    pub fn iter(input: Bytes) -> impl Iterator<Item = Result<Self, BatchError>> {
        let mut rest = Some(input);
        std::iter::from_fn(move || {
            let next = Self::split_from(rest.as_mut()?);
            if next.is_err() {
                rest = None;
            }
            next.transpose()
        })
    }

    /// The batch's bytes, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The batch's bytes, header included, owned.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The batch's size on the wire and on disk, header included.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The offset of the first record.
    pub fn base_offset(&self) -> i64 {
        self.i64_at(BASE_OFFSET_AT)
    }

    /// The last offset that the batch covers; compaction may have removed the record itself.
    pub fn last_offset(&self) -> i64 {
        self.base_offset().saturating_add(i64::from(self.last_offset_delta()))
    }

    /// The offset that follows the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// The distance from the first to the last offset.
    pub fn last_offset_delta(&self) -> i32 {
        self.i32_at(LAST_OFFSET_DELTA_AT)
    }

    /// The epoch of the leader that appended the batch.
    #[inline]
    pub fn leader_epoch(&self) -> i32 {
        self.i32_at(LEADER_EPOCH_AT)
    }

    /// The stored checksum.
    pub fn crc(&self) -> u32 {
        self.i32_at(CRC_AT).cast_unsigned()
    }

    /// The timestamp that record deltas count from, or the delete horizon (KIP-534) if the batch has one.
    pub fn base_timestamp(&self) -> i64 {
        self.i64_at(BASE_TIMESTAMP_AT)
    }

    /// The largest timestamp of the batch, in milliseconds since 1970.
    #[inline]
    pub fn max_timestamp(&self) -> i64 {
        self.i64_at(MAX_TIMESTAMP_AT)
    }

    /// When tombstones and markers in this batch may be removed (KIP-534), if compaction has set it.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes() & DELETE_HORIZON != 0).then(|| self.base_timestamp())
    }

    /// The producer's id, or [`NO_PRODUCER_ID`].
    pub fn producer_id(&self) -> i64 {
        self.i64_at(PRODUCER_ID_AT)
    }

    /// The producer's epoch, or [`NO_PRODUCER_EPOCH`].
    pub fn producer_epoch(&self) -> i16 {
        self.i16_at(PRODUCER_EPOCH_AT)
    }

    /// The sequence number of the first record, or [`NO_SEQUENCE`].
    pub fn base_sequence(&self) -> i32 {
        self.i32_at(BASE_SEQUENCE_AT)
    }

    /// The sequence number of the last record, wrapped at `i32::MAX` as Kafka wraps it.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            NO_SEQUENCE => NO_SEQUENCE,
            base => add_to_sequence(base, self.last_offset_delta()),
        }
    }

    /// How many records the header announces.
    pub fn record_count(&self) -> i32 {
        self.i32_at(RECORD_COUNT_AT)
    }

    /// The codec of the records.
    pub fn compression(&self) -> Result<CompressionType, BatchError> {
        let id = (self.attributes() & COMPRESSION_MASK) as u8;
        CompressionType::from_id(id)
            .ok_or(BatchError::UnknownCompression { base_offset: self.base_offset(), id })
    }

    /// Which clock the timestamps come from.
    #[inline]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & LOG_APPEND_TIME != 0 {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    /// Whether the batch holds a control record, which no application sees.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// The raw attribute bits.
    pub fn attributes(&self) -> i16 {
        self.i16_at(ATTRIBUTES_AT)
    }

    /// Compares the stored checksum with one computed now.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let computed = compute_crc(&self.bytes);
        let stored = self.crc();
        if stored == computed {
            Ok(())
        } else {
            Err(BatchError::BadCrc { base_offset: self.base_offset(), stored, computed })
        }
    }

    /// Decompresses the records, to at most `max_decompressed_bytes`, and iterates them.
    ///
    /// Without compression nothing is copied: records are slices of the batch.
    pub fn records(&self, max_decompressed_bytes: usize) -> Result<Records, BatchError> {
        let body = self.bytes.slice(BATCH_HEADER_BYTES..);
        let body = match self.compression()? {
            CompressionType::None => body,
            codec => decompress(codec, &body, max_decompressed_bytes)
                .map_err(|source| BatchError::Compression { base_offset: self.base_offset(), source })?,
        };
        Ok(Records::new(self, body))
    }

    fn i64_at(&self, at: usize) -> i64 {
        i64::from_be_bytes(array_at(&self.bytes, at))
    }

    fn i32_at(&self, at: usize) -> i32 {
        i32::from_be_bytes(array_at(&self.bytes, at))
    }

    fn i16_at(&self, at: usize) -> i16 {
        i16::from_be_bytes(array_at(&self.bytes, at))
    }
}

/// The whole length of the batch that `input` begins with, from its first 17 bytes; `None` when there are fewer.
///
/// For readers that know only the beginning, such as a log that scans a segment. Checks length and format.
pub fn batch_length(input: &[u8]) -> Result<Option<usize>, BatchError> {
    if input.len() <= MAGIC_AT {
        return Ok(None);
    }
    let base_offset = i64::from_be_bytes(array_at(input, BASE_OFFSET_AT));
    let length = i32::from_be_bytes(array_at(input, LENGTH_AT));
    let magic = input[MAGIC_AT];
    if magic != MAGIC {
        return Err(BatchError::UnsupportedMagic { base_offset, magic: magic.cast_signed() });
    }
    match usize::try_from(length) {
        Ok(length) if length >= BATCH_HEADER_BYTES - BATCH_LOG_OVERHEAD => {
            Ok(Some(BATCH_LOG_OVERHEAD + length))
        }
        _ => Err(BatchError::BadLength { base_offset, length }),
    }
}

/// Sets the base offset of the batch that `batch` begins with. Outside the checksum.
pub fn patch_base_offset(batch: &mut [u8], base_offset: i64) {
    patch(batch, BASE_OFFSET_AT, base_offset.to_be_bytes());
}

/// Sets the leader epoch of the batch that `batch` begins with. Outside the checksum.
pub fn patch_leader_epoch(batch: &mut [u8], leader_epoch: i32) {
    patch(batch, LEADER_EPOCH_AT, leader_epoch.to_be_bytes());
}

/// Turns a batch's timestamps into the broker's append time and seals it again.
pub fn set_log_append_time(batch: &mut [u8], now_ms: i64) {
    let attributes = i16::from_be_bytes(array_at(batch, ATTRIBUTES_AT)) | LOG_APPEND_TIME;
    patch(batch, ATTRIBUTES_AT, attributes.to_be_bytes());
    patch(batch, MAX_TIMESTAMP_AT, now_ms.to_be_bytes());
    seal_crc(batch);
}

/// Gives a sealed batch another producer id, epoch and first sequence, and seals it again (KIP-360's epoch bump).
pub fn reseal_for_producer(batch: Bytes, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Bytes {
    let mut batch = BytesMut::from(batch);
    patch(&mut batch, PRODUCER_ID_AT, producer_id.to_be_bytes());
    patch(&mut batch, PRODUCER_EPOCH_AT, producer_epoch.to_be_bytes());
    patch(&mut batch, BASE_SEQUENCE_AT, base_sequence.to_be_bytes());
    seal_crc(&mut batch);
    batch.freeze()
}

/// `sequence + increment`, wrapped from `i32::MAX` to 0 as Kafka wraps sequence numbers.
pub fn add_to_sequence(sequence: i32, increment: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(increment);
    (sum % (i64::from(i32::MAX) + 1)) as i32
}

fn seal_crc(batch: &mut [u8]) {
    let crc = compute_crc(batch);
    patch(batch, CRC_AT, crc.to_be_bytes());
}

fn compute_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default())
}

fn patch<const N: usize>(batch: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = batch.get_mut(at..at + N) {
        field.copy_from_slice(&value);
    }
}

/// Callers have checked that the header is there; a shorter slice reads as zeros instead of panicking.
#[inline]
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
