//! Roles of Skiff's own, for what it does in other parts than upstream. Each says why.

use super::{Binding, Role, Subject, account, at, binding, group, on, role};

pub(super) static CLUSTER_ROLES: &[Role] = &[
    // Upstream's store forgets events by itself; here a controller deletes them.
    role("skiff:controller:event-ttl-controller", &[on("delete list", "core", "events")]),
    // An agent judges its pods' packets by policies, which select pods and namespaces anywhere by labels.
    role(
        "skiff:node-policy",
        &[
            on("list watch", "networking.k8s.io", "networkpolicies"),
            on("list watch", "core", "namespaces pods"),
        ],
    ),
    // Who may see a pod may see why it is as it is.
    Role {
        aggregates_to: "view",
        ..role("skiff:aggregate-explain-to-view", &[on("get", "core", "pods/explain")])
    },
    // Upstream's controller of these does what it likes; this one has a role.
    role(
        "skiff:controller:token-controller",
        &[on("delete get update", "core", "secrets"), on("get", "core", "serviceaccounts")],
    ),
    // A node's serving certificate is approved without an administrator, when it names that node alone.
    role(
        "skiff:kubelet-serving-approver",
        &[on("approve", "certificates.k8s.io", "signers").named("kubernetes.io/kubelet-serving")],
    ),
    // What an agent must know of its cluster before it is a node of it.
    role("skiff:cluster-info", &[at("get", "/skiff/v1/cluster")]),
];

/// Whoever shows a bootstrap token that was made for nodes to join.
const JOINING: Subject = group("system:bootstrappers:skiff:default-node-token");

pub(super) static CLUSTER_ROLE_BINDINGS: &[Binding] = &[
    // As kubeadm binds them.
    Binding { role: "system:node-bootstrapper", ..binding("skiff:node-bootstrapper", &[JOINING]) },
    Binding {
        role: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        ..binding("skiff:node-autoapprove-bootstrap", &[JOINING])
    },
    Binding {
        role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        ..binding("skiff:node-autoapprove-renewal", &[group("system:nodes")])
    },
    binding("skiff:cluster-info", &[JOINING, group("system:nodes")]),
    binding("skiff:kubelet-serving-approver", &[account("certificate-controller")]),
    // An agent holds the node's service proxy and DNS, which upstream runs as pods with accounts of their own.
    Binding { role: "system:node-proxier", ..binding("skiff:node-proxier", &[group("system:nodes")]) },
    binding("skiff:node-policy", &[group("system:nodes")]),
];
