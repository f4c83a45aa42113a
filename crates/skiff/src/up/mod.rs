//! `skiff up`: a whole cluster on one machine.
//!
//! Node 1 runs what `skiff server` runs, every other node what `skiff agent` runs; this module only makes
//! the machines that they believe to be on.

pub(crate) mod cgroups;
pub(crate) mod down;
mod held;
pub(crate) mod interrupt;
pub(crate) mod kept;
pub(crate) mod local;
pub(crate) mod node;
mod place;
pub(crate) mod prove;
mod ranges;
mod ready;
pub(crate) mod record;
pub(crate) mod status;
pub(crate) mod stock;
pub(crate) mod sysctls;
mod topology;
mod uplink;

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use skiff_apiserver::private_file;
use skiff_client::kubeconfig::{Entries, Kubeconfig};
use skiff_network::Cidr;
use skiff_runtime::private;

use self::interrupt::{Interrupted, Interrupts};
use self::node::NodeConfig;
pub(crate) use self::ranges::pod_cidr;
use self::ranges::{NODE_POD_PREFIX, Taken, Wanted};
use self::record::{NodeRecord, Record, lock, write_private};
use self::stock::Stock;
use crate::agent::{AgentConfig, PodPolicy};
use crate::in_use::{self, InUse};
use crate::server::{API_PORT, ServerConfig, pki_dir};
use crate::{config, security, shell, tell};

/// A file that says that a directory is a cluster's data, and may be deleted as such.
pub(crate) const MARKER: &str = "skiff-data";

/// More than a node has pods; all nodes' together fit into 32 bits.
const USER_RANGES: u32 = 128;

/// Start a cluster on this machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes; with more than one, node 1 is the control plane and takes no ordinary pods [default: 1,
    /// or as many as the kept data are of]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=250))]
    nodes: Option<u16>,
    /// Name of the cluster, its context and (with a suffix) its nodes
    #[arg(long, default_value = "skiff", value_parser = record::cluster_name)]
    name: String,
    /// Where its data are kept [default: /var/lib/skiff/NAME]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Merge the credentials into this kubeconfig [default: a file of its own in the data directory]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Load every image archive (.tar, .tar.gz, .tar.zst) of this directory
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Port of the API on this machine's 127.0.0.1; 0 is any free one
    #[arg(long, default_value_t = API_PORT)]
    port: u16,
    /// Let the nodes and pods reach what this machine reaches
    #[arg(long)]
    uplink: bool,
    /// Return when the cluster is ready, and leave it running
    #[arg(long)]
    detach: bool,
    /// Range of the pods' addresses, one /24 a node [default: 10.244.0.0/16 or the next free]
    #[arg(long, value_name = "CIDR", value_parser = ranges::pod_cidr)]
    pod_cidr: Option<Cidr>,
    /// Range of the services' addresses [default: 10.96.0.0/16 or the next free]
    #[arg(long, value_name = "CIDR", value_parser = ranges::service_cidr)]
    service_cidr: Option<Cidr>,
    /// Range of the nodes' addresses [default: 10.100.0.0/24 or the next free]
    #[arg(long, value_name = "CIDR", value_parser = ranges::node_cidr)]
    node_cidr: Option<Cidr>,
    #[command(flatten)]
    security: security::Args,
    #[command(flatten)]
    pods: PodPolicy,
}

pub(crate) fn default_data_dir(name: &str) -> PathBuf {
    Path::new("/var/lib/skiff").join(name)
}

