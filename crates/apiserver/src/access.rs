//! Whether they may: who is asked in which order, and what a refusal says.
//!
//! Members of `system:masters` may do everything; agents what concerns their node and its pods
//! ([`crate::node_access`]); and everybody what roles and bindings give them ([`crate::rbac`]). The first
//! who says yes settles it; nobody says no.

use std::fmt;
use std::sync::Arc;

use skiff_api::status::{GroupResource, StatusError};

use crate::auth::{Attributes, Identity};
use crate::cache::Caches;
use crate::derived::Derived;
use crate::node_access::{self, Graph, Opinion};
use crate::rbac::index::{Grant, Index, Verdict};
use crate::rbac::rule::{Rule, aggregate};

/// The group that needs no role.
const MASTERS: &str = "system:masters";

pub(crate) struct Access {
    index: Derived<Index>,
    graph: Derived<Graph>,
    node_rules: Vec<Rule>,
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Decision {
    Allowed(Why),
    /// With what those who were asked have to say, if anything.
    Denied(String),
}

/// Who said yes.
#[derive(Debug)]
pub(crate) enum Why {
    Master,
    Node,
    Grant(Arc<Grant>),
}

/// The reason that an access review shows.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master | Self::Node => Ok(()),
            Self::Grant(grant) => write!(f, "RBAC: allowed by {grant}"),
        }
    }
}

impl Access {
    pub(crate) fn new(caches: &Arc<Caches>) -> Self {
        Self {
            index: Derived::new(Arc::clone(caches)),
            graph: Derived::new(Arc::clone(caches)),
            node_rules: crate::rbac::policy::node_rules(),
        }
    }

    pub(crate) fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Decision {
        if who.in_group(MASTERS) {
            return Decision::Allowed(Why::Master);
        }
        let mut said = Vec::new();
        match node_access::decide(&self.graph, &self.node_rules, who, what) {
            Opinion::Yes => return Decision::Allowed(Why::Node),
            Opinion::None(Some(why)) => said.push(why),
            Opinion::None(None) => {}
        }
        match self.index.with(|index| index.decide(who, what)) {
            Verdict::Allowed(grant) => return Decision::Allowed(Why::Grant(grant)),
            Verdict::Denied(absent) if absent.is_empty() => {}
            Verdict::Denied(absent) => {
                let absent: Vec<String> = absent.iter().map(ToString::to_string).collect();
                said.push(format!("RBAC: {}", aggregate(&absent)));
            }
        }
        Decision::Denied(said.join("\n"))
    }

    pub(crate) fn allows(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        matches!(self.decide(who, what), Decision::Allowed(_))
    }

    /// Refuses what is not allowed.
    pub(crate) fn check(&self, who: &Identity, what: &Attributes<'_>) -> Result<(), StatusError> {
        let Decision::Denied(why) = self.decide(who, what) else { return Ok(()) };
        let mut denial = denial(who, what);
        if !why.is_empty() {
            denial = format!("{denial}: {why}");
        }
        if what.resource.is_empty() {
            return Err(StatusError::forbidden_path(&denial));
        }
        let of = GroupResource { group: what.group, resource: what.resource };
        Err(StatusError::forbidden(of, what.name, &denial))
    }

    /// Looks at roles and bindings.
    pub(crate) fn index<R>(&self, look: impl FnOnce(&Index) -> R) -> R {
        self.index.with(look)
    }

    /// All rules of a user in a namespace, and whether (and why) there may be more.
    pub(crate) fn rules_of(&self, who: &Identity, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut faults = Vec::new();
        let mut rules = Vec::new();
        if who.in_group(MASTERS) {
            let star = || vec!["*".to_owned()];
            rules.push(Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() });
            rules.push(Rule { verbs: star(), urls: star(), ..Rule::default() });
        }
        if who.node_name().is_some() {
            faults.push("node authorizer does not support user rule resolution".to_owned());
        }
        let (more, absent) = self.index.with(|index| index.rules_of(who, namespace));
        rules.extend(more);
        faults.extend(absent.iter().map(ToString::to_string));
        (rules, faults)
    }
}

/// The sentence after `… is forbidden: `.
fn denial(who: &Identity, what: &Attributes<'_>) -> String {
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

    #[test]
    fn a_denial_reads_as_upstreams() {
        let who = Identity::new("jane", &[]);
        let what = Attributes {
            verb: "get",
            resource: "pods",
            subresource: "log",
            namespace: "default",
            name: "p",
            ..Attributes::default()
        };
        assert_eq!(
            denial(&who, &what),
            r#"User "jane" cannot get resource "pods/log" in API group "" in the namespace "default""#
        );
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        assert_eq!(denial(&who, &path), r#"User "jane" cannot get path "/metrics""#);
    }
}
