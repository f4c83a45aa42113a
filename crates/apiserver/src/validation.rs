//! Where objects are checked field by field: the one call into `api::validate`.

use serde_json::Value;
use skiff_api::status::Cause;

use crate::resources::Resource;

/// Faults of a new object.
pub(crate) fn create(_stored: &Resource, _new: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Faults of an update, among them changes of what may not change.
pub(crate) fn update(_stored: &Resource, _subresource: &str, _new: &Value, _old: &Value) -> Vec<Cause> {
    Vec::new()
}
