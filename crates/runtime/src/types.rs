//! The runtime's vocabulary: plain data, after the Container Runtime Interface.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(pub String);

/// 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// Whose namespace of a kind a sandbox or container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One for the sandbox, shared by its containers (network, IPC, UTS always so unless `Node`).
    #[default]
    Pod,
    /// One for each container (PID namespaces only).
    Container,
    /// The node's own.
    Node,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// What the caller calls it: opaque to the runtime, given back by every listing.
    pub labels: BTreeMap<String, String>,
    pub hostname: String,
    /// Network namespace; `Node` also means the node's UTS namespace and host name.
    pub network: NamespaceMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// The parent cgroup of the sandbox and its containers, relative to the runtime's own root, such as
    /// `burstable/pod1234`. The runtime makes and removes it.
    pub cgroup_parent: String,
    /// Limits of the parent cgroup as a whole.
    pub resources: Resources,
    /// Kernel parameters of the sandbox's own namespaces, `net.ipv4.ip_forward` style.
    pub sysctls: BTreeMap<String, String>,
    /// The node's IDs that the sandbox's users are; `None`: users are the node's own.
    #[serde(default)]
    pub users: Option<UserRange>,
}

/// A user namespace that maps the IDs from 0 on, of users and of groups alike, to a range of the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRange {
    /// What 0 is on the node.
    pub first: u32,
    pub length: u32,
}

/// A sandbox as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: SandboxId,
    pub config: SandboxConfig,
    /// `pause` runs.
    pub ready: bool,
    pub created_at: SystemTime,
    /// The PID of `pause` in the runtime's PID namespace; 0 once it is gone.
    pub pid: u32,
    /// A path that names the network namespace for as long as the sandbox exists, also when `pause` died;
    /// `None` in the node's own.
    pub netns: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub labels: BTreeMap<String, String>,
    pub name: String,
    /// A reference or image ID that [`crate::Runtime::image`] finds.
    pub image: String,
    /// Replaces the image's entry point when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when `command` or this is not empty.
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    /// Over the image's own, in order; a later one wins.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub security: Security,
    /// CRI log file.
    pub log_path: Option<PathBuf>,
    pub stdin: bool,
    /// Close stdin when the first attached client leaves.
    pub stdin_once: bool,
    pub tty: bool,
    /// Node devices given to the container, beside the default ones.
    pub devices: Vec<Device>,
    /// The image's, else SIGTERM.
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// A path of the node, or empty for a tmpfs.
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    /// So are the mounts below the source.
    #[serde(default)]
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    /// What it is called where it can't be mounted; by its source, if this is empty.
    #[serde(default)]
    pub name: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub path: PathBuf,
    pub target: PathBuf,
    /// Of `rwm`.
    pub permissions: String,
}

/// Zero or `None` means: no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight, as cgroup v1 counts: 2 to 262144.
    pub cpu_shares: u64,
    /// Microseconds of CPU in each `cpu_period`.
    pub cpu_quota: i64,
    pub cpu_period: u64,
    pub memory_bytes: u64,
    pub pids_max: u64,
    pub oom_score_adj: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Security {
    pub privileged: bool,
    /// Names such as `NET_ADMIN` or `CAP_NET_ADMIN`, or `ALL`, over containerd's default set.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    /// Number or name, optionally `:group`; `None` is the image's.
    pub user: Option<String>,
    pub group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    /// Not also the groups that the image's `/etc/group` has the user in.
    pub strict_groups: bool,
    pub read_only_rootfs: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    #[serde(default)]
    pub apparmor: AppArmor,
    /// Leaves `/proc` and `/sys` without masked and read-only paths.
    pub unmasked_proc: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile file in OCI's JSON format.
    Profile(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmor {
    /// The runtime's own profile where that can be had, but for privileged containers.
    #[default]
    Unspecified,
    Unconfined,
    RuntimeDefault,
    /// One that the kernel has been given.
    Profile(String),
}

/// Guards that are left out, so that a test can show that it would notice. No flag of the product sets any
/// of them; what a container may be allowed is in [`Security`], not here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weakness {
    /// A descriptor of the node's root stays open in every program.
    pub leaks_descriptors: bool,
    /// The shim's program can be written through `/proc/PID/exe`.
    pub writable_program: bool,
    /// Links lead mounts, logs and consoles wherever they point on the node.
    pub follows_links: bool,
    /// Masks are made of what `/dev/null` is in the container once its volumes are mounted.
    pub trusts_volumes: bool,
    /// Volumes are mounted inside `/proc`, too.
    pub mounts_into_proc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// Its shim died before it was started, or doesn't answer, so that nobody knows whether it runs.
    Unknown,
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub state: ContainerState,
    pub image: String,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    pub created_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub finished_at: Option<SystemTime>,
    /// 128 + signal where a signal ended it.
    pub exit_code: Option<i32>,
    /// `OOMKilled`, `Completed`, `Error`, `StartError`, `Unknown` as containerd says.
    pub reason: Option<String>,
    pub message: Option<String>,
    /// In the runtime's PID namespace; 0 unless it runs.
    pub pid: u32,
    pub log_path: Option<PathBuf>,
}

/// Something changed; look at it by listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    SandboxStopped(SandboxId),
    ContainerStarted(ContainerId, SandboxId),
    ContainerExited(ContainerId, SandboxId),
}

