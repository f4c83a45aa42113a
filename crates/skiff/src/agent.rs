//! `skiff agent`: a node. One process for kubelet, runtime, pod network, service proxy and DNS.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use skiff_client::{Cache, ListParams};
use skiff_kubelet::ImageGc;
use skiff_network::{Cidr, LocalNetwork};
use skiff_runtime::images::{self, ImageStore};
use skiff_runtime::{LocalRuntime, private};
use skiff_sys::netlink::route::Connection;
use skiff_sys::nft::Ruleset;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::ending::Ending;
use crate::machine;
use crate::membership::{Membership, Refused};
use crate::resolver;
use crate::server::run_to_the_end;
use crate::up::node::component;

/// The common name of the API server's certificate for agents.
const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// Upstream's name for the cgroup that all pods are in.
pub(crate) const CGROUP_ROOT: &str = "kubepods";

/// Upstream's port of a node's agent.
const AGENT_PORT: u16 = 10250;

/// The link that all pods of a node hang on.
pub(crate) const BRIDGE: &str = "cbr0";

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Holds the join token, where it is no argument.
const TOKEN_VARIABLE: &str = "SKIFF_TOKEN";

/// Make this machine a node of a cluster
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's API, such as https://192.0.2.10:6443
    #[arg(long, value_name = "URL", value_parser = server_address)]
    server: String,
    /// The cluster's join token, until the machine has joined
    #[arg(long, env = TOKEN_VARIABLE, hide_env_values = true)]
    token: Option<String>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    own: NodeArgs,
    /// Where the node's data are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/skiff/agent")]
    data_dir: PathBuf,
    #[command(flatten)]
    pods: PodPolicy,
}

impl Args {
    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        let token = fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?;
        if token.trim().is_empty() {
            bail!("--token-file {} is empty", file.display());
        }
        Ok(Some(token.trim().to_owned()))
    }

    /// Every user of the machine reads a process's arguments, and only its own its environment.
    fn hide_token(&self) -> anyhow::Result<()> {
        let (Some(token), given) = (&self.token, std::env::args_os()) else { return Ok(()) };
        let Some(left) = without_token(given.skip(1).collect()) else { return Ok(()) };
        let error = Command::new("/proc/self/exe").arg0("skiff").args(left).env(TOKEN_VARIABLE, token).exec();
        Err(error).context("cannot start without the token among the arguments")
    }
}

/// The arguments without the join token; `None` if they don't have it.
fn without_token(arguments: Vec<OsString>) -> Option<Vec<OsString>> {
    const FLAG: &[u8] = b"--token";
    let before = arguments.len();
    let mut left = Vec::new();
    let mut given = arguments.into_iter();
    while let Some(argument) = given.next() {
        let bytes = argument.as_encoded_bytes();
        if bytes == FLAG {
            given.next();
        } else if !bytes.strip_prefix(FLAG).is_some_and(|rest| rest.first() == Some(&b'=')) {
            left.push(argument);
        }
    }
    (left.len() < before).then_some(left)
}

/// Who this machine is in the cluster: flags of every command that makes it a node.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "node")]
pub(crate) struct NodeArgs {
    /// This machine's name in the cluster [default: its host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// This machine's address in the cluster [default: the one that leads out]
    #[arg(long, value_name = "IP")]
    node_ip: Option<Ipv4Addr>,
}

impl NodeArgs {
    /// Name and address, the machine's own where none was given.
    pub(crate) fn resolved(&self) -> anyhow::Result<(String, Ipv4Addr)> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        let ip = match self.node_ip {
            Some(ip) => ip,
            None => own_address().context("cannot tell this machine's address: name it with --node-ip")?,
        };
        Ok((name, ip))
    }
}

/// This machine's host name.
fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host name")?;
    Ok(name.to_string_lossy().to_ascii_lowercase())
}

/// The address that packets to the outside bear. Nothing is sent: connecting a UDP socket only looks up
/// a route.
fn own_address() -> anyhow::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() && !ip.is_loopback() => Ok(ip),
        other => bail!("the only way out is by {other}"),
    }
}

