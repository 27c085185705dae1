//! How generated messages read and write their fields; every length is checked against the bytes that are left.

use std::collections::BTreeMap;

pub(super) use anyhow::{Error, Result};
use anyhow::{bail, ensure};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::protocol::buf::ByteBuf;
use uuid::Uuid;

/// The version being read or written.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) version: i16,
    /// Compact lengths and tagged fields (KIP-482).
    pub(super) flexible: bool,
}

/// Where bytes go: a buffer, or a count of them.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

/// Writes into a `BufMut`.
pub(super) struct Into<'a, B>(pub(super) &'a mut B);

impl<B: bytes::BufMut> Sink for Into<'_, B> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }
}

/// Counts only.
#[derive(Default)]
pub(super) struct Count(pub(super) usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// A generated struct.
pub(super) trait Fields: Sized {
    fn write<S: Sink>(&self, out: &mut S, at: At) -> Result<()>;
    fn read<B: ByteBuf>(buf: &mut B, at: At) -> Result<Self>;
}

/// What a field can hold.
pub(super) trait Value: Sized {
    fn write<S: Sink>(&self, out: &mut S, at: At) -> Result<()>;
    fn read<B: ByteBuf>(buf: &mut B, at: At) -> Result<Self>;
}

impl<T: Fields> Value for T {
    fn write<S: Sink>(&self, out: &mut S, at: At) -> Result<()> {
        Fields::write(self, out, at)
    }

    fn read<B: ByteBuf>(buf: &mut B, at: At) -> Result<Self> {
        Fields::read(buf, at)
    }
}

/// A struct that may be null has a byte before it: 1, or -1 for null (KIP-893).
impl<T: Fields> Value for Option<T> {
    fn write<S: Sink>(&self, out: &mut S, at: At) -> Result<()> {
        match self {
            Some(fields) => {
                out.put(&[1]);
                fields.write(out, at)
            }
            None => {
                out.put(&[0xff]);
                Ok(())
            }
        }
    }

    fn read<B: ByteBuf>(buf: &mut B, at: At) -> Result<Self> {
        let present = buf.try_get_i8()? >= 0;
        present.then(|| T::read(buf, at)).transpose()
    }
}

macro_rules! numbers {
    ($($number:ty: $get:ident,)*) => {$(
        impl Value for $number {
            fn write<S: Sink>(&self, out: &mut S, _at: At) -> Result<()> {
                out.put(&self.to_be_bytes());
                Ok(())
            }

            fn read<B: ByteBuf>(buf: &mut B, _at: At) -> Result<Self> {
                Ok(buf.$get()?)
            }
        }
    )*};
}

numbers! { i8: try_get_i8, i16: try_get_i16, u16: try_get_u16, i32: try_get_i32, i64: try_get_i64, f64: try_get_f64, }

impl Value for bool {
    fn write<S: Sink>(&self, out: &mut S, _at: At) -> Result<()> {
        out.put(&[u8::from(*self)]);
        Ok(())
    }

    fn read<B: ByteBuf>(buf: &mut B, _at: At) -> Result<Self> {
        Ok(buf.try_get_u8()? != 0)
    }
}

impl Value for Uuid {
    fn write<S: Sink>(&self, out: &mut S, _at: At) -> Result<()> {
        out.put(self.as_bytes());
        Ok(())
    }

    fn read<B: ByteBuf>(buf: &mut B, _at: At) -> Result<Self> {
        Ok(Uuid::from_u128(buf.try_get_u128()?))
    }
}

// A type whose length precedes it, and for which a length of -1 (compact: zero) is null.
macro_rules! sized {
    ($([$($generic:ident)?] $value:ty: $width:expr, $put:expr, $get:expr;)*) => {$(
        impl $(<$generic: Value>)? Value for $value {
            fn write<S: Sink>(&self, out: &mut S, at: At) -> Result<()> {
                put_length(out, Some(self.len()), at.flexible, $width)?;
                $put(self, out, at)
            }

            fn read<B: ByteBuf>(buf: &mut B, at: At) -> Result<Self> {
                Option::<Self>::read(buf, at)?.ok_or_else(|| Error::msg("null in a field that is never null"))
            }
        }

        impl $(<$generic: Value>)? Value for Option<$value> {
            fn write<S: Sink>(&self, out: &mut S, at: At) -> Result<()> {
                match self {
                    Some(value) => value.write(out, at),
                    None => put_length(out, None, at.flexible, $width),
                }
            }

            fn read<B: ByteBuf>(buf: &mut B, at: At) -> Result<Self> {
                let length = get_length(buf, at.flexible, $width)?;
                length.map(|length| $get(buf, length, at)).transpose()
            }
        }
    )*};
}

sized! {
    [] StrBytes: Width::Short, put_text, get_text;
    [] Bytes: Width::Long, put_bytes, get_bytes;
    [T] Vec<T>: Width::Long, put_elements, get_elements;
}

fn put_text<S: Sink>(text: &StrBytes, out: &mut S, _at: At) -> Result<()> {
    out.put(text.as_bytes());
    Ok(())
}

fn get_text<B: ByteBuf>(buf: &mut B, length: usize, at: At) -> Result<StrBytes> {
    Ok(StrBytes::from_utf8(get_bytes(buf, length, at)?)?)
}

fn put_bytes<S: Sink>(bytes: &Bytes, out: &mut S, _at: At) -> Result<()> {
    out.put(bytes);
    Ok(())
}

fn get_bytes<B: ByteBuf>(buf: &mut B, length: usize, _at: At) -> Result<Bytes> {
    Ok(buf.try_get_bytes(length)?)
}

fn put_elements<T: Value, S: Sink>(elements: &[T], out: &mut S, at: At) -> Result<()> {
    elements.iter().try_for_each(|element| element.write(out, at))
}

fn get_elements<T: Value, B: ByteBuf>(buf: &mut B, count: usize, at: At) -> Result<Vec<T>> {
    // Room is taken as elements turn out to be there, not on the count's word.
    const TRUSTED_COUNT: usize = 64;
    let mut elements = Vec::with_capacity(count.min(TRUSTED_COUNT));
    for _ in 0..count {
        elements.push(T::read(buf, at)?);
    }
    Ok(elements)
}

/// How wide a length is outside of flexible versions.
#[derive(Clone, Copy)]
enum Width {
    Short,
    Long,
}

fn put_length<S: Sink>(out: &mut S, length: Option<usize>, flexible: bool, width: Width) -> Result<()> {
    match (flexible, width) {
        // A compact length is one more than the length; zero is null.
        (true, _) => put_varint(out, length.map_or(0, |length| length.saturating_add(1)))?,
        (false, Width::Short) => out.put(&length.map_or(Ok(-1), i16::try_from)?.to_be_bytes()),
        (false, Width::Long) => out.put(&length.map_or(Ok(-1), i32::try_from)?.to_be_bytes()),
    }
    Ok(())
}

fn get_length<B: ByteBuf>(buf: &mut B, flexible: bool, width: Width) -> Result<Option<usize>> {
    let length = match (flexible, width) {
        (true, _) => get_varint(buf)?.checked_sub(1),
        (false, Width::Short) => non_negative(i32::from(buf.try_get_i16()?))?,
        (false, Width::Long) => non_negative(buf.try_get_i32()?)?,
    };
    if let Some(length) = length {
        // Whatever is counted, each of it takes at least a byte.
        ensure!(length <= buf.remaining(), "a length of {length} with {} bytes left", buf.remaining());
    }
    Ok(length)
}

fn non_negative(length: i32) -> Result<Option<usize>> {
    Ok(if length == -1 { None } else { Some(usize::try_from(length)?) })
}

fn put_varint<S: Sink>(out: &mut S, value: usize) -> Result<()> {
    let mut value = u32::try_from(value)?;
    while value >= 0x80 {
        out.put(&[value as u8 | 0x80]);
        value >>= 7;
    }
    out.put(&[value as u8]);
    Ok(())
}

fn get_varint<B: ByteBuf>(buf: &mut B) -> Result<usize> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = buf.try_get_u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(u32::try_from(value)? as usize);
        }
    }
    bail!("a varint of more than 32 bits")
}

