//! What the two sides of a foreign-key join write to each other, in Java's formats.

use bytes::Bytes;

use crate::serde::{Encoded, Serde, SerdeContext, SerdeError, SharedSerde};

/// What a row of the left side asks of its foreign key's partition (`SubscriptionWrapper.Instruction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// Forget the subscription.
    DeleteKeyNoPropagate,
    /// Forget the subscription, and say so.
    DeleteKeyAndPropagate,
    /// Subscribe; answer in any case.
    PropagateNullIfNoForeignValue,
    /// Subscribe; answer if the foreign key has a row.
    PropagateOnlyIfForeignValue,
}

impl Instruction {
    const ALL: [Self; 4] = [
        Self::DeleteKeyNoPropagate,
        Self::DeleteKeyAndPropagate,
        Self::PropagateNullIfNoForeignValue,
        Self::PropagateOnlyIfForeignValue,
    ];

    pub(crate) fn deletes(self) -> bool {
        matches!(self, Self::DeleteKeyNoPropagate | Self::DeleteKeyAndPropagate)
    }
}

/// Murmur3 (x64, 128 bits) of a row's bytes, as Java writes it: both halves big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueHash([u8; 16]);

impl ValueHash {
    /// `Murmur3.DEFAULT_SEED`.
    const SEED: u32 = 104_729;

