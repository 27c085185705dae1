//! The codecs of record batches: gzip, snappy in xerial's framing, lz4 frames and zstd.
//!
//! Decompression is bounded: a batch says nothing trustworthy about its size, so the caller names a limit and a bomb
//! is refused when it crosses it, without holding more than that.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// Which codec a batch uses; the low three bits of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CompressionType {
    /// Not compressed.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// snappy, in xerial's framing as all Kafka clients write it.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

impl CompressionType {
    /// The number in a batch's attributes.
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec with this number, if there is one.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Kafka's name, as `compression.type` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A codec with its level: what a producer compresses with (KIP-390).
///
/// Parses from `compression.type` as Kafka spells it, optionally with a level: `gzip`, `zstd:9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not compressed (the default, as in Kafka's producer).
    #[default]
    None,
    /// gzip at level 1 to 9; Kafka's default is 6.
    Gzip(u32),
    /// snappy has no levels.
    Snappy,
    /// lz4; the pure-Rust encoder has one level, comparable to lz4's fastest.
    Lz4,
    /// Zstandard at level -7 to 22; Kafka's default is 3.
    Zstd(i32),
}

impl Compression {
    /// gzip at Kafka's default level.
    pub const GZIP: Self = Self::Gzip(6);
    /// Zstandard at Kafka's default level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// The codec without its level.
    pub const fn kind(self) -> CompressionType {
        match self {
            Self::None => CompressionType::None,
            Self::Gzip(_) => CompressionType::Gzip,
            Self::Snappy => CompressionType::Snappy,
            Self::Lz4 => CompressionType::Lz4,
            Self::Zstd(_) => CompressionType::Zstd,
        }
    }
}

impl From<CompressionType> for Compression {
    fn from(kind: CompressionType) -> Self {
        match kind {
            CompressionType::None => Self::None,
            CompressionType::Gzip => Self::GZIP,
            CompressionType::Snappy => Self::Snappy,
            CompressionType::Lz4 => Self::Lz4,
            CompressionType::Zstd => Self::ZSTD,
        }
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || CompressionError::UnknownName { name: text.to_owned() };
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level.parse::<i32>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, level) {
            ("none", None) => Ok(Self::None),
            ("snappy", None) => Ok(Self::Snappy),
            ("lz4", None) => Ok(Self::Lz4),
            ("gzip", None) => Ok(Self::GZIP),
            ("zstd", None) => Ok(Self::ZSTD),
            ("gzip", Some(level @ 1..=9)) => Ok(Self::Gzip(level.unsigned_abs())),
            ("zstd", Some(level @ -7..=22)) => Ok(Self::Zstd(level)),
            _ => Err(unknown()),
        }
    }
}

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// No codec of this name, or a level outside its range.
    #[error("unknown compression {name:?}; expected none, gzip[:1-9], snappy, lz4 or zstd[:-7-22]")]
    UnknownName {
        /// What was given.
        name: String,
    },
    /// The codec was compiled out.
    #[error("{codec} support is not compiled in; enable the feature {codec:?} of kafka-wire")]
    NotCompiledIn {
        /// The codec.
        codec: CompressionType,
    },
    /// The data would decompress to more than the limit.
    #[error("{codec} data decompresses to more than {limit} bytes")]
    TooLarge {
        /// The codec.
        codec: CompressionType,
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// The data is not what the codec expects.
    #[error("corrupt {codec} data: {reason}")]
    Corrupt {
        /// The codec.
        codec: CompressionType,
        /// The codec's own words.
        reason: String,
    },
    /// The encoder failed.
    #[error("{codec} cannot compress: {reason}")]
    Failed {
        /// The codec.
        codec: CompressionType,
        /// The codec's own words.
        reason: String,
    },
}

/// Compresses `input` and appends the result to `out`.
pub fn compress(codec: Compression, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    match codec {
        Compression::None => out.extend_from_slice(input),
        Compression::Gzip(level) => gzip::compress(level, input, out)?,
        Compression::Snappy => snappy::compress(input, out)?,
        Compression::Lz4 => lz4::compress(input, out)?,
        Compression::Zstd(level) => zstandard::compress(level, input, out)?,
    }
    Ok(())
}