/// The tagged fields of a struct that is being written: those that hold something else than their default.
pub(super) struct Tagged<'a> {
    known: BTreeMap<i32, Vec<u8>>,
    unknown: &'a BTreeMap<i32, Bytes>,
}

impl<'a> Tagged<'a> {
    pub(super) fn new(unknown: &'a BTreeMap<i32, Bytes>) -> Self {
        Self { known: BTreeMap::new(), unknown }
    }

    pub(super) fn add(&mut self, tag: i32, value: &impl Value, at: At) -> Result<()> {
        let mut bytes = Vec::new();
        value.write(&mut Into(&mut bytes), at)?;
        self.known.insert(tag, bytes);
        Ok(())
    }

    /// Writes all of them in the order of their tags, as KIP-482 asks.
    pub(super) fn write<S: Sink>(self, out: &mut S) -> Result<()> {
        let mut all: BTreeMap<i32, &[u8]> =
            self.unknown.iter().map(|(&tag, value)| (tag, &value[..])).collect();
        all.extend(self.known.iter().map(|(&tag, value)| (tag, &value[..])));
        put_varint(out, all.len())?;
        for (tag, value) in all {
            put_varint(out, usize::try_from(tag)?)?;
            put_varint(out, value.len())?;
            out.put(value);
        }
        Ok(())
    }
}

