//! Writes `kafka-wire/src/records/schemas/`, one module for each record of Kafka's internal topics, and
//! `kafka-wire/src/messages/`, one for each request and response that `kafka-protocol` lacks or has in old versions only.

use std::fmt::Write as _;

use super::schema::{Field, Kind, Schema, Versions};
use super::snake_case;

/// The coordinators' records that have a use so far; all metadata records are generated.
const COORDINATOR_RECORDS: &[&str] = &[
    "ConsumerGroupCurrentMemberAssignment",
    "ConsumerGroupMemberMetadata",
    "ConsumerGroupMetadata",
    "ConsumerGroupPartitionMetadata",
    "ConsumerGroupRegularExpression",
    "ConsumerGroupTargetAssignmentMember",
    "ConsumerGroupTargetAssignmentMetadata",
    "GroupMetadata",
    "OffsetCommit",
    "ShareGroupCurrentMemberAssignment",
    "ShareGroupMemberMetadata",
    "ShareGroupMetadata",
    "ShareGroupStatePartitionMetadata",
    "ShareGroupTargetAssignmentMember",
    "ShareGroupTargetAssignmentMetadata",
    "ShareSnapshot",
    "ShareUpdate",
    "TransactionLog",
];

/// The APIs whose requests and responses `kafka-protocol` lacks, or does not have in the versions of Kafka 4.3.
const APIS: &[&str] = &[
    "DescribeShareGroupOffsets",
    "ReadShareGroupStateSummary",
    "ShareAcknowledge",
    "ShareFetch",
    "WriteShareGroupState",
];

/// File names and contents of the requests and responses, before rustfmt.
pub(crate) fn messages(schemas: &[Schema]) -> Result<Vec<(String, String)>, String> {
    let is_wanted = |schema: &&Schema| {
        let api = schema.name.strip_suffix(if schema.kind == "request" { "Request" } else { "Response" });
        api.is_some_and(|api| APIS.contains(&api))
    };
    let wanted: Vec<_> = schemas.iter().filter(is_wanted).collect();
    let mut list = super::BANNER.to_owned();
    list.push_str(
        "\n//! Kafka's requests and responses: `kafka-protocol`'s, and those generated here that it lacks or has in older\n\
         //! versions only. They take the place of its own under the same names; their strings are plain `StrBytes`.\n\n",
    );
    for schema in &wanted {
        let _ = writeln!(list, "pub mod {};", snake_case(&schema.name));
    }
    list.push_str("\npub use kafka_protocol::messages::*;\n");
    for schema in &wanted {
        let _ = writeln!(list, "pub use {}::{};", snake_case(&schema.name), schema.name);
    }
    let mut files = vec![("mod.rs".to_owned(), list)];
    for schema in wanted {
        let text = module(schema).map_err(|error| format!("{}: {error}", schema.name))?;
        files.push((format!("{}.rs", snake_case(&schema.name)), text));
    }
    Ok(files)
}

/// File names and contents, before rustfmt.
pub(crate) fn files(schemas: &[Schema]) -> Result<Vec<(String, String)>, String> {
    let wanted: Vec<_> = schemas.iter().filter(|schema| is_wanted(schema)).collect();
    let mut files = vec![("mod.rs".to_owned(), modules(&wanted)?)];
    for schema in wanted {
        let text = module(schema).map_err(|error| format!("{}: {error}", schema.name))?;
        files.push((format!("{}.rs", snake_case(&schema.name)), text));
    }
    Ok(files)
}

fn is_wanted(schema: &Schema) -> bool {
    let base = schema.name.trim_end_matches("Key").trim_end_matches("Value");
    schema.kind == "metadata" || COORDINATOR_RECORDS.contains(&base)
}

