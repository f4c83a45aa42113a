//! Random input against every decoder. The seed is printed; set `SKIFF_SEED` to run one again.

use serde_json::{Map, Value, json};

use super::*;
use crate::schema::{self, Field, Kind, Shape};

/// A small generator (xorshift), so that a seed means the same for ever.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn seeded(test: &str) -> Self {
        let seed = std::env::var("SKIFF_SEED").ok().and_then(|s| s.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64);
        let seed = seed.unwrap_or_else(clock) | 1;
        println!("{test}: SKIFF_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn scalar(dice: &mut Dice, field: &'static Field, depth: usize) -> Value {
    match field.kind {
        Kind::Str => (*dice.pick(&["", "a", "TCP", "ünï", "x\ny"])).into(),
        Kind::Bool => (dice.below(2) == 0).into(),
        Kind::Int32 => (*dice.pick(&[0, 1, -1, 8080, i32::MAX, i32::MIN])).into(),
        Kind::Int64 => (*dice.pick(&[0, 1, -1, i64::MAX, i64::MIN])).into(),
        Kind::Double => (*dice.pick(&[0.0, 1.5, -2.25])).into(),
        Kind::Bytes => (*dice.pick(&["", "aGk=", "//4="])).into(),
        Kind::Time => (*dice.pick(&["2024-05-06T07:08:09Z", "1969-12-31T23:59:59Z"])).into(),
        Kind::MicroTime => {
            (*dice.pick(&["2024-05-06T07:08:09.000001Z", "1969-12-31T23:59:59.999999Z"])).into()
        }
        Kind::Duration => (*dice.pick(&["0s", "1h2m3s", "1.5ms"])).into(),
        Kind::Quantity => (*dice.pick(&["0", "1", "500m", "1Gi", "1500000"])).into(),
        Kind::IntOrString => dice.pick(&[json!(0), json!(80), json!("web"), json!("50%")]).clone(),
        Kind::Raw | Kind::FieldsV1 => {
            dice.pick(&[json!({}), json!({"kind": "X", "a": [1, null, "b"]})]).clone()
        }
        Kind::Json => dice.pick(&[json!(1), json!("x"), json!([true]), json!({"a": {}})]).clone(),
        Kind::Strings => dice.pick(&[json!(["b"]), json!(["a", ""])]).clone(),
        Kind::Object(t) => Value::Object(object(dice, t, depth)),
        Kind::SchemaOrBool(t) => match dice.below(2) {
            0 => true.into(),
            _ => Value::Object(object(dice, t, depth)),
        },
        Kind::SchemaOrArray(t) => match dice.below(2) {
            0 => Value::Array(vec![Value::Object(object(dice, t, depth))]),
            _ => Value::Object(object(dice, t, depth)),
        },
        Kind::SchemaOrStrings(t) => match dice.below(2) {
            0 => json!(["a"]),
            _ => Value::Object(object(dice, t, depth)),
        },
    }
}

/// An object of type `t` with a random choice of its fields; rarer the deeper.
pub(crate) fn object(dice: &mut Dice, t: &'static schema::Type, depth: usize) -> Map<String, Value> {
    let mut map = Map::new();
    for field in t.json_fields() {
        if dice.below(2 + depth * 2) != 0 || depth > 6 {
            continue;
        }
        // Protobuf can't tell an empty list from none; JSON shows it where it may not be left out.
        let least = usize::from(!field.omit_empty());
        let value = match field.shape {
            Shape::One => scalar(dice, field, depth + 1),
            Shape::List => (0..dice.below(3).max(least)).map(|_| scalar(dice, field, depth + 1)).collect(),
            Shape::Map => (0..dice.below(3).max(least))
                .map(|i| (format!("k{i}"), scalar(dice, field, depth + 1)))
                .collect(),
        };
        map.insert(field.name.to_owned(), value);
    }
    map
}

#[test]
fn an_object_in_protobuf_equals_the_same_in_json() {
    let mut dice = Dice::seeded("an_object_in_protobuf_equals_the_same_in_json");
    for row in schema::kinds() {
        for _ in 0..8 {
            let gvk = Gvk::new(row.0, row.1, row.2);
            let mut value = object(&mut dice, row.3, 0);
            value.insert("apiVersion".into(), gvk.api_version().into());
            value.insert("kind".into(), gvk.kind.clone().into());
            let value = Value::Object(value);
            let json =
                decode(value.to_string().as_bytes(), Media::Json, &gvk, FieldValidation::Strict).unwrap();
            let wire =
                decode(&encode_protobuf(row.3, &value), Media::Protobuf, &gvk, FieldValidation::Strict)
                    .unwrap();
            assert_eq!(json.value, wire.value, "{gvk} from {value}");
            let again = decode(json.value.to_string().as_bytes(), Media::Json, &gvk, FieldValidation::Strict)
                .unwrap();
            assert_eq!(json.value, again.value, "{gvk}: the normal form is not stable");
        }
    }
}

/// Changes bytes at random: decoders may refuse, never panic.
fn spoil(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.below(bytes.len());
        match dice.below(4) {
            0 => bytes.truncate(at),
            1 => bytes[at] = dice.below(256) as u8,
            2 => bytes.insert(at, *dice.pick(b"{}[]\",:\\0-.eE\n\xff\x80")),
            _ => {
                bytes.remove(at);
            }
        }
    }
}

#[test]
fn spoiled_bodies_never_panic() {
    let mut dice = Dice::seeded("spoiled_bodies_never_panic");
    for _ in 0..20_000 {
        let row = dice.pick(schema::kinds());
        let gvk = Gvk::new(row.0, row.1, row.2);
        let value = Value::Object(object(&mut dice, row.3, 0));
        let media = *dice.pick(&[Media::Json, Media::Yaml, Media::Protobuf]);
        let mut body = match media {
            Media::Protobuf => encode_protobuf(row.3, &value),
            _ => value.to_string().into_bytes(),
        };
        spoil(&mut dice, &mut body);
        if let Ok(decoded) = decode(&body, media, &gvk, FieldValidation::Warn) {
            let again = normalise(decoded.value.clone(), &gvk, FieldValidation::Strict).unwrap();
            assert_eq!(decoded.value, again.value, "{gvk} {media:?}: the normal form is not stable");
        }
    }
}

/// An integer beyond 64 bits with a sign is a double.
fn as_go_reads(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_u64() && !number.is_i64() => Value::from(number.as_f64()),
        Value::Array(items) => items.into_iter().map(as_go_reads).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, as_go_reads(value))).collect())
        }
        other => other,
    }
}

#[test]
fn our_parser_agrees_with_serde_on_what_is_json() {
    let mut dice = Dice::seeded("our_parser_agrees_with_serde_on_what_is_json");
    for _ in 0..20_000 {
        let row = dice.pick(schema::kinds());
        let mut body = Value::Object(object(&mut dice, row.3, 3)).to_string().into_bytes();
        spoil(&mut dice, &mut body);
        // Go replaces broken UTF-8 and lone surrogates, and reads numbers beyond a double's range; its integers have no -0.
        let Ok(text) = std::str::from_utf8(&body) else { continue };
        if text.contains("\\u") || text.contains(['e', 'E']) || text.contains("-0") {
            continue;
        }
        let theirs = serde_json::from_str::<Value>(text);
        let ours = text::json(text.as_bytes());
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{text}: {ours:?} {theirs:?}");
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            assert_eq!(ours.into_value(), as_go_reads(theirs));
        }
    }
}
