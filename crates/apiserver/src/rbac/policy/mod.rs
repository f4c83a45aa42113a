//! The roles and bindings that a cluster starts with: upstream's, and a few of Skiff's own.
//!
//! They are tables of short texts: words are separated by spaces, and `core` stands for the group without
//! a name. What becomes of them in a cluster that has some already is [`super::reconcile`]'s to say.

mod bindings;
mod cluster_roles;
mod controllers;
mod namespaced;
mod skiff;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use super::GROUP;
use super::rule::Rule;

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

/// What a component that tells what it does needs.
const EVENTS: Grant = on("create patch update", "core events.k8s.io", "events");

/// One rule.
struct Grant {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    paths: &'static str,
}

/// Verbs on resources of groups.
const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Grant {
    Grant { verbs, groups, resources, names: "", paths: "" }
}

/// Verbs at paths that are no resources.
const fn at(verbs: &'static str, paths: &'static str) -> Grant {
    Grant { verbs, groups: "", resources: "", names: "", paths }
}

impl Grant {
    /// On these objects only.
    const fn named(self, names: &'static str) -> Self {
        Self { names, ..self }
    }

    fn rule(&self) -> PolicyRule {
        let words = |text: &str| -> Vec<String> {
            text.split(' ')
                .filter(|word| !word.is_empty())
                .map(|word| if word == "core" { String::new() } else { word.to_owned() })
                .collect()
        };
        let some = |text: &str| Some(words(text)).filter(|list| !list.is_empty());
        PolicyRule {
            verbs: words(self.verbs),
            api_groups: some(self.groups),
            resources: some(self.resources),
            resource_names: some(self.names),
            non_resource_urls: some(self.paths),
        }
    }
}

struct Role {
    name: &'static str,
    /// Empty for a role of the cluster.
    namespace: &'static str,
    rules: &'static [Grant],
    /// Its rules are part of the role that collects this word.
    aggregates_to: &'static str,
    /// Its rules are those of the roles that aggregate to this word.
    collects: &'static str,
}

const fn role(name: &'static str, rules: &'static [Grant]) -> Role {
    Role { name, namespace: "", rules, aggregates_to: "", collects: "" }
}

struct Binding {
    name: &'static str,
    /// Empty for a binding of the cluster, which names a role of the cluster.
    namespace: &'static str,
    role: &'static str,
    subjects: &'static [Subject],
}

/// A binding that bears its role's name.
const fn binding(name: &'static str, subjects: &'static [Subject]) -> Binding {
    Binding { name, namespace: "", role: name, subjects }
}

struct Subject {
    kind: &'static str,
    name: &'static str,
}

const fn user(name: &'static str) -> Subject {
    Subject { kind: "User", name }
}

const fn group(name: &'static str) -> Subject {
    Subject { kind: "Group", name }
}

/// An account of `kube-system`.
const fn account(name: &'static str) -> Subject {
    Subject { kind: "ServiceAccount", name }
}

impl Subject {
    fn json(&self) -> Value {
        match self.kind {
            "ServiceAccount" => json!({"kind": self.kind, "name": self.name, "namespace": "kube-system"}),
            kind => json!({"apiGroup": GROUP, "kind": kind, "name": self.name}),
        }
    }
}

/// An object as it should be, and where.
pub(crate) struct Wanted {
    pub(crate) plural: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) object: Value,
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {super::AUTOUPDATE: "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn cluster_roles() -> impl Iterator<Item = &'static Role> + Clone {
    cluster_roles::CLUSTER_ROLES.iter().chain(controllers::CONTROLLER_ROLES).chain(skiff::CLUSTER_ROLES)
}

impl Role {
    /// Its own rules, and those it collects: the same that the controller of aggregated roles comes to.
    fn all_rules(&self) -> Vec<PolicyRule> {
        let mut rules: Vec<PolicyRule> = self.rules.iter().map(Grant::rule).collect();
        let mut parts: Vec<&Role> = cluster_roles()
            .filter(|part| !self.collects.is_empty() && part.aggregates_to == self.collects)
            .collect();
        parts.sort_by_key(|part| part.name);
        for rule in parts.iter().flat_map(|part| part.all_rules()) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }

