//! The codecs of record batches: gzip, snappy in xerial's framing, lz4 frames and zstd.
//!
//! Decompression is bounded: a batch says nothing trustworthy about its size, so the caller names a limit and a bomb
//! is refused when it crosses it, without holding more than that.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(all(test, feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
mod tests;
#[cfg(feature = "zstd")]
mod zstandard;

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

/// Compresses one input after the other, and keeps the tables and buffers that the codecs need meanwhile.
///
/// An input alone is compressed as well by [`compress`]; what is kept here is what most of its time would be spent on.
/// A compressor holds nothing before it is used, and some 100 KiB to 2 MiB afterwards, which depends on the codec.
#[derive(Default)]
pub struct Compressor {
    gzip: gzip::Encoder,
    snappy: snappy::Encoder,
    lz4: lz4::Encoder,
    zstd: zstandard::Encoder,
}

impl Compressor {
    /// Compresses `input` and appends the result to `out`.
    pub fn compress(
        &mut self,
        codec: Compression,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        match codec {
            Compression::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            Compression::Gzip(level) => self.gzip.compress(level, input, out),
            Compression::Snappy => self.snappy.compress(input, out),
            Compression::Lz4 => self.lz4.compress(input, out),
            Compression::Zstd(level) => self.zstd.compress(level, input, out),
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

/// Compresses `input` and appends the result to `out`.
pub fn compress(codec: Compression, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    Compressor::default().compress(codec, input, out)
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
            #[derive(Default)]
            pub(super) struct Encoder;
            impl Encoder {
                pub(super) fn compress(&mut self $(, _: $level)?, _: &[u8], _: &mut Vec<u8>) -> Result<(), CompressionError> {
                    Err(ERROR)
                }
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
