//! Batches that a broker writes anew: with another codec (`compression.type`), or with fewer records (compaction).

use bytes::{BufMut, Bytes};

use super::records::RecordView;
use super::{
    ATTRIBUTES_AT, BASE_TIMESTAMP_AT, BATCH_HEADER_BYTES, BATCH_LOG_OVERHEAD, BatchError, COMPRESSION_MASK,
    DELETE_HORIZON, LENGTH_AT, MAX_TIMESTAMP_AT, NO_TIMESTAMP, RECORD_COUNT_AT, RecordBatch, TimestampType,
    array_at, patch, seal_crc,
};
use crate::compression::{Compression, CompressionType, compress, decompress};
use crate::varint::{put_varint, put_varlong, read_varint, read_varlong, varlong_size};

impl RecordBatch {
    /// The same batch with its records compressed by `codec`; everything that the header says of them stays.
    ///
    /// Decompresses at most `limit` bytes.
    pub fn recompress(&self, codec: Compression, limit: usize) -> Result<Self, BatchError> {
        let body = self.body(limit)?;
        self.with_body(&body, codec)
    }

    /// The batch with only those records that `keep` wants, or `None` if it wants none of them.
    ///
    /// Offsets, sequences, timestamps and the codec stay, so the batch covers the offsets that it covered before
    /// (`MemoryRecords.filterTo`). A `delete_horizon` is written into the header (KIP-534). When all records stay and
    /// there is no new horizon, the result is the batch itself, byte for byte.
    pub fn retain(
        &self,
        limit: usize,
        delete_horizon: Option<i64>,
        mut keep: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Option<Self>, BatchError> {
        let body = self.body(limit)?;
        let mut records = super::Records::new(self, body.clone());
        let mut kept = Vec::with_capacity(usize::try_from(self.record_count()).unwrap_or(0).min(body.len()));
        let mut all = true;
        let mut max_timestamp = NO_TIMESTAMP;
        while let Some(record) = records.next_view() {
            let record = record?;
            let keeps = keep(&record);
            if keeps {
                max_timestamp = max_timestamp.max(record.timestamp);
            }
            all &= keeps;
            kept.push(keeps);
        }
        let count = kept.iter().filter(|&&keeps| keeps).count();
        if count == 0 {
            return Ok(None);
        }
        if all && delete_horizon.is_none() {
            return Ok(Some(self.clone()));
        }
        let shift = delete_horizon.map_or(0, |horizon| horizon.wrapping_sub(self.base_timestamp()));
        let mut rewritten = Vec::with_capacity(body.len());
        let mut at = 0;
        for keeps in kept {
            // The records were parsed a moment ago; a second failure can only come from a changed batch.
            if copy_record(&body, &mut at, shift, keeps, &mut rewritten).is_none() {
                return Err(BatchError::BadRecord {
                    base_offset: self.base_offset(),
                    index: 0,
                    reason: "its fields do not fill its length",
                });
            }
        }
        let mut header = self.header();
        patch(&mut header, RECORD_COUNT_AT, i32::try_from(count).unwrap_or(i32::MAX).to_be_bytes());
        if self.timestamp_type() == TimestampType::CreateTime {
            patch(&mut header, MAX_TIMESTAMP_AT, max_timestamp.to_be_bytes());
        }
        if let Some(horizon) = delete_horizon {
            let attributes = self.attributes() | DELETE_HORIZON;
            patch(&mut header, ATTRIBUTES_AT, attributes.to_be_bytes());
            patch(&mut header, BASE_TIMESTAMP_AT, horizon.to_be_bytes());
        }
        let codec = Compression::from(self.compression()?);
        seal(header, &rewritten, codec, self.base_offset()).map(Some)
    }

    /// The batch without any record: what compaction leaves of a producer's last batch, so that its sequence is known
    /// (`DefaultRecordBatch.writeEmptyHeader`).
    pub fn without_records(&self) -> Result<Self, BatchError> {
        let mut header = self.header();
        let attributes = self.attributes() & !DELETE_HORIZON;
        patch(&mut header, ATTRIBUTES_AT, attributes.to_be_bytes());
        patch(&mut header, RECORD_COUNT_AT, 0i32.to_be_bytes());
        patch(&mut header, BASE_TIMESTAMP_AT, NO_TIMESTAMP.to_be_bytes());
        seal(header, &[], Compression::None, self.base_offset())
    }

    fn header(&self) -> Vec<u8> {
        self.bytes.get(..BATCH_HEADER_BYTES).unwrap_or_default().to_vec()
    }

    fn body(&self, limit: usize) -> Result<Bytes, BatchError> {
        let body = self.bytes.slice(BATCH_HEADER_BYTES.min(self.bytes.len())..);
        match self.compression()? {
            CompressionType::None => Ok(body),
            codec => decompress(codec, &body, limit)
                .map_err(|source| BatchError::Compression { base_offset: self.base_offset(), source }),
        }
    }

    fn with_body(&self, body: &[u8], codec: Compression) -> Result<Self, BatchError> {
        seal(self.header(), body, codec, self.base_offset())
    }
}

/// Puts compressed records behind a header and gives it the length, the codec and the checksum that belong to them.
fn seal(
    mut batch: Vec<u8>,
    body: &[u8],
    codec: Compression,
    base_offset: i64,
) -> Result<RecordBatch, BatchError> {
    let failed = |source| BatchError::Compression { base_offset, source };
    compress(codec, body, &mut batch).map_err(failed)?;
    let length = batch.len().saturating_sub(BATCH_LOG_OVERHEAD);
    let length =
        i32::try_from(length).map_err(|_| BatchError::BadLength { base_offset, length: i32::MAX })?;
    let attributes = i16::from_be_bytes(array_at(&batch, ATTRIBUTES_AT)) & !COMPRESSION_MASK;
    let attributes = attributes | i16::from(codec.kind().id());
    patch(&mut batch, LENGTH_AT, length.to_be_bytes());
    patch(&mut batch, ATTRIBUTES_AT, attributes.to_be_bytes());
    seal_crc(&mut batch);
    Ok(RecordBatch { bytes: batch.into() })
}

/// Reads the record at `at` and copies it to `out` if it is wanted, its timestamp now `shift` less from the base.
fn copy_record(body: &[u8], at: &mut usize, shift: i64, wanted: bool, out: &mut Vec<u8>) -> Option<()> {
    let start = *at;
    let size = usize::try_from(read_varint(body, at)?).ok()?;
    let end = at.checked_add(size).filter(|&end| end <= body.len())?;
    if wanted && shift == 0 {
        out.extend_from_slice(body.get(start..end)?);
    } else if wanted {
        let mut field = *at;
        let attributes = *body.get(field)?;
        field += 1;
        let delta = read_varlong(body, &mut field)?.wrapping_sub(shift);
        let rest = body.get(field..end)?;
        put_varint(out, i32::try_from(1 + varlong_size(delta) + rest.len()).ok()?);
        out.put_u8(attributes);
        put_varlong(out, delta);
        out.extend_from_slice(rest);
    }
    *at = end;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch::{BatchBuilder, Header, Seal};

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::GZIP, Compression::Snappy, Compression::Lz4, Compression::ZSTD];

