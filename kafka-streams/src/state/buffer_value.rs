//! What waits in a buffer, with the record that led to it (`BufferValue`), in the format of Java's changelogs.

use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::{Header, Headers};

const NULL: i32 = -1;
/// The old value is the prior one.
const SAME_AS_PRIOR: i32 = -2;

/// The input record that led to a row's latest change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RecordContext {
    pub(crate) timestamp: i64,
    pub(crate) offset: i64,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) headers: Headers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BufferValue {
    /// The row as downstream knows it.
    pub(super) prior: Option<Bytes>,
    pub(super) old: Option<Bytes>,
    pub(super) new: Option<Bytes>,
    pub(super) context: RecordContext,
}

impl BufferValue {
    /// Roughly what it takes in memory, as Java counts it.
    pub(super) fn size(&self, key: &Bytes) -> u64 {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let old = if self.old == self.prior { 0 } else { length(&self.old) };
        let headers: usize = self
            .context
            .headers
            .iter()
            .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len))
            .sum();
        let context = 8 + 8 + self.context.topic.len() + 4 + headers;
        (8 + key.len() + length(&self.prior) + old + length(&self.new) + context) as u64
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&NULL.to_be_bytes()),
    }
}

pub(super) fn encode(time: i64, held: &BufferValue) -> Vec<u8> {
    let BufferValue { prior, old, new, context } = held;
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&context.timestamp.to_be_bytes());
    out.extend_from_slice(&context.offset.to_be_bytes());
    put_bytes(&mut out, Some(context.topic.as_bytes()));
    out.extend_from_slice(&context.partition.to_be_bytes());
    out.extend_from_slice(&(context.headers.len() as i32).to_be_bytes());
    for header in context.headers.iter() {
        put_bytes(&mut out, Some(header.key.as_bytes()));
        put_bytes(&mut out, header.value);
    }
    put_bytes(&mut out, prior.as_deref());
    match old {
        Some(_) if old == prior => out.extend_from_slice(&SAME_AS_PRIOR.to_be_bytes()),
        old => put_bytes(&mut out, old.as_deref()),
    }
    put_bytes(&mut out, new.as_deref());
    out.extend_from_slice(&time.to_be_bytes());
    out
}

/// The time and what waits since then; `None` for what [`encode`] never wrote.
pub(super) fn decode(bytes: &Bytes) -> Option<(i64, BufferValue)> {
    Reader { bytes, at: 0 }.value()
}

/// Reads what [`encode`] wrote, part by part.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(found)
    }

    fn int(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn slice(&mut self, length: i32) -> Option<Bytes> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        let found = self.bytes.get(self.at..end).map(Bytes::copy_from_slice)?;
        self.at = end;
        Some(found)
    }

    /// `Some(None)` is null.
    #[expect(clippy::option_option, reason = "malformed is not null")]
    fn nullable(&mut self) -> Option<Option<Bytes>> {
        match self.int()? {
            NULL => Some(None),
            length => self.slice(length).map(Some),
        }
    }

    fn value(mut self) -> Option<(i64, BufferValue)> {
        let (timestamp, offset) = (self.long()?, self.long()?);
        let topic = self.nullable()??;
        let topic = Arc::from(std::str::from_utf8(&topic).ok()?);
        let partition = self.int()?;
        let mut headers = Vec::new();
        for _ in 0..self.int()? {
            let key = self.nullable()??;
            let value = self.nullable()?;
            headers.push(Header { key: key.try_into().ok()?, value });
        }
        let context =
            RecordContext { timestamp, offset, topic, partition, headers: headers.into_iter().collect() };
        let prior = self.nullable()?;
        let old = match self.int()? {
            NULL => None,
            SAME_AS_PRIOR => prior.clone(),
            length => Some(self.slice(length)?),
        };
        let new = self.nullable()?;
        let time = self.long()?;
        (self.at == self.bytes.len()).then_some((time, BufferValue { prior, old, new, context }))
    }
}
