//! Where objects are checked field by field: the one call into `api::validate`.

use serde_json::Value;
use skiff_api::status::Cause;

use crate::resources::{Cx, Resource};

/// Faults of a new object.
pub(crate) fn create(stored: &Resource, new: &Value) -> Vec<Cause> {
    skiff_api::validate::create(stored.group, stored.kind, new)
}

/// Faults of an update, among them changes of what may not change.
pub(crate) fn update(stored: &Resource, subresource: &str, new: &Value, old: &Value) -> Vec<Cause> {
    skiff_api::validate::update(stored.group, stored.kind, subresource, new, old)
}

/// Tells the client what is taken and may not be what was meant. Parts of an object are written by those
/// who run it, who know.
pub(crate) fn warn(cx: &Cx<'_>, stored: &Resource, new: &Value) {
    if cx.subresource.is_empty() {
        let texts = skiff_api::validate::warnings(stored.group, stored.kind, new);
        texts.into_iter().for_each(|text| cx.notes.warn(text));
    }
}