    fn json(&self) -> Value {
        let label = |word: &str| format!("rbac.authorization.k8s.io/aggregate-to-{word}");
        let mut object = json!({
            "metadata": metadata(self.name, self.namespace),
            "rules": self.all_rules(),
        });
        if !self.aggregates_to.is_empty() {
            object["metadata"]["labels"][label(self.aggregates_to)] = "true".into();
        }
        if !self.collects.is_empty() {
            let selector = json!({"matchLabels": {label(self.collects): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
        object
    }
}

impl Binding {
    fn json(&self) -> Value {
        let kind = if self.namespace.is_empty() { "ClusterRole" } else { "Role" };
        json!({
            "metadata": metadata(self.name, self.namespace),
            "roleRef": {"apiGroup": GROUP, "kind": kind, "name": self.role},
            "subjects": self.subjects.iter().map(Subject::json).collect::<Vec<_>>(),
        })
    }
}

/// A controller's role is bound to the account of its last name.
fn controller_binding(role: &Role) -> Value {
    let account = role.name.rsplit(':').next().unwrap_or_default();
    json!({
        "metadata": metadata(role.name, ""),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role.name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}],
    })
}

/// All of it.
pub(crate) fn wanted() -> Vec<Wanted> {
    let roles = cluster_roles().chain(namespaced::ROLES).map(|role| Wanted {
        plural: if role.namespace.is_empty() { "clusterroles" } else { "roles" },
        namespace: role.namespace,
        object: role.json(),
    });
    let of_controllers = controllers::CONTROLLER_ROLES
        .iter()
        .chain(skiff::CLUSTER_ROLES.iter().filter(|role| role.name.starts_with("skiff:controller:")));
    let of_controllers = of_controllers.map(|role| Wanted {
        plural: "clusterrolebindings",
        namespace: "",
        object: controller_binding(role),
    });
    let bindings = bindings::CLUSTER_ROLE_BINDINGS
        .iter()
        .chain(skiff::CLUSTER_ROLE_BINDINGS)
        .chain(bindings::ROLE_BINDINGS)
        .map(|binding| Wanted {
            plural: if binding.namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" },
            namespace: binding.namespace,
            object: binding.json(),
        });
    roles.chain(of_controllers).chain(bindings).collect()
}

/// What agents may do where the node authorizer looks no closer.
pub(crate) fn node_rules() -> Vec<Rule> {
    let role = cluster_roles().find(|role| role.name == "system:node").expect("in the table");
    role.all_rules().iter().map(Rule::from).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_wanted_twice() {
        let mut seen = BTreeSet::new();
        for one in wanted() {
            let name = one.object["metadata"]["name"].as_str().expect("a name").to_owned();
            assert!(seen.insert((one.plural, one.namespace, name.clone())), "{} {name}", one.plural);
        }
    }

    #[test]
    fn everything_wanted_is_valid() {
        for one in wanted() {
            let kind = crate::resources::find(GROUP, one.plural).expect("served").kind;
            let faults = skiff_api::validate::create(GROUP, kind, &one.object);
            assert!(faults.is_empty(), "{}: {faults:?}", one.object["metadata"]["name"]);
        }
    }

    #[test]
    fn every_binding_names_a_role_that_there_is() {
        let all = wanted();
        let named = |plural: &str, namespace: &str, name: &Value| {
            all.iter().any(|one| {
                one.plural == plural && one.namespace == namespace && one.object["metadata"]["name"] == *name
            })
        };
        for one in all.iter().filter(|one| one.plural.ends_with("bindings")) {
            let (plural, namespace) = match one.object["roleRef"]["kind"].as_str() {
                Some("Role") => ("roles", one.namespace),
                _ => ("clusterroles", ""),
            };
            assert!(named(plural, namespace, &one.object["roleRef"]["name"]), "{}", one.object);
        }
    }

    #[test]
    fn the_roles_of_users_hold_each_other() {
        let rules = |name: &str| {
            let role = cluster_roles().find(|role| role.name == name).expect("in the table");
            role.all_rules()
        };
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert!(view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.iter().all(|rule| admin.contains(rule)));
        assert_eq!((view.len(), edit.len(), admin.len()), (13, 28, 30));
        let secrets = |rules: &[PolicyRule]| {
            rules.iter().any(|rule| rule.resources.iter().flatten().any(|one| one == "secrets"))
        };
        assert!(!secrets(&view) && secrets(&edit));
    }
}
