//! Which topic names are legal, and which two cannot exist side by side.

/// The longest legal topic name, in bytes: the folder name `name-partition.<id>-delete` must fit a file system.
const MAX_NAME_BYTES: usize = 249;

/// Says why a topic name is illegal, in the words that Kafka's own tools print.
pub(crate) fn check(name: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        return Err("the empty string is not allowed".to_owned());
    }
    if name == "." || name == ".." {
        return Err("'.' or '..' is not allowed".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("the length of the name is longer than the max allowed length {MAX_NAME_BYTES}"));
    }
    if !name.bytes().all(legal) {
        return Err(format!(
            "{name:?} contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ));
    }
    Ok(())
}

/// Two names that differ only in `.` and `_` give the same metric names, so Kafka allows just one of them.
pub(crate) fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

/// Whether the name could collide with another one at all.
pub(crate) fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_are_letters_digits_dots_underscores_and_dashes() {
        for name in ["a", "orders.v1_x-2", &"x".repeat(249), "..."] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(250)] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