/// What needs root says so before it begins.
pub(crate) fn require_root(command: &str) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`skiff {command}` makes namespaces and links: run it as root");
    }
    Ok(())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    require_root("up")?;
    args.pods.check()?;
    let security = args.security.absolute()?;
    security.check()?;
    crate::kernel::check()?;
    let data_dir = match &args.data_dir {
        Some(dir) => std::path::absolute(dir).with_context(|| format!("--data-dir {}", dir.display()))?,
        None => default_data_dir(&args.name),
    };
    let (started, since) = (Instant::now(), SystemTime::now());
    let interrupts = Interrupts::block()?;
    let guard = lock(&args.name)?;
    if let Some(record) = Record::find(&args.name)? {
        bail!(already(&record));
    }
    let stock = Stock::take(std::slice::from_ref(&data_dir));
    let ranges = record::lock_ranges()?;
    let Prepared { record, listener, kept_before, in_use } = match prepare(args, data_dir, &interrupts) {
        Ok(prepared) => prepared,
        Err(error) => {
            guard.remove();
            return Err(error);
        }
    };
    // The user's own kubeconfig is written last, and nothing is to be taken out of it before.
    let unmerged = Record { merged_kubeconfig: None, ..record.clone() };
    let made = record.write().map(|()| drop(ranges)).and_then(|()| {
        make(&record, &stock, listener, &args.pods, security, (&interrupts, &in_use))?;
        ready::wait(&record, since, args.images.as_deref(), &interrupts)
    });
    let up = made.map_err(|error| (error, &unmerged)).and_then(|()| {
        let merged = merge_kubeconfig(&record).map_err(|error| (error, &unmerged));
        merged.and_then(|()| interrupts.check().map_err(|error| (error.into(), &record)))
    });
    if let Err((error, made)) = up {
        // Ctrl-C ends the step that runs, too: what it says of itself then is of no use.
        let error = interrupts.check().map_or_else(Into::into, |()| error);
        let error = undo(made, in_use, kept_before, error);
        guard.remove();
        return Err(error);
    }
    tell(format_args!("Cluster {:?} is ready after {:.1} s.", record.name, started.elapsed().as_secs_f64()));
    say_how_to_use(&record);
    drop(guard);
    if args.detach {
        return Ok(());
    }
    interrupts.wait()?;
    let guard = lock(&record.name)?;
    down::remove(&record.name, Some(&record))?;
    drop(in_use);
    down::remove_data(&record.data_dir)?;
    guard.remove();
    tell(format_args!("Cluster {:?} is down.", record.name));
    Ok(())
}

/// Why a cluster can't be started whose record is there.
fn already(record: &Record) -> String {
    let Record { name, data_dir, .. } = record;
    let is = match in_use::user(data_dir) {
        Some(user) => format!("is up: its data directory {} is in use by {user}", data_dir.display()),
        None => "is up, or was left half up".to_owned(),
    };
    format!("cluster {name:?} {is}: run `skiff down --name {name} --keep-data` first")
}

/// Ends what was started of a cluster that came to nothing, and returns why it did, with what the user has
/// to know. Data of before stay, and so do the logs of nodes that were started and failed.
fn undo(record: &Record, in_use: InUse, kept_before: bool, error: anyhow::Error) -> anyhow::Error {
    let interrupted = error.is::<Interrupted>();
    let why = if interrupted { "Interrupted" } else { "Starting failed" };
    tell(format_args!("{why}; removing what was made."));
    let keep_data = kept_before || (!interrupted && record.data_dir.join("nodes").exists());
    let cleared = down::remove(&record.name, Some(record)).and_then(|()| {
        drop(in_use);
        if keep_data { Ok(()) } else { down::remove_data(&record.data_dir) }
    });
    let dir = record.data_dir.display();
    let word = shell::word(&record.data_dir);
    let keep = if kept_before { " --keep-data" } else { "" };
    let command = format!("`skiff down --name {} --data-dir {word}{keep}`", record.name);
    match (error.downcast::<Interrupted>(), cleared) {
        (Ok(interrupted), cleared) => {
            let left = match cleared {
                Ok(()) if kept_before => format!("nothing of it runs, and the data of before are in {dir}"),
                Ok(()) => "nothing of it is left".to_owned(),
                Err(left) => format!("not all of it could be removed ({left:#}), run {command}"),
            };
            interrupted.leaving(left).into()
        }
        (Err(error), Ok(())) if keep_data && !kept_before => {
            anyhow::anyhow!("{error:#} (nothing runs; its data and logs are left in {dir} until {command})")
        }
        (Err(error), Ok(())) => error,
        (Err(error), Err(left)) => {
            anyhow::anyhow!("{error:#}; and not all of it could be removed ({left:#}): run {command}")
        }
    }
}

fn say_how_to_use(record: &Record) {
    let kubeconfig = shell::word(record.merged_kubeconfig.as_ref().unwrap_or(&record.kubeconfig));
    let by_name = if record.name == "skiff" { String::new() } else { format!(" --name {}", record.name) };
    // Whoever does not read it to its end has a cluster all the same.
    let _ = write!(
        io::stdout(),
        "export KUBECONFIG={kubeconfig}\n\
         kubectl get nodes -o wide        # or: skiff kubectl{by_name} get nodes -o wide\n\
         skiff down{by_name}\n"
    );
}

/// What is known, and held, when a cluster begins to be made.
struct Prepared {
    record: Record,
    listener: TcpListener,
    /// Whether there were data of an earlier time.
    kept_before: bool,
    in_use: InUse,
}

/// Plans, binds the port and takes the data directory.
fn prepare(args: &Args, data_dir: PathBuf, interrupts: &Interrupts) -> anyhow::Result<Prepared> {
    let mut record = plan(args, data_dir)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).with_context(|| {
        format!("cannot listen on 127.0.0.1:{}: choose another --port, or 0 for any free one", args.port)
    })?;
    record.port = listener.local_addr().context("cannot read the port")?.port();
    interrupts.check()?;
    let kept_before = holds(&record.data_dir, |name| !name.starts_with(MARKER));
    let in_use = in_use::take(&record.data_dir)?;
    Ok(Prepared { record, listener, kept_before, in_use })
}