/// `mod.rs`: the list of modules, and the sum of all metadata records.
fn modules(schemas: &[&Schema]) -> Result<String, String> {
    let mut out = super::BANNER.to_owned();
    out.push_str("\n//! The records, one module each; nested structs stay in their record's module.\n\n");
    for schema in schemas {
        let _ = writeln!(out, "pub mod {};", snake_case(&schema.name));
    }
    for schema in schemas {
        let _ = writeln!(out, "pub use {}::{};", snake_case(&schema.name), schema.name);
    }
    let mut metadata = Vec::new();
    for schema in schemas.iter().filter(|schema| schema.kind == "metadata") {
        metadata.push((schema.api_key.ok_or("a metadata record without a key")?, &schema.name));
    }
    metadata.sort_unstable();
    out.push_str("use crate::codec::Result;\n");
    out.push_str("use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};\n");
    out.push_str("use kafka_protocol::protocol::{Decodable, Encodable, Message, VersionRange};\n");
    out.push_str(
        "\n/// A record of `__cluster_metadata`, whichever it is.\n\
         #[derive(Clone, Debug, PartialEq)]\n#[non_exhaustive]\npub enum MetadataRecord {\n",
    );
    for (key, name) in &metadata {
        let _ = writeln!(out, "/// Key {key}.\n{}({name}),", variant(name));
    }
    out.push_str("}\n\nimpl MetadataRecord {\n");
    let arms = |arm: &dyn Fn(&str) -> String| {
        metadata.iter().map(|(_, name)| format!("{},\n", arm(name))).collect::<String>()
    };
    let _ = write!(
        out,
        "/// The record's key, which its frame names.\npub fn api_key(&self) -> i16 {{ match self {{ {} }} }}\n\n",
        arms(&|name| format!("Self::{}(_) => {name}::API_KEY", variant(name)))
    );
    let _ = write!(
        out,
        "/// The versions in which the record can be written.\n\
         pub fn versions(&self) -> VersionRange {{ match self {{ {} }} }}\n\n",
        arms(&|name| format!("Self::{}(_) => {name}::VERSIONS", variant(name)))
    );
    let _ = write!(
        out,
        "/// Writes the record's fields, without key and version.\n\
         pub fn encode<B: ByteBufMut>(&self, buf: &mut B, version: i16) -> Result<()> {{ match self {{ {} }} }}\n\n",
        arms(&|name| format!("Self::{}(record) => record.encode(buf, version)", variant(name)))
    );
    let _ = write!(
        out,
        "/// Reads the record of that key; `None` if no record has it.\n\
         pub fn decode<B: ByteBuf>(api_key: i16, buf: &mut B, version: i16) -> Result<Option<Self>> {{\n\
         Ok(Some(match api_key {{ {} _ => return Ok(None), }})) }}\n}}\n",
        arms(&|name| format!("{name}::API_KEY => Self::{}({name}::decode(buf, version)?)", variant(name)))
    );
    for (_, name) in &metadata {
        let variant = variant(name);
        let _ = write!(
            out,
            "\nimpl From<{name}> for MetadataRecord {{ fn from(record: {name}) -> Self {{ Self::{variant}(record) }} }}\n"
        );
    }
    Ok(out)
}

fn variant(name: &str) -> &str {
    name.strip_suffix("Record").unwrap_or(name)
}

