//! Roles of the platform's own namespaces.

use super::{EVENTS, READ, Role, on, role};

pub(super) static ROLES: &[Role] = &[
    Role {
        namespace: "kube-public",
        ..role(
            "system:controller:bootstrap-signer",
            &[
                on(READ, "core", "configmaps"),
                on("update", "core", "configmaps").named("cluster-info"),
                EVENTS,
            ],
        )
    },
    Role {
        namespace: "kube-system",
        ..role(
            "extension-apiserver-authentication-reader",
            &[on(READ, "core", "configmaps").named("extension-apiserver-authentication")],
        )
    },
    Role {
        namespace: "kube-system",
        ..role(
            "system::leader-locking-kube-controller-manager",
            &[
                on("create get list update watch", "coordination.k8s.io", "leases"),
                on("create get list update watch", "coordination.k8s.io", "leasecandidates"),
            ],
        )
    },
    Role {
        namespace: "kube-system",
        ..role(
            "system::leader-locking-kube-scheduler",
            &[
                on("create get list update watch", "coordination.k8s.io", "leases"),
                on("create get list update watch", "coordination.k8s.io", "leasecandidates"),
            ],
        )
    },
    Role {
        namespace: "kube-system",
        ..role("system:controller:bootstrap-signer", &[on(READ, "core", "secrets")])
    },
    Role {
        namespace: "kube-system",
        ..role("system:controller:cloud-provider", &[on("create get list watch", "core", "configmaps")])
    },
    Role {
        namespace: "kube-system",
        ..role("system:controller:token-cleaner", &[on("delete get list watch", "core", "secrets"), EVENTS])
    },
];