/// What a node lets its pods do, and when it removes images: flags of every command that starts an agent.
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodPolicy {
    /// Kernel parameters that pods may set beside the safe ones; a name may end in * for all that begin so
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = sysctl_pattern)]
    allowed_unsafe_sysctls: Vec<String>,
    /// Filter the system calls of containers that name no seccomp profile by the default one
    #[arg(long)]
    seccomp_default: bool,
    /// Remove unused images once this much of their disk is used; 100: never
    #[arg(long, value_name = "PERCENT", default_value_t = ImageGc::default().high_percent, value_parser = percent())]
    image_gc_high_threshold: u8,
    /// Remove unused images until this much of their disk is used
    #[arg(long, value_name = "PERCENT", default_value_t = ImageGc::default().low_percent, value_parser = percent())]
    image_gc_low_threshold: u8,
}

impl Default for PodPolicy {
    fn default() -> Self {
        let images = ImageGc::default();
        Self {
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
            image_gc_high_threshold: images.high_percent,
            image_gc_low_threshold: images.low_percent,
        }
    }
}

impl PodPolicy {
    /// Thresholds, each allowed by itself, may not go together.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.image_gc().check().map_err(|error| anyhow::anyhow!("invalid configuration: {error}"))
    }

    fn image_gc(&self) -> ImageGc {
        ImageGc {
            high_percent: self.image_gc_high_threshold,
            low_percent: self.image_gc_low_threshold,
            ..ImageGc::default()
        }
    }
}

fn percent() -> impl clap::builder::TypedValueParser<Value = u8> {
    clap::value_parser!(u8).range(0..=100)
}

/// `host:port` of the API's address.
fn server_address(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let is_one = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match is_one {
        true => Ok(address.to_owned()),
        false => Err("it is no address such as https://192.0.2.10:6443".to_owned()),
    }
}

fn sysctl_pattern(text: &str) -> Result<String, String> {
    let pattern = text.to_owned();
    skiff_kubelet::check_allowed_sysctls(std::slice::from_ref(&pattern))?;
    Ok(pattern)
}

/// What a node's agent is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgentConfig {
    pub(crate) node_name: String,
    pub(crate) node_ip: Ipv4Addr,
    /// `host:port` of the API.
    pub(crate) server: String,
    pub(crate) token: Option<String>,
    pub(crate) data_dir: PathBuf,
    /// Sockets; short.
    pub(crate) run_dir: PathBuf,
    pub(crate) images_dir: PathBuf,
    /// Where this node's processes log; `None`: to standard error.
    #[serde(default)]
    pub(crate) logs: Option<PathBuf>,
    /// `None`: what the control plane assigns.
    pub(crate) pod_cidr: Option<Cidr>,
    /// Takes no ordinary pods.
    pub(crate) control_plane: bool,
    #[serde(default)]
    pub(crate) pods: PodPolicy,
    /// Where the IDs for pods with users of their own begin.
    #[serde(default = "first_user")]
    pub(crate) first_user: u32,
}

/// Where the runtime of an agent with this data directory has its own.
pub(crate) fn runtime_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("runtime")
}

pub(crate) fn first_user() -> u32 {
    skiff_kubelet::FIRST_USER
}

/// `skiff agent`.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    args.hide_token()?;
    crate::up::require_root("agent")?;
    args.pods.check()?;
    crate::kernel::check()?;
    let data_dir = std::path::absolute(&args.data_dir).context("--data-dir")?;
    let (node_name, node_ip) = args.own.resolved()?;
    let mut config = AgentConfig {
        node_name,
        node_ip,
        server: args.server.clone(),
        token: args.token()?,
        images_dir: data_dir.join("images"),
        run_dir: PathBuf::from("/run/skiff-agent"),
        logs: None,
        data_dir,
        pod_cidr: None,
        control_plane: false,
        pods: args.pods.clone(),
        first_user: first_user(),
    };
    let begun = machine::begin("agent", &config.data_dir)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    match runtime.block_on(Membership::ask(&config)) {
        Ok(_) => config.token = None,
        Err(error) if error.is::<Refused>() => {
            begun.undo();
            return Err(error);
        }
        // The agent goes on asking.
        Err(error) => crate::tell(format_args!("Not joined yet, waiting for the server: {error:#}")),
    }
    let path = config.data_dir.join("agent.json");
    config::write(&path, &config)?;
    begun.in_use().keep_over_exec()?;
    // From here on it is the process that every node has, with the name that people look for.
    let mut agent = Command::new("/proc/self/exe");
    let error = agent.arg0("kubelet").args(component("agent", &path)).env_remove(TOKEN_VARIABLE).exec();
    Err(error).context("cannot run the agent")
}

