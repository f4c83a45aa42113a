//! A node of `skiff up`: a process tree in namespaces and cgroups of its own.
//!
//! Three short steps, each a process: *enter* joins the node's cgroups and network namespace and leaves
//! the machine's other namespaces, its child is PID 1 of the node and mounts what belongs to it (*init*),
//! and then supervises the node's agent and, on node 1, the server.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use serde::{Deserialize, Serialize};
use skiff_runtime::private;
use tracing::warn;

use super::cgroups;
use crate::config;
use crate::in_use::InUse;
use crate::supervise::{self, Child};

/// All that a node's first process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    /// The cluster's cgroup, below each hierarchy's root.
    pub(crate) cgroup: String,
    pub(crate) netns: PathBuf,
    pub(crate) log_dir: PathBuf,
    /// Configuration file of the control plane, on node 1.
    pub(crate) server: Option<PathBuf>,
    /// Configuration file of the agent.
    pub(crate) agent: PathBuf,
    /// PID of the command that starts the node, with which *enter* dies.
    pub(crate) starter: i32,
}

/// Starts a node and returns when its namespaces exist. `listener` is bound on the machine's loopback and
/// handed to the node's server, also when that is started again.
pub(crate) fn start(
    config: &NodeConfig,
    config_path: &Path,
    listener: Option<BorrowedFd<'_>>,
    in_use: &InUse,
) -> anyhow::Result<()> {
    config::write(config_path, config)?;
    private::make_dir(&config.log_dir)
        .with_context(|| format!("cannot create {}", config.log_dir.display()))?;
    let log =
        private::open(fs::OpenOptions::new().create(true).append(true), &config.log_dir.join("init.log"))
            .context("cannot open the node's log")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("skiff-enter").args(["component", "enter", "--config"]).arg(config_path);
    // Standard input carries the listener: the one descriptor that std passes on by itself.
    match listener {
        Some(listener) => command.stdin(listener.try_clone_to_owned().context("cannot share the listener")?),
        None => command.stdin(Stdio::null()),
    };
    in_use.hand_on(&mut command)?;
    let status = command
        .stdout(log.try_clone().context("cannot share the log")?)
        .stderr(log)
        .status()
        .context("cannot start the node")?;
    if !status.success() {
        bail!(
            "node {} did not start ({status}): see {}",
            config.name,
            config.log_dir.join("init.log").display()
        );
    }
    Ok(())
}

/// Joins cgroups and network, leaves the machine's namespaces and starts PID 1 of the node.
pub(crate) fn enter(config_path: &Path) -> anyhow::Result<()> {
    let config: NodeConfig = config::read(config_path)?;
    // A `down` that follows a killed `up` must not find this step still making things.
    set_pdeathsig(Signal::SIGKILL).context("cannot tie this step to the command that started it")?;
    if getppid().as_raw() != config.starter {
        bail!("the command that started this step is gone");
    }
    cgroups::join(&config.cgroup, &config.name)?;
    let netns =
        File::open(&config.netns).with_context(|| format!("cannot open {}", config.netns.display()))?;
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot join the node's network")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("cannot make the node's namespaces: root with all capabilities is needed")?;
    nix::unistd::setsid().context("cannot leave the terminal")?;
    // By its path, so that it lies on a mount of the node's own namespace, unlike this process's program.
    let program = std::env::current_exe().context("cannot find this program")?;
    // Not waited for: it goes on when this process ends.
    Command::new(program)
        .arg0("skiff-init")
        .args(["component", "init", "--config"])
        .arg(config_path)
        .spawn()
        .context("cannot start the node's first process")?;
    Ok(())
}

/// PID 1 of the node.
pub(crate) fn init(config_path: &Path) -> anyhow::Result<()> {
    let config: NodeConfig = config::read(config_path)?;
    let layout = cgroups::hierarchies()?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make mounts private")?;
    // Kubernetes' mount propagation needs shared mounts inside the node, and only there.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>)
        .context("cannot share mounts in the node")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let fresh = |target: &str, kind: &str, options: Option<&str>| {
        mount(Some(kind), target, Some(kind), flags, options)
            .with_context(|| format!("cannot mount the node's {target}"))
    };
    fresh("/proc", "proc", None)?;
    fresh("/sys", "sysfs", None)?;
    // Where security modules say what they know, such as AppArmor its profiles; nobody's where there are none.
    if Path::new("/sys/kernel/security").is_dir()
        && let Err(error) = fresh("/sys/kernel/security", "securityfs", None)
    {
        warn!(error = format!("{error:#}"), "AppArmor profiles can't be read");
    }
    cgroups::mount_fresh(&layout)?;
    if layout.iter().all(|hierarchy| hierarchy.kind == cgroups::Kind::Unified) {
        cgroups::make_leaf(&layout)?;
    }
    fs::create_dir_all("/dev/shm").context("cannot create /dev/shm")?;
    fresh("/dev/shm", "tmpfs", Some("mode=1777"))?;
    if fs::create_dir_all("/dev/mqueue").is_ok()
        && let Err(error) = fresh("/dev/mqueue", "mqueue", None)
    {
        warn!(error = format!("{error:#}"), "POSIX message queues are not visible as files");
    }
    nix::unistd::sethostname(&config.name).context("cannot set the node's host name")?;
    // The data directory came open, and goes on as that.
    supervise::run(children(&config)?, None)
}

fn children(config: &NodeConfig) -> anyhow::Result<Vec<Child>> {
    let mut children = Vec::new();
    if let Some(path) = &config.server {
        // The listener came as standard input, and goes on as that.
        let listener = std::io::stdin().as_fd().try_clone_to_owned().context("cannot keep the listener")?;
        let log = config.log_dir.join("server.log");
        let args = component("server", path);
        children.push(Child { role: "server", argv0: "skiff-server", args, log, listener: Some(listener) });
    }
    let args = component("agent", &config.agent);
    children.push(Child {
        role: "agent",
        argv0: "kubelet",
        args,
        log: config.log_dir.join("agent.log"),
        listener: None,
    });
    Ok(children)
}

/// Arguments that make the binary one of the platform's own processes.
pub(crate) fn component(role: &str, config: &Path) -> Vec<OsString> {
    vec!["component".into(), role.into(), "--config".into(), config.into()]
}