    pub(crate) fn of(bytes: &[u8]) -> Self {
        // A slice is read without errors.
        let hash = murmur3::murmur3_x64_128(&mut &*bytes, Self::SEED).unwrap_or_default();
        // The crate has the first half in the low bits.
        Self(hash.rotate_left(64).to_be_bytes())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription<K> {
    /// Of the row that asks; `None` if it was deleted.
    pub(crate) hash: Option<ValueHash>,
    pub(crate) instruction: Instruction,
    pub(crate) primary_key: K,
    /// Where the answer goes; Java before 3.4 (version 0) did not write it.
    pub(crate) primary_partition: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionResponse<V> {
    /// Of the row that asked.
    pub(crate) hash: Option<ValueHash>,
    pub(crate) foreign_value: Option<V>,
    /// Chooses the answer's partition and is not written.
    pub(crate) primary_partition: Option<i32>,
}

/// In the first byte: there is no hash.
const NO_HASH: u8 = 0x80;
const HASH_SIZE: usize = 16;
const PARTITION_SIZE: usize = 4;

fn put_head(version: u8, hash: Option<ValueHash>, instruction: Option<Instruction>, out: &mut Vec<u8>) {
    out.push(version | if hash.is_none() { NO_HASH } else { 0 });
    out.extend(instruction.map(|instruction| instruction as u8));
    out.extend(hash.iter().flat_map(|hash| hash.0));
}

fn malformed(bytes: &Bytes) -> SerdeError {
    SerdeError::Length { expected: 1, actual: bytes.len() }
}

/// The hash at the beginning, if there is one, and what follows.
fn take_hash(first: u8, bytes: &Bytes) -> Option<(Option<ValueHash>, Bytes)> {
    if first & NO_HASH != 0 {
        return Some((None, bytes.clone()));
    }
    let hash = bytes.first_chunk::<HASH_SIZE>()?;
    Some((Some(ValueHash(*hash)), bytes.slice(HASH_SIZE..)))
}

/// Version and presence of the hash, instruction, hash, primary key, primary partition (`SubscriptionWrapperSerde`).
pub(crate) struct SubscriptionSerde<K>(pub(crate) SharedSerde<K>);

impl<K: 'static> Serde<Subscription<K>> for SubscriptionSerde<K> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        subscription: &Subscription<K>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        let Subscription { hash, instruction, primary_key, primary_partition } = subscription;
        put_head(u8::from(primary_partition.is_some()), *hash, Some(*instruction), out);
        self.0.serialize(cx, primary_key, out)?;
        out.extend(primary_partition.iter().flat_map(|partition| partition.to_be_bytes()));
        Ok(Encoded::Bytes)
    }

    fn deserialize(
        &self,
        cx: SerdeContext<'_>,
        bytes: Option<&Bytes>,
    ) -> Result<Subscription<K>, SerdeError> {
        let bytes = bytes.ok_or(SerdeError::Null { type_name: "Subscription" })?;
        let parts = || {
            let &[first, instruction, ..] = bytes.as_ref() else { return None };
            let instruction = *Instruction::ALL.get(usize::from(instruction))?;
            let (hash, rest) = take_hash(first, &bytes.slice(2..))?;
            match first & !NO_HASH {
                0 => Some((hash, instruction, rest, None)),
                1 => {
                    let at = rest.len().checked_sub(PARTITION_SIZE)?;
                    let partition = i32::from_be_bytes(*rest.last_chunk()?);
                    Some((hash, instruction, rest.slice(..at), Some(partition)))
                }
                _ => None,
            }
        };
        let (hash, instruction, primary_key, primary_partition) = parts().ok_or_else(|| malformed(bytes))?;
        let primary_key = self.0.deserialize(cx, Some(&primary_key))?;
        Ok(Subscription { hash, instruction, primary_key, primary_partition })
    }
}

/// Version and presence of the hash, hash, foreign value if there is one (`SubscriptionResponseWrapperSerde`).
pub(crate) struct SubscriptionResponseSerde<V>(pub(crate) SharedSerde<V>);

impl<V: 'static> Serde<SubscriptionResponse<V>> for SubscriptionResponseSerde<V> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        response: &SubscriptionResponse<V>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        put_head(0, response.hash, None, out);
        if let Some(value) = &response.foreign_value {
            self.0.serialize(cx, value, out)?;
        }
        Ok(Encoded::Bytes)
    }

    fn deserialize(
        &self,
        cx: SerdeContext<'_>,
        bytes: Option<&Bytes>,
    ) -> Result<SubscriptionResponse<V>, SerdeError> {
        let bytes = bytes.ok_or(SerdeError::Null { type_name: "SubscriptionResponse" })?;
        let parts = || match bytes.first()? {
            first if first & !NO_HASH == 0 => take_hash(*first, &bytes.slice(1..)),
            _ => None,
        };
        let (hash, value) = parts().ok_or_else(|| malformed(bytes))?;
        // As in Java, an empty value and none are the same.
        let foreign_value = match value.is_empty() {
            true => None,
            false => Some(self.0.deserialize(cx, Some(&value))?),
        };
        Ok(SubscriptionResponse { hash, foreign_value, primary_partition: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::HasSerde;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The hashes were made by Java's `Murmur3.hash128`.
    #[test]
    fn rows_have_the_hashes_that_java_gives_them() {
        for (text, hash) in [
            ("", "9d2764a018e329428c3cf3b035938518"),
            ("a", "3361634e7e0f5188e9c7dda24eae326b"),
            ("hello", "30bfb4f39919e764566aea857401d1c6"),
            ("0123456789abcdef", "1a6e941ec6a76967d7d82808f505d6b1"),
            ("The quick brown fox jumps over the lazy dog éÿ", "017fb52425200a5bf435fb4e760cdd43"),
        ] {
            assert_eq!(hex(&ValueHash::of(text.as_bytes()).0), hash, "{text}");
        }
    }

    #[test]
    fn subscriptions_are_written_as_in_java_and_damaged_ones_are_errors() {
        let (serde, cx) = (SubscriptionSerde(String::serde()), SerdeContext::value("t"));
        let mut subscription = Subscription {
            hash: Some(ValueHash::of(b"a")),
            instruction: Instruction::PropagateOnlyIfForeignValue,
            primary_key: "pk".to_owned(),
            primary_partition: Some(7),
        };
        for (hash, partition, written) in [
            (subscription.hash, Some(7), "01033361634e7e0f5188e9c7dda24eae326b706b00000007"),
            (None, Some(7), "8103706b00000007"),
            (None, None, "8003706b"),
        ] {
            (subscription.hash, subscription.primary_partition) = (hash, partition);
            let mut out = Vec::new();
            serde.serialize(cx, &subscription, &mut out).unwrap();
            assert_eq!(hex(&out), written);
            assert_eq!(serde.deserialize(cx, Some(&out.into())).unwrap(), subscription);
        }
        for damaged in
            [&b""[..], b"\x81", b"\x81\x04pk\0\0\0\0", b"\x01\x03short", b"\x82\x03pk", b"\x81\x03\0\0"]
        {
            assert!(serde.deserialize(cx, Some(&Bytes::from_static(damaged))).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn responses_are_written_as_in_java_and_damaged_ones_are_errors() {
        let (serde, cx) = (SubscriptionResponseSerde(String::serde()), SerdeContext::value("t"));
        for (hash, value, written) in [
            (Some(ValueHash::of(b"a")), Some("v"), "003361634e7e0f5188e9c7dda24eae326b76"),
            (None, Some("v"), "8076"),
            (None, None, "80"),
        ] {
            let foreign_value = value.map(str::to_owned);
            let response = SubscriptionResponse { hash, foreign_value, primary_partition: None };
            let mut out = Vec::new();
            serde.serialize(cx, &response, &mut out).unwrap();
            assert_eq!(hex(&out), written);
            assert_eq!(serde.deserialize(cx, Some(&out.into())).unwrap(), response);
        }
        for damaged in [&b""[..], b"\0short", b"\x81v"] {
            assert!(serde.deserialize(cx, Some(&Bytes::from_static(damaged))).is_err(), "{damaged:?}");
        }
    }
}
