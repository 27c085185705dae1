//! Bytes as a compressed batch's body: a codec's number, then what it has to decompress within a limit.
#![no_main]

use bytes::Bytes;
use kafka_wire::compression::{Compression, CompressionType, compress, decompress};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 256 * 1024;

fuzz_target!(|data: &[u8]| {
    let [id, body @ ..] = data else { return };
    let Some(codec) = CompressionType::from_id(*id % 5) else { return };
    let body = Bytes::copy_from_slice(body);
    if let Ok(plain) = decompress(codec, &body, LIMIT) {
        assert!(plain.len() <= LIMIT);
    }
    let mut compressed = Vec::new();
    if compress(Compression::from(codec), &body, &mut compressed).is_ok() {
        let again = decompress(codec, &compressed.into(), body.len());
        assert_eq!(again.ok(), Some(body));
    }
});
