//! Writes `kafka-wire/src/shape/tables.rs`: every request's, response's and header's fields as constants.

use std::fmt::Write as _;

use super::schema::{Field, Kind, Schema, Versions};

/// The whole table file, before rustfmt.
pub(crate) fn tables(schemas: &[Schema]) -> String {
    let mut out = super::BANNER.to_owned();
    out.push_str("\n//! The fields of every request, response and header, by version.\n\n");
    out.push_str("use super::Kind::{Array, Bytes, Fixed, RigidString, String, Struct};\n");
    out.push_str("use super::{Shape, Versions, field, shape, since, v};\n");
    for schema in schemas.iter().filter(|schema| is_used(schema)) {
        let _ = write!(
            out,
            "\npub(super) static {}: Shape = shape({}, {}, {});\n",
            constant(&schema.name),
            versions(schema.versions),
            versions(schema.flexible),
            fields(&schema.fields)
        );
    }
    index(&mut out, schemas, "request", "REQUESTS");
    index(&mut out, schemas, "response", "RESPONSES");
    out
}

fn is_used(schema: &Schema) -> bool {
    matches!(schema.kind.as_str(), "request" | "response" | "header") && !schema.versions.is_empty()
}

fn index(out: &mut String, schemas: &[Schema], kind: &str, name: &str) {
    let mut keys: Vec<_> = schemas
        .iter()
        .filter(|schema| schema.kind == kind && is_used(schema))
        .filter_map(|schema| Some((schema.api_key?, constant(&schema.name))))
        .collect();
    keys.sort();
    let _ = write!(out, "\n/// By API key, in order.\npub(super) static {name}: &[(i16, &Shape)] = &[\n");
    for (key, constant) in keys {
        let _ = writeln!(out, "({key}, &{constant}),");
    }
    out.push_str("];\n");
}

fn fields(fields: &[Field]) -> String {
    let mut out = String::from("&[");
    for field in fields {
        let kind = if field.rigid { "RigidString".to_owned() } else { kind(&field.kind) };
        let _ = write!(out, "field({:?}, {}, {kind})", field.name, versions(field.versions));
        let nullable = field.nullable.intersect(field.versions);
        if !nullable.is_empty() {
            let _ = write!(out, ".nullable({})", versions(nullable));
        }
        if let Some(tag) = field.tag {
            let _ = write!(out, ".tag({tag})");
        }
        out.push_str(", ");
    }
    out.push(']');
    out
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Bool | Kind::Int8 => "Fixed(1)".into(),
        Kind::Int16 | Kind::Uint16 => "Fixed(2)".into(),
        Kind::Int32 | Kind::Uint32 => "Fixed(4)".into(),
        Kind::Int64 | Kind::Float64 => "Fixed(8)".into(),
        Kind::Uuid => "Fixed(16)".into(),
        Kind::String => "String".into(),
        Kind::Bytes | Kind::Records => "Bytes".into(),
        Kind::Struct { fields, .. } => format!("Struct({})", self::fields(fields)),
        Kind::Array(element) => format!("Array(&{})", self::kind(element)),
    }
}

fn versions(versions: Versions) -> String {
    match versions {
        _ if versions.is_empty() => "Versions::NONE".into(),
        Versions { first, last: i16::MAX } => format!("since({first})"),
        Versions { first, last } => format!("v({first}, {last})"),
    }
}

fn constant(name: &str) -> String {
    super::snake_case(name).to_uppercase()
}
