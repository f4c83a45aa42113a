//! A value and the path to it.

use serde_json::Value;

static NULL: Value = Value::Null;

/// A place in an object. A place that is not there reads as null.
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// A field of it.
    pub(super) fn get(&self, field: &str) -> At<'a> {
        At { value: self.value.get(field).unwrap_or(&NULL), path: self.child(field) }
    }

    /// The path of a field of it.
    pub(super) fn child(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// Its elements, if it is a list.
    pub(super) fn items(&self) -> impl Iterator<Item = At<'a>> {
        let path = self.path.clone();
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(index, value)| At { value, path: format!("{path}[{index}]") })
    }

    /// Its entries, if it is a map, each under the map's path and its key in brackets.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        let path = self.path.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), At { value, path: format!("{path}[{key}]") }))
    }

    /// Its text; empty where it has none.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub(super) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    /// It is not there, or says nothing.
    pub(super) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    pub(super) fn is_there(&self) -> bool {
        !self.value.is_null()
    }
}