    fn batch(codec: Compression) -> RecordBatch {
        let mut builder = BatchBuilder::new(64);
        for i in 0..10i64 {
            let key = format!("k{i}");
            let headers = [Header::new("h", format!("v{i}"))];
            builder.append(1000 + i * 7, Some(key.as_bytes()), Some(b"value"), &headers);
        }
        let mut seal = Seal::idempotent(5, 1, 20).compression(codec);
        seal.base_offset = 100;
        RecordBatch::split_from(&mut builder.finish(&seal).unwrap()).unwrap().unwrap()
    }

    fn contents(batch: &RecordBatch) -> Vec<crate::record_batch::Record> {
        batch.verify_crc().unwrap();
        batch.records(1 << 20).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn another_codec_changes_no_record_and_no_header_field() {
        for from in CODECS {
            for to in CODECS {
                let before = batch(from);
                let after = before.recompress(to, 1 << 20).unwrap();
                assert_eq!(after.compression().unwrap(), to.kind());
                assert_eq!(contents(&after), contents(&before));
                assert_eq!(
                    (after.base_offset(), after.last_offset(), after.base_sequence(), after.producer_id()),
                    (100, 109, 20, 5)
                );
            }
        }
    }

    #[test]
    fn retained_records_keep_offsets_times_and_headers_with_and_without_a_horizon() {
        for codec in CODECS {
            for horizon in [None, Some(999_999), Some(3)] {
                let before = batch(codec);
                let after =
                    before.retain(1 << 20, horizon, |record| record.offset % 3 == 0).unwrap().unwrap();
                let expected: Vec<_> =
                    contents(&before).into_iter().filter(|record| record.offset % 3 == 0).collect();
                assert_eq!(contents(&after), expected);
                assert_eq!(after.delete_horizon(), horizon);
                assert_eq!((after.base_offset(), after.last_offset(), after.record_count()), (100, 109, 3));
                assert_eq!(after.max_timestamp(), 1000 + 8 * 7);
                assert_eq!(after.last_sequence(), before.last_sequence());
            }
        }
    }

    #[test]
    fn nothing_kept_is_no_batch_and_everything_kept_is_the_same_bytes() {
        let before = batch(Compression::Lz4);
        assert!(before.retain(1 << 20, None, |_| false).unwrap().is_none());
        let same = before.retain(1 << 20, None, |_| true).unwrap().unwrap();
        assert_eq!(same.bytes(), before.bytes());
        let empty = before.without_records().unwrap();
        assert_eq!(contents(&empty), []);
        assert_eq!((empty.last_offset(), empty.last_sequence(), empty.record_count()), (109, 29, 0));
    }
}
