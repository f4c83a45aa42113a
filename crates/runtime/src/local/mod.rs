//! The runtime of one node: records on disk, a shim for each sandbox, and a picture of both in memory.
//!
//! The picture is fed by the shims, which send all they know at every change. Records and shims outlive
//! this process; [`LocalRuntime::open`] takes them up again.

mod cleanup;
mod containers;
mod orphans;
mod records;
mod sandboxes;
mod shims;
mod specs;
mod streams;

pub use shims::recorded_sandboxes;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fs, io};

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_sys::cgroup::Hierarchy;
use skiff_sys::private;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::Runtime;
use crate::images::ImageStore;
use crate::types::*;
use records::{ContainerRecord, SandboxRecord};

/// `pause`, as the build script compiled it.
const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
const EVENTS_MAX: usize = 1024;
/// A unix socket's path has 108 bytes, of which a sandbox takes 19.
const RUN_DIR_MAX: usize = 85;

/// Where a runtime keeps its things.
#[derive(Debug, Clone)]
pub struct Config {
    /// Sandboxes and containers. Must not lie on overlayfs.
    pub data_dir: PathBuf,
    /// Sockets and mount points; need not survive a reboot. At most 85 bytes long.
    pub run_dir: PathBuf,
    /// Where control groups are mounted: `/sys/fs/cgroup`.
    pub cgroup_mount: PathBuf,
    /// The group, made if missing, that all the runtime's groups are in.
    pub cgroup_root: PathBuf,
    /// The program that calls [`crate::dispatch_internal`]; `None` is this process's own.
    pub shim: Option<PathBuf>,
    /// For tests of the guards alone.
    pub weakness: Weakness,
}

impl Config {
    /// Control groups `skiff` below `/sys/fs/cgroup`, and this program as the shim.
    pub fn new(data_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            run_dir: run_dir.into(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            cgroup_root: "skiff".into(),
            shim: None,
            weakness: Weakness::default(),
        }
    }
}

/// [`Runtime`] on this machine's kernel.
pub struct LocalRuntime {
    inner: Arc<Inner>,
    /// Ends the listeners on shims with the runtime.
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

struct Inner {
    config: Config,
    images: ImageStore,
    hierarchy: Hierarchy,
    /// The shim's program, read-only.
    shim: OwnedFd,
    state: Mutex<State>,
    /// Held while groups are made in their parent or a parent is removed.
    groups: Mutex<()>,
    /// Held while a sandbox gets its place for specifications.
    specs: Mutex<()>,
    /// Counts changes of `state`.
    changes: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    tasks: Weak<Mutex<JoinSet<()>>>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxEntry>,
    containers: BTreeMap<String, ContainerEntry>,
}

struct SandboxEntry {
    record: SandboxRecord,
    /// 0 once it is gone.
    pause_pid: u32,
    /// Its shim answers.
    shim_lives: bool,
}

struct ContainerEntry {
    record: ContainerRecord,
    progress: crate::protocol::Progress,
    /// Its shim doesn't answer.
    lost: bool,
}

impl LocalRuntime {
    /// Takes up what a former process left. To be called within a tokio runtime, which gets the tasks that
    /// listen to the shims.
    pub fn open(config: Config, images: ImageStore) -> Result<Arc<LocalRuntime>, Error> {
        if config.run_dir.as_os_str().len() > RUN_DIR_MAX {
            let dir = config.run_dir.display();
            return Err(Error::Invalid(format!(
                "{dir} is too long a path for sockets: at most {RUN_DIR_MAX} bytes"
            )));
        }
        for dir in ["sandboxes", "containers", "pause"] {
            make_dir(&config.data_dir.join(dir))?;
        }
        make_dir(&config.data_dir)?;
        make_dir(&config.run_dir)?;
        write_pause(&config.data_dir.join("pause/pause"))?;
        let hierarchy = Hierarchy::open(&config.cgroup_mount).map_err(cgroup_error)?;
        hierarchy.group(&config.cgroup_root).create().map_err(cgroup_error)?;
        let program = config.shim.clone().unwrap_or_else(|| "/proc/self/exe".into());
        let shim = match config.weakness.writable_program {
            false => skiff_sys::mount::read_only_copy(&program),
            true => fs::File::open(&program).map(OwnedFd::from),
        };
        let shim = shim.map_err(doing("open the shim's program"))?;
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let inner = Arc::new(Inner {
            config,
            images,
            hierarchy,
            shim,
            state: Mutex::default(),
            groups: Mutex::default(),
            specs: Mutex::default(),
            changes: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS_MAX),
            tasks: Arc::downgrade(&tasks),
        });
        inner.adopt()?;
        let containers = inner.state.lock().containers.keys().cloned().collect();
        if let Err(error) = inner.images.release_all_but(&inner.owner(), &containers) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot let go of images that nothing uses"
            );
        }
        Ok(Arc::new(LocalRuntime { inner, _tasks: tasks }))
    }

    /// Runs what blocks on a thread that may.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Inner>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || act(&inner)).await {
            Ok(answer) => answer,
            Err(error) => Err(Error::Io { action: "finish".into(), source: io::Error::other(error) }),
        }
    }
}