/// The agent's process.
pub(crate) async fn serve(config: AgentConfig, path: &Path, ending: &Ending) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    private::make_dir(&config.data_dir).context("cannot keep the data from others' eyes")?;
    // The server may take a while to answer, and what else there is to open doesn't need it.
    let joining = tokio::spawn({
        let config = config.clone();
        async move { Membership::obtain(&config).await }
    });
    let images =
        ImageStore::open(images::Config::new(&config.images_dir)).context("cannot open the image store")?;
    let mut runtime_config = skiff_runtime::Config::new(runtime_dir(&config.data_dir), &config.run_dir);
    runtime_config.cgroup_root = CGROUP_ROOT.into();
    let runtime = LocalRuntime::open(runtime_config, images).context("cannot open the container runtime")?;
    let ruleset = Ruleset::open().context("cannot use nftables")?;
    ruleset.await_parts(&[skiff_network::PART]);
    ruleset.await_parts(&skiff_proxy::PARTS);
    let membership = joining.await.context("joining the cluster panicked")??;
    // One use is enough, and whoever reads it could make nodes of the cluster.
    let config = AgentConfig { token: None, ..config };
    config::write(path, &config)?;
    let cluster = &membership.cluster;
    let client = membership.client();
    let cluster_cidr: Cidr = cluster.cluster_cidr.parse().context("the cluster's pod range")?;
    let service_cidr: Cidr = cluster.service_cidr.parse().context("the cluster's service range")?;
    let dns: Ipv4Addr = cluster.cluster_dns.parse().context("the cluster's DNS address")?;

    let mut parts = JoinSet::new();
    let network_config = skiff_network::Config {
        bridge: BRIDGE.to_owned(),
        // Replaced by what the node is assigned.
        pod_cidr: cluster_cidr,
        cluster_cidr,
        service_cidr,
        node_ip: config.node_ip,
        mtu: 0,
        state_dir: config.data_dir.join("network"),
        own_ports: own_ports(&config),
    };
    let rules = ruleset.clone();
    let make_network: skiff_kubelet::NetworkFactory = Box::new(move |pod_cidr: String| {
        let pod_cidr: Cidr = pod_cidr.parse()?;
        let network = LocalNetwork::start_blocking(
            skiff_network::Config { pod_cidr, ..network_config.clone() },
            rules.clone(),
        )?;
        Ok(Arc::new(network) as Arc<dyn skiff_network::Network>)
    });
    let policies = skiff_proxy::policy::Policies::new(client.clone());
    let isolation = Arc::new(crate::isolation::ByPolicies(policies.clone()));
    let (client_, stop) = (client.clone(), shutdown.clone());
    let kubelet = kubelet_config(&config, &membership)?;
    parts.spawn(async move {
        if let Err(error) = skiff_kubelet::run(kubelet, client_, runtime, make_network, isolation, stop).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the kubelet failed");
        }
        "the kubelet"
    });
    let proxy = skiff_proxy::Config {
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
        cluster_cidr: cluster.cluster_cidr.parse().context("the cluster's pod range")?,
        service_cidr: cluster.service_cidr.parse().context("the cluster's service range")?,
        local_addresses: vec![dns],
    };
    let (client_, stop) = (client.clone(), shutdown.clone());
    parts.spawn(async move {
        if let Err(error) = skiff_proxy::run(proxy, client_, policies, ruleset, stop).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the service proxy failed");
        }
        "the service proxy"
    });
    let kernel = Connection::open()?;
    let loopback = kernel.link("lo")?.context("the node has no loopback link")?.index;
    kernel.set_up("lo")?;
    kernel.add_address(loopback, dns, 32)?;
    let dns_config = skiff_dns::Config {
        listen: SocketAddr::from((dns, 53)),
        zone: cluster.cluster_domain.clone(),
        forwarders: skiff_dns::Forwarders::Of(resolver::resolv_conf()),
    };
    let caches = skiff_dns::Caches {
        services: Cache::new(client.clone(), ListParams::default()),
        slices: Cache::new(client, ListParams::default()),
        pods: None,
    };
    parts.spawn(until(shutdown.clone(), "the copy of services", caches.services.clone().run()));
    parts.spawn(until(shutdown.clone(), "the copy of endpoint slices", caches.slices.clone().run()));
    let stop = shutdown.clone();
    parts.spawn(async move {
        if let Err(error) = skiff_dns::run(dns_config, caches, stop.cancelled()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "DNS failed");
        }
        "DNS"
    });
    parts.spawn(until(shutdown.clone(), "the keeping of certificates", membership.keep()));
    run_to_the_end(parts, shutdown, ending).await
}

