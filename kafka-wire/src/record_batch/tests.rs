use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::compression::Compression;

const LIMIT: usize = 1 << 24;

type Input = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn headers(of: &[(String, Option<Vec<u8>>)]) -> Vec<Header> {
    of.iter()
        .map(|(key, value)| Header { key: key.clone().into(), value: value.clone().map(Bytes::from) })
        .collect()
}

fn build(records: &[Input], seal: &Seal) -> Bytes {
    let mut builder = BatchBuilder::new(64);
    for (timestamp, key, value, of) in records {
        builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers(of));
    }
    builder.finish(seal).unwrap()
}

fn one(bytes: &Bytes) -> RecordBatch {
    RecordBatch::split_from(&mut bytes.clone()).unwrap().unwrap()
}

fn codecs() -> Vec<Compression> {
    vec![Compression::None, Compression::GZIP, Compression::Snappy, Compression::Lz4, Compression::ZSTD]
}

fn input() -> impl Strategy<Value = Input> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    (
        0i64..1 << 48,
        bytes(),
        bytes(),
        proptest::collection::vec(
            (".{0,8}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20))),
            0..4,
        ),
    )
}

proptest! {
    #[test]
    fn records_come_back_as_they_went_in(records in proptest::collection::vec(input(), 1..40), codec in proptest::sample::select(codecs())) {
        let seal = Seal { producer_id: 7, producer_epoch: 3, base_sequence: 11, base_offset: 1000, leader_epoch: 5, ..Seal::default() }.compression(codec);
        let bytes = build(&records, &seal);
        let batch = one(&bytes);
        batch.verify_crc().unwrap();
        prop_assert_eq!(batch.record_count() as usize, records.len());
        prop_assert_eq!(batch.last_offset(), 999 + records.len() as i64);
        prop_assert_eq!(batch.max_timestamp(), records.iter().map(|r| r.0).max().unwrap());
        let read: Vec<_> = batch.records(LIMIT).unwrap().map(Result::unwrap).collect();
        for (i, (record, (timestamp, key, value, of))) in read.iter().zip(&records).enumerate() {
            prop_assert_eq!(record.offset, 1000 + i as i64);
            prop_assert_eq!(record.timestamp, *timestamp);
            prop_assert_eq!(record.key.as_deref(), key.as_deref());
            prop_assert_eq!(record.value.as_deref(), value.as_deref());
            prop_assert_eq!(record.headers.to_vec(), headers(of));
        }
        prop_assert_eq!(read.len(), records.len());
    }

    #[test]
    fn damage_is_noticed_by_the_checksum_and_never_panics(
        records in proptest::collection::vec(input(), 1..5),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
        codec in proptest::sample::select(codecs()),
    ) {
        let mut bytes = build(&records, &Seal::default().compression(codec)).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let bytes = Bytes::from(bytes);
        if let Ok(Some(batch)) = RecordBatch::split_from(&mut bytes.clone()) {
            prop_assert!(at < CRC_AT || batch.verify_crc().is_err());
            if let Ok(read) = batch.records(LIMIT) {
                let _ = read.collect::<Result<Vec<_>, _>>();
            }
            let _ = batch.control_type();
        }
    }

    #[test]
    fn random_bytes_are_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for batch in RecordBatch::iter(Bytes::from(bytes)).flatten() {
            let _ = batch.records(LIMIT).map(|read| read.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_size_bound_holds(record in input()) {
        let mut builder = BatchBuilder::new(64);
        builder.append(0, None, None, &[]);
        let before = builder.size_bytes();
        let of = headers(&record.3);
        builder.append(record.0, record.1.as_deref(), record.2.as_deref(), &of);
        prop_assert!(builder.size_bytes() - before <= record_size_upper_bound(record.1.as_deref(), record.2.as_deref(), &of));
    }
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let bytes = build(&[(1, None, Some(vec![7; 100]), vec![])], &Seal::default());
    let record = one(&bytes).records(LIMIT).unwrap().next().unwrap().unwrap();
    let value = record.value.unwrap();
    let range = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
    assert!(range.contains(&(value.as_ptr() as usize)));
}

#[test]
fn log_append_time_is_the_batchs_time_for_every_record() {
    let bytes = build(&[(10, None, None, vec![]), (20, None, None, vec![])], &Seal::default());
    let mut appended = BytesMut::from(bytes);
    set_log_append_time(&mut appended, 5000);
    let batch = one(&appended.freeze());
    batch.verify_crc().unwrap();
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    let times: Vec<_> = batch.records(LIMIT).unwrap().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [5000, 5000]);
}

#[test]
fn offset_and_leader_epoch_are_patched_outside_the_checksum() {
    let mut bytes = BytesMut::from(build(&[(1, None, None, vec![])], &Seal::default()));
    patch_base_offset(&mut bytes, 77);
    patch_leader_epoch(&mut bytes, 9);
    let batch = one(&bytes.freeze());
    batch.verify_crc().unwrap();
    assert_eq!((batch.base_offset(), batch.leader_epoch()), (77, 9));
    assert_eq!(batch.records(LIMIT).unwrap().next().unwrap().unwrap().offset, 77);
}

#[test]
fn an_epoch_bump_reseals_the_batch() {
    let bytes = build(&[(1, None, None, vec![])], &Seal::idempotent(4, 0, 90));
    let batch = one(&reseal_for_producer(bytes, 4, 1, 0));
    batch.verify_crc().unwrap();
    assert_eq!((batch.producer_epoch(), batch.base_sequence()), (1, 0));
}

#[test]
fn a_cut_tail_ends_a_fetch_without_an_error() {
    let whole = build(&[(1, None, Some(vec![1; 50]), vec![])], &Seal::default());
    for cut in 0..whole.len() {
        let mut input = Bytes::from([&whole[..], &whole[..cut]].concat());
        assert!(RecordBatch::split_from(&mut input).unwrap().is_some());
        assert!(RecordBatch::split_from(&mut input).unwrap().is_none());
        assert_eq!(input.len(), cut);
    }
}

#[test]
fn impossible_lengths_and_old_formats_are_named() {
    let mut bytes = build(&[(1, None, None, vec![])], &Seal::default()).to_vec();
    bytes[8..12].copy_from_slice(&5i32.to_be_bytes());
    let error = RecordBatch::split_from(&mut Bytes::from(bytes.clone())).unwrap_err();
    assert!(matches!(error, BatchError::BadLength { length: 5, .. }));
    bytes[16] = 1;
    let error = RecordBatch::split_from(&mut Bytes::from(bytes)).unwrap_err();
    assert!(matches!(error, BatchError::UnsupportedMagic { magic: 1, .. }));
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    assert_eq!(add_to_sequence(i32::MAX, 1), 0);
    assert_eq!(add_to_sequence(i32::MAX - 2, 5), 2);
    let bytes = build(&[(1, None, None, vec![]), (1, None, None, vec![])], &Seal::idempotent(1, 0, i32::MAX));
    assert_eq!(one(&bytes).last_sequence(), 0);
}

#[test]
fn markers_say_what_they_end() {
    for (commit, says) in [(true, ControlType::Commit), (false, ControlType::Abort)] {
        let batch = one(&end_transaction_marker(commit, 3, 99, &Seal::idempotent(5, 1, -1)).unwrap());
        batch.verify_crc().unwrap();
        assert!(batch.is_control() && batch.is_transactional());
        assert_eq!(batch.control_type().unwrap(), Some(says));
    }
}

#[test]
fn a_compression_bomb_is_refused() {
    let bytes =
        build(&[(1, None, Some(vec![0; 1 << 20]), vec![])], &Seal::default().compression(Compression::ZSTD));
    assert!(matches!(one(&bytes).records(1 << 16), Err(BatchError::Compression { .. })));
}