/// Decompresses `input` to at most `limit` bytes. Uncompressed data is handed back as it is, without a copy.
pub fn decompress(codec: CompressionType, input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    match codec {
        CompressionType::None if input.len() > limit => Err(CompressionError::TooLarge { codec, limit }),
        CompressionType::None => Ok(input.clone()),
        CompressionType::Gzip => gzip::decompress(input, limit),
        CompressionType::Snappy => snappy::decompress(input, limit),
        CompressionType::Lz4 => lz4::decompress(input, limit),
        CompressionType::Zstd => zstandard::decompress(input, limit),
    }
}

/// Reads a streaming decoder to its end, or to one byte past `limit`, which is an error.
#[cfg(any(feature = "gzip", feature = "lz4", feature = "zstd"))]
fn read_bounded(
    codec: CompressionType,
    reader: impl std::io::Read,
    input_bytes: usize,
    limit: usize,
) -> Result<Bytes, CompressionError> {
    use std::io::Read;
    let mut out = Vec::with_capacity((4 * input_bytes).min(limit));
    reader
        .take(limit as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|error| CompressionError::Corrupt { codec, reason: error.to_string() })?;
    if out.len() > limit {
        return Err(CompressionError::TooLarge { codec, limit });
    }
    Ok(out.into())
}

/// A codec that was compiled out answers with an error that says so.
#[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
macro_rules! missing_codec {
    ($module:ident, $kind:ident $(, $level:ty)?) => {
        mod $module {
            use super::*;
            const ERROR: CompressionError = CompressionError::NotCompiledIn { codec: CompressionType::$kind };
            pub(super) fn compress($(_: $level,)? _: &[u8], _: &mut Vec<u8>) -> Result<(), CompressionError> {
                Err(ERROR)
            }
            pub(super) fn decompress(_: &Bytes, _: usize) -> Result<Bytes, CompressionError> {
                Err(ERROR)
            }
        }
    };
}

#[cfg(not(feature = "gzip"))]
missing_codec!(gzip, Gzip, u32);
#[cfg(not(feature = "snappy"))]
missing_codec!(snappy, Snappy);
#[cfg(not(feature = "lz4"))]
missing_codec!(lz4, Lz4);
#[cfg(not(feature = "zstd"))]
missing_codec!(zstandard, Zstd, i32);

#[cfg(feature = "gzip")]
mod gzip {
    use super::*;
    use std::io::Write;

    const CODEC: CompressionType = CompressionType::Gzip;

    pub(super) fn compress(level: u32, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let failed =
            |error: std::io::Error| CompressionError::Failed { codec: CODEC, reason: error.to_string() };
        let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
        encoder.write_all(input).map_err(failed)?;
        encoder.finish().map_err(failed)?;
        Ok(())
    }

    pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
        read_bounded(CODEC, flate2::read::MultiGzDecoder::new(input.as_ref()), input.len(), limit)
    }
}

/// xerial's snappy framing: a 16-byte header (magic, version, compatible version), then blocks, each with its
/// big-endian length. Some producers write a bare snappy block instead, so reading takes both.
#[cfg(feature = "snappy")]
mod snappy {
    use super::*;

    const CODEC: CompressionType = CompressionType::Snappy;
    const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
    const HEADER_BYTES: usize = 16;
    /// The block size of Java's SnappyOutputStream.
    const BLOCK_BYTES: usize = 32 * 1024;

    pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(&1u32.to_be_bytes());
        let mut encoder = snap::raw::Encoder::new();
        for block in input.chunks(BLOCK_BYTES) {
            let length_at = out.len();
            let data_at = length_at + 4;
            out.resize(data_at + snap::raw::max_compress_len(block.len()), 0);
            let written = encoder
                .compress(block, &mut out[data_at..])
                .map_err(|error| CompressionError::Failed { codec: CODEC, reason: error.to_string() })?;
            out[length_at..data_at].copy_from_slice(&(written as u32).to_be_bytes());
            out.truncate(data_at + written);
        }
        Ok(())
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
}

#[cfg(feature = "lz4")]
mod lz4 {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
    use std::io::Write;