/// All tagged fields of a struct that is being read.
pub(super) fn read_tags<B: ByteBuf>(buf: &mut B) -> Result<Vec<(i32, Bytes)>> {
    let mut tags = Vec::new();
    for _ in 0..get_varint(buf)? {
        let tag = i32::try_from(get_varint(buf)?)?;
        let size = get_varint(buf)?;
        tags.push((tag, buf.try_get_bytes(size)?));
    }
    Ok(tags)
}

/// One tagged field's value, which has to fill its size.
pub(super) fn read_tagged<T: Value>(mut value: Bytes, at: At) -> Result<T> {
    let read = T::read(&mut value, at)?;
    ensure!(value.is_empty(), "{} bytes too many in a tagged field", value.len());
    Ok(read)
}

pub(super) fn not_in_version(field: &str, at: At) -> Error {
    Error::msg(format!("{field} is set and cannot be written in version {}", at.version))
}

/// Implements `kafka-protocol`'s traits for a generated message.
macro_rules! message {
    ($name:ident, $first:literal, $last:literal, $flexible:expr) => {
        impl ::kafka_protocol::protocol::Message for $name {
            const VERSIONS: ::kafka_protocol::protocol::VersionRange =
                ::kafka_protocol::protocol::VersionRange { min: $first, max: $last };
            const DEPRECATED_VERSIONS: Option<::kafka_protocol::protocol::VersionRange> = None;
        }

        impl ::kafka_protocol::protocol::Encodable for $name {
            fn encode<B: ::kafka_protocol::protocol::buf::ByteBufMut>(
                &self,
                buf: &mut B,
                version: i16,
            ) -> Result<()> {
                let at = codec::at(version, $first, $last, $flexible)?;
                Fields::write(self, &mut codec::Into(buf), at)
            }

            fn compute_size(&self, version: i16) -> Result<usize> {
                let mut count = codec::Count::default();
                Fields::write(self, &mut count, codec::at(version, $first, $last, $flexible)?)?;
                Ok(count.0)
            }
        }

        impl ::kafka_protocol::protocol::Decodable for $name {
            fn decode<B: ByteBuf>(buf: &mut B, version: i16) -> Result<Self> {
                Fields::read(buf, codec::at(version, $first, $last, $flexible)?)
            }
        }
    };
}
pub(super) use message;

/// The same for a record of an internal topic, which has a key.
macro_rules! record {
    ($name:ident, $($versions:tt)*) => {
        codec::message!($name, $($versions)*);

        impl $crate::records::Record for $name {
            const API_KEY: i16 = $name::API_KEY;
        }
    };
}
pub(super) use record;

/// The same for a request or a response, whose header is of version `$header` (all generated ones are flexible).
macro_rules! with_header {
    ($name:ident, $header:literal, $($versions:tt)*) => {
        codec::message!($name, $($versions)*);

        impl ::kafka_protocol::protocol::HeaderVersion for $name {
            fn header_version(_version: i16) -> i16 {
                $header
            }
        }
    };
}
pub(super) use with_header;

/// The same for a request, which names its response.
macro_rules! request {
    ($name:ident, $key:literal, $response:ty, $($versions:tt)*) => {
        codec::with_header!($name, 2, $($versions)*);

        impl ::kafka_protocol::protocol::Request for $name {
            const KEY: i16 = $key;
            type Response = $response;
        }
    };
}
pub(super) use request;

/// `flexible_from` is the first version with compact lengths, `None` if there is none.
pub(super) fn at(version: i16, first: i16, last: i16, flexible_from: Option<i16>) -> Result<At> {
    ensure!((first..=last).contains(&version), "version {version} is not in {first} to {last}");
    Ok(At { version, flexible: flexible_from.is_some_and(|from| version >= from) })
}