fn module(schema: &Schema) -> Result<String, String> {
    let key = schema.api_key.ok_or("no key")?;
    let topic = match schema.name.as_str() {
        name if name.starts_with("TransactionLog") => "`__transaction_state`",
        name if name.starts_with("ShareSnapshot") || name.starts_with("ShareUpdate") => {
            "`__share_group_state`"
        }
        _ => "`__consumer_offsets`",
    };
    let place = match schema.kind.as_str() {
        "metadata" => "A record of `__cluster_metadata`".to_owned(),
        "coordinator-key" => format!("A key in {topic}"),
        "coordinator-value" => format!("A value in {topic}"),
        "request" => "A request".to_owned(),
        "response" => "A response".to_owned(),
        kind => return Err(format!("no place for a {kind}")),
    };
    let mut structs = Vec::new();
    collect(&schema.name, &schema.fields, &mut structs)?;
    let mut body = String::new();
    for (at, &(name, fields)) in structs.iter().enumerate() {
        let doc = if at == 0 {
            format!("{place}, {}.", versions_text(schema.versions))
        } else {
            format!("A part of [`{}`].", schema.name)
        };
        Struct { schema, name, fields }.write(&mut body, &doc, (at == 0).then_some(key))?;
    }
    let mut out = super::BANNER.to_owned();
    let _ = write!(out, "\n//! {place}: [`{}`], key {key}.\n\n", schema.name);
    if body.contains("BTreeMap") {
        out.push_str("use std::collections::BTreeMap;\n\n");
    }
    let bytes = if body.contains("Bytes>") || body.contains(": Bytes") { "use bytes::Bytes;\n" } else { "" };
    out.push_str(bytes);
    out.push_str("use kafka_protocol::protocol::buf::ByteBuf;\n");
    if body.contains("StrBytes") {
        out.push_str("use kafka_protocol::protocol::StrBytes;\n");
    }
    if body.contains("Uuid") {
        out.push_str("use uuid::Uuid;\n");
    }
    let flexible = if schema.flexible.is_empty() { "" } else { ", Tagged" };
    let value = if body.contains("Value::read") || body.contains(".write(out, at)") { ", Value" } else { "" };
    let _ = write!(out, "\nuse crate::codec::{{self, At, Fields, Result, Sink{flexible}{value}}};\n");
    out.push_str(&body);
    Ok(out)
}

/// The struct of that name and those inside it, each once.
fn collect<'a>(
    name: &'a str,
    fields: &'a [Field],
    into: &mut Vec<(&'a str, &'a [Field])>,
) -> Result<(), String> {
    if let Some((_, known)) = into.iter().find(|(known, _)| *known == name) {
        let same = known.len() == fields.len();
        return if same { Ok(()) } else { Err(format!("two structs named {name}")) };
    }
    into.push((name, fields));
    for field in fields {
        let mut kind = &field.kind;
        while let Kind::Array(element) = kind {
            kind = element;
        }
        if let Kind::Struct { name, fields } = kind {
            collect(name, fields, into)?;
        }
    }
    Ok(())
}

struct Struct<'a> {
    schema: &'a Schema,
    name: &'a str,
    fields: &'a [Field],
}

