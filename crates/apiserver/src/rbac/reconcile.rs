//! What a start makes of a role or binding that the platform brings: missing rules and subjects are added
//! again, what a user added stays, and an object whose annotation says so is left alone.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Map, Value};

use super::AUTOUPDATE;
use super::rule::{Rule, missing};

#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Keep,
    Update(Value),
    /// The role of a binding can't be changed.
    Replace(Value),
}

/// `present` and `wanted` are the whole objects.
pub(crate) fn step(present: &Value, wanted: &Value) -> Step {
    if present["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Step::Keep;
    }
    if wanted.get("roleRef").is_some() && present["roleRef"] != wanted["roleRef"] {
        return Step::Replace(wanted.clone());
    }
    let mut new = present.clone();
    for field in ["labels", "annotations"] {
        add_entries(&mut new["metadata"], field, &wanted["metadata"][field]);
    }
    if wanted.get("roleRef").is_some() {
        add_items(&mut new, "subjects", &wanted["subjects"]);
    } else if wanted.get("aggregationRule").is_some() {
        // The rules are the aggregation's.
        if new["aggregationRule"]["clusterRoleSelectors"].is_null() {
            new["aggregationRule"] = wanted["aggregationRule"].clone();
        } else {
            let selectors = &wanted["aggregationRule"]["clusterRoleSelectors"];
            add_items(&mut new["aggregationRule"], "clusterRoleSelectors", selectors);
        }
    } else {
        let lacking = missing(&rules(&new["rules"]), &rules(&wanted["rules"]));
        let lacking: Vec<PolicyRule> = lacking.iter().map(PolicyRule::from).collect();
        add_items(&mut new, "rules", &serde_json::json!(lacking));
    }
    if new == *present { Step::Keep } else { Step::Update(new) }
}

fn rules(list: &Value) -> Vec<Rule> {
    let parsed = |rule: &Value| serde_json::from_value::<PolicyRule>(rule.clone()).ok();
    list.as_array().into_iter().flatten().filter_map(|rule| Some(Rule::from(&parsed(rule)?))).collect()
}

/// Entries that are missing; those that are there keep their values.
fn add_entries(object: &mut Value, field: &str, entries: &Value) {
    let Some(entries) = entries.as_object().filter(|entries| !entries.is_empty()) else { return };
    if !object[field].is_object() {
        object[field] = Value::Object(Map::new());
    }
    for (key, value) in entries {
        if object[field].get(key).is_none() {
            object[field][key] = value.clone();
        }
    }
}

fn add_items(object: &mut Value, field: &str, items: &Value) {
    let mut list = object.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list.len();
    for item in items.as_array().into_iter().flatten() {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    if list.len() > before {
        object[field] = list.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(rules: Value) -> Value {
        json!({"metadata": {"name": "r", "uid": "u", "annotations": {AUTOUPDATE: "true"}}, "rules": rules})
    }

    fn rule(verbs: &[&str], resource: &str) -> Value {
        json!({"verbs": verbs, "apiGroups": [""], "resources": [resource]})
    }

    #[test]
    fn what_is_there_is_kept() {
        let present = role(json!([rule(&["get", "list"], "pods"), rule(&["get"], "secrets")]));
        assert_eq!(step(&present, &role(json!([rule(&["list"], "pods")]))), Step::Keep);
        assert_eq!(step(&role(json!([rule(&["*"], "*")])), &present), Step::Keep);
    }

    #[test]
    fn missing_rules_are_added_and_additions_stay() {
        let present = role(json!([rule(&["get"], "secrets")]));
        let Step::Update(new) = step(&present, &role(json!([rule(&["get", "list"], "pods")]))) else {
            panic!("no update")
        };
        assert_eq!(
            new["rules"],
            json!([rule(&["get"], "secrets"), rule(&["get"], "pods"), rule(&["list"], "pods")])
        );
        assert_eq!(new["metadata"]["uid"], "u");
    }

    #[test]
    fn the_annotation_protects() {
        let mut present = role(json!([]));
        present["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(step(&present, &role(json!([rule(&["get"], "pods")]))), Step::Keep);
    }

    #[test]
    fn labels_come_back_with_the_users_values() {
        let mut wanted = role(json!([]));
        wanted["metadata"]["labels"] = json!({"a": "1", "b": "1"});
        let mut present = role(json!([]));
        present["metadata"]["labels"] = json!({"a": "2"});
        let Step::Update(new) = step(&present, &wanted) else { panic!("no update") };
        assert_eq!(new["metadata"]["labels"], json!({"a": "2", "b": "1"}));
    }

    #[test]
    fn aggregated_rules_are_not_touched() {
        let aggregation = json!({"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]});
        let mut wanted = role(json!([rule(&["get"], "pods")]));
        wanted["aggregationRule"] = aggregation.clone();
        let mut present = role(json!([]));
        present["aggregationRule"] = aggregation;
        assert_eq!(step(&present, &wanted), Step::Keep);
    }

    #[test]
    fn bindings_get_their_subjects_back_and_another_role_by_replacement() {
        let binding = |role: &str, subjects: &[&str]| {
            let subjects: Vec<Value> = subjects.iter().map(|s| json!({"kind": "User", "name": s})).collect();
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects})
        };
        let Step::Update(new) = step(&binding("r", &["joe"]), &binding("r", &["jane"])) else {
            panic!("no update")
        };
        assert_eq!(new, binding("r", &["joe", "jane"]));
        assert_eq!(step(&binding("r", &["joe", "jane"]), &binding("r", &["jane"])), Step::Keep);
        let wanted = binding("r", &["jane"]);
        assert_eq!(step(&binding("other", &[]), &wanted), Step::Replace(wanted));
    }
}
