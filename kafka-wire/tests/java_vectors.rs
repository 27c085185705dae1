//! Bytes that Apache Kafka's own classes wrote (`vectors/*.java`), read and written again by this crate.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they expect")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use kafka_wire::compression::{Compression, CompressionType};
use kafka_wire::murmur2::{murmur2, partition_for_key};
use kafka_wire::record_batch::{
    BatchBuilder, ControlType, Header, RecordBatch, Seal, TimestampType, end_transaction_marker,
};
use kafka_wire::records::{self, *};

const LIMIT: usize = 1 << 20;

/// One batch of `batches.tsv`: its name, the lines that say what it holds, and its bytes.
struct Vector {
    name: String,
    lines: Vec<String>,
    bytes: Bytes,
}

fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut lines = Vec::new();
    for line in include_str!("vectors/batches.tsv").lines() {
        match line.strip_prefix("bytes\t") {
            None => lines.push(line.to_owned()),
            Some(hex) => {
                let lines = std::mem::take(&mut lines);
                let name = lines[0].split('\t').nth(1).unwrap().to_owned();
                vectors.push(Vector { name, lines, bytes: unhex(hex) });
            }
        }
    }
    assert!(vectors.len() >= 40);
    vectors
}

fn parse(bytes: &Bytes) -> RecordBatch {
    let mut input = bytes.clone();
    let batch = RecordBatch::split_from(&mut input).unwrap().expect("a whole batch");
    assert!(input.is_empty());
    batch.verify_crc().unwrap();
    batch
}

/// What this crate finds in a batch, in the words of `BatchVectors.java`.
fn describe(name: &str, batch: &RecordBatch) -> Vec<String> {
    let mut lines = vec![format!(
        "batch\t{name}\tbase_offset={}\tlast_offset={}\tleader_epoch={}\tmax_timestamp={}\tproducer_id={}\t\
         producer_epoch={}\tbase_sequence={}\tlast_sequence={}\tcount={}\tcompression={}\tlog_append_time={}\t\
         transactional={}\tcontrol={}\tdelete_horizon={}",
        batch.base_offset(),
        batch.last_offset(),
        batch.leader_epoch(),
        batch.max_timestamp(),
        batch.producer_id(),
        batch.producer_epoch(),
        batch.base_sequence(),
        batch.last_sequence(),
        batch.record_count(),
        batch.compression().unwrap(),
        batch.timestamp_type() == TimestampType::LogAppendTime,
        batch.is_transactional(),
        batch.is_control(),
        batch.delete_horizon().unwrap_or(-1),
    )];
    for record in batch.records(LIMIT).unwrap() {
        let record = record.unwrap();
        let mut headers = String::new();
        for header in record.headers.iter() {
            let _ = write!(headers, "{}={};", hex(Some(header.key.as_bytes())), hex(header.value));
        }
        let value = match record.value.as_deref() {
            Some(value) if value.len() >= 1_000 => format!("long:{}:{}", value.len(), murmur2(value)),
            value => hex(value),
        };
        let key = hex(record.key.as_deref());
        lines.push(format!("record\t{}\t{}\t{key}\t{value}\t{headers}", record.offset, record.timestamp));
    }
    lines
}