impl Struct<'_> {
    fn write(&self, out: &mut String, doc: &str, key: Option<i16>) -> Result<(), String> {
        let Self { schema, name, fields } = *self;
        let flexible = !schema.flexible.is_empty();
        let derived = fields.iter().all(|field| default(field).is_ok_and(|default| default.is_rusts_own));
        let _ = write!(
            out,
            "\n/// {doc}\n#[derive(Clone, Debug{}, PartialEq)]\n",
            if derived { ", Default" } else { "" }
        );
        let _ = write!(out, "#[non_exhaustive]\npub struct {name} {{\n");
        for field in fields {
            let _ = writeln!(
                out,
                "/// {}\npub {}: {},",
                field_doc(schema, field),
                ident(field),
                rust_type(field)
            );
        }
        if flexible {
            out.push_str("/// Tagged fields that the schema does not name, by tag.\n");
            out.push_str("pub unknown_tagged_fields: BTreeMap<i32, Bytes>,\n");
        }
        out.push_str("}\n");
        if !derived {
            let _ = write!(out, "\nimpl Default for {name} {{\nfn default() -> Self {{\nSelf {{\n");
            for field in fields {
                let _ = writeln!(out, "{}: {},", ident(field), default(field)?.text);
            }
            out.push_str(if flexible { "unknown_tagged_fields: BTreeMap::new(),\n" } else { "" });
            out.push_str("}\n}\n}\n");
        }
        let is_rpc = matches!(schema.kind.as_str(), "request" | "response");
        self.setters(out, key.filter(|_| !is_rpc));
        self.fields_impl(out)?;
        if let Some(key) = key {
            let Versions { first, last } = schema.versions;
            let flexible_from = flexible.then_some(schema.flexible.first);
            if is_rpc && !schema.flexible.covers(schema.versions) {
                return Err("headers of versions that are not flexible: teach the generator".to_owned());
            }
            let what = match schema.kind.as_str() {
                "request" => {
                    let response = name.replace("Request", "Response");
                    format!("request!({name}, {key}, super::{response}")
                }
                "response" => format!("with_header!({name}, 1"),
                _ => format!("record!({name}"),
            };
            let _ = write!(out, "\ncodec::{what}, {first}, {last}, {flexible_from:?});\n");
        }
        Ok(())
    }

    fn setters(&self, out: &mut String, key: Option<i16>) {
        let _ = write!(out, "\nimpl {} {{\n", self.name);
        if let Some(key) = key {
            let _ = write!(
                out,
                "/// What names this kind of record where it is stored.\npub const API_KEY: i16 = {key};\n\n"
            );
        }
        for field in self.fields {
            let (name, rust_type) = (ident(field), rust_type(field));
            let _ = write!(
                out,
                "/// Sets `{name}`.\n#[must_use]\npub fn with_{}(mut self, value: {rust_type}) -> Self {{\n\
                 self.{name} = value;\nself\n}}\n",
                name.trim_end_matches('_')
            );
        }
        out.push_str("}\n");
    }

    fn fields_impl(&self, out: &mut String) -> Result<(), String> {
        let Self { schema, name, fields } = *self;
        let flexible = !schema.flexible.is_empty();
        let always_flexible = schema.flexible.covers(schema.versions);
        let (tagged, plain): (Vec<_>, Vec<_>) = fields.iter().partition(|field| field.tag.is_some());
        let uses_at = !fields.is_empty() || flexible && !always_flexible;
        let uses_io = !plain.is_empty() || flexible;

        let _ = write!(
            out,
            "\nimpl Fields for {name} {{\nfn write<S: Sink>(&self, {}: &mut S, {}: At) -> Result<()> {{\n",
            if uses_io { "out" } else { "_out" },
            if uses_at { "at" } else { "_at" }
        );
        for field in &plain {
            let write = match (&field.kind, field.nullable.is_empty()) {
                // A struct's own method, where both traits have one.
                (Kind::Struct { .. }, true) => format!("Fields::write(&self.{}, out, at)?;\n", ident(field)),
                _ => format!("self.{}.write(out, at)?;\n", ident(field)),
            };
            self.guarded_write(out, field, &write)?;
        }
        if flexible {
            for field in &tagged {
                self.refuse_where_absent(out, field)?;
            }
            let mut body = String::from("let mut tagged = Tagged::new(&self.unknown_tagged_fields);\n");
            if tagged.is_empty() {
                body = body.replace("let mut", "let");
            }
            for field in &tagged {
                let present = match self.condition(field) {
                    // Where tags exist at all, this holds if it is the message's own condition.
                    Some(condition) if !field.versions.covers(schema.flexible) => format!("{condition} && "),
                    _ => String::new(),
                };
                let (tag, name) = (field.tag.unwrap_or_default(), ident(field));
                let differs = differs(field)?;
                let _ = writeln!(body, "if {present}{differs} {{ tagged.add({tag}, &self.{name}, at)?; }}");
            }
            body.push_str("tagged.write(out)?;\n");
            out.push_str(&if always_flexible { body } else { format!("if at.flexible {{ {body} }}\n") });
        }
        out.push_str("Ok(())\n}\n");

        let _ = write!(
            out,
            "\nfn read<B: ByteBuf>({}: &mut B, {}: At) -> Result<Self> {{\n",
            if uses_io { "buf" } else { "_buf" },
            if uses_at { "at" } else { "_at" }
        );
        let _ = writeln!(out, "{} Self {{", if flexible { "let mut this =" } else { "Ok(" });
        for field in fields {
            let default = default(field)?.text;
            let value = match (field.tag, self.condition(field)) {
                (Some(_), _) => default,
                (None, None) => "Value::read(buf, at)?".into(),
                (None, Some(condition)) => {
                    format!("if {condition} {{ Value::read(buf, at)? }} else {{ {default} }}")
                }
            };
            let _ = writeln!(out, "{}: {value},", ident(field));
        }
        out.push_str(if flexible { "unknown_tagged_fields: BTreeMap::new(),\n};\n" } else { "})\n" });
        if flexible {
            let mut arms = String::new();
            for field in &tagged {
                let tag = field.tag.unwrap_or_default();
                let condition = match self.condition(field) {
                    // Where tags exist at all, this condition holds if it is the message's own.
                    Some(condition) if !field.versions.covers(schema.flexible) => format!(" if {condition}"),
                    _ => String::new(),
                };
                let _ = writeln!(
                    arms,
                    "{tag}{condition} => this.{} = codec::read_tagged(value, at)?,",
                    ident(field)
                );
            }
            let keep = "this.unknown_tagged_fields.insert(tag, value);";
            let body = if arms.is_empty() {
                format!("for (tag, value) in codec::read_tags(buf)? {{ {keep} }}")
            } else {
                format!(
                    "for (tag, value) in codec::read_tags(buf)? {{ match tag {{ {arms} _ => {{ {keep} }} }} }}"
                )
            };
            out.push_str(&if always_flexible { body } else { format!("if at.flexible {{ {body} }}") });
            out.push_str("\nOk(this)\n");
        }
        out.push_str("}\n}\n");
        Ok(())
    }

    /// The test for versions that have the field; `None` if all have it.
    fn condition(&self, field: &Field) -> Option<String> {
        let Versions { first, last } = field.versions;
        let all = self.schema.versions;
        match (first <= all.first, last >= all.last) {
            (true, true) => None,
            (false, true) => Some(format!("at.version >= {first}")),
            (true, false) => Some(format!("at.version <= {last}")),
            (false, false) if first == last => Some(format!("at.version == {first}")),
            (false, false) => Some(format!("({first}..={last}).contains(&at.version)")),
        }
    }

    /// A field that a version lacks is left out if it may be ignored or holds its default, else it is an error.
    fn guarded_write(&self, out: &mut String, field: &Field, write: &str) -> Result<(), String> {
        let present = field.versions.intersect(self.schema.versions);
        if !field.nullable.is_empty() && !field.nullable.covers(present) {
            return Err(format!(
                "{} is nullable in some of its versions only: teach the generator",
                field.name
            ));
        }
        match self.condition(field) {
            None => out.push_str(write),
            Some(condition) => {
                let _ = writeln!(out, "if {condition} {{ {write} }}");
                self.refuse_where_absent(out, field)?;
            }
        }
        Ok(())
    }

    fn refuse_where_absent(&self, out: &mut String, field: &Field) -> Result<(), String> {
        let Versions { first, last } = field.versions;
        let all = self.schema.versions;
        let absent = match (first <= all.first, last >= all.last) {
            _ if field.ignorable => return Ok(()),
            (true, true) => return Ok(()),
            (false, true) => format!("at.version < {first}"),
            (true, false) => format!("at.version > {last}"),
            (false, false) if first == last => format!("at.version != {first}"),
            (false, false) => format!("!({first}..={last}).contains(&at.version)"),
        };
        let (name, differs) = (ident(field), differs(field)?);
        let _ =
            writeln!(out, "if {absent} && {differs} {{ return Err(codec::not_in_version({name:?}, at)); }}");
        Ok(())
    }
}

