//! Roles and their bindings.

use serde_json::Value;

use super::format::{age, list, name, text_or};
use super::{AGE, Column, NAME, col, wide};

pub(super) static ROLE_COLUMNS: &[Column] =
    &[NAME, Column { type_: "date", description: "When the object was created.", ..col("Created At") }];

pub(super) fn role(role: &Value, _now: i64) -> Vec<Value> {
    vec![name(role), text_or(&role["metadata"]["creationTimestamp"], "").into()]
}

pub(super) static BINDING_COLUMNS: &[Column] =
    &[NAME, col("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];

pub(super) fn binding(binding: &Value, now: i64) -> Vec<Value> {
    let reference = &binding["roleRef"];
    let of_kind = |kind: &str| {
        let subjects = list(&binding["subjects"]).iter().filter(|subject| subject["kind"] == kind);
        let names: Vec<String> = subjects
            .map(|subject| match (kind, text_or(&subject["namespace"], "")) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", text_or(&subject["name"], "")),
                _ => text_or(&subject["name"], "").to_owned(),
            })
            .collect();
        names.join(", ")
    };
    vec![
        name(binding),
        format!("{}/{}", text_or(&reference["kind"], ""), text_or(&reference["name"], "")).into(),
        age(binding, now).into(),
        of_kind("User").into(),
        of_kind("Group").into(),
        of_kind("ServiceAccount").into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_shows_its_role_and_subjects_by_kind() {
        let cells = binding(
            &json!({
                "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": "view"},
                "subjects": [
                    {"kind": "User", "name": "jane"}, {"kind": "User", "name": "joe"},
                    {"kind": "ServiceAccount", "namespace": "n", "name": "a"},
                ],
            }),
            0,
        );
        assert_eq!(cells, ["b", "ClusterRole/view", "<unknown>", "jane, joe", "", "n/a"]);
    }
}
