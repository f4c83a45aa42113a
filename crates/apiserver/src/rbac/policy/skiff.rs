//! Roles of Skiff's own, for what it does in other parts than upstream. Each says why.

use super::{Binding, Role, binding, group, on, role};

pub(super) static CLUSTER_ROLES: &[Role] = &[
    // Upstream's store forgets events by itself; here a controller deletes them.
    role("skiff:controller:event-ttl-controller", &[on("delete list", "core", "events")]),
];

pub(super) static CLUSTER_ROLE_BINDINGS: &[Binding] = &[
    // An agent holds the node's service proxy and DNS, which upstream runs as pods with accounts of their own.
    Binding { role: "system:node-proxier", ..binding("skiff:node-proxier", &[group("system:nodes")]) },
];