#[derive(Debug, Clone, Default)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub timed_out: bool,
}

#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    /// The command goes on when nobody asks for it any more, also when this process has ended: its input ends,
    /// and what it writes is read and dropped.
    pub survives: bool,
}

/// Live streams of a process. Dropping it kills an exec'd process, unless that [survives](ExecConfig::survives),
/// and leaves an attached one alone.
pub struct Process {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Never with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Terminal sizes (columns, rows) to pass on.
    pub resize: Option<tokio::sync::mpsc::Sender<(u16, u16)>>,
    /// The exit code, once.
    pub exit: tokio::sync::oneshot::Receiver<i32>,
    /// Ends an exec'd process that would survive; dropping it does nothing.
    pub kill: Option<tokio::sync::oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
    /// Of no file: what upstream calls the resident set.
    pub memory_anonymous_bytes: u64,
    pub page_faults: u64,
    /// Those that waited for a disk.
    pub major_page_faults: u64,
    pub pids: u64,
}

/// An image of an archive. Its JSON form, the image's with one field more, is told to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loaded {
    /// With all the names that it has here by now.
    #[serde(flatten)]
    pub image: Image,
    /// Those that the archive gives it, made whole: `docker.io/library/alpine:latest`.
    pub names: Vec<String>,
}

/// Its JSON form is told to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `docker.io/library/alpine:latest`.
    pub tags: Vec<String>,
    /// `docker.io/library/alpine@sha256:…`.
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// The image's own user, if it names one.
    pub user: Option<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub image: Image,
    /// From when to when layers were unpacked; `None` where nothing was fetched for it.
    pub unpacking: Option<(SystemTime, SystemTime)>,
}

/// What decides whether an image may be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// [`Image::id`].
    pub id: String,
    pub names: Vec<String>,
    pub size_bytes: u64,
    /// Loaded from an archive: no registry brings it back.
    pub pinned: bool,
    /// How many containers exist of it, of all nodes that share its place.
    pub containers: usize,
    /// When it was pulled, or a container of it was removed last.
    pub last_used: SystemTime,
}

/// How much consideration a removal has for containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The image has no name any more; its containers keep their layers.
    Forced,
    /// Not while there is a container of it.
    Unused,
    /// Only if it isn't used, wasn't after this time, and isn't pinned.
    UnusedSince(SystemTime),
}

/// The room on the disk that images are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDisk {
    pub capacity_bytes: u64,
    /// For an ordinary user.
    pub available_bytes: u64,
    /// With what is kept back for root.
    pub free_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// For a registry. Has no `Debug`, so that it is in no log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("sandbox {0:?} does not exist")]
    NoSandbox(SandboxId),
    #[error("container {0:?} does not exist")]
    NoContainer(ContainerId),
    #[error("container {0:?} is not running")]
    NotRunning(ContainerId),
    /// The container's program could not be executed. `exit_code` is 127 (not found), 126 (not
    /// executable) or 128, `message` is containerd's wording.
    #[error("{message}")]
    Start { exit_code: i32, message: String },
    #[error("{0}")]
    Invalid(String),
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Image(#[from] ImageError),
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidName { reference: String, reason: String },
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Pull { reference: String, reason: String },
    #[error("image {0:?} is not present")]
    NotPresent(String),
    #[error("image {reference:?} is in use by {containers} container{}", if *.containers == 1 { "" } else { "s" })]
    /// With no container: it was in use after the time that was given, or it is pinned.
    InUse { reference: String, containers: usize },
    #[error("cannot load {archive}: {reason}")]
    Load { archive: PathBuf, reason: String },
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
}
