//! Roles and bindings: nobody grants what they do not have.

use serde_json::Value;
use skiff_api::status::StatusError;

use super::{Cx, Strategy, find};
use crate::names;
use crate::rbac::{GROUP, escalation};

/// Names of roles may hold what names of other objects may not, as `system:node`.
fn name_rule() -> fn(&str) -> Option<String> {
    names::path_segment
}

/// Roles of the plural.
pub(crate) struct Roles(pub(super) &'static str);

impl Strategy for Roles {
    fn prepare_create(&self, cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        let kind = find(GROUP, self.0).expect("roles are in the table");
        escalation::check_role(cx, kind, new, None)
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        let kind = find(GROUP, self.0).expect("roles are in the table");
        escalation::check_role(cx, kind, new, Some(old))
    }

    fn name_rule(&self) -> fn(&str) -> Option<String> {
        name_rule()
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

/// Bindings of the plural.
pub(crate) struct Bindings(pub(super) &'static str);

impl Strategy for Bindings {
    fn prepare_create(&self, cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        let kind = find(GROUP, self.0).expect("bindings are in the table");
        escalation::check_binding(cx, kind, new, None)
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        let kind = find(GROUP, self.0).expect("bindings are in the table");
        escalation::check_binding(cx, kind, new, Some(old))
    }

    fn name_rule(&self) -> fn(&str) -> Option<String> {
        name_rule()
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}
