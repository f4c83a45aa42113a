//! Kubernetes' protobuf, decoded by the schema table into the JSON that the same object would be.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown`: type, raw bytes, encoding, content type.
//! Unknown numbers are skipped, as every protobuf reader does; a number with another wire type than the
//! table says is an error. Nesting is bounded.

use serde_json::{Map, Value};

use super::{scalar, text};
use crate::quantity;
use crate::schema::{Field, Kind, Shape, Type};

const MAGIC: [u8; 4] = [0x6b, 0x38, 0x73, 0];
const DEPTH_MAX: usize = 100;

/// A `runtime.Unknown`.
pub(crate) struct Envelope<'a> {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) raw: &'a [u8],
    pub(crate) content_type: String,
}

pub(crate) fn envelope(body: &[u8]) -> Result<Envelope<'_>, String> {
    let Some(mut rest) = body.strip_prefix(&MAGIC) else {
        return Err(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into()
        );
    };
    let mut out =
        Envelope { api_version: String::new(), kind: String::new(), raw: &[], content_type: String::new() };
    while !rest.is_empty() {
        match record(&mut rest)? {
            (1, Wire::Bytes(mut meta)) => {
                while !meta.is_empty() {
                    match record(&mut meta)? {
                        (1, Wire::Bytes(b)) => out.api_version = string(b),
                        (2, Wire::Bytes(b)) => out.kind = string(b),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => out.raw = raw,
            (3, Wire::Bytes(b)) if !b.is_empty() => {
                return Err(format!("unable to decode a body with content encoding {:?}", string(b)));
            }
            (4, Wire::Bytes(b)) => out.content_type = string(b),
            _ => {}
        }
    }
    Ok(out)
}

/// Decodes a message of type `ty` into its JSON fields, not yet tidy.
pub(crate) fn object(ty: &'static Type, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    message(ty, bytes, &mut map, 0)?;
    Ok(map)
}

/// One field's payload.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

fn message(
    ty: &'static Type,
    mut bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("proto: exceeded max depth".into());
    }
    while !bytes.is_empty() {
        let (number, wire) = record(&mut bytes)?;
        let Some(field) = ty.fields.iter().find(|f| f.number == number) else { continue };
        let bad = || format!("proto: wrong wireType for field {}.{}", ty.name, field.name);
        match (field.shape, wire) {
            (Shape::One, Wire::Bytes(inner)) if field.inline() => {
                if let Some(t) = field.message() {
                    message(t, inner, map, depth + 1)?;
                }
            }
            (Shape::One, wire) => {
                // A message sent in two parts is merged, scalars are replaced.
                let old = field.message().and_then(|_| map.remove(field.name));
                if let Some(value) = one(field, wire, old, depth)?.ok_or_else(bad)? {
                    map.insert(field.name.to_owned(), value);
                }
            }
            (Shape::Map, Wire::Bytes(entry)) => {
                let (key, value) = entry_of(field, entry, depth)?;
                if let Some(map) = slot(map, field.name, || Value::Object(Map::new())).as_object_mut() {
                    map.insert(key, value);
                }
            }
            (Shape::List, Wire::Bytes(mut packed))
                if matches!(field.kind, Kind::Int32 | Kind::Int64 | Kind::Bool) =>
            {
                while !packed.is_empty() {
                    let n = varint(&mut packed)?;
                    push(map, field.name, integer(field.kind, n));
                }
            }
            (Shape::List, wire) => {
                if let Some(value) = one(field, wire, None, depth)?.ok_or_else(bad)? {
                    push(map, field.name, value);
                } else {
                    push(map, field.name, Value::Null);
                }
            }
            (Shape::Map, _) => return Err(bad()),
        }
    }
    Ok(())
}

fn slot<'a>(map: &'a mut Map<String, Value>, name: &str, empty: impl FnOnce() -> Value) -> &'a mut Value {
    map.entry(name).or_insert_with(empty)
}

