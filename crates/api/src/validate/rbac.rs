//! Roles and their bindings.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cursor::At;
use super::names;
use crate::selector::{Selector, label_selector_faults};
use crate::status::Cause;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(role: &At<'_>, faults: &mut Vec<Cause>) {
    role.get("rules").items().for_each(|rule| policy_rule(&rule, true, faults));
}

pub(super) fn cluster_role(role: &At<'_>, faults: &mut Vec<Cause>) {
    role.get("rules").items().for_each(|rule| policy_rule(&rule, false, faults));
    let aggregation = role.get("aggregationRule");
    if !aggregation.is_there() {
        return;
    }
    let selectors = aggregation.get("clusterRoleSelectors");
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        faults.push(Cause::required(selectors.path.clone(), detail));
    }
    for place in selectors.items() {
        let Ok(selector) = LabelSelector::deserialize(place.value) else {
            faults.push(Cause::invalid(place.path, place.value.clone(), "invalid label selector."));
            continue;
        };
        let wrong = label_selector_faults(&selector, &place.path);
        if wrong.is_empty() && Selector::from_object(Some(&selector)).is_err() {
            faults.push(Cause::invalid(place.path, place.value.clone(), "invalid label selector."));
        }
        faults.extend(wrong.into_iter().map(super::selector::cause));
    }
}

fn policy_rule(rule: &At<'_>, namespaced: bool, faults: &mut Vec<Cause>) {
    let needs = |field: &str, detail: &str, faults: &mut Vec<Cause>| {
        let place = rule.get(field);
        if place.is_empty() {
            faults.push(Cause::required(place.path, detail));
        }
    };
    needs("verbs", "verbs must contain at least one value", faults);
    let urls = rule.get("nonResourceURLs");
    if !urls.is_empty() {
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            faults.push(Cause::invalid(urls.path.clone(), urls.value.clone(), detail));
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !rule.get(field).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            faults.push(Cause::invalid(urls.path.clone(), urls.value.clone(), detail));
        }
        return;
    }
    needs("apiGroups", "resource rules must supply at least one api group", faults);
    needs("resources", "resource rules must supply at least one resource", faults);
}

pub(super) fn role_binding(binding: &At<'_>, faults: &mut Vec<Cause>) {
    role_ref(&binding.get("roleRef"), &["Role", "ClusterRole"], faults);
    binding.get("subjects").items().for_each(|one| subject(&one, true, faults));
}

pub(super) fn cluster_role_binding(binding: &At<'_>, faults: &mut Vec<Cause>) {
    role_ref(&binding.get("roleRef"), &["ClusterRole"], faults);
    binding.get("subjects").items().for_each(|one| subject(&one, false, faults));
}

fn role_ref(reference: &At<'_>, kinds: &[&str], faults: &mut Vec<Cause>) {
    let one_of = |field: &str, supported: &[&str], faults: &mut Vec<Cause>| {
        let place = reference.get(field);
        if !supported.contains(&place.text()) {
            faults.push(Cause::not_supported(place.path.clone(), place.text(), supported));
        }
    };
    one_of("apiGroup", &[GROUP], faults);
    one_of("kind", kinds, faults);
    let name = reference.get("name");
    if name.is_empty() {
        faults.push(Cause::required(name.path, ""));
    } else if let Some(fault) = names::path_segment(name.text()) {
        faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
    }
}

