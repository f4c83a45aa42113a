//! What writing and reading an object in Go would leave of it: empty optional values vanish, values
//! that Go cannot leave out appear. Two clients that mean the same then store the same.

use serde_json::{Map, Value};

use crate::schema::{Field, Kind, Shape, Type};

/// Brings an object into the normal form, in place. Values must have their types already.
pub(crate) fn object(ty: &'static Type, map: &mut Map<String, Value>) {
    for field in ty.fields {
        if field.inline() {
            if let Some(inner) = field.message() {
                object(inner, map);
            }
            continue;
        }
        let value = map.remove(field.name);
        if let Some(value) = tidy(field, value) {
            map.insert(field.name.to_owned(), value);
        }
    }
}

fn tidy(field: &'static Field, value: Option<Value>) -> Option<Value> {
    let mut value = match value {
        None => return zero(field),
        Some(Value::Null) if matches!(field.kind, Kind::Json) && field.shape == Shape::One => {
            return Some(Value::Null);
        }
        Some(Value::Null) => return zero(field),
        Some(value) => value,
    };
    match (&mut value, field.shape) {
        (Value::Array(items), Shape::List) => {
            for item in items.iter_mut() {
                nested(field, item);
            }
        }
        (Value::Object(map), Shape::Map) => {
            for item in map.values_mut() {
                nested(field, item);
            }
        }
        (value, _) => nested(field, value),
    }
    let drops = match field.shape {
        Shape::One => field.omit_empty() && !field.pointer() && empty(&value, field.kind),
        _ => field.omit_empty() && empty(&value, Kind::Json),
    };
    let drops = drops || field.omit_zero() && value.as_object().is_some_and(Map::is_empty);
    (!drops).then_some(value)
}

fn nested(field: &'static Field, value: &mut Value) {
    match (field.kind, value) {
        (Kind::Object(t) | Kind::SchemaOrBool(t) | Kind::SchemaOrStrings(t), Value::Object(map)) => {
            object(t, map)
        }
        (Kind::SchemaOrArray(t), Value::Object(map)) => object(t, map),
        (Kind::SchemaOrArray(t), Value::Array(items)) => {
            items.iter_mut().filter_map(Value::as_object_mut).for_each(|map| object(t, map));
        }
        _ => {}
    }
}

/// Go's idea of an empty value. Structs never are.
fn empty(value: &Value, kind: Kind) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b && matches!(kind, Kind::Bool),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(kind, Kind::Json),
    }
}

/// What Go writes for a field that was not given; `null` counts as nothing.
fn zero(field: &'static Field) -> Option<Value> {
    if field.shape != Shape::One || field.pointer() || field.omit_zero() {
        return None;
    }
    match field.kind {
        Kind::Object(t) => {
            let mut map = Map::new();
            object(t, &mut map);
            Some(Value::Object(map))
        }
        Kind::Quantity => Some("0".into()),
        Kind::Duration if !field.omit_empty() => Some("0s".into()),
        _ if field.omit_empty() => None,
        Kind::Str => Some("".into()),
        Kind::Bool => Some(false.into()),
        Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Some(0.into()),
        _ => None,
    }
}
