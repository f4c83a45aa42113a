//! `skiff server`: the control plane of a cluster, and the agent of the machine that it runs on.
//!
//! What a user starts is a supervisor; the control plane and the agent are processes of their own, so
//! that either can die without the other.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::pki::{AltName, Pki, server_names};
use skiff_apiserver::{ApiServer, Config, Identity, Range};
use skiff_client::kubeconfig::{Entries, Kubeconfig};
use skiff_client::{Client, InProcess};
use skiff_network::Cidr;
use skiff_runtime::private;
use skiff_store::{Limits, SqliteStore};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::agent::{AgentConfig, NodeArgs, PodPolicy};
use crate::authority::ServerAuthority;
use crate::config;
use crate::ending::Ending;
use crate::machine;
use crate::security;
use crate::shell;
use crate::supervise::{self, Child};
use crate::up::node::component;
use crate::up::pod_cidr;
use crate::up::record::write_private;

/// Upstream's port of the API.
pub(crate) const API_PORT: u16 = 6443;

const DOMAIN: &str = "cluster.local";

/// Run a cluster's control plane on this machine, and its agent
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the cluster's data are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/skiff/server")]
    data_dir: PathBuf,
    #[command(flatten)]
    own: NodeArgs,
    /// Port of the API, on all addresses
    #[arg(long, default_value_t = API_PORT)]
    port: u16,
    /// Range of the pods' addresses, one /24 a node
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = pod_cidr)]
    pod_cidr: Cidr,
    /// Range of the services' addresses
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16", value_parser = service_cidr)]
    service_cidr: Cidr,
    /// Run no agent: this machine takes no pods
    #[arg(long)]
    no_agent: bool,
    #[command(flatten)]
    security: security::Args,
    #[command(flatten)]
    pods: PodPolicy,
}

/// Which of the services' addresses is the cluster's DNS.
const DNS: u64 = 10;

fn service_cidr(text: &str) -> Result<Cidr, String> {
    let range: Cidr = text.parse().map_err(|error: skiff_network::ParseCidrError| error.to_string())?;
    match range.nth(DNS) {
        Some(_) => Ok(range),
        None => Err("it is too narrow for a service network: /28 at most".to_owned()),
    }
}

/// What the control plane's process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerConfig {
    pub(crate) data_dir: PathBuf,
    /// The node's address, which agents and pods reach the API at.
    pub(crate) advertise: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) pod_cidr: Cidr,
    /// Each node's part of it.
    pub(crate) node_prefix: u8,
    pub(crate) service_cidr: Cidr,
    pub(crate) dns: Ipv4Addr,
    #[serde(default)]
    pub(crate) security: security::Args,
    /// The node that this runs on, where nodes have roles.
    #[serde(default)]
    pub(crate) control_plane_node: Option<String>,
    /// The node that this runs on, if its machine is one.
    #[serde(default)]
    pub(crate) own_node: Option<String>,
    /// Whether pods get out of the cluster, where that is `up`'s to say.
    #[serde(default)]
    pub(crate) uplink: Option<bool>,
    /// The nodes' range, where `up` made it.
    #[serde(default)]
    pub(crate) node_network: Option<NodeNetwork>,
}

/// The network of the nodes of `up`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct NodeNetwork {
    pub(crate) range: Cidr,
    pub(crate) router: Ipv4Addr,
    /// The machine's own address in it.
    pub(crate) machine: Ipv4Addr,
}

/// The credentials that a kubeconfig needs, all PEM.
pub(crate) struct Authority {
    pub(crate) ca_pem: String,
    pub(crate) admin_certificate_pem: String,
    pub(crate) admin_key_pem: String,
}

pub(crate) fn pki_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pki")
}

/// The file of the cluster's join token.
pub(crate) fn token_path(data_dir: &Path) -> PathBuf {
    pki_dir(data_dir).join("join-token")
}

/// Makes the cluster's join token, unless there is one that is good yet.
fn make_join_token(data_dir: &Path) -> anyhow::Result<()> {
    let pki = Pki::open(&pki_dir(data_dir)).context("cannot open the cluster's certificate authority")?;
    pki.make_join_token().map(drop).context("cannot make a join token")
}

/// Join tokens for nodes of this machine, one each, which the server knows that is started next.
pub(crate) fn node_tokens(data_dir: &Path, nodes: &[&str]) -> anyhow::Result<Vec<String>> {
    let pki = Pki::open(&pki_dir(data_dir)).context("cannot open the cluster's certificate authority")?;
    pki.node_tokens(nodes).context("cannot make join tokens")
}

/// Opens the cluster's authority, making it on the first start.
pub(crate) fn authority(data_dir: &Path) -> anyhow::Result<Authority> {
    let pki = Pki::open(&pki_dir(data_dir)).context("cannot open the cluster's certificate authority")?;
    let admin = pki.admin().context("cannot issue the administrator's certificate")?;
    Ok(Authority {
        ca_pem: pki.ca().to_owned(),
        admin_certificate_pem: admin.certificate,
        admin_key_pem: admin.key,
    })
}

