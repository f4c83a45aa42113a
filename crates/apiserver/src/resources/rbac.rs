//! Roles and bindings: nobody grants what they do not have.

use serde_json::Value;
use skiff_api::status::StatusError;

use super::{Cx, Resource, Strategy, find};
use crate::names;
use crate::rbac::{GROUP, escalation};

/// Refuses an object, or its update from an old one, that would grant too much.
type Check = fn(&Cx<'_>, &Resource, &Value, Option<&Value>) -> Result<(), StatusError>;

/// A kind that grants something.
pub(crate) struct Grants {
    plural: &'static str,
    check: Check,
}

/// Roles of the plural.
pub(super) const fn roles(plural: &'static str) -> Grants {
    Grants { plural, check: escalation::check_role }
}

/// Bindings of the plural.
pub(super) const fn bindings(plural: &'static str) -> Grants {
    Grants { plural, check: escalation::check_binding }
}

impl Grants {
    fn judge(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Result<(), StatusError> {
        let kind = find(GROUP, self.plural).expect("roles and bindings are in the table");
        (self.check)(cx, kind, new, old)
    }
}

impl Strategy for Grants {
    fn prepare_create(&self, cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        self.judge(cx, new, None)
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        self.judge(cx, new, Some(old))
    }

    /// Names may hold what names of other objects may not, as `system:node`.
    fn name_rule(&self) -> fn(&str) -> Option<String> {
        names::path_segment
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}