fn subject(subject: &At<'_>, namespaced: bool, faults: &mut Vec<Cause>) {
    let (name, group, kind) = (subject.get("name"), subject.get("apiGroup"), subject.get("kind"));
    if name.is_empty() {
        faults.push(Cause::required(name.path.clone(), ""));
    }
    let of_group = |wanted: &str, faults: &mut Vec<Cause>| {
        if group.text() != wanted {
            faults.push(Cause::not_supported(group.path.clone(), group.text(), &[wanted]));
        }
    };
    match kind.text() {
        "ServiceAccount" => {
            if !name.is_empty()
                && let Some(fault) = names::subdomain(name.text())
            {
                faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
            }
            of_group("", faults);
            let namespace = subject.get("namespace");
            if !namespaced && namespace.is_empty() {
                faults.push(Cause::required(namespace.path, ""));
            }
        }
        "User" | "Group" => of_group(GROUP, faults),
        other => {
            let supported = ["ServiceAccount", "User", "Group"];
            faults.push(Cause::not_supported(kind.path.clone(), other, &supported));
        }
    }
}

/// What a binding grants is a matter of its name: another role is another binding.
pub(super) fn same_role_ref(new: &At<'_>, old: &At<'_>, faults: &mut Vec<Cause>) {
    let (new, old) = (new.get("roleRef"), old.get("roleRef"));
    if new.value != old.value {
        let part = |field: &str| Value::from(new.get(field).text());
        let shown = json!({"APIGroup": part("apiGroup"), "Kind": part("kind"), "Name": part("name")});
        faults.push(Cause::invalid(new.path.clone(), shown, "cannot change roleRef"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(kind: &str, object: &Value) -> Vec<String> {
        let mut object = object.clone();
        object["metadata"] = json!({"name": "x"});
        crate::defaults::apply(GROUP, kind, &mut object);
        let found = crate::validate::create(GROUP, kind, &object);
        found.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn rules_name_verbs_and_what_they_are_for() {
        assert_eq!(
            faults("Role", &json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]})),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to \
                 non-resource URLs",
            ]
        );
        assert_eq!(
            faults(
                "ClusterRole",
                &json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]})
            ),
            ["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular \
              resources and non-resource URLs"]
        );
    }

    #[test]
    fn an_aggregation_selects_something() {
        assert_eq!(
            faults("ClusterRole", &json!({"aggregationRule": {"clusterRoleSelectors": []}})),
            ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector \
              required if aggregationRule is non-nil"]
        );
        let wrong = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"-": "x"}}]}});
        let found = faults("ClusterRole", &wrong);
        assert!(
            found[0].starts_with("aggregationRule.clusterRoleSelectors[0].matchLabels: Invalid value"),
            "{found:?}"
        );
    }

    #[test]
    fn bindings_name_roles_and_subjects_of_known_kinds() {
        let binding = |reference: Value, subject: Value| json!({"roleRef": reference, "subjects": [subject]});
        let role = json!({"kind": "ClusterRole", "name": "view"});
        let user = json!({"kind": "User", "name": "jane"});
        assert!(faults("RoleBinding", &binding(role.clone(), user.clone())).is_empty());
        assert_eq!(
            faults(
                "RoleBinding",
                &binding(json!({"kind": "Rule", "name": "a/b", "apiGroup": "x"}), user.clone())
            ),
            [
                "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "roleRef.kind: Unsupported value: \"Rule\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
        assert_eq!(
            faults("ClusterRoleBinding", &binding(json!({"kind": "Role"}), json!({"kind": "Robot"}))),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "roleRef.name: Required value",
                "subjects[0].name: Required value",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \
                 \"User\", \"Group\"",
            ]
        );
        assert_eq!(
            faults("ClusterRoleBinding", &binding(role, json!({"kind": "ServiceAccount", "name": "A"})))
                .len(),
            2,
            "a bad name and no namespace"
        );
    }

    #[test]
    fn the_role_of_a_binding_stays() {
        let of = |name: &str| json!({"metadata": {"name": "x"}, "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}});
        let found = crate::validate::update(GROUP, "RoleBinding", "", &of("edit"), &of("view"));
        assert_eq!(found[0].field, "roleRef");
        assert!(found[0].message.ends_with("cannot change roleRef"), "{}", found[0].message);
        assert!(crate::validate::update(GROUP, "RoleBinding", "", &of("view"), &of("view")).is_empty());
    }
}
