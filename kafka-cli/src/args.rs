//! How arguments are spelt: durations, `key=value` and separators with escapes.

use std::time::Duration;

/// `10`, `10s`, `500ms`, `2m` or `1h`; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a duration such as 10s, 500ms or 2m".to_owned()),
    };
    let number: f64 =
        number.parse().map_err(|_| "expected a duration such as 10s, 500ms or 2m".to_owned())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| "too long".to_owned())?;
    // A tokio timer that is due further away is due at another time than it says.
    if duration > Duration::from_secs(365 * 24 * 3600) { Err("too long".to_owned()) } else { Ok(duration) }
}

/// As [`duration`], but more than nothing.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected more than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// `key=value`; the value may be empty and may contain `=`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// A separator: at least one byte, with the escapes of [`unescape`].
pub(crate) fn separator(text: &str) -> Result<Separator, String> {
    match unescape(text)? {
        bytes if bytes.is_empty() => Err("expected at least one character".to_owned()),
        bytes => Ok(Separator(bytes)),
    }
}

/// Bytes between a key and a value, or between headers and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Separator(pub(crate) Vec<u8>);

impl Separator {
    /// What lies before and after the first separator.
    pub(crate) fn split<'a>(&self, line: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let at = line.windows(self.0.len()).position(|window| window == self.0)?;
        Some((line.get(..at)?, line.get(at + self.0.len()..)?))
    }
}

/// `\t`, `\n`, `\r`, `\0`, `\\` and `\xHH` to the bytes they stand for.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        match rest.next() {
            Some('t') => bytes.push(b'\t'),
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('0') => bytes.push(0),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2);
                bytes.push(byte.ok_or("expected two hexadecimal digits after \\x")?);
            }
            Some(other) => return Err(format!("unknown escape \\{other}; use \\\\ for a backslash")),
            None => return Err("a backslash at the end; use \\\\ for a backslash".to_owned()),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_default_to_seconds() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "-1", "1d", "ten", "1e9h", "99999999h", "."] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0").is_err());
    }

    #[test]
    fn a_value_may_hold_an_equals_sign_and_a_key_may_not_be_empty() {
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(key_value("a="), Ok(("a".to_owned(), String::new())));
        assert!(key_value("a").is_err());
        assert!(key_value("=b").is_err());
    }

    #[test]
    fn escapes_stand_for_bytes() {
        assert_eq!(unescape(r"a\tb\n\\\x1f").unwrap(), b"a\tb\n\\\x1f");
        for bad in [r"\", r"\q", r"\x1", r"\xzz"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        let separator = separator("::").unwrap();
        assert_eq!(separator.split(b"k::v::w"), Some((&b"k"[..], &b"v::w"[..])));
        assert_eq!(separator.split(b"::"), Some((&b""[..], &b""[..])));
        assert_eq!(separator.split(b"k:v"), None);
        assert_eq!(separator.split(b""), None);
        assert!(super::separator("").is_err());
    }
}
