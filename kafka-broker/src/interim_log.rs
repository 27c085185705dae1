//! A partition log in memory, without segments, indexes or retention: it holds the place of `log` until that lands.
#![allow(dead_code, reason = "goes away with the real log")]

use bytes::{Bytes, BytesMut};
use kafka_wire::error_code::ErrorCode;
use kafka_wire::record_batch::*;
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    Client,
    Coordinator,
}
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    pub(crate) leader_epoch: i32,
    pub(crate) origin: Origin,
    pub(crate) now_ms: i64,
}
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) log_append_time: Option<i64>,
    pub(crate) log_start_offset: i64,
    pub(crate) duplicate: bool,
}
#[derive(Debug, thiserror::Error)]
#[error("append")]
pub(crate) struct AppendError;
impl AppendError {
    pub(crate) fn error_code(&self) -> ErrorCode {
        ErrorCode::CorruptMessage
    }
}
#[derive(Debug, Default)]
pub(crate) struct PartitionLog {
    batches: Vec<RecordBatch>,
    end: i64,
}
impl PartitionLog {
    pub(crate) fn append(&mut self, records: Bytes, a: Append) -> Result<Appended, AppendError> {
        let base = self.end;
        for b in RecordBatch::iter(records) {
            let b = b.map_err(|_| AppendError)?;
            b.verify_crc().map_err(|_| AppendError)?;
            let mut m = BytesMut::from(&b.bytes()[..]);
            patch_base_offset(&mut m, self.end);
            patch_leader_epoch(&mut m, a.leader_epoch);
            let b = RecordBatch::split_from(&mut m.freeze()).ok().flatten().ok_or(AppendError)?;
            self.end = b.next_offset();
            self.batches.push(b);
        }
        Ok(Appended {
            base_offset: base,
            last_offset: self.end - 1,
            log_append_time: None,
            log_start_offset: 0,
            duplicate: false,
        })
    }
    pub(crate) fn read(&self, offset: i64, max: usize, first: bool) -> Result<Vec<Bytes>, AppendError> {
        let mut out = vec![];
        let mut size = 0;
        let at = self.batches.partition_point(|b| b.last_offset() < offset);
        for b in self.batches.iter().skip(at) {
            if size + b.size_bytes() > max && !(first && out.is_empty()) {
                break;
            }
            size += b.size_bytes();
            out.push(b.bytes().clone());
        }
        Ok(out)
    }
    pub(crate) fn log_start_offset(&self) -> i64 {
        0
    }
    pub(crate) fn log_end_offset(&self) -> i64 {
        self.end
    }
    pub(crate) fn high_watermark(&self) -> i64 {
        self.end
    }
}
