//! Which objects a list, watch or deletion is about: label and field selectors, resolved against a row.

use skiff_api::selector::{FieldSelector, Selector};
use skiff_api::status::StatusError;

use crate::object::Object;
use crate::request::Query;
use crate::resources::Resource;

/// What a requirement on a field looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Name,
    Namespace,
    /// Index into the row's fields.
    Field(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Selection {
    labels: Selector,
    fields: Vec<(Looked, bool, String)>,
}

impl Selection {
    /// From `labelSelector` and `fieldSelector`.
    pub(crate) fn parse(row: &Resource, query: &Query) -> Result<Self, StatusError> {
        let labels = match query.given("labelSelector") {
            None => Selector::EVERYTHING,
            Some(text) => Selector::parse(text).map_err(|e| StatusError::bad_request(e.to_string()))?,
        };
        let fields = match query.given("fieldSelector") {
            None => Vec::new(),
            Some(text) => FieldSelector::parse(text)
                .map_err(|e| StatusError::bad_request(e.to_string()))?
                .0
                .into_iter()
                .map(|r| Ok((resolve(row, &r.field)?, r.equal, r.value)))
                .collect::<Result<_, StatusError>>()?,
        };
        Ok(Self { labels, fields })
    }

    /// Narrowed to one object, unless `name` is empty.
    pub(crate) fn with_name(mut self, name: &str) -> Self {
        if !name.is_empty() {
            self.fields.push((Looked::Name, true, name.to_owned()));
        }
        self
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        let field = |looked: Looked| match looked {
            Looked::Name => object.name(),
            Looked::Namespace => object.namespace(),
            Looked::Field(i) => object.fields.get(i).map_or("", |f| f),
        };
        self.fields.iter().all(|(looked, equal, value)| (field(*looked) == value) == *equal)
            && (self.labels.is_everything() || self.labels.matches(Some(&object.labels)))
    }
}

fn resolve(row: &Resource, name: &str) -> Result<Looked, StatusError> {
    match name {
        "metadata.name" => return Ok(Looked::Name),
        "metadata.namespace" => return Ok(Looked::Namespace),
        _ => {}
    }
    match row.fields.iter().position(|f| f.name == name) {
        Some(i) => Ok(Looked::Field(i)),
        None if row.fields.is_empty() => Err(StatusError::bad_request(format!(
            "{name:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ))),
        None => Err(StatusError::bad_request(format!("field label not supported: {name}"))),
    }
}
