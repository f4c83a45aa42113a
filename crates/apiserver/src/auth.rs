//! Who asks, and whether they may.
//!
//! Authentication turns a connection into an [`Identity`]: a client certificate's common name and
//! organizations, a bearer token, or what a caller in the same process puts on its request. Authorization is a
//! decision over plain [`Attributes`]; [`FixedAuthorizer`] is the rule set until roles and bindings exist.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a user besides name, UID and groups: values by key, such as
/// `authentication.kubernetes.io/pod-name`.
pub type Extra = BTreeMap<String, Vec<String>>;

/// A user as certificates, tokens and in-process callers name one. Travels as a request extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub uid: Arc<str>,
    pub groups: Arc<[Arc<str>]>,
    pub extra: Arc<Extra>,
}

impl Identity {
    /// An authenticated user.
    pub fn new(user: &str, groups: &[&str]) -> Self {
        let groups =
            groups.iter().copied().chain(["system:authenticated"]).map(Arc::from).collect::<Vec<Arc<str>>>();
        Self { user: user.into(), uid: "".into(), groups: groups.into(), extra: Arc::default() }
    }

    pub fn anonymous() -> Self {
        let groups: Vec<Arc<str>> = vec!["system:unauthenticated".into()];
        let groups = groups.into();
        Self { user: "system:anonymous".into(), uid: "".into(), groups, extra: Arc::default() }
    }

    /// The value of an extra key that has just one.
    pub fn extra_value(&self, key: &str) -> Option<&str> {
        match self.extra.get(key)?.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| &**g == group)
    }

    /// The node's name, for a node's own identity.
    pub fn node_name(&self) -> Option<&str> {
        if !self.in_group("system:nodes") {
            return None;
        }
        self.user.strip_prefix("system:node:")
    }
}

/// What is asked for. For a path that is no resource, `resource` is empty and `path` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The API verb (`get`, `list`, `create` …), or the lower-cased method for a path.
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
}

pub trait Authorizer: Send + Sync + 'static {
    fn allowed(&self, who: &Identity, what: &Attributes<'_>) -> bool;
}

/// Administrators may do all, each of the platform's components and nodes a listed set, everyone may
/// see health and version, and nobody else anything.
#[derive(Debug, Default, Clone, Copy)]
pub struct FixedAuthorizer;

const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];

/// Verbs on resources (`resource` or `resource/subresource`; `*` means any) of groups, per subject.
struct Rule {
    verbs: &'static [&'static [&'static str]],
    resources: &'static [&'static str],
}

const fn rule(verbs: &'static [&'static [&'static str]], resources: &'static [&'static str]) -> Rule {
    Rule { verbs, resources }
}

const NODE: &[Rule] = &[
    rule(
        &[READ],
        &[
            "pods",
            "nodes",
            "namespaces",
            "services",
            "endpoints",
            "endpointslices",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "priorityclasses",
            "networkpolicies",
        ],
    ),
    rule(&[&["create", "update", "patch"]], &["nodes", "nodes/status"]),
    rule(&[&["create", "delete"]], &["pods"]),
    rule(&[&["update", "patch"]], &["pods/status"]),
    rule(&[&["create"]], &["pods/eviction"]),
    rule(&[&["create"]], &["serviceaccounts/token", "tokenreviews", "subjectaccessreviews"]),
    rule(&[READ, WRITE], &["leases", "events"]),
];

const SCHEDULER: &[Rule] = &[
    rule(
        &[READ],
        &["pods", "nodes", "namespaces", "services", "replicasets", "priorityclasses", "daemonsets"],
    ),
    rule(&[&["create"]], &["pods/binding", "bindings", "pods/eviction"]),
    rule(&[&["update", "patch"]], &["pods/status"]),
    rule(&[&["delete"]], &["pods"]),
    rule(&[READ, WRITE], &["leases", "events"]),
];

/// The controllers reconcile every kind there is, as upstream's controller manager does with the sum of
/// its controllers' roles; they have no business with paths that are not resources.
const CONTROLLERS: &[Rule] = &[rule(&[READ, WRITE, &["deletecollection"]], &["*"])];

const PROXY: &[Rule] = &[
    rule(&[READ], &["nodes", "services", "endpoints", "endpointslices", "pods", "namespaces"]),
    rule(&[&["create", "patch", "update"]], &["events"]),
];

const DNS: &[Rule] = &[rule(&[READ], &["services", "endpointslices", "pods", "namespaces", "nodes"])];

/// What everyone who is known may ask: about themselves, as upstream's `system:basic-user`.
const ANYBODY: &[Rule] = &[rule(&[&["create"]], &["selfsubjectreviews", "selfsubjectaccessreviews"])];

fn rules_of(who: &Identity) -> &'static [Rule] {
    if who.node_name().is_some() {
        return NODE;
    }
    match &*who.user {
        "system:kube-scheduler" => SCHEDULER,
        "system:kube-controller-manager" => CONTROLLERS,
        "system:kube-proxy" => PROXY,
        "system:kube-dns" => DNS,
        _ => &[],
    }
}

impl Rule {
    fn allows(&self, what: &Attributes<'_>) -> bool {
        let resource = |r: &&'static str| match r.split_once('/') {
            None => *r == "*" || (*r == what.resource && what.subresource.is_empty()),
            Some((main, sub)) => main == what.resource && sub == what.subresource,
        };
        self.verbs.iter().any(|set| set.contains(&what.verb)) && self.resources.iter().any(resource)
    }
}

