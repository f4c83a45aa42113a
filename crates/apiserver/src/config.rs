//! What a server is told at its start. Plain data; nothing is read from anywhere else.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::at_rest::AtRest;
use crate::audit::AuditConfig;
use crate::clock::Clock;
use crate::limits::Limits;

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub network: Ipv4Addr,
    pub prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.96.0.0/16")]
pub struct RangeError(String);

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let fault = || RangeError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(fault)?;
        let address: Ipv4Addr = address.parse().map_err(|_| fault())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(fault)?;
        let range = Self { network: address, prefix };
        Ok(Self { network: Ipv4Addr::from(u32::from(address) & range.mask()), prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Range {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.network)
    }

    /// The first and last address between network and broadcast address.
    pub(crate) fn hosts(self) -> (u32, u32) {
        let network = u32::from(self.network);
        (network + 1, (network | !self.mask()).saturating_sub(1).max(network + 1))
    }

    /// The `n`th address, counted from the network's own.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).saturating_add(n))
    }
}

/// The network of nodes that run on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeNetwork {
    pub range: Range,
    /// Every node's way out.
    pub router: Ipv4Addr,
    /// The machine's own address there.
    pub machine: Ipv4Addr,
}

/// Everything a server needs to know.
#[derive(Clone)]
pub struct Config {
    pub service_cidr: Range,
    pub cluster_cidr: Range,
    /// The service address of the cluster DNS.
    pub cluster_dns: Ipv4Addr,
    /// As `cluster.local`.
    pub cluster_domain: String,
    /// First and last port that services of type NodePort get.
    pub node_ports: (u16, u16),
    /// Where agents reach this server: the endpoint of the Service `default/kubernetes`.
    pub advertise: (Ipv4Addr, u16),
    /// The node that this server is on, if any: it has that address too.
    pub own_node: Option<String>,
    /// How to reach agents (the server's client certificate and the CA). `None`: exec, logs and the
    /// like are refused.
    pub agent_tls: Option<Arc<rustls::ClientConfig>>,
    /// The cluster's authority, which nodes' join tokens name. `None`: nodes can't join here.
    pub pki: Option<Arc<crate::pki::Pki>>,
    /// The directory of the keys that sign service accounts' tokens; a first key is made there. `None`:
    /// one that is gone with this server.
    pub account_keys: Option<PathBuf>,
    /// What tokens and certificates are measured by.
    pub clock: Clock,
    /// Which pods namespaces let in that say nothing themselves, and what is exempt.
    pub pod_security: skiff_pod_security::Configuration,
    /// Which resources are encrypted in the store.
    pub at_rest: AtRest,
    /// Writes what other parts of the process add to `/metrics`.
    pub more_metrics: Option<fn(&mut String)>,
    /// What one client may take.
    pub limits: Limits,
    /// Which requests are recorded, and where. `None`: none.
    pub audit: Option<AuditConfig>,
    /// Where the phases of pods' starts are marked, by this server and by who shares it.
    pub starts: skiff_explain::start::Starts,
    /// Who says why a pod has no node. `None`: nobody.
    pub pending: Option<crate::explain::PendingSource>,
    /// Whether what leaves the cluster gets anywhere. `None`: not known, as on real machines.
    pub uplink: Option<bool>,
    /// The network that all nodes are in, where this platform made it.
    pub node_network: Option<NodeNetwork>,
    /// For the answer to `/version`, as `v1.36.0`.
    pub version: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_cidr: Range { network: Ipv4Addr::new(10, 96, 0, 0), prefix: 16 },
            cluster_cidr: Range { network: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 },
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".into(),
            node_ports: (30000, 32767),
            advertise: (Ipv4Addr::new(192, 0, 2, 1), 6443),
            own_node: None,
            agent_tls: None,
            pki: None,
            account_keys: None,
            clock: Clock::default(),
            pod_security: skiff_pod_security::Configuration::default(),
            at_rest: AtRest::default(),
            more_metrics: None,
            limits: Limits::default(),
            audit: None,
            starts: skiff_explain::start::Starts::default(),
            pending: None,
            uplink: None,
            node_network: None,
            version: "v1.36.0".into(),
        }
    }
}