/// Whether a directory holds anything whose name is so.
fn holds(dir: &Path, is_so: impl Fn(&str) -> bool) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| is_so(&entry.file_name().to_string_lossy()))
}

/// Whose data a directory holds, if they are not this cluster's: two clusters' would spoil each other.
fn owner(data_dir: &Path, name: &str, up: &[Record]) -> anyhow::Result<Option<String>> {
    if let Some(other) = up.iter().find(|other| other.name != name && kept::same(&other.data_dir, data_dir)) {
        return Ok(Some(other.name.clone()));
    }
    Ok(kept::read(data_dir)?.and_then(|kept| kept.name).filter(|owner| owner != name))
}

/// Everything that can be decided, and refused, before anything is made.
fn plan(args: &Args, data_dir: PathBuf) -> anyhow::Result<Record> {
    if holds(&data_dir, |_| true) && !holds(&data_dir, |name| name.starts_with(MARKER)) {
        bail!("--data-dir {} holds something else: name a new or empty directory", data_dir.display());
    }
    let others = Record::all()?;
    if let Some(owner) = owner(&data_dir, &args.name, &others)? {
        let user = in_use::user(&data_dir).map(|user| format!(", in use by {user}")).unwrap_or_default();
        bail!(
            "--data-dir {} holds the data of cluster {owner:?}{user}: name another directory, or that cluster \
             with --name {owner}",
            data_dir.display()
        );
    }
    in_use::check(&data_dir)?;
    if let Some(images) = &args.images
        && !images.is_dir()
    {
        bail!("--images {} is no directory", images.display());
    }
    let wanted = Wanted { node: args.node_cidr, pod: args.pod_cidr, service: args.service_cidr };
    let mut taken = Vec::new();
    for other in &others {
        taken.extend(other.ranges.all().map(|(purpose, range)| Taken {
            by: format!("the {purpose} network of cluster {:?}", other.name),
            range,
        }));
    }
    // Those that are up have told theirs, and this one's own are not taken from it.
    let mut known: Vec<&Path> = others.iter().map(|other| other.data_dir.as_path()).collect();
    known.push(&data_dir);
    taken.extend(kept::taken(&known));
    taken.extend(ranges::routes(&fs::read_to_string("/proc/net/route").unwrap_or_default()));
    let data = format!("the data in {}", data_dir.display());
    let (count, ranges) = match kept::read(&data_dir)? {
        Some(kept) => {
            let count = kept.nodes(args.nodes, &data)?;
            (count, ranges::again(&data, kept.ranges, &wanted, count.into(), &taken)?)
        }
        None => {
            let count = args.nodes.unwrap_or(1);
            (count, ranges::choose(&wanted, count.into(), &taken)?)
        }
    };
    let nodes = usize::from(count);
    let nodes = (0..nodes)
        .map(|index| {
            let name = match (count, index) {
                (1, _) => args.name.clone(),
                (_, 0) => format!("{}-control-plane", args.name),
                (_, index) => format!("{}-worker-{index}", args.name),
            };
            let pods = ranges.node_pods(index, nodes).context("the pod network has too few parts")?;
            Ok(NodeRecord { name, ip: ranges.node_ip(index), pods })
        })
        .collect::<anyhow::Result<_>>()?;
    let (mut merged_kubeconfig, mut previous_context, mut kubeconfig_dirs) = (None, None, Vec::new());
    if let Some(path) = &args.kubeconfig {
        // Found out now, not after the nodes have started.
        previous_context = Kubeconfig::read_or_empty(path)?.current_context().map(str::to_owned);
        // It is written by renaming, which must not replace a link to it.
        let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let path = path.context("--kubeconfig")?;
        private_file::check(&path)
            .with_context(|| format!("--kubeconfig: cannot write {}", path.display()))?;
        kubeconfig_dirs = missing_dirs(&path);
        merged_kubeconfig = Some(path);
    }
    Ok(Record {
        name: args.name.clone(),
        kubeconfig: data_dir.join("kubeconfig"),
        data_dir,
        merged_kubeconfig,
        kubeconfig_dirs,
        previous_context,
        network: record::own_network(),
        forwarded_before: uplink::forwards(&others),
        // The one that is bound.
        port: args.port,
        uplink: args.uplink,
        ranges,
        nodes,
    })
}

/// The directories that whoever writes a file has to make, inner ones first.
fn missing_dirs(file: &Path) -> Vec<PathBuf> {
    file.ancestors().skip(1).take_while(|dir| !dir.exists()).map(Path::to_owned).collect()
}