impl Authorizer for FixedAuthorizer {
    fn allowed(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        if who.in_group("system:masters") {
            return true;
        }
        if what.resource.is_empty() {
            return is_public(what.path)
                || (who.in_group("system:authenticated") && what.verb == "get" && is_discovery(what.path));
        }
        if who.in_group("system:authenticated") && ANYBODY.iter().any(|r| r.allows(what)) {
            return true;
        }
        rules_of(who).iter().any(|r| r.allows(what)) && node_keeps_to_itself(who, what)
    }
}

fn is_public(path: &str) -> bool {
    PUBLIC_PATHS.iter().any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
}

fn is_discovery(path: &str) -> bool {
    ["/api", "/apis", "/openapi"]
        .iter()
        .any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')))
}

/// A node writes no other node's Node object. (Its pods' status is checked where the pod is known.)
fn node_keeps_to_itself(who: &Identity, what: &Attributes<'_>) -> bool {
    let Some(node) = who.node_name() else { return true };
    let writes_node = what.resource == "nodes" && !READ.contains(&what.verb);
    !writes_node || what.name.is_empty() || what.name == node
}

/// The sentence after `… is forbidden: `.
pub fn denial(who: &Identity, what: &Attributes<'_>) -> String {
    let Attributes { verb, group, namespace, .. } = what;
    if what.resource.is_empty() {
        return format!("User {:?} cannot {verb} path {:?}", &*who.user, what.path);
    }
    let resource = match what.subresource {
        "" => what.resource.to_owned(),
        sub => format!("{}/{sub}", what.resource),
    };
    let scope = match *namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}", &*who.user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on<'a>(verb: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { verb, group: "", resource, subresource, namespace: "", name, path: "" }
    }

    fn path(path: &str) -> Attributes<'_> {
        Attributes { verb: "get", path, ..on("get", "", "") }
    }

    #[test]
    fn strangers_see_health_and_nothing_else() {
        let who = Identity::anonymous();
        for p in ["/healthz", "/livez/ping", "/readyz", "/version"] {
            assert!(FixedAuthorizer.allowed(&who, &path(p)), "{p}");
        }
        for p in ["/", "/api", "/healthzzz", "/metrics"] {
            assert!(!FixedAuthorizer.allowed(&who, &path(p)), "{p}");
        }
        assert!(!FixedAuthorizer.allowed(&who, &on("get", "pods", "a")));
    }

    #[test]
    fn a_node_writes_only_its_own_node() {
        let who = Identity::new("system:node:a", &["system:nodes"]);
        assert!(FixedAuthorizer.allowed(&who, &on("patch", "nodes/status", "a")));
        assert!(!FixedAuthorizer.allowed(&who, &on("patch", "nodes/status", "b")));
        assert!(FixedAuthorizer.allowed(&who, &on("get", "nodes", "b")));
        assert!(!FixedAuthorizer.allowed(&who, &on("delete", "secrets", "s")));
        assert!(!FixedAuthorizer.allowed(&who, &on("create", "pods/exec", "p")));
    }

    #[test]
    fn the_group_makes_a_node_not_the_name() {
        assert_eq!(Identity::new("system:node:a", &[]).node_name(), None);
    }

    #[test]
    fn a_denial_reads_as_upstreams() {
        let who = Identity::new("jane", &[]);
        let what = Attributes { namespace: "default", ..on("get", "pods/log", "p") };
        assert_eq!(
            denial(&who, &what),
            r#"User "jane" cannot get resource "pods/log" in API group "" in the namespace "default""#
        );
        assert_eq!(denial(&who, &path("/metrics")), r#"User "jane" cannot get path "/metrics""#);
    }
}