fn push(map: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(items) = slot(map, name, || Value::Array(Vec::new())).as_array_mut() {
        items.push(value);
    }
}

fn entry_of(field: &'static Field, mut entry: &[u8], depth: usize) -> Result<(String, Value), String> {
    let mut key = String::new();
    let mut value = None;
    while !entry.is_empty() {
        match record(&mut entry)? {
            (1, Wire::Bytes(b)) => key = string(b),
            (2, wire) => {
                value = one(field, wire, None, depth)?
                    .ok_or_else(|| format!("proto: wrong wireType for a value of {}", field.name))?;
            }
            _ => {}
        }
    }
    let value = value.unwrap_or_else(|| match field.kind {
        Kind::Str | Kind::Bytes => "".into(),
        Kind::Quantity => "0".into(),
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => 0.into(),
        Kind::Strings => Value::Array(Vec::new()),
        Kind::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    });
    Ok((key, value))
}

/// `None`: the wire type does not fit. `Some(None)`: a value that JSON shows as nothing.
type Read = Option<Option<Value>>;

fn one(field: &'static Field, wire: Wire<'_>, old: Option<Value>, depth: usize) -> Result<Read, String> {
    Ok(Some(match (field.kind, wire) {
        (Kind::Str, Wire::Bytes(b)) => Some(string(b).into()),
        (Kind::Bytes, Wire::Bytes(b)) => Some(scalar::base64(b).into()),
        (Kind::Bool | Kind::Int32 | Kind::Int64, Wire::Varint(n)) => Some(integer(field.kind, n)),
        (Kind::Double, Wire::Fixed64(bits)) => {
            serde_json::Number::from_f64(f64::from_bits(bits)).map(Value::Number)
        }
        (Kind::Object(t), Wire::Bytes(b)) => {
            let mut map = match old {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            message(t, b, &mut map, depth + 1)?;
            Some(Value::Object(map))
        }
        (Kind::Time | Kind::MicroTime, Wire::Bytes(b)) => time(field.kind, b)?,
        (Kind::Duration, Wire::Bytes(b)) => {
            let nanos = first_varint(b, 1)?.unwrap_or(0);
            Some(scalar::duration(nanos as i64).into())
        }
        (Kind::Quantity, Wire::Bytes(b)) => {
            let text = first_bytes(b, 1)?.map(string).unwrap_or_default();
            let text = if text.is_empty() { "0".into() } else { text };
            Some(quantity::canonical(&text).map_err(|e| e.to_string())?.into())
        }
        (Kind::IntOrString, Wire::Bytes(b)) => match first_varint(b, 1)?.unwrap_or(0) {
            1 => Some(first_bytes(b, 3)?.map(string).unwrap_or_default().into()),
            _ => Some((first_varint(b, 2)?.unwrap_or(0) as i32).into()),
        },
        (Kind::Strings, Wire::Bytes(mut b)) => {
            let mut items = Vec::new();
            while !b.is_empty() {
                if let (1, Wire::Bytes(item)) = record(&mut b)? {
                    items.push(Value::String(string(item)));
                }
            }
            Some(Value::Array(items))
        }
        (Kind::Raw | Kind::FieldsV1 | Kind::Json, Wire::Bytes(b)) => {
            embedded(first_bytes(b, 1)?.unwrap_or(&[]), depth)?
        }
        (Kind::SchemaOrBool(t), Wire::Bytes(b)) => match first_bytes(b, 2)? {
            Some(inner) => Some(schema(t, inner, depth)?),
            None => Some((first_varint(b, 1)?.unwrap_or(0) != 0).into()),
        },
        (Kind::SchemaOrArray(t), Wire::Bytes(b)) => match first_bytes(b, 1)? {
            Some(inner) => Some(schema(t, inner, depth)?),
            None => {
                let parts = all_bytes(b, 2)?.into_iter().map(|part| schema(t, part, depth));
                Some(Value::Array(parts.collect::<Result<_, _>>()?))
            }
        },
        (Kind::SchemaOrStrings(t), Wire::Bytes(b)) => match first_bytes(b, 1)? {
            Some(inner) => Some(schema(t, inner, depth)?),
            None => Some(all_bytes(b, 2)?.into_iter().map(|s| Value::String(string(s))).collect()),
        },
        _ => return Ok(None),
    }))
}

fn schema(ty: &'static Type, bytes: &[u8], depth: usize) -> Result<Value, String> {
    let mut map = Map::new();
    message(ty, bytes, &mut map, depth + 1)?;
    Ok(Value::Object(map))
}

/// An empty message is Go's zero time, which JSON shows as null.
fn time(kind: Kind, bytes: &[u8]) -> Result<Option<Value>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let seconds = first_varint(bytes, 1)?.unwrap_or(0) as i64;
    let nanos = first_varint(bytes, 2)?.unwrap_or(0) as i32;
    let text = match kind {
        Kind::MicroTime => scalar::micro_time(seconds, nanos),
        _ => scalar::time(seconds),
    };
    Ok(Some(text.ok_or("proto: time out of range")?.into()))
}

