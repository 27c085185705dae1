//! Kafka's text form of ids: 16 random bytes in URL-safe base64 without padding, 22 characters.

use std::cell::Cell;

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHARACTERS: usize = 22;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes every id that brokers draw on this thread (members, topics, fetch sessions) follow from `seed` from now on. On one
/// thread and a paused clock a run of a broker then always takes the same course.
pub fn seed_randomness(seed: u64) {
    SEEDED.set(Some(seed));
}

fn random_uuid() -> Uuid {
    let Some(state) = SEEDED.get() else { return Uuid::new_v4() };
    let [high, low] = [1, 2].map(|step: u64| {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        let state = state.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (state, mixed ^ (mixed >> 31))
    });
    SEEDED.set(Some(low.0));
    uuid::Builder::from_random_bytes(((u128::from(high.1) << 64) | u128::from(low.1)).to_be_bytes())
        .into_uuid()
}

/// A random id that Kafka's tools can print: none that begins with a dash, which they take for an option
/// (`Uuid.randomUuid`).
pub(crate) fn random() -> Uuid {
    loop {
        let id = random_uuid();
        if !to_text(id).starts_with('-') {
            return id;
        }
    }
}

/// A random number, such as a fetch session is known by.
pub(crate) fn random_i32() -> i32 {
    let [a, b, c, d, ..] = random_uuid().into_bytes();
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
    fn a_seed_decides_the_ids() {
        let draw = |seed| {
            std::thread::spawn(move || {
                seed_randomness(seed);
                [random(), random()]
            })
        };
        let [first, again, other] = [1, 1, 2].map(|seed| draw(seed).join().unwrap());
        assert_eq!(first, again);
        assert!(first[0] != first[1] && first != other);
    }

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