impl Inner {
    /// Changes the picture, and wakes those who wait for a change.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state.lock());
        self.changes.send_modify(|count| *count += 1);
        answer
    }

    /// Waits until something in the picture is so.
    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(found) = look(&self.state.lock()) {
                return found;
            }
            // The sender is a field of `self`, so it lives.
            let _ = changes.changed().await;
        }
    }

    /// What its uses of images are known by to others that share them.
    fn owner(&self) -> String {
        self.config.data_dir.to_string_lossy().into_owned()
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.config.data_dir.join("sandboxes").join(id)
    }

    /// Short, for its socket's sake.
    fn run_dir(&self, sandbox: &str) -> PathBuf {
        self.config.run_dir.join(&sandbox[..sandbox.len().min(16)])
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.config.data_dir.join("containers").join(id)
    }
}

#[async_trait]
impl Runtime for LocalRuntime {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        self.blocking(move |inner| inner.run_sandbox(config)).await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.inner.stop_sandbox(&id.0).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.inner.stop_sandbox(&id.0).await?;
        self.inner.remove_sandbox(&id.0).await
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        Ok(self.inner.list_sandboxes())
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        self.inner.create_container(sandbox, config).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.inner.start_container(id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        self.inner.stop_container(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.inner.remove_container(id).await
    }

    async fn list_containers(&self) -> Result<Vec<Container>, Error> {
        Ok(self.inner.list_containers())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        self.inner.exec_sync(id, command, timeout).await
    }

    async fn exec(&self, id: &ContainerId, config: ExecConfig) -> Result<Process, Error> {
        self.inner.exec(id, config).await
    }

    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Process, Error> {
        self.inner.attach(id, stdin).await
    }

    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<tokio::net::TcpStream, Error> {
        self.inner.port_forward(sandbox, port).await
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        let id = id.clone();
        self.blocking(move |inner| inner.reopen_log(&id)).await
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats, Error> {
        let id = id.clone();
        self.blocking(move |inner| inner.stats(&id)).await
    }

    async fn written(&self, id: &ContainerId) -> Result<crate::usage::DiskUsage, Error> {
        let id = id.clone();
        self.blocking(move |inner| inner.written(&id)).await
    }

    async fn pull_image(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Pulled, ImageError> {
        self.inner.images.pull(reference, auth).await
    }

    async fn is_image_given_to(
        &self,
        reference: &str,
        credentials: &[RegistryAuth],
    ) -> Result<bool, ImageError> {
        self.inner.images.is_given_to(reference, credentials)
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        self.inner.images.get(reference)
    }

    async fn list_images(&self) -> Result<Vec<Image>, ImageError> {
        self.inner.images.list()
    }

    async fn remove_image(&self, reference: &str, removal: Removal) -> Result<(), ImageError> {
        self.inner.images.remove(reference, removal).await
    }

    async fn image_uses(&self) -> Result<Vec<ImageUse>, ImageError> {
        self.inner.images.uses().await
    }

    async fn image_disk(&self) -> Result<ImageDisk, ImageError> {
        self.inner.images.disk()
    }

    async fn load_image(&self, archive: &Path) -> Result<Vec<Loaded>, ImageError> {
        self.inner.images.load(archive).await
    }

    async fn save_image(&self, reference: &str, archive: &Path) -> Result<(), ImageError> {
        self.inner.images.save(reference, archive).await
    }
}

/// In place only if it differs: running sandboxes execute it, as nobody, who sees its directory alone.
fn write_pause(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let everybodys = fs::Permissions::from_mode(0o755);
    path.parent()
        .map_or(Ok(()), |dir| fs::set_permissions(dir, everybodys.clone()))
        .map_err(doing("set the mode of pause's directory"))?;
    if fs::read(path).is_ok_and(|there| there == PAUSE) {
        return Ok(());
    }
    let beside = path.with_extension(format!("new{}", std::process::id()));
    fs::write(&beside, PAUSE)
        .and_then(|()| fs::set_permissions(&beside, everybodys))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(doing("write pause"))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    private::make_dir(dir).map_err(doing(format_args!("make {}", dir.display())))
}

fn doing(action: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action: action.to_string(), source }
}

fn cgroup_error(error: skiff_sys::cgroup::Error) -> Error {
    Error::Io { action: "set up control groups".into(), source: io::Error::other(error) }
}

/// 64 hexadecimal digits.
fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
