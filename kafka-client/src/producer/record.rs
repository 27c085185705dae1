use std::borrow::Cow;

use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::record_batch::Header;

use super::TopicHandle;
use super::accumulator::TopicState;

/// A record to send: borrowed where the caller likes, since it is encoded before `send` returns.
///
/// ```
/// use kafka_client::producer::Record;
/// let record = Record::to("orders").key("42").value(b"paid").header("source", "shop");
/// ```
#[derive(Debug, Clone)]
#[must_use = "a record goes nowhere before it is given to `send`"]
pub struct Record<'a> {
    // As small as it can be, since it is moved several times on its way.
    pub(super) topic: TopicRef<'a>,
    pub(super) key: Option<Data<'a>>,
    pub(super) value: Option<Data<'a>>,
    headers: Option<Box<Headers>>,
    timestamp: i64,
    partition: i32,
}

const _: () = assert!(size_of::<Record<'_>>() <= 96);

/// Nobody means these when setting a timestamp or a partition.
const NO_TIMESTAMP: i64 = i64::MIN;
const NO_PARTITION: i32 = i32::MIN;

/// Out of line, since most records have none.
#[derive(Debug, Clone, Default)]
struct Headers(Vec<Header>);

/// Where a record goes: a topic's name, or the handle that a producer gave for it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TopicRef<'a> {
    /// By name: one small hash for each record.
    Name(Cow<'a, str>),
    /// By handle: no look-up.
    Handle(&'a TopicHandle),
}

/// The bytes of a key or a value, borrowed or owned. To borrow is cheapest, whatever they are kept in.
#[derive(Debug, Clone)]
pub struct Data<'a>(Repr<'a>);

#[derive(Debug, Clone)]
enum Repr<'a> {
    Borrowed(&'a [u8]),
    Vec(Vec<u8>),
    /// In a box, which keeps every record small; who has `Bytes` usually lends them.
    Bytes(Box<Bytes>),
}

impl<'a> Record<'a> {
    /// A record for a topic, without key and value (Kafka's null).
    #[inline]
    pub fn to(topic: impl Into<TopicRef<'a>>) -> Self {
        Self {
            topic: topic.into(),
            key: None,
            value: None,
            headers: None,
            timestamp: NO_TIMESTAMP,
            partition: NO_PARTITION,
        }
    }

    /// The key. Records with equal keys go to the same partition, the one that Java's producer would choose.
    #[inline]
    pub fn key(mut self, key: impl Into<Data<'a>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The value. Without one the record is a tombstone on compacted topics.
    #[inline]
    pub fn value(mut self, value: impl Into<Data<'a>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header; names may repeat.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.push_header(Header::new(name, value));
        self
    }

    /// Adds a header without a value (Kafka's null).
    pub fn null_header(mut self, name: impl Into<String>) -> Self {
        self.push_header(Header { key: StrBytes::from_string(name.into()), value: None });
        self
    }

    /// The partition, instead of the partitioner's choice.
    #[inline]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = partition;
        self
    }

    /// When the event happened, in milliseconds since 1970. Default: when it is sent.
    #[inline]
    pub fn timestamp(mut self, millis: i64) -> Self {
        self.timestamp = millis;
        self
    }

    /// The record without borrows; copies what was borrowed.
    pub fn into_owned(self) -> Record<'static> {
        let name = match self.topic {
            TopicRef::Name(name) => name.into_owned(),
            TopicRef::Handle(handle) => handle.name().to_owned(),
        };
        Record {
            topic: TopicRef::Name(Cow::Owned(name)),
            partition: self.partition,
            timestamp: self.timestamp,
            key: self.key.map(Data::into_owned),
            value: self.value.map(Data::into_owned),
            headers: self.headers,
        }
    }

    /// The same record for another topic.
    #[inline]
    pub(super) fn retarget(self, topic: TopicRef<'a>) -> Self {
        Self { topic, ..self }
    }

    fn push_header(&mut self, header: Header) {
        self.headers.get_or_insert_default().0.push(header);
    }

    #[inline]
    pub(super) fn is_for(&self, topic: &TopicState) -> bool {
        match &self.topic {
            TopicRef::Handle(handle) if std::ptr::eq(handle.state(), topic) => true,
            _ => *self.topic() == *topic.name,
        }
    }

    /// The partition that was asked for.
    #[inline]
    pub fn wanted_partition(&self) -> Option<i32> {
        (self.partition != NO_PARTITION).then_some(self.partition)
    }

    /// The key's bytes; `None` is Kafka's null, which is not an empty key.
    pub fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_ref().map(Data::as_bytes)
    }

    /// The value's bytes.
    pub fn value_bytes(&self) -> Option<&[u8]> {
        self.value.as_ref().map(Data::as_bytes)
    }

    /// The headers, in the order in which they were added.
    #[inline]
    pub fn headers(&self) -> &[Header] {
        self.headers.as_ref().map_or(&[], |headers| &headers.0)
    }

    /// The timestamp that was set, in milliseconds since 1970.
    #[inline]
    pub fn wanted_timestamp(&self) -> Option<i64> {
        (self.timestamp != NO_TIMESTAMP).then_some(self.timestamp)
    }

    /// The name of the record's topic.
    pub fn topic(&self) -> &str {
        match &self.topic {
            TopicRef::Name(name) => name,
            TopicRef::Handle(handle) => handle.name(),
        }
    }
}