/// What never ends by itself.
async fn until(
    shutdown: CancellationToken,
    part: &'static str,
    work: impl Future<Output = ()>,
) -> &'static str {
    shutdown.run_until_cancelled(work).await;
    part
}

/// What this node serves on its addresses: the agent, and the API where the server is this machine.
fn own_ports(config: &AgentConfig) -> Vec<(skiff_network::Protocol, u16)> {
    let server = config.server.parse::<SocketAddr>().ok();
    let api = server.filter(|server| server.ip() == IpAddr::V4(config.node_ip)).map(|server| server.port());
    let ports = [Some(AGENT_PORT), api].into_iter().flatten();
    ports.map(|port| (skiff_network::Protocol::Tcp, port)).collect()
}

fn kubelet_config(config: &AgentConfig, membership: &Membership) -> anyhow::Result<skiff_kubelet::Config> {
    let cluster = &membership.cluster;
    let descriptors_max = skiff_sys::descriptors::max().context("cannot read how many files may be open")?;
    let mut taints = Vec::new();
    // The label of that name is the control plane's to set.
    if config.control_plane {
        taints.push(Taint {
            key: CONTROL_PLANE.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    Ok(skiff_kubelet::Config {
        node_name: config.node_name.clone(),
        node_ips: vec![config.node_ip],
        data_dir: config.data_dir.clone(),
        platform_logs: config.logs.clone(),
        cluster_dns: vec![cluster.cluster_dns.parse().context("the cluster's DNS address")?],
        cluster_domain: cluster.cluster_domain.clone(),
        labels: BTreeMap::new(),
        taints,
        pod_cidr: config.pod_cidr.map(|range| range.to_string()),
        register: true,
        pods_max: 110,
        cgroup_root: CGROUP_ROOT.to_owned(),
        resolv_conf: resolver::resolv_conf(),
        listen: SocketAddr::from((config.node_ip, AGENT_PORT)),
        serving: skiff_kubelet::Serving {
            tls: Some(membership.serving_tls()?),
            ready: Some(membership.can_serve()),
            allowed_names: vec![API_SERVER.to_owned()],
            bounds: skiff_kubelet::ServingBounds::of_descriptors(descriptors_max),
        },
        allowed_unsafe_sysctls: config.pods.allowed_unsafe_sysctls.clone(),
        seccomp_default: config.pods.seccomp_default,
        first_user: config.first_user,
        image_gc: config.pods.image_gc(),
        version: "1.36.0+skiff".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_token_leaves_the_arguments() {
        let check = |given: &[&str], expected: Option<&[&str]>| {
            let left = without_token(given.iter().map(OsString::from).collect());
            let expected = expected.map(|left| left.iter().map(OsString::from).collect::<Vec<_>>());
            assert_eq!(left, expected, "{given:?}");
        };
        check(&["agent", "--token", "x", "--server", "s"], Some(&["agent", "--server", "s"]));
        check(&["agent", "--server", "s", "--token=x"], Some(&["agent", "--server", "s"]));
        check(&["agent", "--server", "s"], None);
        check(&["agent", "--token-file", "f"], None);
    }

    #[test]
    fn a_server_is_an_address_with_a_port() {
        for fine in ["https://192.0.2.10:6443", "https://192.0.2.10:6443/", "192.0.2.10:6443"] {
            assert_eq!(server_address(fine).as_deref(), Ok("192.0.2.10:6443"));
        }
        assert_eq!(server_address("https://[2001:db8::1]:6443").as_deref(), Ok("[2001:db8::1]:6443"));
        for bad in
            ["foo", "", ":6443", "http://a:6443", "https://a", "https://a:0", "https://a:6443/x", "a:99999"]
        {
            assert!(server_address(bad).is_err(), "{bad}");
        }
    }
}
