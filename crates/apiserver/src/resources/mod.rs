//! The resource table: one row for each resource that is served.
//!
//! Routing, discovery, selectors and rendering all derive from the rows; a row names a [`Strategy`]
//! only where its kind has rules of its own. Adding a kind is one row here, and a strategy file if it
//! needs one.

mod apps;
mod certificates;
mod events;
mod misc;
mod namespaces;
mod nodes;
mod pod_completion;
mod pods;
mod rbac;
mod services;
mod strategy;

use k8s_openapi::api::certificates::v1 as certificates_v1;
use k8s_openapi::api::networking::v1 as networking_v1;
use k8s_openapi::api::rbac::v1 as rbac_v1;
use k8s_openapi::api::scheduling::v1 as scheduling_v1;
use k8s_openapi::api::{apps::v1 as apps_v1, coordination::v1 as coordination_v1, core::v1 as core_v1};
use k8s_openapi::api::{discovery::v1 as discovery_v1, events::v1 as events_v1};
use serde_json::Value;
use skiff_api::status::GroupResource;
use skiff_api::typed::AnyObject;

use crate::object::{Partial, typed_as};
pub(crate) use nodes::{ranges as node_ranges, spans as node_spans};
pub(crate) use pods::condition as pod_condition;
pub(crate) use services::{cluster_ip as service_ip, node_ports as service_node_ports};
pub(crate) use strategy::{Cx, DeleteMode, Plain, Strategy};

/// A field that `fieldSelector` may name besides `metadata.name` and `metadata.namespace`.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) value: fn(&Partial) -> String,
}

/// A subresource as discovery lists it. What it does is in the router.
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

/// Another version's shape of the same stored objects.
pub(crate) struct Conversion {
    /// From the stored kind's JSON to this row's.
    pub(crate) from_stored: fn(&mut Value),
    /// From this row's JSON to the stored kind's.
    pub(crate) to_stored: fn(&mut Value),
}

pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) list_kind: &'static str,
    json_head: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) namespaced: bool,
    /// First segment of its keys; rows of one storage share their objects.
    pub(crate) storage: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) verbs: &'static [&'static str],
    pub(crate) subresources: &'static [Subresource],
    pub(crate) fields: &'static [Field],
    /// Writes to the main endpoint drop `status`, writes to `/status` drop all else.
    pub(crate) status: bool,
    /// `metadata.generation` counts changes outside of metadata and status.
    pub(crate) generation: bool,
    pub(crate) strategy: &'static dyn Strategy,
    pub(crate) typed: fn(&[u8]) -> Option<AnyObject>,
    pub(crate) conversion: Option<Conversion>,
    /// What every answer warns of.
    pub(crate) deprecated: Option<&'static str>,
}

impl Resource {
    pub(crate) fn api_version(&self) -> &'static str {
        self.api_version
    }

    /// What the JSON of an object starts with, up to where the resource version goes.
    pub(crate) fn json_head(&self) -> &'static str {
        self.json_head
    }

    pub(crate) fn group_resource(&self) -> GroupResource<'static> {
        GroupResource { group: self.group, resource: self.plural }
    }

    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        match self.namespaced {
            true => format!("/{}/{namespace}/{name}", self.storage),
            false => format!("/{}/{name}", self.storage),
        }
    }

    pub(crate) fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION_DELETE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ_WRITE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group: "", version: "", kind, verbs }
}

const SCALE: Subresource =
    Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: READ_WRITE };

const fn field(name: &'static str, value: fn(&Partial) -> String) -> Field {
    Field { name, value }
}

macro_rules! row {
    ($group:literal, $version:literal, $api_version:literal, $kind:literal, $plural:literal, $singular:literal,
     $typed:ty, { $($name:ident: $value:expr),* $(,)? }) => {{
        #[allow(unused_mut, unused_assignments, reason = "a row may be as the defaults are")]
        const fn make() -> Resource {
            let mut row = Resource {
                group: $group,
                version: $version,
                api_version: $api_version,
                kind: $kind,
                list_kind: concat!($kind, "List"),
                json_head: concat!(
                    "{\"kind\":\"", $kind, "\",\"apiVersion\":\"", $api_version, "\",\"metadata\":{"
                ),
                plural: $plural,
                singular: $singular,
                namespaced: true,
                storage: $plural,
                short_names: &[],
                categories: &[],
                verbs: ALL,
                subresources: &[],
                fields: &[],
                status: false,
                generation: false,
                strategy: &Plain,
                typed: typed_as::<$typed>,
                conversion: None,
                deprecated: None,
            };
            $(row.$name = const { $value };)*
            row
        }
        make()
    }};
}

