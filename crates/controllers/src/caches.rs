//! The local copies that all controllers read.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use skiff_client::{Cache, Client, ListParams};
use tokio::task::JoinSet;

use crate::garbage::kinds::{Kept, Kind};

macro_rules! caches {
    ($($field:ident: $kind:ty),* $(,)?) => {
        #[derive(Clone)]
        pub(crate) struct Caches {
            $(pub(crate) $field: Cache<$kind>,)*
        }

        impl Caches {
            /// Starts to follow every kind.
            pub(crate) fn start(client: &Client, tasks: &mut JoinSet<()>) -> Self {
                $(
                    let $field = Cache::<$kind>::new(client.clone(), ListParams::default());
                    tasks.spawn($field.clone().run());
                )*
                Self { $($field),* }
            }

            /// The copies as the garbage collector sees them: any kind alike.
            pub(crate) fn kinds(&self, client: &Client) -> Vec<Arc<dyn Kind>> {
                vec![$(Arc::new(Kept { cache: self.$field.clone(), client: client.clone() })),*]
            }

            /// Returns when every copy has been true once.
            pub(crate) async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
        }
    };
}

caches! {
    certificate_signing_requests: CertificateSigningRequest,
    cluster_role_bindings: ClusterRoleBinding,
    cluster_roles: ClusterRole,
    config_maps: ConfigMap,
    controller_revisions: ControllerRevision,
    daemon_sets: DaemonSet,
    deployments: Deployment,
    endpoint_slices: EndpointSlice,
    endpoints: Endpoints,
    leases: Lease,
    namespaces: Namespace,
    nodes: Node,
    pods: Pod,
    replica_sets: ReplicaSet,
    role_bindings: RoleBinding,
    roles: Role,
    secrets: Secret,
    service_accounts: ServiceAccount,
    services: Service,
}
