//! Reads the records of a batch without copying them.

use std::ops::Range;

use bytes::Bytes;

use super::{BatchError, RecordBatch, TimestampType};
use crate::varint::{put_varint, read_varint, read_varlong};

/// A record header: a name and an optional value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// The name. Names may repeat.
    pub key: kafka_protocol::protocol::StrBytes,
    /// The value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

impl Header {
    /// As it lies in a record.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        put_varint(out, self.key.len() as i32);
        out.extend_from_slice(self.key.as_bytes());
        put_varint(out, self.value.as_ref().map_or(-1, |value| value.len() as i32));
        out.extend_from_slice(self.value.as_deref().unwrap_or_default());
    }

    /// A header with a value.
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { key: kafka_protocol::protocol::StrBytes::from_string(key.into()), value: Some(value.into()) }
    }
}

/// A record that owns slices of its batch; cheap to clone, and keeps the batch's memory alive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970; the batch's append time under `LogAppendTime`.
    pub timestamp: i64,
    /// The key; `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// The value; `None` is Kafka's null, a tombstone on compacted topics.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// A record borrowed from its batch: nothing is counted, copied or allocated.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RecordView<'a> {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970; the batch's append time under `LogAppendTime`.
    pub timestamp: i64,
    /// The key; `None` is Kafka's null.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is Kafka's null, a tombstone on compacted topics.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: u32,
}

/// One header, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// The name.
    pub key: &'a str,
    /// The value; `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
}

/// The headers of a [`Record`], parsed when looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(
    // Out of line, since most records have none and each is moved several times on its way.
    Option<Box<Encoded>>,
);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Encoded {
    bytes: Bytes,
    count: u32,
}

impl Headers {
    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |encoded| encoded.count as usize)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The headers in the order in which the producer added them.
    pub fn iter(&self) -> impl Iterator<Item = HeaderView<'_>> {
        self.0.iter().flat_map(|encoded| header_views(&encoded.bytes, encoded.count))
    }

    /// The value of the last header of this name, as Kafka's `lastHeader`.
    pub fn last(&self, key: &str) -> Option<HeaderView<'_>> {
        self.iter().filter(|header| header.key == key).last()
    }

    /// Owned copies, to send on with another record. Values stay slices of the batch.
    pub fn to_vec(&self) -> Vec<Header> {
        let Some(encoded) = &self.0 else { return Vec::new() };
        header_views(&encoded.bytes, encoded.count)
            .map(|header| Header {
                key: kafka_protocol::protocol::StrBytes::from_string(header.key.to_owned()),
                value: header.value.map(|value| encoded.bytes.slice_ref(value)),
            })
            .collect()
    }
}

impl<'a> RecordView<'a> {
    /// The headers in the order in which the producer added them.
    pub fn headers(&self) -> impl Iterator<Item = HeaderView<'a>> + use<'a> {
        header_views(self.headers, self.header_count)
    }

    /// How many headers there are.
    pub fn header_count(&self) -> usize {
        self.header_count as usize
    }
}

impl FromIterator<Header> for Headers {
    fn from_iter<I: IntoIterator<Item = Header>>(headers: I) -> Self {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for header in headers {
            header.append_to(&mut bytes);
            count += 1;
        }
        Self((count > 0).then(|| Box::new(Encoded { bytes: bytes.into(), count })))
    }
}

/// The bytes were checked when the record was read, so this only ends early where it cannot.
fn header_views(bytes: &[u8], count: u32) -> impl Iterator<Item = HeaderView<'_>> {
    let mut at = 0;
    (0..count).map_while(move |_| read_header(bytes, &mut at))
}

fn read_header<'a>(bytes: &'a [u8], at: &mut usize) -> Option<HeaderView<'a>> {
    let key = std::str::from_utf8(bytes.get(read_field(bytes, at)??)?).ok()?;
    let value = match read_field(bytes, at)? {
        Some(range) => Some(bytes.get(range)?),
        None => None,
    };
    Some(HeaderView { key, value })
}

/// A length and that many bytes: `Some(None)` for null, `None` when they do not fit.
#[inline]
fn read_field(bytes: &[u8], at: &mut usize) -> Option<Option<Range<usize>>> {
    let length = read_varint(bytes, at)?;
    if length < 0 {
        return (length == -1).then_some(None);
    }
    let end = at.checked_add(length as usize)?;
    if end > bytes.len() {
        return None;
    }
    let range = *at..end;
    *at = end;
    Some(Some(range))
}

