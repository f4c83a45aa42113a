//! Objects as Kubernetes protobuf, by the schema table.
//!
//! Like upstream's encoder it writes non-pointer fields even when they are zero.

use serde_json::{Map, Value};

use super::scalar;
use crate::schema::{Field, Kind, Shape, Type};

/// The whole body: magic, envelope and object. `apiVersion` and `kind` are taken from the object.
pub fn protobuf(ty: &'static Type, value: &Value) -> Vec<u8> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, text("apiVersion").as_bytes());
    put_bytes(&mut meta, 2, text("kind").as_bytes());
    let mut raw = Vec::new();
    object(ty, value.as_object().unwrap_or(&Map::new()), &mut raw);
    let mut out = b"k8s\0".to_vec();
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, &raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

fn object(ty: &'static Type, map: &Map<String, Value>, out: &mut Vec<u8>) {
    for field in ty.fields {
        if let (true, Some(inner)) = (field.inline(), field.message()) {
            let mut bytes = Vec::new();
            object(inner, map, &mut bytes);
            put_bytes(out, field.number, &bytes);
            continue;
        }
        match (field.shape, map.get(field.name)) {
            (Shape::One, Some(value)) if !value.is_null() || matches!(field.kind, Kind::Json) => {
                one(field, field.number, value, out);
            }
            (Shape::One, _) if !field.pointer() => zero(field, out),
            (Shape::List, Some(Value::Array(items))) => {
                items.iter().for_each(|item| one(field, field.number, item, out))
            }
            (Shape::Map, Some(Value::Object(entries))) => {
                for (key, value) in entries {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    one(field, 2, value, &mut entry);
                    put_bytes(out, field.number, &entry);
                }
            }
            _ => {}
        }
    }
}

/// What upstream's encoder writes for a non-pointer that holds nothing.
fn zero(field: &'static Field, out: &mut Vec<u8>) {
    match field.kind {
        Kind::Str => put_bytes(out, field.number, b""),
        Kind::Bool | Kind::Int32 | Kind::Int64 => put_varint(out, field.number, 0),
        Kind::Double => put_double(out, field.number, 0.0),
        Kind::Object(t) => {
            let mut bytes = Vec::new();
            object(t, &Map::new(), &mut bytes);
            put_bytes(out, field.number, &bytes);
        }
        Kind::Time | Kind::MicroTime | Kind::Raw => put_bytes(out, field.number, b""),
        _ => {}
    }
}

fn one(field: &'static Field, number: u32, value: &Value, out: &mut Vec<u8>) {
    let text = value.as_str().unwrap_or("");
    let mut inner = Vec::new();
    match field.kind {
        Kind::Str => inner.extend_from_slice(text.as_bytes()),
        Kind::Bool => return put_varint(out, number, u64::from(value.as_bool().unwrap_or(false))),
        Kind::Int32 | Kind::Int64 => return put_varint(out, number, value.as_i64().unwrap_or(0) as u64),
        Kind::Double => return put_double(out, number, value.as_f64().unwrap_or(0.0)),
        Kind::Bytes => inner = scalar::parse_base64(text).unwrap_or_default(),
        Kind::Time | Kind::MicroTime => {
            if let Some((seconds, nanos)) = scalar::parse_time(text) {
                put_varint(&mut inner, 1, seconds as u64);
                put_varint(&mut inner, 2, nanos as u64);
            }
        }
        Kind::Duration => put_varint(&mut inner, 1, scalar::parse_duration(text).unwrap_or(0) as u64),
        Kind::Quantity => put_bytes(&mut inner, 1, text.as_bytes()),
        Kind::IntOrString => {
            put_varint(&mut inner, 1, u64::from(value.is_string()));
            put_varint(&mut inner, 2, value.as_i64().unwrap_or(0) as u64);
            put_bytes(&mut inner, 3, text.as_bytes());
        }
        Kind::Strings => {
            for item in value.as_array().into_iter().flatten() {
                put_bytes(&mut inner, 1, item.as_str().unwrap_or("").as_bytes());
            }
        }
        Kind::Raw | Kind::FieldsV1 | Kind::Json => put_bytes(&mut inner, 1, value.to_string().as_bytes()),
        Kind::Object(t) => object(t, value.as_object().unwrap_or(&Map::new()), &mut inner),
        Kind::SchemaOrBool(t) => match value {
            Value::Object(map) => {
                put_varint(&mut inner, 1, 1);
                nested(t, map, 2, &mut inner);
            }
            other => put_varint(&mut inner, 1, u64::from(other.as_bool().unwrap_or(false))),
        },
        Kind::SchemaOrArray(t) => match value {
            Value::Object(map) => nested(t, map, 1, &mut inner),
            other => other
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_object)
                .for_each(|map| nested(t, map, 2, &mut inner)),
        },
        Kind::SchemaOrStrings(t) => match value {
            Value::Object(map) => nested(t, map, 1, &mut inner),
            other => {
                for item in other.as_array().into_iter().flatten() {
                    put_bytes(&mut inner, 2, item.as_str().unwrap_or("").as_bytes());
                }
            }
        },
    }
    put_bytes(out, number, &inner);
}

fn nested(ty: &'static Type, map: &Map<String, Value>, number: u32, out: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    object(ty, map, &mut bytes);
    put_bytes(out, number, &bytes);
}

/// A length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    raw_varint(out, u64::from(number) << 3 | 2);
    raw_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A varint field.
pub(crate) fn put_varint(out: &mut Vec<u8>, number: u32, n: u64) {
    raw_varint(out, u64::from(number) << 3);
    raw_varint(out, n);
}

/// A fixed 64-bit field.
pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, n: f64) {
    raw_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&n.to_bits().to_le_bytes());
}

fn raw_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