pub(crate) static RESOURCES: &[Resource] = &[
    row!("", "v1", "v1", "ConfigMap", "configmaps", "configmap", core_v1::ConfigMap, {
        short_names: &["cm"],
        strategy: &misc::ConfigMaps,
    }),
    row!("", "v1", "v1", "Endpoints", "endpoints", "endpoints", core_v1::Endpoints, {
        short_names: &["ep"],
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        strategy: &misc::Endpoints,
    }),
    row!("", "v1", "v1", "Event", "events", "event", core_v1::Event, {
        short_names: &["ev"],
        fields: &[
            field("involvedObject.kind", |p| p.involved_object.kind.clone()),
            field("involvedObject.namespace", |p| p.involved_object.namespace.clone()),
            field("involvedObject.name", |p| p.involved_object.name.clone()),
            field("involvedObject.uid", |p| p.involved_object.uid.clone()),
            field("involvedObject.apiVersion", |p| p.involved_object.api_version.clone()),
            field("involvedObject.resourceVersion", |p| p.involved_object.resource_version.clone()),
            field("involvedObject.fieldPath", |p| p.involved_object.field_path.clone()),
            field("reason", |p| p.reason.clone()),
            field("reportingComponent", events::reporting),
            field("source", events::source),
            field("type", |p| p.type_.clone()),
        ],
        strategy: &events::Events,
    }),
    row!("", "v1", "v1", "Namespace", "namespaces", "namespace", core_v1::Namespace, {
        namespaced: false,
        short_names: &["ns"],
        verbs: NO_COLLECTION_DELETE,
        subresources: &[sub("finalize", "Namespace", &["update"]), sub("status", "Namespace", READ_WRITE)],
        fields: &[field("status.phase", |p| p.status.phase.clone())],
        status: true,
        strategy: &namespaces::Namespaces,
    }),
    row!("", "v1", "v1", "Node", "nodes", "node", core_v1::Node, {
        namespaced: false,
        short_names: &["no"],
        subresources: &[sub("proxy", "NodeProxyOptions", PROXY), sub("status", "Node", READ_WRITE)],
        fields: &[field("spec.unschedulable", |p| p.spec.unschedulable.to_string())],
        status: true,
        strategy: &nodes::Nodes,
    }),
    row!("", "v1", "v1", "Pod", "pods", "pod", core_v1::Pod, {
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            sub("attach", "PodAttachOptions", CONNECT),
            sub("binding", "Binding", CREATE),
            Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: CREATE },
            sub("exec", "PodExecOptions", CONNECT),
            sub("log", "Pod", &["get"]),
            sub("portforward", "PodPortForwardOptions", CONNECT),
            sub("proxy", "PodProxyOptions", PROXY),
            sub("status", "Pod", READ_WRITE),
        ],
        fields: &[
            field("spec.nodeName", |p| p.spec.node_name.clone()),
            field("spec.restartPolicy", |p| p.spec.restart_policy.clone()),
            field("spec.schedulerName", |p| p.spec.scheduler_name.clone()),
            field("spec.serviceAccountName", |p| p.spec.service_account_name.clone()),
            field("spec.hostNetwork", |p| p.spec.host_network.to_string()),
            field("status.phase", |p| p.status.phase.clone()),
            field("status.podIP", |p| p.status.pod_ip.clone()),
            field("status.nominatedNodeName", |p| p.status.nominated_node_name.clone()),
        ],
        status: true,
        generation: true,
        strategy: &pods::Pods,
    }),
    row!("", "v1", "v1", "Secret", "secrets", "secret", core_v1::Secret, {
        fields: &[field("type", |p| p.type_.clone())],
        strategy: &misc::Secrets,
    }),
    row!("", "v1", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", core_v1::ServiceAccount, {
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token", group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", verbs: CREATE,
        }],
        strategy: &misc::ServiceAccounts,
    }),
    row!("", "v1", "v1", "Service", "services", "service", core_v1::Service, {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[sub("proxy", "ServiceProxyOptions", PROXY), sub("status", "Service", READ_WRITE)],
        fields: &[
            field("spec.clusterIP", |p| p.spec.cluster_ip.clone()),
            field("spec.type", |p| p.spec.type_.clone()),
        ],
        status: true,
        strategy: &services::Services,
    }),
    row!("apps", "v1", "apps/v1", "ControllerRevision", "controllerrevisions", "controllerrevision",
        apps_v1::ControllerRevision, {
        strategy: &apps::ControllerRevisions,
    }),
    row!("apps", "v1", "apps/v1", "DaemonSet", "daemonsets", "daemonset", apps_v1::DaemonSet, {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[sub("status", "DaemonSet", READ_WRITE)],
        status: true,
        generation: true,
        strategy: &apps::Workloads,
    }),
    row!("apps", "v1", "apps/v1", "Deployment", "deployments", "deployment", apps_v1::Deployment, {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, sub("status", "Deployment", READ_WRITE)],
        status: true,
        generation: true,
        strategy: &apps::Workloads,
    }),
    row!("apps", "v1", "apps/v1", "ReplicaSet", "replicasets", "replicaset", apps_v1::ReplicaSet, {
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, sub("status", "ReplicaSet", READ_WRITE)],
        fields: &[field("status.replicas", |p| p.status.replicas.to_string())],
        status: true,
        generation: true,
        strategy: &apps::Workloads,
    }),
    row!("certificates.k8s.io", "v1", "certificates.k8s.io/v1", "CertificateSigningRequest",
        "certificatesigningrequests", "certificatesigningrequest", certificates_v1::CertificateSigningRequest, {
        namespaced: false,
        short_names: &["csr"],
        subresources: &[
            sub("approval", "CertificateSigningRequest", READ_WRITE),
            sub("status", "CertificateSigningRequest", READ_WRITE),
        ],
        fields: &[field("spec.signerName", |p| p.spec.signer_name.clone())],
        status: true,
        strategy: &certificates::CertificateSigningRequests,
    }),
    row!("coordination.k8s.io", "v1", "coordination.k8s.io/v1", "Lease", "leases", "lease",
        coordination_v1::Lease, {
        strategy: &misc::Leases,
    }),
    row!("discovery.k8s.io", "v1", "discovery.k8s.io/v1", "EndpointSlice", "endpointslices", "endpointslice",
        discovery_v1::EndpointSlice, {
        generation: true,
        strategy: &misc::EndpointSlices,
    }),
    row!("events.k8s.io", "v1", "events.k8s.io/v1", "Event", "events", "event", events_v1::Event, {
        short_names: &["ev"],
        fields: &[
            field("regarding.kind", |p| p.involved_object.kind.clone()),
            field("regarding.namespace", |p| p.involved_object.namespace.clone()),
            field("regarding.name", |p| p.involved_object.name.clone()),
            field("regarding.uid", |p| p.involved_object.uid.clone()),
            field("regarding.apiVersion", |p| p.involved_object.api_version.clone()),
            field("regarding.resourceVersion", |p| p.involved_object.resource_version.clone()),
            field("regarding.fieldPath", |p| p.involved_object.field_path.clone()),
            field("reason", |p| p.reason.clone()),
            field("reportingController", events::reporting),
            field("source", events::source),
            field("type", |p| p.type_.clone()),
        ],
        strategy: &events::Events,
        conversion: Some(Conversion { from_stored: events::from_core, to_stored: events::to_core }),
    }),
    row!("networking.k8s.io", "v1", "networking.k8s.io/v1", "NetworkPolicy", "networkpolicies",
        "networkpolicy", networking_v1::NetworkPolicy, {
        short_names: &["netpol"],
        generation: true,
    }),
    row!("rbac.authorization.k8s.io", "v1", "rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles",
        "clusterrole", rbac_v1::ClusterRole, {
        namespaced: false,
        strategy: &rbac::roles("clusterroles"),
    }),
    row!("rbac.authorization.k8s.io", "v1", "rbac.authorization.k8s.io/v1", "ClusterRoleBinding",
        "clusterrolebindings", "clusterrolebinding", rbac_v1::ClusterRoleBinding, {
        namespaced: false,
        strategy: &rbac::bindings("clusterrolebindings"),
    }),
    row!("rbac.authorization.k8s.io", "v1", "rbac.authorization.k8s.io/v1", "Role", "roles", "role",
        rbac_v1::Role, {
        strategy: &rbac::roles("roles"),
    }),
    row!("rbac.authorization.k8s.io", "v1", "rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings",
        "rolebinding", rbac_v1::RoleBinding, {
        strategy: &rbac::bindings("rolebindings"),
    }),
    row!("scheduling.k8s.io", "v1", "scheduling.k8s.io/v1", "PriorityClass", "priorityclasses",
        "priorityclass", scheduling_v1::PriorityClass, {
        namespaced: false,
        short_names: &["pc"],
        generation: true,
        strategy: &misc::PriorityClasses,
    }),
];

/// The row of a resource, in the group's one version.
pub(crate) fn find(group: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.plural == plural)
}

/// The row whose objects a storage holds as they are.
pub(crate) fn of_storage(storage: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.storage == storage && r.conversion.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_storage_select_by_the_same_values() {
        for row in RESOURCES {
            let stored = of_storage(row.storage).expect("each storage has a row of its own shape");
            assert_eq!(row.fields.len(), stored.fields.len(), "{}", row.plural);
        }
    }

    #[test]
    fn no_resource_is_listed_twice() {
        for (i, a) in RESOURCES.iter().enumerate() {
            assert!(!RESOURCES[i + 1..].iter().any(|b| (a.group, a.plural) == (b.group, b.plural)));
        }
    }
}
