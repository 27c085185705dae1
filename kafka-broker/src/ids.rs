//! Kafka's text form of ids: 16 random bytes in URL-safe base64 without padding, 22 characters.

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHARACTERS: usize = 22;

/// A random id that Kafka's tools can print: none that begins with a dash, which they take for an option
/// (`Uuid.randomUuid`).
pub(crate) fn random() -> Uuid {
    loop {
        let id = Uuid::new_v4();
        if !to_text(id).starts_with('-') {
            return id;
        }
    }
}

/// A random number, such as a fetch session is known by.
pub(crate) fn random_i32() -> i32 {
    let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
    i32::from_be_bytes([a, b, c, d])
}

/// Kafka's text form of an id.
pub(crate) fn to_text(id: Uuid) -> String {
    let bits = id.as_u128();
    let character = |at: usize| {
        // 22 characters hold 132 bits: the last one carries two bits and four zeros.
        let six = match 128usize.checked_sub(6 * (at + 1)) {
            Some(shift) => (bits >> shift) & 63,
            None => (bits << 4) & 63,
        };
        ALPHABET.get(six as usize).copied().map_or('A', char::from)
    };
    (0..CHARACTERS).map(character).collect()
}

/// Reads Kafka's text form.
pub(crate) fn from_text(text: &str) -> Option<Uuid> {
    if text.len() != CHARACTERS {
        return None;
    }
    let mut bits: u128 = 0;
    let mut last = 0;
    for (at, byte) in text.bytes().enumerate() {
        let six = ALPHABET.iter().position(|&known| known == byte)? as u128;
        if at + 1 < CHARACTERS { bits = (bits << 6) | six } else { last = six }
    }
    Some(Uuid::from_u128((bits << 2) | (last >> 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_as_kafka_prints_them() {
        // From `kafka-storage random-uuid` of Apache Kafka, and `Uuid.ONE_UUID`.
        assert_eq!(to_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(to_text(Uuid::from_u128(u128::MAX)), "_____________________w");
        assert_eq!(from_text("AAAAAAAAAAAAAAAAAAAAAQ"), Some(Uuid::from_u128(1)));
        assert_eq!(from_text("short"), None);
        for _ in 0..100 {
            let id = random();
            assert_eq!(from_text(&to_text(id)), Some(id));
        }
    }
}