impl Data<'_> {
    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Borrowed(bytes) => bytes,
            Repr::Vec(bytes) => bytes,
            Repr::Bytes(bytes) => bytes,
        }
    }

    fn into_owned(self) -> Data<'static> {
        Data(match self.0 {
            Repr::Borrowed(bytes) => Repr::Vec(bytes.to_vec()),
            Repr::Vec(bytes) => Repr::Vec(bytes),
            Repr::Bytes(bytes) => Repr::Bytes(bytes),
        })
    }
}

impl AsRef<[u8]> for Data<'_> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<'a> From<&'a [u8]> for Data<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self(Repr::Borrowed(bytes))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Data<'a> {
    #[inline]
    fn from(bytes: &'a [u8; N]) -> Self {
        Self(Repr::Borrowed(bytes))
    }
}

impl<'a> From<&'a str> for Data<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Self(Repr::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a String> for Data<'a> {
    #[inline]
    fn from(text: &'a String) -> Self {
        Self(Repr::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a Vec<u8>> for Data<'a> {
    #[inline]
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self(Repr::Borrowed(bytes))
    }
}

impl<'a> From<&'a Bytes> for Data<'a> {
    #[inline]
    fn from(bytes: &'a Bytes) -> Self {
        Self(Repr::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Data<'_> {
    #[inline]
    fn from(bytes: Vec<u8>) -> Self {
        Self(Repr::Vec(bytes))
    }
}

impl From<String> for Data<'_> {
    #[inline]
    fn from(text: String) -> Self {
        Self(Repr::Vec(text.into_bytes()))
    }
}

impl From<Bytes> for Data<'_> {
    #[inline]
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Bytes(Box::new(bytes)))
    }
}

impl<'a> From<Cow<'a, [u8]>> for Data<'a> {
    #[inline]
    fn from(bytes: Cow<'a, [u8]>) -> Self {
        match bytes {
            Cow::Borrowed(bytes) => bytes.into(),
            Cow::Owned(bytes) => bytes.into(),
        }
    }
}

impl<'a> From<&'a str> for TopicRef<'a> {
    #[inline]
    fn from(name: &'a str) -> Self {
        Self::Name(Cow::Borrowed(name))
    }
}

impl<'a> From<&'a String> for TopicRef<'a> {
    #[inline]
    fn from(name: &'a String) -> Self {
        Self::Name(Cow::Borrowed(name))
    }
}

impl From<String> for TopicRef<'_> {
    #[inline]
    fn from(name: String) -> Self {
        Self::Name(Cow::Owned(name))
    }
}

impl<'a> From<&'a TopicHandle> for TopicRef<'a> {
    #[inline]
    fn from(handle: &'a TopicHandle) -> Self {
        Self::Handle(handle)
    }
}