fn ident(field: &Field) -> String {
    let name = snake_case(&field.name);
    if matches!(name.as_str(), "type" | "match" | "ref" | "move" | "self" | "use") {
        format!("{name}_")
    } else {
        name
    }
}

fn rust_type(field: &Field) -> String {
    let plain = kind_type(&field.kind);
    if field.nullable.is_empty() { plain } else { format!("Option<{plain}>") }
}

fn kind_type(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "bool".into(),
        Kind::Int8 => "i8".into(),
        Kind::Int16 => "i16".into(),
        Kind::Uint16 => "u16".into(),
        Kind::Int32 => "i32".into(),
        Kind::Uint32 => "u32".into(),
        Kind::Int64 => "i64".into(),
        Kind::Float64 => "f64".into(),
        Kind::Uuid => "Uuid".into(),
        Kind::String => "StrBytes".into(),
        Kind::Bytes | Kind::Records => "Bytes".into(),
        Kind::Struct { name, .. } => name.clone(),
        Kind::Array(element) => format!("Vec<{}>", kind_type(element)),
    }
}

struct Default {
    text: String,
    is_rusts_own: bool,
}

fn default(field: &Field) -> Result<Default, String> {
    let given = field.default.as_deref().filter(|text| !text.is_empty());
    let rusts_own = |text: &str| Ok(Default { text: text.into(), is_rusts_own: true });
    if !field.nullable.is_empty() {
        return match given {
            Some("null") => rusts_own("None"),
            None => Ok(Default { text: "Some(Default::default())".into(), is_rusts_own: false }),
            Some(other) => Err(format!("{}: default {other:?} of a nullable field", field.name)),
        };
    }
    match (&field.kind, given) {
        (Kind::Bool, None | Some("false")) => rusts_own("false"),
        (Kind::Bool, Some("true")) => Ok(Default { text: "true".into(), is_rusts_own: false }),
        (Kind::Int8 | Kind::Int16 | Kind::Uint16 | Kind::Int32 | Kind::Uint32 | Kind::Int64, text) => {
            match text.unwrap_or("0") {
                "0" => rusts_own("0"),
                text => Ok(Default { text: text.into(), is_rusts_own: false }),
            }
        }
        (Kind::Float64, None) => rusts_own("0.0"),
        (Kind::Uuid, None) => rusts_own("Uuid::nil()"),
        (Kind::String, None) => rusts_own("StrBytes::new()"),
        (Kind::Bytes | Kind::Records, None) => rusts_own("Bytes::new()"),
        (Kind::Array(_), None) => rusts_own("Vec::new()"),
        (Kind::Struct { name, .. }, None) => rusts_own(&format!("{name}::default()")),
        (_, Some(other)) => Err(format!("{}: no idea how to write the default {other:?}", field.name)),
    }
}

