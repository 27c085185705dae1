//! xerial's snappy framing: a 16-byte header (magic, version, compatible version), then blocks, each with its
//! big-endian length. Some producers write a bare snappy block instead, so reading takes both.

use bytes::Bytes;

use super::{CompressionError, CompressionType};

const CODEC: CompressionType = CompressionType::Snappy;
const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_BYTES: usize = 16;
/// The block size of Java's SnappyOutputStream.
const BLOCK_BYTES: usize = 32 * 1024;

#[derive(Default)]
pub(super) struct Encoder {
    encoder: Option<Box<snap::raw::Encoder>>,
    /// Room for a block's worst case.
    block: Vec<u8>,
}

impl Encoder {
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let encoder = self.encoder.get_or_insert_with(|| Box::new(snap::raw::Encoder::new()));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(&1u32.to_be_bytes());
        self.block.resize(snap::raw::max_compress_len(BLOCK_BYTES), 0);
        for block in input.chunks(BLOCK_BYTES) {
            let written = encoder
                .compress(block, &mut self.block)
                .map_err(|error| CompressionError::Failed { codec: CODEC, reason: error.to_string() })?;
            out.extend_from_slice(&(written as u32).to_be_bytes());
            out.extend_from_slice(self.block.get(..written).unwrap_or_default());
        }
        Ok(())
    }
}

pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::new();
    if !input.starts_with(&MAGIC) {
        decompress_block(input, &mut out, limit)?;
        return Ok(out.into());
    }
    let mut rest = input.get(HEADER_BYTES..).ok_or_else(|| corrupt("the stream header is cut short"))?;
    while !rest.is_empty() {
        let (length, after) =
            rest.split_first_chunk::<4>().ok_or_else(|| corrupt("a block length is cut short"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = after.get(..length).ok_or_else(|| corrupt("a block is cut short"))?;
        decompress_block(block, &mut out, limit)?;
        rest = &after[length..];
    }
    Ok(out.into())
}

fn decompress_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CompressionError> {
    let length = snap::raw::decompress_len(block).map_err(|error| corrupt(&error.to_string()))?;
    if length > limit.saturating_sub(out.len()) {
        return Err(CompressionError::TooLarge { codec: CODEC, limit });
    }
    // Snappy's best ratio is about 21:1 (64 bytes from a 3-byte copy); more is a lie about the length.
    if length > block.len().saturating_mul(64) {
        return Err(corrupt("a block announces more than snappy can hold"));
    }
    let at = out.len();
    out.resize(at + length, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut out[at..])
        .map_err(|error| corrupt(&error.to_string()))?;
    Ok(())
}

fn corrupt(reason: &str) -> CompressionError {
    CompressionError::Corrupt { codec: CODEC, reason: reason.to_owned() }
}