    const CODEC: CompressionType = CompressionType::Lz4;

    pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        // Kafka's own reader takes independent blocks of 64 KiB, no dictionary, no content checksum.
        let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
        let failed = |reason: String| CompressionError::Failed { codec: CODEC, reason };
        let mut encoder = FrameEncoder::with_frame_info(info, out);
        encoder.write_all(input).map_err(|error| failed(error.to_string()))?;
        encoder.finish().map_err(|error| failed(error.to_string()))?;
        Ok(())
    }

    pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
        read_bounded(CODEC, FrameDecoder::new(input.as_ref()), input.len(), limit)
    }
}

#[cfg(feature = "zstd")]
mod zstandard {
    use super::*;

    const CODEC: CompressionType = CompressionType::Zstd;

    pub(super) fn compress(level: i32, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        let failed =
            |error: std::io::Error| CompressionError::Failed { codec: CODEC, reason: error.to_string() };
        let at = out.len();
        out.resize(at + zstd::zstd_safe::compress_bound(input.len()), 0);
        let written = zstd::bulk::compress_to_buffer(input, &mut out[at..], level).map_err(failed)?;
        out.truncate(at + written);
        Ok(())
    }

    pub(super) fn decompress(input: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
        let decoder = zstd::stream::read::Decoder::with_buffer(input.as_ref())
            .map_err(|error| CompressionError::Corrupt { codec: CODEC, reason: error.to_string() })?;
        read_bounded(CODEC, decoder, input.len(), limit)
    }
}

#[cfg(all(test, feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CODECS: [Compression; 7] = [
        Compression::None,
        Compression::GZIP,
        Compression::Gzip(1),
        Compression::Snappy,
        Compression::Lz4,
        Compression::ZSTD,
        Compression::Zstd(-5),
    ];

    fn compressed(codec: Compression, input: &[u8]) -> Bytes {
        let mut out = Vec::new();
        compress(codec, input, &mut out).map(|()| out.into()).unwrap_or_default()
    }

    proptest! {
        #[test]
        fn every_codec_gives_back_what_it_got(input in proptest::collection::vec(any::<u8>(), 0..5000), repeat in 1usize..40) {
            let input = input.repeat(repeat);
            for codec in CODECS {
                let packed = compressed(codec, &input);
                prop_assert_eq!(&decompress(codec.kind(), &packed, input.len()).unwrap()[..], &input[..]);
            }
        }

        #[test]
        fn damaged_data_is_an_error_or_other_bytes_but_never_a_panic(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let input = b"the quick brown fox jumps over the lazy dog ".repeat(50);
            for codec in CODECS {
                let mut packed = compressed(codec, &input).to_vec();
                for (at, byte) in &flips {
                    let at = at.index(packed.len());
                    packed[at] = *byte;
                }
                let _ = decompress(codec.kind(), &Bytes::from(packed.clone()), 10_000);
                packed.truncate(cut.index(packed.len()));
                let _ = decompress(codec.kind(), &Bytes::from(packed), 10_000);
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let zeros = vec![0u8; 10_000_000];
        for codec in CODECS {
            let packed = compressed(codec, &zeros);
            let error = decompress(codec.kind(), &packed, 1_000_000).unwrap_err();
            assert!(matches!(error, CompressionError::TooLarge { limit: 1_000_000, .. }), "{error}");
        }
    }

    #[test]
    fn snappy_without_framing_is_read_too() {
        let raw = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
        let read = decompress(CompressionType::Snappy, &Bytes::from(raw), 100).unwrap();
        assert_eq!(&read[..], b"hello hello hello");
    }

    #[test]
    fn names_and_levels_parse_as_kafka_spells_them() {
        assert_eq!("zstd:9".parse::<Compression>().unwrap(), Compression::Zstd(9));
        assert_eq!("gzip".parse::<Compression>().unwrap(), Compression::GZIP);
        for bad in ["brotli", "gzip:0", "gzip:x", "lz4:3", "zstd:23", ""] {
            assert!(bad.parse::<Compression>().unwrap_err().to_string().contains("expected"), "{bad}");
        }
    }
}