/// `skiff server`.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    crate::up::require_root("server")?;
    args.pods.check()?;
    let (node_name, node_ip) = args.own.resolved()?;
    if args.pod_cidr.overlaps(args.service_cidr) {
        bail!(
            "--pod-cidr {} overlaps --service-cidr {}: choose another range",
            args.pod_cidr,
            args.service_cidr
        );
    }
    let config = ServerConfig {
        data_dir: std::path::absolute(&args.data_dir).context("--data-dir")?,
        advertise: node_ip,
        port: args.port,
        pod_cidr: args.pod_cidr,
        node_prefix: 24,
        service_cidr: args.service_cidr,
        dns: args.service_cidr.nth(DNS).context("--service-cidr is too narrow")?,
        security: args.security.absolute()?,
        control_plane_node: None,
        own_node: (!args.no_agent).then(|| node_name.clone()),
        uplink: None,
        node_network: None,
    };
    config.security.check()?;
    if !args.no_agent {
        crate::kernel::check()?;
    }
    let begun = machine::begin("server", &config.data_dir)?;
    config.security.prepare(&pki_dir(&config.data_dir))?;
    let authority = authority(&config.data_dir)?;
    make_join_token(&config.data_dir)?;
    let kubeconfig = config.data_dir.join("kubeconfig");
    let mut document = Kubeconfig::empty(&kubeconfig);
    document.merge(&Entries {
        name: "skiff",
        server: &format!("https://127.0.0.1:{}", config.port),
        ca_pem: &authority.ca_pem,
        certificate_pem: &authority.admin_certificate_pem,
        key_pem: &authority.admin_key_pem,
    });
    write_private(&kubeconfig, document.to_yaml().as_bytes())?;
    let logs = config.data_dir.join("logs");
    let server_path = config.data_dir.join("server.json");
    config::write(&server_path, &config)?;
    let mut children = vec![Child {
        role: "server",
        argv0: "skiff-server",
        args: component("server", &server_path),
        log: logs.join("server.log"),
        listener: None,
    }];
    if !args.no_agent {
        let token = node_tokens(&config.data_dir, &[&node_name])?.pop();
        let agent = AgentConfig {
            node_name,
            node_ip,
            server: format!("{node_ip}:{}", config.port),
            token,
            data_dir: config.data_dir.join("agent"),
            run_dir: PathBuf::from("/run/skiff-agent"),
            logs: Some(logs.clone()),
            images_dir: config.data_dir.join("images"),
            pod_cidr: None,
            control_plane: false,
            pods: args.pods.clone(),
            first_user: crate::agent::first_user(),
        };
        let agent_path = config.data_dir.join("agent.json");
        config::write(&agent_path, &agent)?;
        let args = component("agent", &agent_path);
        children.push(Child {
            role: "agent",
            argv0: "kubelet",
            args,
            log: logs.join("agent.log"),
            listener: None,
        });
    }
    crate::tell(format_args!(
        "export KUBECONFIG={}\nThe processes log to {}. Further nodes join within a day with (later with what \
         `skiff token create` prints):\n\
         skiff agent --server https://{node_ip}:{} --token \"$(cat {})\"",
        shell::word(&kubeconfig),
        logs.display(),
        config.port,
        shell::word(&token_path(&config.data_dir))
    ));
    supervise::run(children, Some(begun.in_use()))
}

/// Binds first, so that a port that is taken is found before anything else is done.
async fn listeners(config: &ServerConfig) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    match inherited() {
        // A node of `skiff up`: the machine's loopback, and the node's own address.
        Some(listener) => {
            listeners.push(TcpListener::from_std(listener).context("cannot use the inherited listener")?);
            listeners.push(bind(SocketAddr::from((config.advertise, config.port))).await?);
        }
        None => listeners.push(bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port))).await?),
    }
    Ok(listeners)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// A listening socket that was handed over as standard input.
fn inherited() -> Option<std::net::TcpListener> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::AcceptConn)
        .ok()
        .filter(|accepts| *accepts)?;
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true).ok()?;
    Some(listener)
}