/// The batch's records through this crate's encoder; `None` for what only a log cleaner or a coordinator writes.
fn encode_again(batch: &RecordBatch, compression: Compression) -> Option<Bytes> {
    let gaps = batch.last_offset_delta() + 1 != batch.record_count();
    if gaps || batch.delete_horizon().is_some() || batch.is_control() {
        return None;
    }
    let mut builder = BatchBuilder::new(256);
    for record in batch.records(LIMIT).unwrap() {
        let record = record.unwrap();
        let headers: Vec<Header> = record.headers.to_vec();
        builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    let mut seal = Seal::idempotent(batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
    seal.base_offset = batch.base_offset();
    seal.leader_epoch = batch.leader_epoch();
    seal.transactional = batch.is_transactional();
    seal.timestamp_type = batch.timestamp_type();
    seal.compression = compression;
    Some(builder.finish(&seal).unwrap())
}

#[test]
fn batches_from_java_are_read_exactly() {
    for vector in vectors() {
        assert_eq!(describe(&vector.name, &parse(&vector.bytes)), vector.lines, "{}", vector.name);
    }
}

#[test]
fn views_and_owned_records_are_the_same() {
    for vector in vectors() {
        let batch = parse(&vector.bytes);
        let mut views = batch.records(LIMIT).unwrap();
        for record in batch.records(LIMIT).unwrap() {
            let record = record.unwrap();
            let view = views.next_view().unwrap().unwrap();
            assert_eq!((view.offset, view.timestamp), (record.offset, record.timestamp), "{}", vector.name);
            assert_eq!(
                (view.key, view.value),
                (record.key.as_deref(), record.value.as_deref()),
                "{}",
                vector.name
            );
            assert!(view.headers().eq(record.headers.iter()), "{}", vector.name);
        }
        assert!(views.next_view().is_none());
    }
}

#[test]
fn uncompressed_batches_are_written_byte_for_byte_as_java_writes_them() {
    let mut compared = 0;
    for vector in vectors() {
        let batch = parse(&vector.bytes);
        // Under LogAppendTime the timestamps that the producer gave are still in the bytes, but no reader sees them.
        if batch.compression().unwrap() != CompressionType::None
            || batch.timestamp_type() == TimestampType::LogAppendTime
        {
            continue;
        }
        if let Some(ours) = encode_again(&batch, Compression::None) {
            assert_eq!(hex(Some(&ours)), hex(Some(&vector.bytes)), "{}", vector.name);
            compared += 1;
        }
    }
    assert!(compared >= 7, "only {compared} batches were compared");
}

#[test]
fn transaction_markers_are_written_byte_for_byte_as_java_writes_them() {
    for (name, commit) in [("marker-commit", true), ("marker-abort", false)] {
        let vector = vectors().into_iter().find(|vector| vector.name == name).unwrap();
        let theirs = parse(&vector.bytes);
        let expected = if commit { ControlType::Commit } else { ControlType::Abort };
        assert_eq!(theirs.control_type().unwrap(), Some(expected));
        let mut seal =
            Seal::idempotent(theirs.producer_id(), theirs.producer_epoch(), theirs.base_sequence());
        seal.base_offset = theirs.base_offset();
        seal.leader_epoch = theirs.leader_epoch();
        let ours = end_transaction_marker(commit, 31, theirs.max_timestamp(), &seal).unwrap();
        assert_eq!(hex(Some(&ours)), hex(Some(&vector.bytes)), "{name}");
    }
}

/// Also leaves what it wrote in `our-batches.tsv`, for `BatchVectors.java verify` (`cargo xtask test` runs it).
#[test]
fn batches_survive_every_codec() {
    let codecs =
        [Compression::None, Compression::GZIP, Compression::Snappy, Compression::Lz4, Compression::ZSTD];
    let mut file = String::new();
    for vector in vectors() {
        let theirs = parse(&vector.bytes);
        for codec in codecs {
            let Some(ours) = encode_again(&theirs, codec) else { continue };
            let name = format!("{}-as-{}", vector.name, codec.kind());
            let lines = describe(&name, &parse(&ours));
            assert_eq!(lines[1..], vector.lines[1..], "{name}");
            let _ = writeln!(file, "{}\nbytes\t{}", lines.join("\n"), hex(Some(&ours)));
        }
    }
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("our-batches.tsv"), file).unwrap();
}

#[test]
fn keys_hash_to_the_partitions_that_java_chooses() {
    for line in include_str!("vectors/murmur2.tsv").lines() {
        let [key, hash, partition] = columns(line);
        let key = unhex(key);
        assert_eq!(murmur2(&key).to_string(), hash, "{line}");
        assert_eq!(partition_for_key(&key, 12).to_string(), partition, "{line}");
    }
}

fn key_again<K: Record>(bytes: Bytes) -> Bytes {
    records::encode_key(&records::decode_key::<K>(bytes).unwrap()).unwrap()
}

fn value_again<V: Record>(bytes: Bytes, version: i16) -> Bytes {
    let value = records::decode_value::<V>(bytes).unwrap();
    assert_eq!(
        value.compute_size(version).unwrap() + 2,
        records::encode_value(&value, version).unwrap().len()
    );
    records::encode_value(&value, version).unwrap()
}

macro_rules! coordinator_records {
    ($kind:ident $name:ident $bytes:ident $version:ident: $($key:ident $value:ident,)*) => {
        match ($kind, $name) {
            $(("key", stringify!($key)) => key_again::<$key>($bytes),
              ("value", stringify!($value)) => value_again::<$value>($bytes, $version),)*
            _ => panic!("{} {}", $kind, $name),
        }
    };
}

#[test]
fn every_version_of_every_internal_record_is_read_and_written_as_java_writes_it() {
    for line in include_str!("vectors/records.tsv").lines() {
        let [kind, name, version, hex_bytes] = columns(line);
        let version: i16 = version.parse().unwrap();
        let bytes = unhex(hex_bytes);
        let again = match kind {
            "metadata" => {
                let record = records::decode_metadata(bytes).unwrap();
                records::encode_metadata(&record, version).unwrap()
            }
            _ => coordinator_records! { kind name bytes version:
                ConsumerGroupCurrentMemberAssignmentKey ConsumerGroupCurrentMemberAssignmentValue,
                ConsumerGroupMemberMetadataKey ConsumerGroupMemberMetadataValue,
                ConsumerGroupMetadataKey ConsumerGroupMetadataValue,
                ConsumerGroupPartitionMetadataKey ConsumerGroupPartitionMetadataValue,
                ConsumerGroupRegularExpressionKey ConsumerGroupRegularExpressionValue,
                ConsumerGroupTargetAssignmentMemberKey ConsumerGroupTargetAssignmentMemberValue,
                ConsumerGroupTargetAssignmentMetadataKey ConsumerGroupTargetAssignmentMetadataValue,
                GroupMetadataKey GroupMetadataValue,
                OffsetCommitKey OffsetCommitValue,
                TransactionLogKey TransactionLogValue,
            },
        };
        assert_eq!(hex(Some(&again)), hex_bytes, "{kind} {name} version {version}");
    }
}

/// The program sets fields in the order of their names, each to the next number; that fixes what must be where.
#[test]
fn the_fields_of_records_from_java_are_where_they_belong() {
    let find = |kind: &str, name: &str, version: &str| {
        let mut lines = include_str!("vectors/records.tsv").lines().map(columns::<4>);
        let line = lines.find(|line| line[..3] == [kind, name, version]).unwrap();
        unhex(line[3])
    };

    let key: OffsetCommitKey = records::decode_key(find("key", "OffsetCommitKey", "0")).unwrap();
    assert_eq!((&*key.group, key.partition, &*key.topic), ("text-1", 1002, "text-3"));

    // commitTimestamp, expireTimestamp (not in version 4), leaderEpoch, metadata, offset, topicId.
    let value: OffsetCommitValue = records::decode_value(find("value", "OffsetCommitValue", "4")).unwrap();
    let expected = OffsetCommitValue::default()
        .with_commit_timestamp(1_000_001)
        .with_leader_epoch(1003)
        .with_metadata("text-4".into())
        .with_offset(1_000_005)
        .with_topic_id(kafka_wire::Uuid::from_u64_pair(6, 7_006));
    assert_eq!(value, expected);

    // A fresh object of Kafka's holds our defaults.
    let partitions = include_str!("vectors/records.tsv").lines().map(columns::<4>);
    for line in partitions.filter(|line| line[1] == "PartitionRecord") {
        let record = records::decode_metadata(unhex(line[3])).unwrap();
        let MetadataRecord::Partition(record) = record else { panic!("{record:?}") };
        assert!(record == PartitionRecord::default() || record.leader >= 1_000, "{record:?}");
    }
}

#[test]
fn cut_records_are_errors() {
    for line in include_str!("vectors/records.tsv").lines() {
        let [kind, _, _, bytes] = columns(line);
        let bytes = unhex(bytes);
        if kind == "metadata" {
            for cut in 0..bytes.len() {
                assert!(records::decode_metadata(bytes.slice(..cut)).is_err(), "{line} cut to {cut}");
            }
        }
    }
}

fn columns<const N: usize>(line: &str) -> [&str; N] {
    let columns: Vec<&str> = line.split('\t').collect();
    columns.try_into().unwrap_or_else(|columns| panic!("{N} columns expected: {columns:?}"))
}

fn hex(bytes: Option<&[u8]>) -> String {
    match bytes {
        Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        None => "null".to_owned(),
    }
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().map(|digit| (digit as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
