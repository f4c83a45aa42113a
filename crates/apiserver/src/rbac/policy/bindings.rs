//! Who has which role in a new cluster.

use super::{Binding, account, binding, group, user};

/// Of upstream's, but for those of its controllers, which follow from their roles.
pub(super) static CLUSTER_ROLE_BINDINGS: &[Binding] = &[
    binding("cluster-admin", &[group("system:masters")]),
    binding("system:basic-user", &[group("system:authenticated")]),
    binding("system:discovery", &[group("system:authenticated")]),
    binding("system:kube-controller-manager", &[user("system:kube-controller-manager")]),
    binding("system:kube-dns", &[account("kube-dns")]),
    binding("system:kube-scheduler", &[user("system:kube-scheduler")]),
    binding("system:monitoring", &[group("system:monitoring")]),
    binding("system:node", &[]),
    binding("system:node-proxier", &[user("system:kube-proxy")]),
    binding("system:public-info-viewer", &[group("system:authenticated"), group("system:unauthenticated")]),
    binding("system:service-account-issuer-discovery", &[group("system:serviceaccounts")]),
    binding("system:volume-scheduler", &[user("system:kube-scheduler")]),
];

pub(super) static ROLE_BINDINGS: &[Binding] = &[
    Binding {
        namespace: "kube-public",
        ..binding("system:controller:bootstrap-signer", &[account("bootstrap-signer")])
    },
    Binding {
        namespace: "kube-system",
        role: "extension-apiserver-authentication-reader",
        ..binding(
            "system::extension-apiserver-authentication-reader",
            &[user("system:kube-controller-manager"), user("system:kube-scheduler")],
        )
    },
    Binding {
        namespace: "kube-system",
        ..binding(
            "system::leader-locking-kube-controller-manager",
            &[
                user("system:kube-controller-manager"),
                account("kube-controller-manager"),
                account("leader-election-controller"),
            ],
        )
    },
    Binding {
        namespace: "kube-system",
        ..binding(
            "system::leader-locking-kube-scheduler",
            &[user("system:kube-scheduler"), account("kube-scheduler")],
        )
    },
    Binding {
        namespace: "kube-system",
        ..binding("system:controller:bootstrap-signer", &[account("bootstrap-signer")])
    },
    Binding {
        namespace: "kube-system",
        ..binding("system:controller:cloud-provider", &[account("cloud-provider")])
    },
    Binding {
        namespace: "kube-system",
        ..binding("system:controller:token-cleaner", &[account("token-cleaner")])
    },
];
