//! A parsed document against its type: what Go's strict decoder would say about it.
//!
//! The first value of a wrong type is the decoding's error; unknown and repeated fields are collected
//! on the side, because it depends on the request whether they matter.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::scalar;
use super::text::{Node, number};
use crate::quantity;
use crate::schema::{Field, Kind, Shape, Type};

/// As many complaints as upstream collects.
const COMPLAINTS_MAX: usize = 100;

pub(crate) struct Reader {
    /// `unknown field "spec.foo"`, `duplicate field "metadata.name"`, in document order.
    pub(crate) complaints: Vec<String>,
    /// Go's message for the first value of a wrong type.
    pub(crate) error: Option<String>,
    /// Where we are, with indexes: `spec.containers[0]`.
    path: String,
    /// Struct fields on the way here, joined in Go's errors.
    fields: Vec<&'static str>,
    /// Name of the innermost struct.
    owner: &'static str,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { complaints: Vec::new(), error: None, path: String::new(), fields: Vec::new(), owner: "" }
    }

    /// Reads an object of type `ty`.
    pub(crate) fn object(&mut self, ty: &'static Type, pairs: Vec<(String, Node)>) -> Map<String, Value> {
        self.members(pairs, |reader, key, node| {
            if ty.meta && (key == "kind" || key == "apiVersion") {
                match node {
                    Node::Null => None,
                    Node::String(s) => Some(Value::String(s)),
                    other => {
                        let at = if key == "kind" { "kind" } else { "apiVersion" };
                        reader.within(ty.name, at, |r| r.wrong(other.word(), "string"));
                        None
                    }
                }
            } else if let Some(field) = ty.field(key) {
                reader.within(ty.name, field.name, |r| r.field(field, node))
            } else {
                reader.complain("unknown");
                None
            }
        })
    }

    /// What `read` makes of each member, under its path. Of a repeated key the last value counts.
    fn members(
        &mut self,
        pairs: Vec<(String, Node)>,
        mut read: impl FnMut(&mut Self, &str, Node) -> Option<Value>,
    ) -> Map<String, Value> {
        let mut out = Map::new();
        let mut seen = HashSet::new();
        for (key, node) in pairs {
            let mark = self.enter(&key);
            if !seen.insert(key.clone()) {
                self.complain("duplicate");
            }
            let value = read(self, &key, node);
            self.path.truncate(mark);
            if let Some(value) = value {
                out.insert(key, value);
            }
        }
        out
    }

    /// Looks for repeated keys only, in documents of no known type.
    pub(crate) fn untyped(&mut self, node: Node) -> Value {
        match node {
            Node::Array(items) => {
                let read = items.into_iter().enumerate().map(|(i, item)| {
                    let mark = self.index(i);
                    let value = self.untyped(item);
                    self.path.truncate(mark);
                    value
                });
                read.collect()
            }
            Node::Object(pairs) => {
                Value::Object(self.members(pairs, |reader, _, node| Some(reader.untyped(node))))
            }
            scalar => scalar.into_value(),
        }
    }

    fn field(&mut self, field: &'static Field, node: Node) -> Option<Value> {
        match (field.shape, node) {
            // apiextensions' JSON is the one type for which null is a value.
            (Shape::One, Node::Null) if matches!(field.kind, Kind::Json) => Some(Value::Null),
            (_, Node::Null) => None,
            (Shape::One, node) => self.one(field, node),
            (Shape::List, Node::Array(items)) => {
                let mut out = Vec::with_capacity(items.len());
                for (i, item) in items.into_iter().enumerate() {
                    let mark = self.index(i);
                    let value = self.element(field, item);
                    self.path.truncate(mark);
                    out.extend(value);
                }
                Some(Value::Array(out))
            }
            (Shape::Map, Node::Object(pairs)) => {
                Some(Value::Object(self.members(pairs, |reader, _, item| reader.element(field, item))))
            }
            (_, node) => {
                self.wrong(node.word(), &field.go_type());
                None
            }
        }
    }

    /// A list's element or a map's value, for which null is the type's zero.
    fn element(&mut self, field: &'static Field, node: Node) -> Option<Value> {
        if !matches!(node, Node::Null) {
            return self.one(field, node);
        }
        match field.kind {
            Kind::Str => Some("".into()),
            Kind::Bool => Some(false.into()),
            Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString => Some(0.into()),
            Kind::Quantity => Some("0".into()),
            Kind::Bytes => Some("".into()),
            Kind::Object(_) => Some(Value::Object(Map::new())),
            Kind::Strings => Some(Value::Array(Vec::new())),
            _ => Some(Value::Null),
        }
    }

    fn one(&mut self, field: &'static Field, node: Node) -> Option<Value> {
        match (field.kind, node) {
            (Kind::Str, Node::String(s)) => Some(s.into()),
            (Kind::Bool, Node::Bool(b)) => Some(b.into()),
            (Kind::Int32, Node::Number(text)) => self.integer(field, &text, |n| i32::try_from(n).is_ok()),
            (Kind::Int64, Node::Number(text)) => self.integer(field, &text, |_| true),
            (Kind::Double, Node::Number(text)) => Some(number(&text)),
            (Kind::Bytes, Node::String(s)) => match scalar::parse_base64(&s) {
                Ok(bytes) => Some(scalar::base64(&bytes).into()),
                Err(message) => self.fail(message),
            },
            (Kind::Time, Node::String(s)) => match scalar::parse_time(&s).and_then(|t| scalar::time(t.0)) {
                Some(text) => Some(text.into()),
                None => self.fail(time_error(&s, "2006-01-02T15:04:05Z07:00")),
            },
            (Kind::MicroTime, Node::String(s)) => {
                match scalar::parse_time(&s).and_then(|t| scalar::micro_time(t.0, t.1)) {
                    Some(text) => Some(text.into()),
                    None => self.fail(time_error(&s, "2006-01-02T15:04:05.000000Z07:00")),
                }
            }
            (Kind::Duration, Node::String(s)) => match scalar::parse_duration(&s) {
                Some(nanos) => Some(scalar::duration(nanos).into()),
                None => self.fail(format!("time: invalid duration {s:?}")),
            },
            (Kind::Time | Kind::MicroTime | Kind::Duration, node) => {
                self.wrong(node.word(), "string");
                None
            }
            (Kind::Quantity, Node::String(s) | Node::Number(s)) => match quantity::canonical(s.trim()) {
                Ok(text) => Some(text.into()),
                Err(e) => self.fail(e.to_string()),
            },
            (Kind::Quantity, _) => self.fail(quantity_error()),
            (Kind::IntOrString, Node::String(s)) => Some(s.into()),
            (Kind::IntOrString, Node::Number(text)) => match text.parse::<i32>() {
                Ok(n) => Some(n.into()),
                Err(_) => {
                    self.wrong(&format!("number {text}"), "int32");
                    None
                }
            },
            (Kind::IntOrString, node) => {
                self.wrong(node.word(), "int32");
                None
            }
            (Kind::Raw | Kind::Json | Kind::FieldsV1, node) => Some(node.into_value()),
            (Kind::Strings, Node::Array(items)) => {
                let mut out = Vec::new();
                for item in items {
                    match item {
                        Node::String(s) => out.push(Value::String(s)),
                        Node::Null => out.push("".into()),
                        other => self.wrong(other.word(), "string"),
                    }
                }
                Some(Value::Array(out))
            }
            (Kind::SchemaOrBool(_), Node::Bool(b)) => Some(b.into()),
            (Kind::SchemaOrArray(t), Node::Array(items)) => {
                let mut out = Vec::new();
                for item in items {
                    match item {
                        Node::Object(pairs) => out.push(Value::Object(self.object(t, pairs))),
                        other => self.wrong(other.word(), "v1.JSONSchemaProps"),
                    }
                }
                Some(Value::Array(out))
            }
            (Kind::SchemaOrStrings(_), Node::Array(items)) => {
                Some(items.into_iter().map(Node::into_value).collect())
            }
            (
                Kind::Object(t) | Kind::SchemaOrBool(t) | Kind::SchemaOrArray(t) | Kind::SchemaOrStrings(t),
                Node::Object(pairs),
            ) => Some(Value::Object(self.object(t, pairs))),
            (_, node) => {
                self.wrong(node.word(), &field.go_item());
                None
            }
        }
    }

    fn integer(&mut self, field: &'static Field, text: &str, fits: impl Fn(i64) -> bool) -> Option<Value> {
        match text.parse::<i64>() {
            Ok(n) if fits(n) => Some(n.into()),
            _ => {
                self.wrong(&format!("number {text}"), &field.go_item());
                None
            }
        }
    }

    fn within<T>(
        &mut self,
        owner: &'static str,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let outer = std::mem::replace(&mut self.owner, owner);
        self.fields.push(field);
        let out = read(self);
        self.fields.pop();
        self.owner = outer;
        out
    }

    fn enter(&mut self, key: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        mark
    }

    fn index(&mut self, i: usize) -> usize {
        let mark = self.path.len();
        self.path.push_str(&format!("[{i}]"));
        mark
    }

    fn complain(&mut self, what: &str) {
        let text = format!("{what} field \"{}\"", self.path);
        if self.complaints.len() < COMPLAINTS_MAX && !self.complaints.contains(&text) {
            self.complaints.push(text);
        }
    }

    fn wrong(&mut self, value: &str, go: &str) {
        let fields = self.fields.join(".");
        self.fail::<()>(format!(
            "json: cannot unmarshal {value} into Go struct field {}.{fields} of type {go}",
            self.owner
        ));
    }

    fn fail<T>(&mut self, message: String) -> Option<T> {
        self.error.get_or_insert(message);
        None
    }
}

/// What upstream's parser says of every malformed quantity.
fn quantity_error() -> String {
    r"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into()
}

/// Go's `time.Parse` names the first part of the layout that does not fit.
fn time_error(text: &str, layout: &str) -> String {
    let parts =
        [(0, 4, "2006"), (4, 1, "-"), (5, 2, "01"), (7, 1, "-"), (8, 2, "02"), (10, 1, "T"), (11, 2, "15")];
    let parts = parts.into_iter().chain([(13, 1, ":"), (14, 2, "04"), (16, 1, ":"), (17, 2, "05")]);
    for (at, len, name) in parts {
        let ok = text.get(at..at + len).is_some_and(|part| match name.as_bytes()[0] {
            b'0'..=b'9' => part.bytes().all(|c| c.is_ascii_digit()),
            _ => part == name,
        });
        if !ok {
            let rest = text.get(at..).unwrap_or("");
            return format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {name:?}");
        }
    }
    let rest = text.get(19..).unwrap_or("");
    match rest.as_bytes().first() {
        Some(b'Z' | b'.' | b'+' | b'-') => format!("parsing time {text:?}: day out of range"),
        _ => format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as \"Z07:00\""),
    }
}