/// Iterates the records of one batch.
///
/// As an [`Iterator`] it yields owned [`Record`]s; [`next_view`](Self::next_view) yields borrowed ones. After an error
/// the iteration is over.
#[derive(Debug, Clone)]
pub struct Records {
    body: Bytes,
    at: usize,
    index: i32,
    count: i32,
    base_offset: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
}

/// Where a record's parts lie in the body.
struct Parsed {
    offset: i64,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
    header_count: u32,
}

impl Records {
    pub(super) fn new(batch: &RecordBatch, body: Bytes) -> Self {
        Self {
            body,
            at: 0,
            index: 0,
            count: batch.record_count(),
            base_offset: batch.base_offset(),
            base_timestamp: batch.base_timestamp(),
            append_time: (batch.timestamp_type() == TimestampType::LogAppendTime)
                .then(|| batch.max_timestamp()),
        }
    }

    /// The next record, borrowed.
    #[inline]
    pub fn next_view(&mut self) -> Option<Result<RecordView<'_>, BatchError>> {
        let parsed = match self.advance()? {
            Ok(parsed) => parsed,
            Err(error) => return Some(Err(error)),
        };
        let body = &self.body[..];
        Some(Ok(RecordView {
            offset: parsed.offset,
            timestamp: parsed.timestamp,
            key: parsed.key.and_then(|range| body.get(range)),
            value: parsed.value.and_then(|range| body.get(range)),
            headers: body.get(parsed.headers).unwrap_or_default(),
            header_count: parsed.header_count,
        }))
    }

    /// How many records are left, by the header's count.
    pub fn remaining(&self) -> usize {
        usize::try_from(self.count - self.index).unwrap_or(0)
    }

    /// The memory that the records take once decompressed, in bytes.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    #[inline]
    fn advance(&mut self) -> Option<Result<Parsed, BatchError>> {
        if self.index >= self.count {
            if self.at < self.body.len() && self.index >= 0 {
                return Some(Err(self.fail("bytes are left after the last record")));
            }
            return None;
        }
        match self.parse() {
            Ok(parsed) => {
                self.index += 1;
                Some(Ok(parsed))
            }
            Err(reason) => Some(Err(self.fail(reason))),
        }
    }

    #[cold]
    fn fail(&mut self, reason: &'static str) -> BatchError {
        let error = BatchError::BadRecord { base_offset: self.base_offset, index: self.index, reason };
        self.at = self.body.len();
        self.index = self.count;
        error
    }

    #[inline]
    fn parse(&mut self) -> Result<Parsed, &'static str> {
        const CUT: &str = "a field is cut short";
        let bytes = &self.body[..];
        let mut at = self.at;
        let size = read_varint(bytes, &mut at).ok_or("its length is cut short")?;
        let size = usize::try_from(size).map_err(|_| "its length is negative")?;
        let end =
            at.checked_add(size).filter(|&end| end <= bytes.len()).ok_or("it is longer than the batch")?;
        let bytes = &bytes[..end];
        // The attributes byte is unused in format 2.
        at += 1;
        let timestamp_delta = read_varlong(bytes, &mut at).ok_or(CUT)?;
        let offset_delta = read_varint(bytes, &mut at).ok_or(CUT)?;
        let key = read_field(bytes, &mut at).ok_or("its key does not fit")?;
        let value = read_field(bytes, &mut at).ok_or("its value does not fit")?;
        let header_count = read_varint(bytes, &mut at).ok_or(CUT)?;
        let header_count = u32::try_from(header_count).map_err(|_| "its header count is negative")?;
        let headers = at..end;
        for _ in 0..header_count {
            read_header(bytes, &mut at).ok_or("a header does not fit or its name is not UTF-8")?;
        }
        if at != end {
            return Err("its fields do not fill its length");
        }
        if offset_delta < 0 {
            return Err("its offset delta is negative");
        }
        self.at = end;
        Ok(Parsed {
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp: self.append_time.unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers,
            header_count,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let parsed = match self.advance()? {
            Ok(parsed) => parsed,
            Err(error) => return Some(Err(error)),
        };
        let headers = match parsed.header_count {
            0 => Headers::default(),
            count => Headers(Some(Box::new(Encoded { bytes: self.body.slice(parsed.headers), count }))),
        };
        Some(Ok(Record {
            offset: parsed.offset,
            timestamp: parsed.timestamp,
            key: parsed.key.map(|range| self.body.slice(range)),
            value: parsed.value.map(|range| self.body.slice(range)),
            headers,
        }))
    }
}
