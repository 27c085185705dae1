//! Bytes as records of Kafka's internal topics; what is read can be written, and is then read as the same.
#![no_main]

use bytes::Bytes;
use kafka_wire::records::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, data @ ..] = data else { return };
    let bytes = Bytes::copy_from_slice(data);
    match kind % 8 {
        0 => {
            // Frame version, key and version are a byte each in all that Kafka writes.
            let Some(&[_, _, version]) = data.first_chunk::<3>() else { return };
            let (Ok(record), 0..=0x7f) = (decode_metadata(bytes), version) else { return };
            let version = i16::from(version);
            if let Ok(bytes) = encode_metadata(&record, version) {
                // Bytes, because a quota may be NaN, which equals nothing.
                let again =
                    decode_metadata(bytes.clone()).and_then(|record| encode_metadata(&record, version));
                assert_eq!(again.ok(), Some(bytes));
            }
        }
        1 => key::<OffsetCommitKey>(bytes),
        2 => key::<GroupMetadataKey>(bytes),
        3 => value::<OffsetCommitValue>(bytes),
        4 => value::<GroupMetadataValue>(bytes),
        5 => value::<ConsumerGroupMemberMetadataValue>(bytes),
        6 => value::<TransactionLogValue>(bytes),
        _ => key::<TransactionLogKey>(bytes),
    }
});

fn key<K: Record + PartialEq + std::fmt::Debug>(bytes: Bytes) {
    if let Ok(key) = decode_key::<K>(bytes) {
        let again = encode_key(&key).and_then(decode_key::<K>);
        assert_eq!(again.ok(), Some(key));
    }
}

fn value<V: Record + PartialEq + std::fmt::Debug>(bytes: Bytes) {
    let Some(version) = bytes.first_chunk::<2>().map(|version| i16::from_be_bytes(*version)) else { return };
    if let Ok(value) = decode_value::<V>(bytes) {
        let again = encode_value(&value, version).and_then(decode_value::<V>);
        assert_eq!(again.ok(), Some(value));
    }
}
