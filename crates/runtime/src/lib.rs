//! OCI containers on this machine: images, snapshots, sandboxes, exec, shim. Knows no Kubernetes.
//!
//! The vocabulary is the Container Runtime Interface's: a *sandbox* holds the namespaces (its `pause`
//! process does nothing else), *containers* run in it. [`Runtime`] is the interface; [`types`] its words.

// A full disk must not kill a shim: `dispatch::complain` says what is to be said.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod apparmor;
mod dispatch;
pub mod facts;
mod files;
pub mod images;
mod init;
mod local;
mod protocol;
mod seccomp;
mod shim;
mod spec;
pub mod types;
pub mod usage;

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

pub use dispatch::{SHIM, dispatch_internal};
pub use local::{Config, LocalRuntime, recorded_sandboxes};
pub use skiff_sys::{private, tree};
pub use types::*;

/// Sandboxes, containers and images of one node.
///
/// All calls are idempotent where CRI's are: stopping what is stopped and removing what is gone succeed.
/// Everything survives a restart of the process that calls: [`Runtime::list_sandboxes`] and
/// [`Runtime::list_containers`] after a restart tell what a former process started, with exit codes.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Creates the namespaces and starts `pause` in them. Attaches no network: its caller does, using
    /// [`Sandbox::netns`], before it creates containers.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error>;
    /// Kills all that runs in the sandbox, `pause` last. Keeps what [`Runtime::list_containers`] tells.
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error>;
    /// Stops it if need be, then removes its containers, directories, mounts and cgroups.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error>;
    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, Error>;

    /// Prepares root file system and configuration. A command that doesn't exist fails in `start`.
    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error>;
    /// Returns once the container's own program has been executed, or with [`Error::Start`].
    async fn start_container(&self, id: &ContainerId) -> Result<(), Error>;
    /// Sends the stop signal, then SIGKILL after `grace`; returns when it has exited.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error>;
    async fn remove_container(&self, id: &ContainerId) -> Result<(), Error>;
    async fn list_containers(&self) -> Result<Vec<Container>, Error>;

    /// State changes of sandboxes and containers as they happen. A receiver that lags is told so by
    /// `RecvError::Lagged` and then lists.
    fn events(&self) -> tokio::sync::broadcast::Receiver<Event>;

    /// Runs a command to its end (probes), killing it after `timeout`. Output is bounded to 64 KiB.
    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, Error>;
    /// Starts a command with live streams.
    async fn exec(&self, id: &ContainerId, config: ExecConfig) -> Result<Process, Error>;
    /// Joins the streams of the container's own process.
    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Process, Error>;
    /// Connects to `127.0.0.1:port` inside the sandbox's network namespace.
    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<tokio::net::TcpStream, Error>;
    /// Asks for a new log file after the kubelet renamed the old one.
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), Error>;

    /// CPU and memory of a container's cgroup.
    async fn stats(&self, id: &ContainerId) -> Result<Stats, Error>;
    /// What a container has written over its image: every file of that is looked at.
    async fn written(&self, id: &ContainerId) -> Result<usage::DiskUsage, Error>;

    /// Makes an image available, asking the loaded images first and then the registry. Returns at once
    /// where every layer is there already, but a tag is looked up anew.
    async fn pull_image(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Pulled, ImageError>;
    /// The image, if present and unpackable; never asks a registry.
    async fn image(&self, reference: &str) -> Result<Option<Image>, ImageError>;
    /// Whether a present image may be used by who has these credentials without the registry's being asked.
    async fn is_image_given_to(
        &self,
        reference: &str,
        credentials: &[RegistryAuth],
    ) -> Result<bool, ImageError>;
    async fn list_images(&self) -> Result<Vec<Image>, ImageError>;
    async fn remove_image(&self, reference: &str, removal: Removal) -> Result<(), ImageError>;
    /// All images, with who uses them: also other runtimes that share their place.
    async fn image_uses(&self) -> Result<Vec<ImageUse>, ImageError>;
    async fn image_disk(&self) -> Result<ImageDisk, ImageError>;
    /// Takes in an OCI or docker archive (tar, tar.gz, tar.zst) and returns what it brought.
    async fn load_image(&self, archive: &Path) -> Result<Vec<Loaded>, ImageError>;
    /// Writes an OCI archive that [`Runtime::load_image`] and `docker load` take.
    async fn save_image(&self, reference: &str, archive: &Path) -> Result<(), ImageError>;
}
