//! What a node agent has to know before it starts: plain data, read and completed by the binary.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

/// The node agent's configuration.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// The node's addresses, the one that other nodes reach it by first.
    pub node_ips: Vec<Ipv4Addr>,
    /// Volumes, logs and small files of pods live below it.
    pub data_dir: PathBuf,
    /// Where the platform's processes of this node log, `ROLE.log` each; `None`: to where nobody here reads.
    pub platform_logs: Option<PathBuf>,
    /// Where pods of cluster DNS ask.
    pub cluster_dns: Vec<IpAddr>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// The range that the node asks for when it registers; `None` leaves the choice to the control plane.
    pub pod_cidr: Option<String>,
    /// Create the Node if it does not exist; else somebody else has to.
    pub register: bool,
    pub pods_max: u32,
    /// Where the runtime's cgroups hang, for the node's own accounting.
    pub cgroup_root: String,
    /// The node's resolver configuration, given to pods of `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// The address that the agent's server listens on; port 10250 by upstream's habit, 0 for any.
    pub listen: SocketAddr,
    pub serving: Serving,
    /// Kernel parameters that pods may set beside the safe ones; see [`crate::check_allowed_sysctls`].
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Containers that name no seccomp profile get the runtime's own, not none.
    pub seccomp_default: bool,
    /// The first of the IDs for pods with users of their own: [`crate::FIRST_USER`], unless nodes share a
    /// machine.
    pub first_user: u32,
    pub image_gc: crate::ImageGc,
    /// Without the leading `v`, such as `1.36.0+skiff`.
    pub version: String,
}

/// Keys and trust of the agent's server.
#[derive(Clone)]
pub struct Serving {
    /// TLS with client certificates asked for, not demanded; `None` serves in the clear, which tests do.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether there is a certificate yet; who comes before waits. `None`: there is.
    pub ready: Option<watch::Receiver<bool>>,
    /// Whose client certificates (their common names) may do all without being asked about. In the clear
    /// an empty list lets everybody in, which is for tests alone.
    pub allowed_names: Vec<String>,
    pub bounds: ServingBounds,
}

/// What clients of the agent's server may have open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServingBounds {
    /// Connections, those of the API server and administrators aside. A quarter is for who has shown no credential,
    /// and an eighth at most for one address.
    pub connections_max: usize,
    /// Connections of the API server and administrators: one for each log, command, and forwarded port.
    pub privileged_connections_max: usize,
    /// Logs that are followed. Each takes a connection and a file.
    pub followed_logs_max: usize,
    pub followed_logs_of_a_container_max: usize,
}

impl ServingBounds {
    /// The bounds of a process that may have so many descriptors open. A command takes about five beside its
    /// connection; so what clients have leaves a fifth to pods, whatever they do.
    pub fn of_descriptors(descriptors_max: u64) -> Self {
        let all = usize::try_from(descriptors_max).unwrap_or(usize::MAX);
        Self {
            connections_max: (all / 5).min(4_096),
            privileged_connections_max: (all / 10).min(4_096),
            followed_logs_max: (all / 20).min(1_024),
            followed_logs_of_a_container_max: (all / 80).min(128),
        }
    }
}

impl Config {
    /// The address in pod status and events.
    pub fn node_ip(&self) -> Ipv4Addr {
        self.node_ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// Everything of one pod but its logs.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Where localhost seccomp profiles lie.
    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join(crate::security::SECCOMP_DIR)
    }

    /// The directory of a pod's log files, named as upstream names it.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.data_dir.join("pods-log").join(format!("{namespace}_{name}_{uid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_have_open_leaves_descriptors_to_pods() {
        for descriptors in [1_024, 4_096, 20_000, 1 << 20, u64::MAX] {
            let bounds = ServingBounds::of_descriptors(descriptors);
            let taken = bounds.connections_max + 6 * bounds.privileged_connections_max;
            assert!(taken as u64 <= descriptors / 5 * 4, "{descriptors}: {bounds:?}");
            assert!(bounds.followed_logs_max <= bounds.privileged_connections_max / 2, "{bounds:?}");
            assert!(bounds.followed_logs_of_a_container_max >= 12, "{bounds:?}");
        }
    }
}
