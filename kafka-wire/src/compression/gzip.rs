//! gzip. Java reads files of several members, so we do.

use std::io::Write;

use bytes::Bytes;

use super::{CompressionError, CompressionType, read_bounded};

const CODEC: CompressionType = CompressionType::Gzip;

#[derive(Default)]
pub(super) struct Encoder;

impl Encoder {
    #[expect(clippy::unused_self, reason = "the same shape as the codecs that keep something")]
    pub(super) fn compress(
        &mut self,
        level: u32,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let failed =
            |error: std::io::Error| CompressionError::Failed { codec: CODEC, reason: error.to_string() };
        let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
        encoder.write_all(input).map_err(failed)?;
        encoder.finish().map_err(failed)?;
        Ok(())
    }
}

pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    read_bounded(CODEC, flate2::read::MultiGzDecoder::new(input.as_ref()), input.len(), limit)
}
