//! Where objects are checked field by field: the one call into `api::validate`.

use serde_json::Value;
use skiff_api::status::Cause;

use crate::resources::Resource;

/// Faults of a new object.
pub(crate) fn create(stored: &Resource, new: &Value) -> Vec<Cause> {
    skiff_api::validate::create(stored.group, stored.kind, new)
}

/// Faults of an update, among them changes of what may not change.
pub(crate) fn update(stored: &Resource, subresource: &str, new: &Value, old: &Value) -> Vec<Cause> {
    skiff_api::validate::update(stored.group, stored.kind, subresource, new, old)
}
