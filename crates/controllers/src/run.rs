//! Starts the caches and the table of controllers, and ends them together.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use skiff_client::EventRecorder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::authority::Authority;
use crate::caches::Caches;
use crate::context::{Clients, Context};
use crate::{
    account_tokens, aggregation, bootstrap_tokens, certificate_approver, certificate_cleaner,
    certificate_signer, control_plane, daemon_sets, deployments, endpoints, event_expiry, garbage,
    namespaces, node_cidrs, node_lifecycle, pod_garbage, replica_sets, root_ca, service_accounts,
};

/// What the controllers go by. Plain data; the defaults are upstream's.
#[derive(Debug, Clone)]
pub struct Config {
    /// The range that nodes' pod ranges are cut from, as `10.244.0.0/16`.
    pub cluster_cidr: String,
    /// The range of services' addresses.
    pub service_cidr: String,
    /// What the names of services and pods end in.
    pub cluster_domain: String,
    /// The addresses that the API is reached at, besides its service's.
    pub api_addresses: Vec<IpAddr>,
    /// The node that the API server runs on, which has its address.
    pub api_node: Option<String>,
    /// How long the prefix of one node's pod range is.
    pub node_cidr_prefix: u8,
    /// The certificate that pods trust the API by, PEM.
    pub ca_pem: String,
    /// Signs certificates and tokens. `None`: none are.
    pub authority: Option<Arc<dyn Authority>>,
    /// For how long the certificates are good that it signs for requests, which may ask for less.
    pub certificate_life: Duration,
    /// The node that the control plane runs on, where nodes have roles.
    pub control_plane_node: Option<String>,
    /// A node that was silent for so long is unknown.
    pub node_grace: Duration,
    /// Events live for so long after they happened last.
    pub event_ttl: Duration,
    /// More ended pods than this are collected, oldest first.
    pub ended_pods_max: usize,
    /// Keys that one controller works on at a time.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            api_addresses: Vec::new(),
            api_node: None,
            node_cidr_prefix: 24,
            ca_pem: String::new(),
            authority: None,
            certificate_life: Duration::from_secs(365 * 24 * 3600),
            control_plane_node: None,
            node_grace: Duration::from_secs(40),
            event_ttl: Duration::from_secs(3600),
            ended_pods_max: 12_500,
            workers: 5,
        }
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One row of the table: the name that its events carry, the account of `kube-system` that it writes as
/// (whose role is `system:controller:ACCOUNT`, or `skiff:controller:ACCOUNT` where upstream has none), and
/// what it does, which never ends by itself.
struct Controller {
    component: &'static str,
    account: &'static str,
    run: fn(Context) -> Running,
}

macro_rules! controller {
    ($component:literal, $account:literal, $module:ident) => {
        Controller {
            component: $component,
            account: $account,
            run: |context| Box::pin($module::run(context)),
        }
    };
}

const CONTROLLERS: &[Controller] = &[
    controller!("serviceaccount-controller", "service-account-controller", service_accounts),
    controller!("root-ca-certificate-publisher", "root-ca-cert-publisher", root_ca),
    controller!("serviceaccount-token-controller", "token-controller", account_tokens),
    controller!("bootstrap-token-cleaner", "token-cleaner", bootstrap_tokens),
    controller!("certificate-approver", "certificate-controller", certificate_approver),
    controller!("certificate-signer", "certificate-controller", certificate_signer),
    controller!("certificate-cleaner", "certificate-controller", certificate_cleaner),
    controller!("namespace-controller", "namespace-controller", namespaces),
    controller!("node-ipam-controller", "node-controller", node_cidrs),
    controller!("node-controller", "node-controller", node_lifecycle),
    controller!("node-role-controller", "node-controller", control_plane),
    controller!("endpoint-controller", "endpoint-controller", endpoints),
    controller!("replicaset-controller", "replicaset-controller", replica_sets),
    controller!("deployment-controller", "deployment-controller", deployments),
    controller!("daemonset-controller", "daemon-set-controller", daemon_sets),
    controller!("garbage-collector", "generic-garbage-collector", garbage),
    controller!("clusterrole-aggregation-controller", "clusterrole-aggregation-controller", aggregation),
    controller!("pod-garbage-collector", "pod-garbage-collector", pod_garbage),
    controller!("event-ttl-controller", "event-ttl-controller", event_expiry),
];

/// Runs all controllers until `shutdown`. Work under way is cut off then: all of it is idempotent and
/// continues at the next start.
pub async fn run(config: Config, clients: Clients, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let caches = Caches::start(&clients.shared, &mut tasks);
    tokio::select! {
        () = caches.synced() => {}
        () = shutdown.cancelled() => return,
    }
    let config = Arc::new(config);
    for controller in CONTROLLERS {
        let client = (clients.of_account)(controller.account);
        let (events, write_events) = EventRecorder::new(client.clone(), controller.component, "");
        tasks.spawn(write_events);
        let context = Context {
            clients: clients.clone(),
            client,
            caches: caches.clone(),
            events,
            config: config.clone(),
        };
        tasks.spawn((controller.run)(context));
    }
    info!(controllers = CONTROLLERS.len(), "controllers are running");
    loop {
        // Both branches are cancel-safe.
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }
    tasks.shutdown().await;
}
