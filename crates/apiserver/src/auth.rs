//! Who asks, and what for.
//!
//! Authentication turns a connection into an [`Identity`]: a client certificate's common name and
//! organizations, a bearer token, or what a caller in the same process puts on its request. What is asked for
//! is told by plain [`Attributes`], over which [`crate::access`] decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use skiff_streams::places::Owner;

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

    /// A service account, as its tokens name it.
    pub fn account(namespace: &str, name: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        Self::new(&user, &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")])
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

/// Whose a connection is. Nodes and administrators have to get in for the cluster to be looked after.
pub(crate) fn owner(who: &Identity) -> Owner<'_> {
    if who.in_group("system:masters") {
        Owner::Privileged
    } else if who.in_group("system:nodes") {
        Owner::Node(&who.user)
    } else {
        Owner::Client
    }
}

/// What is asked for. For a path that is no resource, `resource` is empty and `path` says it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The API verb (`get`, `list`, `create` …), or the lower-cased method for a path.
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// Of a list or watch, as the request has it.
    pub field_selector: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_makes_a_node_not_the_name() {
        assert_eq!(Identity::new("system:node:a", &["system:nodes"]).node_name(), Some("a"));
        assert_eq!(Identity::new("system:node:a", &[]).node_name(), None);
    }
}
