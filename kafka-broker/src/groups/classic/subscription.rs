//! The one thing the coordinator reads in a consumer's opaque metadata: which topics it subscribes to.

/// The protocol type of consumers; others (Connect, Schema Registry, Streams tools) are opaque altogether.
pub(in crate::groups) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// The topics of a `ConsumerProtocolSubscription`, `None` if the bytes are not one.
///
/// Every version starts with the fields of version 0. They are read by hand because the bytes come from a group member
/// and the generated decoder reserves memory on the word of an array's length.
pub(super) fn topics(metadata: &[u8]) -> Option<Vec<String>> {
    let (_version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut topics = Vec::new();
    for _ in 0..u32::try_from(i32::from_be_bytes(*count)).ok()? {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (topic, after) = after.split_at_checked(length)?;
        topics.push(std::str::from_utf8(topic).ok()?.to_owned());
        rest = after;
    }
    Some(topics)
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
}