/// An embedded object: JSON, or an envelope like the body's own.
fn embedded(raw: &[u8], depth: usize) -> Result<Option<Value>, String> {
    if raw.is_empty() {
        return Ok(None);
    }
    if !raw.starts_with(&MAGIC) {
        return text::json(raw).map(|node| Some(node.into_value()));
    }
    let envelope = envelope(raw)?;
    if envelope.content_type == "application/json" {
        return text::json(envelope.raw).map(|node| Some(node.into_value()));
    }
    let gvk = super::Gvk::parse(&envelope.api_version, envelope.kind);
    let ty = gvk
        .schema()
        .ok_or_else(|| format!("no kind {:?} is registered for version {:?}", gvk.kind, gvk.api_version()))?;
    let mut map = Map::new();
    message(ty, envelope.raw, &mut map, depth + 1)?;
    super::tidy::object(ty, &mut map);
    map.insert("apiVersion".into(), gvk.api_version().into());
    map.insert("kind".into(), gvk.kind.into());
    Ok(Some(Value::Object(map)))
}

fn integer(kind: Kind, n: u64) -> Value {
    match kind {
        Kind::Bool => (n != 0).into(),
        Kind::Int32 => (n as i32).into(),
        _ => (n as i64).into(),
    }
}

fn first_bytes(bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>, String> {
    Ok(all_bytes(bytes, wanted)?.pop())
}

fn all_bytes(mut bytes: &[u8], wanted: u32) -> Result<Vec<&[u8]>, String> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        match record(&mut bytes)? {
            (number, Wire::Bytes(b)) if number == wanted => out.push(b),
            _ => {}
        }
    }
    Ok(out)
}

fn first_varint(mut bytes: &[u8], wanted: u32) -> Result<Option<u64>, String> {
    let mut out = None;
    while !bytes.is_empty() {
        match record(&mut bytes)? {
            (number, Wire::Varint(n)) if number == wanted => out = Some(n),
            _ => {}
        }
    }
    Ok(out)
}

fn record<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Wire<'a>), String> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0).ok_or("proto: illegal tag")?;
    let wire = match tag & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => {
            let part = take(bytes, 8)?;
            Wire::Fixed64(part.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
        }
        2 => {
            let len = usize::try_from(varint(bytes)?).map_err(|_| ended())?;
            Wire::Bytes(take(bytes, len)?)
        }
        5 => {
            take(bytes, 4)?;
            Wire::Fixed32
        }
        other => return Err(format!("proto: illegal wireType {other}")),
    };
    Ok((number, wire))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut n = 0u64;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or_else(ended)?;
        *bytes = rest;
        n |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err("proto: integer overflow".into())
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    if len > bytes.len() {
        return Err(ended());
    }
    let (part, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(part)
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ended() -> String {
    "unexpected EOF".into()
}