fn make(
    record: &Record,
    stock: &Stock,
    listener: TcpListener,
    pods: &PodPolicy,
    security: security::Args,
    (interrupts, in_use): (&Interrupts, &InUse),
) -> anyhow::Result<()> {
    write_private(&record.data_dir.join(MARKER), b"")?;
    let nodes = record.nodes.iter().map(|node| record.node_data_dir(&node.name));
    for dir in [Record::dir(&record.name), record.data_dir.join("nodes")].into_iter().chain(nodes) {
        private::make_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    config::write(&record.data_dir.join("stock.json"), stock)?;
    kept::write(record)?;
    interrupts.check()?;
    topology::make(record)?;
    let server = ServerConfig {
        data_dir: record.server_dir(),
        advertise: record.nodes[0].ip,
        port: API_PORT,
        pod_cidr: record.ranges.pod,
        node_prefix: NODE_POD_PREFIX,
        service_cidr: record.ranges.service,
        dns: record.ranges.dns(),
        security,
        own_node: Some(record.nodes[0].name.clone()),
        control_plane_node: (record.nodes.len() > 1).then(|| record.nodes[0].name.clone()),
        uplink: Some(record.uplink),
        node_network: Some(crate::server::NodeNetwork {
            range: record.ranges.node,
            router: record.ranges.router(),
            machine: record.ranges.machine(),
        }),
    };
    server.security.prepare(&pki_dir(&server.data_dir))?;
    let authority = crate::server::authority(&record.server_dir())?;
    write_kubeconfig(record, &authority)?;
    let names: Vec<&str> = record.nodes.iter().map(|node| node.name.as_str()).collect();
    let tokens = crate::server::node_tokens(&record.server_dir(), &names)?;
    let server_path = record.server_dir().join("server.json");
    config::write(&server_path, &server)?;
    for (index, node) in record.nodes.iter().enumerate() {
        interrupts.check()?;
        tell(format_args!("Starting node {} ({} of {})", node.name, index + 1, record.nodes.len()));
        let data_dir = record.node_data_dir(&node.name);
        let control_plane = index == 0 && record.nodes.len() > 1;
        let agent = AgentConfig {
            node_name: node.name.clone(),
            node_ip: node.ip,
            server: format!("{}:{API_PORT}", record.nodes[0].ip),
            token: tokens.get(index).cloned(),
            run_dir: record.node_run_dir(index),
            logs: Some(data_dir.join("logs")),
            images_dir: record.images_dir(),
            pod_cidr: Some(node.pods),
            control_plane,
            pods: pods.clone(),
            // Of one machine's IDs, each node has its own.
            first_user: crate::agent::first_user() * (1 + USER_RANGES * index as u32),
            data_dir: data_dir.clone(),
        };
        let agent_path = data_dir.join("agent.json");
        config::write(&agent_path, &agent)?;
        let config = NodeConfig {
            name: node.name.clone(),
            cgroup: Record::cgroup(&record.name),
            netns: Record::netns(&record.name, &node.name),
            log_dir: data_dir.join("logs"),
            server: (index == 0).then(|| server_path.clone()),
            agent: agent_path,
            starter: nix::unistd::getpid().as_raw(),
        };
        let socket = (index == 0).then(|| listener.as_fd());
        node::start(&config, &data_dir.join("node.json"), socket, in_use)?;
    }
    Ok(())
}

fn write_kubeconfig(record: &Record, authority: &crate::server::Authority) -> anyhow::Result<()> {
    let mut config = Kubeconfig::empty(&record.kubeconfig);
    config.merge(&entries(record, &server_url(record), authority));
    write_private(&record.kubeconfig, config.to_yaml().as_bytes())
}

fn server_url(record: &Record) -> String {
    format!("https://127.0.0.1:{}", record.port)
}

fn entries<'a>(record: &'a Record, server: &'a str, authority: &'a crate::server::Authority) -> Entries<'a> {
    Entries {
        name: &record.name,
        server,
        ca_pem: &authority.ca_pem,
        certificate_pem: &authority.admin_certificate_pem,
        key_pem: &authority.admin_key_pem,
    }
}

/// Adds the cluster to the user's own kubeconfig once it can be used.
fn merge_kubeconfig(record: &Record) -> anyhow::Result<()> {
    let Some(path) = &record.merged_kubeconfig else { return Ok(()) };
    let authority = crate::server::authority(&record.server_dir())?;
    let mut config = Kubeconfig::read_or_empty(path)?;
    config.merge(&entries(record, &server_url(record), &authority));
    write_private(path, config.to_yaml().as_bytes())
}
