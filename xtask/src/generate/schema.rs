//! Kafka's message schemas: JSON with `//` comments, as `clients/src/main/resources/common/message/README.md` describes.

use serde_json::Value;

/// An inclusive range of versions; `3+` ends at [`i16::MAX`], `none` is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) first: i16,
    pub(crate) last: i16,
}

impl Versions {
    pub(crate) const NONE: Versions = Versions { first: 0, last: -1 };

    pub(crate) fn is_empty(self) -> bool {
        self.first > self.last
    }

    /// Whether every version of `other` is in this range.
    pub(crate) fn covers(self, other: Versions) -> bool {
        other.is_empty() || self.first <= other.first && other.last <= self.last
    }

    pub(crate) fn intersect(self, other: Versions) -> Versions {
        Versions { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<i16>().map_err(|_| format!("bad versions: {text:?}"));
        if text == "none" {
            return Ok(Self::NONE);
        }
        if let Some(first) = text.strip_suffix('+') {
            return Ok(Versions { first: number(first)?, last: i16::MAX });
        }
        match text.split_once('-') {
            Some((first, last)) => Ok(Versions { first: number(first)?, last: number(last)? }),
            None => Ok(Versions { first: number(text)?, last: number(text)? }),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) api_key: Option<i16>,
    pub(crate) versions: Versions,
    pub(crate) flexible: Versions,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) versions: Versions,
    pub(crate) nullable: Versions,
    pub(crate) tag: Option<u32>,
    pub(crate) ignorable: bool,
    pub(crate) default: Option<String>,
    /// `"flexibleVersions": "none"` on a field: never the compact form (the request header's client id).
    pub(crate) rigid: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct { name: String, fields: Vec<Field> },
    Array(Box<Kind>),
}

impl Schema {
    /// Parses one schema file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(&strip_comments(text)).map_err(|error| error.to_string())?;
        let name = string(&json, "name")?;
        let versions = versions(&json, "validVersions")?.unwrap_or(Versions::NONE);
        let common = list(&json, "commonStructs");
        let mut fields =
            parse_fields(list(&json, "fields"), common).map_err(|error| format!("{name}: {error}"))?;
        forget_removed_nulls(&mut fields, versions);
        Ok(Self {
            kind: string(&json, "type")?,
            api_key: json.get("apiKey").and_then(Value::as_i64).and_then(|key| i16::try_from(key).ok()),
            flexible: self::versions(&json, "flexibleVersions")?
                .unwrap_or(Versions::NONE)
                .intersect(versions),
            name,
            versions,
            fields,
        })
    }
}

/// A field that was nullable only in versions which are valid no more is not nullable.
fn forget_removed_nulls(fields: &mut [Field], valid: Versions) {
    for field in fields {
        if field.nullable.intersect(valid).is_empty() {
            field.nullable = Versions::NONE;
        }
        let mut kind = &mut field.kind;
        while let Kind::Array(element) = kind {
            kind = element;
        }
        if let Kind::Struct { fields, .. } = kind {
            forget_removed_nulls(fields, valid);
        }
    }
}

fn parse_fields(fields: &[Value], common: &[Value]) -> Result<Vec<Field>, String> {
    fields.iter().map(|field| parse_field(field, common)).collect()
}

fn parse_field(json: &Value, common: &[Value]) -> Result<Field, String> {
    let name = string(json, "name")?;
    let in_field = |error: String| format!("{name}: {error}");
    let tagged = versions(json, "taggedVersions")?;
    let tag = json.get("tag").and_then(Value::as_u64).and_then(|tag| u32::try_from(tag).ok());
    let present = versions(json, "versions")?.or(tagged).ok_or_else(|| in_field("no versions".into()))?;
    if tagged.is_some() != tag.is_some() || tagged.is_some_and(|tagged| tagged != present) {
        return Err(in_field("tagged in some of its versions only: teach the generator".into()));
    }
    Ok(Field {
        kind: parse_kind(&string(json, "type")?, list(json, "fields"), common).map_err(in_field)?,
        nullable: versions(json, "nullableVersions")?.unwrap_or(Versions::NONE),
        ignorable: json.get("ignorable").and_then(Value::as_bool).unwrap_or(false),
        default: json.get("default").map(|default| match default {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }),
        rigid: versions(json, "flexibleVersions")?.is_some_and(Versions::is_empty),
        versions: present,
        tag,
        name,
    })
}

fn parse_kind(text: &str, fields: &[Value], common: &[Value]) -> Result<Kind, String> {
    if let Some(element) = text.strip_prefix("[]") {
        return Ok(Kind::Array(Box::new(parse_kind(element, fields, common)?)));
    }
    Ok(match text {
        "bool" => Kind::Bool,
        "int8" => Kind::Int8,
        "int16" => Kind::Int16,
        "uint16" => Kind::Uint16,
        "int32" => Kind::Int32,
        "uint32" => Kind::Uint32,
        "int64" => Kind::Int64,
        "float64" => Kind::Float64,
        "uuid" => Kind::Uuid,
        "string" => Kind::String,
        "bytes" => Kind::Bytes,
        "records" => Kind::Records,
        name => {
            let shared =
                || common.iter().find(|common| common.get("name").and_then(Value::as_str) == Some(name));
            let fields = if fields.is_empty() {
                shared().map(|common| list(common, "fields")).ok_or_else(|| format!("unknown type {name}"))?
            } else {
                fields
            };
            Kind::Struct { name: name.to_owned(), fields: parse_fields(fields, common)? }
        }
    })
}

fn string(json: &Value, key: &str) -> Result<String, String> {
    json.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("no {key:?} in {json}"))
}

fn versions(json: &Value, key: &str) -> Result<Option<Versions>, String> {
    json.get(key).and_then(Value::as_str).map(Versions::parse).transpose()
}

fn list<'a>(json: &'a Value, key: &str) -> &'a [Value] {
    json.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Removes `//` comments, which reach to the end of their line, outside of strings.
fn strip_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let (mut in_string, mut escaped, mut end) = (false, false, line.len());
        for (at, byte) in line.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'/' if !in_string && line[at..].starts_with("//") => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        kept.push_str(&line[..end]);
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_slashes_in_strings_stay() {
        assert_eq!(strip_comments("{ \"a\": \"http://b\" } // c\n// d"), "{ \"a\": \"http://b\" } \n\n");
    }

    #[test]
    fn versions_are_read_in_each_of_their_forms() {
        assert_eq!(Versions::parse("3+"), Ok(Versions { first: 3, last: i16::MAX }));
        assert_eq!(Versions::parse("1-4"), Ok(Versions { first: 1, last: 4 }));
        assert_eq!(Versions::parse("2"), Ok(Versions { first: 2, last: 2 }));
        assert!(Versions::parse("none").is_ok_and(Versions::is_empty));
        assert!(Versions::parse("x").is_err());
    }

    #[test]
    fn a_common_struct_is_found_by_its_name() {
        let schema = Schema::parse(
            r#"{ "type": "data", "name": "T", "validVersions": "0-1", "flexibleVersions": "1+",
                 "fields": [{ "name": "Parts", "type": "[]Part", "versions": "0+" }],
                 "commonStructs": [{ "name": "Part", "versions": "0+",
                                     "fields": [{ "name": "Id", "type": "int32", "versions": "0+" }] }] }"#,
        )
        .unwrap();
        assert_eq!(schema.flexible, Versions { first: 1, last: 1 });
        let Kind::Array(element) = &schema.fields[0].kind else { panic!("{schema:?}") };
        assert!(matches!(&**element, Kind::Struct { fields, .. } if fields.len() == 1));
    }
}
