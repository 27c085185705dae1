//! Bytes as a fetched partition's records: whatever they are, every batch and record is read or refused, and what is read
//! twice is the same.
#![no_main]

use bytes::Bytes;
use kafka_wire::record_batch::RecordBatch;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    for batch in RecordBatch::iter(Bytes::copy_from_slice(data)) {
        let Ok(batch) = batch else { return };
        // A wrong checksum must not be the only thing between a reader and bad bytes.
        let _ = (batch.verify_crc(), batch.control_type(), batch.last_sequence(), batch.next_offset());
        let (Ok(records), Ok(mut views)) = (batch.records(LIMIT), batch.records(LIMIT)) else { continue };
        for record in records {
            match (record, views.next_view()) {
                (Ok(record), Some(Ok(view))) => {
                    assert_eq!((record.offset, record.timestamp), (view.offset, view.timestamp));
                    assert_eq!((record.key.as_deref(), record.value.as_deref()), (view.key, view.value));
                    assert!(record.headers.iter().eq(view.headers()));
                }
                (Err(_), Some(Err(_))) => break,
                (record, view) => panic!("{record:?} is not {view:?}"),
            }
        }
    }
});