/// An expression that is true if the field does not hold its default.
fn differs(field: &Field) -> Result<String, String> {
    let name = ident(field);
    let default = default(field)?.text;
    Ok(match default.as_str() {
        "None" => format!("self.{name}.is_some()"),
        "true" => format!("!self.{name}"),
        "false" => format!("self.{name}"),
        "StrBytes::new()" | "Bytes::new()" | "Vec::new()" => format!("!self.{name}.is_empty()"),
        "Uuid::nil()" => format!("!self.{name}.is_nil()"),
        _ => format!("self.{name} != {default}"),
    })
}

fn field_doc(schema: &Schema, field: &Field) -> String {
    let mut words = snake_case(&field.name).replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let mut notes = Vec::new();
    let present = field.versions.intersect(schema.versions);
    if present != schema.versions {
        notes.push(versions_text(present));
    }
    if let Some(tag) = field.tag {
        notes.push(format!("tag {tag}"));
    }
    match default(field) {
        Ok(Default { text, .. }) if text == "None" => notes.push("none by default".into()),
        Ok(Default { is_rusts_own: false, text }) if !text.starts_with("Some") => {
            notes.push(format!("{text} by default"));
        }
        _ => {}
    }
    if notes.is_empty() { format!("{words}.") } else { format!("{words}; {}.", notes.join(", ")) }
}

fn versions_text(versions: Versions) -> String {
    match versions {
        Versions { first, last } if first == last => format!("version {first}"),
        Versions { first, last: i16::MAX } => format!("versions {first} and above"),
        Versions { first, last } => format!("versions {first} to {last}"),
    }
}
