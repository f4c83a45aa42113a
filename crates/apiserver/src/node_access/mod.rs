//! What a node's agent may do: the node authorizer and the admission of what it writes.
//!
//! An agent reads secrets, config maps, claims and accounts only where a pod of its node names them, one by
//! one; its own Node, lease and CSINode; and the pods of its node. What it may do otherwise is upstream's
//! role `system:node`. What only the written object can tell is looked at in [`restriction`].

mod graph;
mod place;
pub(crate) mod restriction;

use skiff_api::selector::FieldSelector;

use graph::Vertex;
pub(crate) use graph::{Graph, names_secrets};

use crate::auth::{Attributes, Identity};
use crate::derived::Derived;
use crate::rbac::rule::Rule;

pub(crate) const LEASES: &str = "kube-node-lease";

/// What the node authorizer says. It never says no: a role may allow what it does not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opinion {
    Yes,
    /// With why not, where there is something to say.
    None(Option<String>),
}

fn none(why: impl Into<String>) -> Opinion {
    Opinion::None(Some(why.into()))
}

pub(crate) fn decide(
    graph: &Derived<Graph>,
    rules: &[Rule],
    who: &Identity,
    what: &Attributes<'_>,
) -> Opinion {
    let Some(node) = who.node_name() else { return Opinion::None(None) };
    if node.is_empty() {
        return none(format!("unknown node for user {:?}", &*who.user));
    }
    opinion(node, rules, what, |vertex| graph.with(|graph| related(graph, node, vertex, what)))
}

fn opinion(
    node: &str,
    rules: &[Rule],
    what: &Attributes<'_>,
    related: impl Fn(Vertex) -> Opinion,
) -> Opinion {
    match (what.group, what.resource) {
        ("", "secrets") => read(what, || related(Vertex::Secret)),
        ("", "configmaps") => read(what, || related(Vertex::ConfigMap)),
        ("", "persistentvolumeclaims") if what.subresource == "status" => match what.verb {
            "update" | "patch" => related(Vertex::Claim),
            _ => none("can only update the status of PersistentVolumeClaims"),
        },
        ("", "persistentvolumeclaims") => get(what, || related(Vertex::Claim)),
        ("", "serviceaccounts") => match (what.verb, what.subresource) {
            ("get", "") => related(Vertex::Account),
            ("create", _) if what.name.is_empty() => {
                none("can only create tokens for individual service accounts")
            }
            ("create", "token") => related(Vertex::Account),
            ("create", _) => none("can only create token subresource of service account"),
            _ => none("can only create tokens for individual service accounts"),
        },
        ("coordination.k8s.io", "leases") => lease(node, what),
        ("storage.k8s.io", "csinodes") => csi_node(node, what),
        ("", "nodes") => own_node(node, what),
        ("", "pods") => pod(node, what, || related(Vertex::Pod)),
        _ if rules.iter().any(|rule| rule.allows(what)) => Opinion::Yes,
        _ => Opinion::None(None),
    }
}

/// Whether a pod of the node names the object.
fn related(graph: &Graph, node: &str, vertex: Vertex, what: &Attributes<'_>) -> Opinion {
    if what.name.is_empty() {
        return none("No Object name found");
    }
    match graph.leads(node, vertex, what.namespace, what.name) {
        true => Opinion::Yes,
        false => none(format!("no relationship found between node '{node}' and this object")),
    }
}

/// Kinds that an agent may follow object by object.
fn read(what: &Attributes<'_>, related: impl Fn() -> Opinion) -> Opinion {
    match what {
        what if !["get", "list", "watch"].contains(&what.verb) => {
            none("can only read resources of this type")
        }
        what if !what.subresource.is_empty() => none("cannot read subresource"),
        what if what.namespace.is_empty() => none("can only read namespaced object of this type"),
        _ => related(),
    }
}

fn get(what: &Attributes<'_>, related: impl Fn() -> Opinion) -> Opinion {
    match what {
        what if what.verb != "get" => none("can only get individual resources of this type"),
        what if !what.subresource.is_empty() => none("cannot get subresource"),
        _ => related(),
    }
}

fn lease(node: &str, what: &Attributes<'_>) -> Opinion {
    if !["get", "create", "update", "patch", "delete"].contains(&what.verb) {
        return none("can only get, create, update, patch, or delete a node lease");
    }
    if what.namespace != LEASES {
        return none(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // The name of one that is made is in its body, which admission looks at.
    if what.verb != "create" && what.name != node {
        return none("can only access node lease with the same name as the requesting node");
    }
    Opinion::Yes
}

fn csi_node(node: &str, what: &Attributes<'_>) -> Opinion {
    if !["get", "create", "update", "patch", "delete"].contains(&what.verb) {
        return none("can only get, create, update, patch, or delete a CSINode");
    }
    if !what.subresource.is_empty() {
        return none("cannot authorize CSINode subresources");
    }
    if what.verb != "create" && what.name != node {
        return none("can only access CSINode with the same name as the requesting node");
    }
    Opinion::Yes
}

fn own_node(node: &str, what: &Attributes<'_>) -> Opinion {
    match (what.subresource, what.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Opinion::Yes,
        ("", "get" | "list" | "watch") => match what.name {
            name if name == node => Opinion::Yes,
            "" => none(format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => none(format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => Opinion::None(None),
    }
}

fn pod(node: &str, what: &Attributes<'_>, related: impl Fn() -> Opinion) -> Opinion {
    match (what.subresource, what.verb) {
        ("", "get") => related(),
        ("", "list" | "watch") => {
            let selector = FieldSelector::parse(what.field_selector).unwrap_or_default();
            if selector.exact("spec.nodeName") == Some(node) {
                return Opinion::Yes;
            }
            if !what.name.is_empty() {
                return related();
            }
            none("can only list/watch pods with spec.nodeName field selector")
        }
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Opinion::Yes,
        _ => Opinion::None(None),
    }
}

#[cfg(test)]
mod tests;