/// The control plane's process.
pub(crate) async fn serve(config: ServerConfig, ending: &Ending) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let listeners = listeners(&config).await?;
    private::make_dir(&config.data_dir).context("cannot keep the data from others' eyes")?;
    let store_path = config.data_dir.join("store.db");
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(&store_path, Limits::default()))
        .await
        .context("opening the store panicked")?
        .context("cannot open the store")?;
    let pki =
        Arc::new(Pki::open(&pki_dir(&config.data_dir)).context("cannot open the certificate authority")?);
    let settings = config.security.settings(&pki_dir(&config.data_dir))?;
    let service_ip = config.service_cidr.nth(1).context("the service range is too narrow")?;
    let names: Vec<AltName> = server_names(&[config.advertise.into()], service_ip.into(), DOMAIN);
    let tls = pki.server_tls(&names).context("cannot make the server's certificate")?;
    let scheduler = skiff_scheduler::Config::default();
    let questions = scheduler.questions.clone();
    let server_config = Config {
        starts: scheduler.starts.clone(),
        pending: Some(Arc::new(move |pod| {
            let questions = questions.clone();
            Box::pin(async move { questions.pending(pod).await })
        })),
        uplink: config.uplink,
        node_network: config.node_network.map(|own| skiff_apiserver::NodeNetwork {
            range: range(own.range),
            router: own.router,
            machine: own.machine,
        }),
        service_cidr: range(config.service_cidr),
        cluster_cidr: range(config.pod_cidr),
        cluster_dns: config.dns,
        cluster_domain: DOMAIN.to_owned(),
        advertise: (config.advertise, config.port),
        own_node: config.own_node.clone(),
        pod_security: settings.pod_security,
        at_rest: settings.at_rest,
        audit: settings.audit,
        more_metrics: Some(skiff_client::write_queue_metrics),
        agent_tls: Some(pki.agent_client_config().context("cannot make the certificate for agents")?),
        pki: Some(Arc::clone(&pki)),
        limits: skiff_apiserver::Limits::of_descriptors(
            skiff_sys::descriptors::max().context("cannot read how many files may be open")?,
        ),
        account_keys: Some(pki_dir(&config.data_dir).join("account-keys")),
        ..Config::default()
    };
    let server =
        ApiServer::build(server_config, Arc::new(store)).await.context("cannot start the API server")?;
    info!(addresses = ?listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect::<Vec<_>>(), "serving");

    let mut parts = JoinSet::new();
    let serving = server.clone();
    let stop = shutdown.clone();
    parts.spawn(async move {
        serving.serve(listeners, tls, stop).await;
        "the API server"
    });
    let client = in_process(&server, Identity::new("system:kube-scheduler", &[]));
    let stop = shutdown.clone();
    parts.spawn(async move {
        skiff_scheduler::run(scheduler, client, stop).await;
        "the scheduler"
    });
    if let Some(reload) = config.security.reload(&pki_dir(&config.data_dir)) {
        let (server, stop) = (server.clone(), shutdown.clone());
        parts.spawn(async move {
            stop.run_until_cancelled(follow_encryption(reload, server)).await;
            "the encryption's configuration"
        });
    }
    let accounts = server.clone();
    let clients = skiff_controllers::Clients {
        shared: in_process(&server, Identity::new("system:kube-controller-manager", &[])),
        of_account: Arc::new(move |account| in_process(&accounts, Identity::account("kube-system", account))),
    };
    let controllers = skiff_controllers::Config {
        cluster_cidr: config.pod_cidr.to_string(),
        service_cidr: config.service_cidr.to_string(),
        cluster_domain: DOMAIN.to_owned(),
        api_addresses: vec![config.advertise.into()],
        api_node: config.own_node.clone(),
        node_cidr_prefix: config.node_prefix,
        control_plane_node: config.control_plane_node.clone(),
        authority: Some(Arc::new(ServerAuthority { pki, server: server.clone() })),
        certificate_life: settings.certificate_life,
        ca_pem: fs::read_to_string(pki_dir(&config.data_dir).join("ca.crt")).context("cannot read the CA")?,
        ..skiff_controllers::Config::default()
    };
    let stop = shutdown.clone();
    parts.spawn(async move {
        skiff_controllers::run(controllers, clients, stop).await;
        "the controllers"
    });
    run_to_the_end(parts, shutdown, ending).await
}

/// Takes over changes of the encryption configuration. Never ends by itself.
async fn follow_encryption(mut reload: security::Reload, server: ApiServer) {
    loop {
        tokio::time::sleep(security::RELOAD).await;
        match reload.look() {
            Ok(None) => {}
            Ok(Some(at_rest)) => {
                info!("the encryption configuration has changed");
                server.encrypt_by(&at_rest).await;
            }
            Err(error) => {
                error!(
                    error = format!("{error:#}"),
                    "the changed encryption configuration can't be used; the former stays in force"
                );
            }
        }
    }
}

/// Runs a process's parts until a signal asks for the end; a part that ends by itself takes all down, and
/// the supervisor starts them anew.
pub(crate) async fn run_to_the_end(
    mut parts: JoinSet<&'static str>,
    shutdown: CancellationToken,
    ending: &Ending,
) -> anyhow::Result<()> {
    let memory = tokio::spawn(crate::memory::look_after());
    let failed = tokio::select! {
        () = ending.asked() => None,
        Some(ended) = parts.join_next() => Some(ended),
    };
    shutdown.cancel();
    memory.abort();
    let drain = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(std::time::Duration::from_secs(8), drain).await.is_err() {
        warn!("parts did not end within 8 s and are cut off");
    }
    match failed {
        None => Ok(()),
        Some(Ok(part)) => {
            error!(part, "ended by itself");
            bail!("{part} ended by itself")
        }
        Some(Err(error)) => Err(error).context("a part panicked"),
    }
}

fn in_process(server: &ApiServer, identity: Identity) -> Client {
    Client::new(InProcess::new(server.router(), move |extensions| {
        extensions.insert(identity.clone());
    }))
}

fn range(cidr: Cidr) -> Range {
    Range { network: cidr.address, prefix: cidr.prefix }
}
