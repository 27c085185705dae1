//! How `kafka consume` writes a record.

use std::io::{self, Write};

use kafka_client::consumer::ConsumerRecord;
use kafka_client::wire::record_batch::TimestampType;
use serde::{Serialize, Serializer};

use crate::args::unescape;

/// What a null key or value is written as, except in JSON. As Kafka's console consumer does.
const NULL: &[u8] = b"null";

/// How records are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// The value and a newline.
    Value,
    /// Key, tab, value and a newline.
    KeyValue,
    /// One JSON object a line.
    Json,
    /// Pieces in the order of a template.
    Template(Vec<Piece>),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    KeyLength,
    ValueLength,
    Headers,
}

/// The letters are those of kcat's `-f`, and `%v` beside its `%s`.
const LETTERS: &[(char, Piece)] = &[
    ('t', Piece::Topic),
    ('p', Piece::Partition),
    ('o', Piece::Offset),
    ('T', Piece::Timestamp),
    ('k', Piece::Key),
    ('v', Piece::Value),
    ('s', Piece::Value),
    ('K', Piece::KeyLength),
    ('V', Piece::ValueLength),
    ('S', Piece::ValueLength),
    ('h', Piece::Headers),
];

/// Parses `--format`.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    match text {
        "value" => Ok(Format::Value),
        "key-value" => Ok(Format::KeyValue),
        "json" => Ok(Format::Json),
        template if template.contains('%') => pieces(template).map(Format::Template),
        _ => Err("expected value, key-value, json or a template such as '%k\\t%v\\n'".to_owned()),
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let letter = rest.next().ok_or("a % at the end; use %% for a percent sign")?;
        if letter == '%' {
            text.push('%');
            continue;
        }
        let Some((_, piece)) = LETTERS.iter().find(|(known, _)| *known == letter) else {
            return Err(format!("unknown %{letter}; there are %t %p %o %T %k %v %K %V %h and %%"));
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(unescape(&std::mem::take(&mut text))?));
        }
        pieces.push(piece.clone());
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(unescape(&text)?));
    }
    Ok(pieces)
}

impl Format {
    pub(crate) fn write(&self, out: &mut impl Write, record: &ConsumerRecord) -> io::Result<()> {
        let key = record.key.as_deref();
        let value = record.value.as_deref();
        match self {
            Self::Value => {
                out.write_all(value.unwrap_or(NULL))?;
                out.write_all(b"\n")
            }
            Self::KeyValue => {
                out.write_all(key.unwrap_or(NULL))?;
                out.write_all(b"\t")?;
                out.write_all(value.unwrap_or(NULL))?;
                out.write_all(b"\n")
            }
            Self::Json => {
                serde_json::to_writer(&mut *out, &JsonRecord::new(record))?;
                out.write_all(b"\n")
            }
            Self::Template(pieces) => pieces.iter().try_for_each(|piece| piece.write(out, record)),
        }
    }
}

impl Piece {
    fn write(&self, out: &mut impl Write, record: &ConsumerRecord) -> io::Result<()> {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        match self {
            Self::Text(text) => out.write_all(text),
            Self::Topic => out.write_all(record.topic.as_bytes()),
            Self::Partition => write!(out, "{}", record.partition),
            Self::Offset => write!(out, "{}", record.offset),
            Self::Timestamp => write!(out, "{}", record.timestamp),
            Self::Key => out.write_all(key.unwrap_or(NULL)),
            Self::Value => out.write_all(value.unwrap_or(NULL)),
            Self::KeyLength => write_length(out, key),
            Self::ValueLength => write_length(out, value),
            Self::Headers => {
                for (at, header) in record.headers.iter().enumerate() {
                    let comma: &[u8] = if at > 0 { b"," } else { b"" };
                    for part in [comma, header.key.as_bytes(), b"=", header.value.unwrap_or(NULL)] {
                        out.write_all(part)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// -1 tells null from empty.
fn write_length(out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
    match bytes {
        Some(bytes) => write!(out, "{}", bytes.len()),
        None => out.write_all(b"-1"),
    }
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    /// `CreateTime` or `LogAppendTime`, Kafka's words.
    timestamp_type: &'static str,
    key: Option<JsonBytes<'a>>,
    value: Option<JsonBytes<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<JsonHeader<'a>>,
}

#[derive(Serialize)]
struct JsonHeader<'a> {
    key: &'a str,
    value: Option<JsonBytes<'a>>,
}

impl<'a> JsonRecord<'a> {
    fn new(record: &'a ConsumerRecord) -> Self {
        Self {
            topic: &record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            timestamp_type: match record.timestamp_type {
                TimestampType::LogAppendTime => "LogAppendTime",
                _ => "CreateTime",
            },
            key: record.key.as_deref().map(JsonBytes),
            value: record.value.as_deref().map(JsonBytes),
            headers: record
                .headers
                .iter()
                .map(|header| JsonHeader { key: header.key, value: header.value.map(JsonBytes) })
                .collect(),
        }
    }
}

/// Text where the bytes are UTF-8, otherwise `{"base64": "..."}`: nothing is lost either way.
struct JsonBytes<'a>(&'a [u8]);

impl Serialize for JsonBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Binary {
            base64: String,
        }
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Binary { base64: base64(self.0, STANDARD) }.serialize(serializer),
        }
    }
}

/// The last two digits of RFC 4648's standard alphabet, and of its URL-safe one.
pub(crate) const STANDARD: [char; 2] = ['+', '/'];
pub(crate) const URL_SAFE: [char; 2] = ['-', '_'];

/// RFC 4648, padded.
pub(crate) fn base64(bytes: &[u8], last: [char; 2]) -> String {
    let digit = |six: u32| match (six & 63) as u8 {
        n @ 0..=25 => char::from(b'A' + n),
        n @ 26..=51 => char::from(b'a' + n - 26),
        n @ 52..=61 => char::from(b'0' + n - 52),
        62 => last[0],
        _ => last[1],
    };
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| chunk.get(i).copied().map_or(0, u32::from);
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            text.push(if place <= chunk.len() { digit(bits >> shift) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_name_or_are_templates() {
        assert_eq!(format("json"), Ok(Format::Json));
        assert_eq!(format("key-value"), Ok(Format::KeyValue));
        assert_eq!(
            format(r"%k\t%v 100%%\n"),
            Ok(Format::Template(vec![
                Piece::Key,
                Piece::Text(b"\t".to_vec()),
                Piece::Value,
                Piece::Text(b" 100%\n".to_vec()),
            ]))
        );
        assert_eq!(format("%s"), format("%v"));
        for bad in ["values", "", "%", "%q", r"%k\"] {
            assert!(format(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64_in_json() {
        let json = |bytes| serde_json::to_string(&JsonBytes(bytes)).unwrap();
        assert_eq!(json("größe \"x\"".as_bytes()), r#""größe \"x\"""#);
        assert_eq!(json(b"\xff\xfe"), r#"{"base64":"//4="}"#);
        assert_eq!(json(b""), r#""""#);
    }

    #[test]
    fn base64_is_rfc_4648s() {
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xfb\xff", "+/8="),
        ] {
            assert_eq!(base64(bytes, STANDARD), expected);
        }
        assert_eq!(base64(b"\xfb\xff", URL_SAFE), "-_8=");
    }

    #[test]
    fn null_has_length_minus_one() {
        let mut out = Vec::new();
        write_length(&mut out, None).unwrap();
        write_length(&mut out, Some(b"")).unwrap();
        assert_eq!(out, b"-10");
    }
}
