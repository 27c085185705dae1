//! What the coordinator reads in a consumer's opaque bytes: which topics it subscribes to, what it owns, and what it was
//! assigned (`ConsumerProtocolSubscription`, `ConsumerProtocolAssignment`).
//!
//! The bytes are read by hand because they come from a group member and the generated decoder reserves memory on the
//! word of an array's length.

use bytes::{BufMut, Bytes, BytesMut};

/// The protocol type of consumers; others (Connect, Schema Registry, Streams tools) are opaque altogether.
pub(in crate::groups) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Partitions by topic name.
pub(in crate::groups) type NamedPartitions = Vec<(String, Vec<i32>)>;

/// What a consumer of the classic protocol says when it joins.
#[derive(Debug, Default, PartialEq)]
pub(in crate::groups) struct Subscription {
    pub(in crate::groups) topics: Vec<String>,
    /// Named from version 1 on (KIP-429).
    pub(in crate::groups) owned: NamedPartitions,
    /// Named from version 3 on (KIP-881).
    pub(in crate::groups) rack_id: Option<String>,
}

/// Reads a subscription, `None` if the bytes are not one. Every version starts with the fields of the one before.
pub(in crate::groups) fn subscription(metadata: &[u8]) -> Option<Subscription> {
    let mut reader = Reader(metadata);
    let version = reader.i16()?;
    let topics = reader.array(Reader::string)?;
    let mut subscription = Subscription { topics, ..Subscription::default() };
    if version >= 1 {
        let user_data = reader.i32()?;
        reader.take(usize::try_from(user_data).unwrap_or(0))?;
        subscription.owned = reader.array(Reader::partitions)?;
    }
    if version >= 3 {
        reader.i32()?;
        subscription.rack_id = reader.nullable_string()?;
    }
    Some(subscription)
}

/// The topics of a subscription, `None` if the bytes are not one.
pub(super) fn topics(metadata: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader(metadata);
    reader.i16()?;
    reader.array(Reader::string)
}

/// Reads an assignment, `None` if the bytes are not one. No bytes are no partitions.
pub(in crate::groups) fn assignment(bytes: &[u8]) -> Option<NamedPartitions> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut reader = Reader(bytes);
    reader.i16()?;
    reader.array(Reader::partitions)
}

/// Writes an assignment in version 0, which every consumer reads.
pub(in crate::groups) fn encode_assignment(assigned: &NamedPartitions) -> Bytes {
    let length = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
    let mut buf = BytesMut::new();
    buf.put_i16(0);
    buf.put_i32(length(assigned.len()));
    for (topic, partitions) in assigned {
        buf.put_i16(i16::try_from(topic.len()).unwrap_or(i16::MAX));
        buf.put_slice(topic.as_bytes());
        buf.put_i32(length(partitions.len()));
        partitions.iter().for_each(|partition| buf.put_i32(*partition));
    }
    buf.put_i32(-1);
    buf.freeze()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.i16()?).ok()?;
        Some(std::str::from_utf8(self.take(length)?).ok()?.to_owned())
    }

    fn nullable_string(&mut self) -> Option<Option<String>> {
        match usize::try_from(self.i16()?) {
            Ok(length) => Some(Some(std::str::from_utf8(self.take(length)?).ok()?.to_owned())),
            Err(_) => Some(None),
        }
    }

    fn partitions(&mut self) -> Option<(String, Vec<i32>)> {
        Some((self.string()?, self.array(Self::i32)?))
    }

    /// Grows with what is there, not with what is announced.
    fn array<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = u32::try_from(self.i32()?).ok()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_nonsense_is_none() {
        assert_eq!(topics(b"\0\x03\0\0\0\x02\0\x01a\0\x02bcuser data"), Some(vec!["a".into(), "bc".into()]));
        assert_eq!(topics(b"\0\0\0\0\0\0"), Some(vec![]));
        for nonsense in
            [&b""[..], b"range", b"\0\0\x7f\xff\xff\xff", b"\0\0\xff\xff\xff\xff", b"\0\0\0\0\0\x01\0\x09a"]
        {
            assert_eq!(topics(nonsense), None);
        }
    }

    #[test]
    fn a_subscription_says_what_is_owned_and_in_which_rack() {
        let bytes =
            b"\0\x03\0\0\0\x01\0\x01a\xff\xff\xff\xff\0\0\0\x01\0\x01a\0\0\0\x01\0\0\0\x02\0\0\0\x05\0\x01r";
        let expected = Subscription {
            topics: vec!["a".into()],
            owned: vec![("a".into(), vec![2])],
            rack_id: Some("r".into()),
        };
        assert_eq!(subscription(bytes), Some(expected));
        assert_eq!(subscription(&bytes[..20]), None);
    }

    #[test]
    fn an_assignment_reads_back_as_it_was_written() {
        let assigned = vec![("t".to_owned(), vec![0, 2]), ("u".to_owned(), vec![1])];
        assert_eq!(assignment(&encode_assignment(&assigned)), Some(assigned));
        assert_eq!(assignment(b""), Some(vec![]));
        assert_eq!(assignment(b"garbage"), None);
    }
}
