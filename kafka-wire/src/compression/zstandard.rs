//! Zstandard (KIP-110).

use bytes::Bytes;
use zstd::bulk;

use super::{CompressionError, CompressionType, read_bounded};

const CODEC: CompressionType = CompressionType::Zstd;

/// zstd clears its tables only when it must, if it is asked again: for inputs of a batch's size this takes as long as
/// the compression itself.
#[derive(Default)]
pub(super) struct Encoder {
    context: Option<(i32, bulk::Compressor<'static>)>,
    /// Room for the worst case.
    packed: Vec<u8>,
}

impl Encoder {
    pub(super) fn compress(
        &mut self,
        level: i32,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let failed =
            |error: std::io::Error| CompressionError::Failed { codec: CODEC, reason: error.to_string() };
        let context = match self.context.take() {
            Some((of, context)) if of == level => context,
            _ => bulk::Compressor::new(level).map_err(failed)?,
        };
        let (_, context) = self.context.insert((level, context));
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(input.len()));
        context.compress_to_buffer(input, &mut self.packed).map_err(failed)?;
        out.extend_from_slice(&self.packed);
        Ok(())
    }
}

pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    let decoder = zstd::stream::read::Decoder::with_buffer(input.as_ref())
        .map_err(|error| CompressionError::Corrupt { codec: CODEC, reason: error.to_string() })?;
    read_bounded(CODEC, decoder, input.len(), limit)
}
