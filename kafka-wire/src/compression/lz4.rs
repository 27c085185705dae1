//! LZ4 frames of independent blocks, as Kafka's own client writes them.
//!
//! `lz4_flex`'s frame encoder gathers its input in a buffer of its own first. A batch is one slice already, so its
//! blocks go through the block encoder as they are, and only the frame around them is written here.
//! Source: the LZ4 frame format 1.6.

use bytes::Bytes;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use lz4_flex::frame::FrameDecoder;

use super::{CompressionError, CompressionType, read_bounded};

const CODEC: CompressionType = CompressionType::Lz4;
/// Magic number; version 1 and independent blocks; 64 KiB at most for each; the descriptor's hash. Neither sizes nor
/// checksums: a batch has both.
const FRAME_START: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const FRAME_END: [u8; 4] = [0; 4];
const BLOCK_BYTES: usize = 64 * 1024;
/// In a block's length: the block is stored as it was.
const STORED: u32 = 1 << 31;

#[derive(Default)]
pub(super) struct Encoder {
    table: Option<CompressTable>,
    /// Room for a block's worst case.
    block: Vec<u8>,
}

impl Encoder {
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let table = self.table.get_or_insert_with(CompressTable::large);
        self.block.resize(get_maximum_output_size(BLOCK_BYTES), 0);
        out.extend_from_slice(&FRAME_START);
        for block in input.chunks(BLOCK_BYTES) {
            let written = compress_into_with_table(block, &mut self.block, table)
                .map_err(|error| CompressionError::Failed { codec: CODEC, reason: error.to_string() })?;
            let (length, body) = match self.block.get(..written) {
                Some(smaller) if written < block.len() => (written as u32, smaller),
                _ => (block.len() as u32 | STORED, block),
            };
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(body);
        }
        out.extend_from_slice(&FRAME_END);
        Ok(())
    }
}

pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    read_bounded(CODEC, FrameDecoder::new(input.as_ref()), input.len(), limit)
}
