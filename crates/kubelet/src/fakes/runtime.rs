//! A runtime that keeps sandboxes and containers in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_runtime::*;
use tokio::sync::broadcast;

use super::Gate;
use crate::labels;

/// Whom private images are given to.
fn owner() -> RegistryAuth {
    RegistryAuth { username: "u".into(), password: "right".into() }
}

struct State {
    sandboxes: Vec<Sandbox>,
    containers: Vec<Container>,
    images: Vec<Image>,
    serial: u64,
    /// Every call that changes something, in words.
    calls: Vec<String>,
    /// Exit codes of commands in containers.
    answers: BTreeMap<String, i32>,
    unanswered: BTreeSet<String>,
    /// Containers take whatever they are given before they end.
    ends_held: bool,
    /// The commands that were run, and how often.
    asked: BTreeMap<String, usize>,
    image_disk: ImageDisk,
    image_uses: Vec<ImageUse>,
    /// Containers by image that came to be since `image_uses` was read.
    used_images: BTreeMap<String, usize>,
    /// Pod and name of each container that was started.
    started: Vec<(String, String)>,
}

/// Keeps sandboxes and containers in memory. A container whose command is `missing` can't start; the
/// image `absent` can't be pulled.
pub(crate) struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    gate: Arc<Gate>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        let state = State {
            sandboxes: Vec::new(),
            containers: Vec::new(),
            images: vec![image("web:1")],
            serial: 0,
            calls: Vec::new(),
            answers: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            ends_held: false,
            asked: BTreeMap::new(),
            image_disk: ImageDisk::default(),
            image_uses: Vec::new(),
            used_images: BTreeMap::new(),
            started: Vec::new(),
        };
        Self { state: Mutex::new(state), events: broadcast::channel(64).0, gate: Arc::default() }
    }
}

fn image(name: &str) -> Image {
    Image {
        id: format!("sha256:{name}"),
        tags: vec![format!("docker.io/library/{name}")],
        digests: vec![format!("docker.io/library/{name}@sha256:1")],
        size_bytes: 42,
        user: None,
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        stop_signal: None,
    }
}

impl FakeRuntime {
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// The disk that images are on, and who uses them.
    pub(crate) fn have_images(&self, disk: ImageDisk, uses: Vec<ImageUse>) {
        let mut state = self.state.lock();
        (state.image_disk, state.image_uses) = (disk, uses);
    }

    /// Images get containers behind the back of who has read their uses.
    pub(crate) fn use_images(&self, used: BTreeMap<String, usize>) {
        self.state.lock().used_images = used;
    }

    pub(crate) fn removed_images(&self) -> Vec<String> {
        let calls = self.calls();
        calls.iter().filter_map(|call| call.strip_prefix("remove image ")).map(str::to_owned).collect()
    }

    /// From now on that command ends in any container with that code.
    pub(crate) fn answer(&self, command: &str, code: i32) {
        self.state.lock().answers.insert(command.into(), code);
    }

    /// From now on that command never ends.
    pub(crate) fn hang(&self, command: &str) {
        self.state.lock().unanswered.insert(command.into());
    }

    /// From now on no container ends when it is stopped.
    pub(crate) fn hold_ends(&self) {
        self.state.lock().ends_held = true;
    }

    /// The commands that were run.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().asked.keys().cloned().collect()
    }

    /// How often that command was run, or was to be.
    pub(crate) fn tried(&self, command: &str) -> usize {
        self.state.lock().asked.get(command).copied().unwrap_or(0)
    }

    /// The container's program ends by itself.
    pub(crate) fn exit(&self, name: &str, code: i32) {
        let running = |each: &&Container| each.name == name && each.state == ContainerState::Running;
        let id = self.state.lock().containers.iter().find(running).expect("it runs").id.clone();
        self.exit_one(&id, code);
    }

    /// The same of one that is known.
    pub(crate) fn exit_one(&self, id: &ContainerId, code: i32) {
        let mut state = self.state.lock();
        let container = state.containers.iter_mut().find(|each| each.id == *id).expect("it is there");
        end(container, code);
        let event = Event::ContainerExited(id.clone(), container.sandbox.clone());
        let _ = self.events.send(event);
    }

    /// `pause` dies, and with it all in its sandbox.
    pub(crate) fn kill_sandbox(&self) {
        let id = self.state.lock().sandboxes.last().expect("there is one").id.clone();
        self.kill_one_sandbox(&id);
    }

    /// The same of one that is known.
    pub(crate) fn kill_one_sandbox(&self, id: &SandboxId) {
        let mut state = self.state.lock();
        state.sandboxes.iter_mut().filter(|each| each.id == *id).for_each(|each| each.ready = false);
        let of = |each: &&mut Container| each.sandbox == *id && each.state == ContainerState::Running;
        state.containers.iter_mut().filter(of).for_each(|each| end(each, 137));
        let _ = self.events.send(Event::SandboxStopped(id.clone()));
    }

    /// What its changes pass.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Pod and name of every container that was started, in order.
    pub(crate) fn started(&self) -> Vec<(String, String)> {
        self.state.lock().started.clone()
    }

    pub(crate) fn running(&self) -> Vec<String> {
        let state = self.state.lock();
        let running = state.containers.iter().filter(|each| each.state == ContainerState::Running);
        running.map(|each| each.name.clone()).collect()
    }

    fn made_sandbox(&self, config: SandboxConfig) -> Sandbox {
        let mut state = self.state.lock();
        state.serial += 1;
        let id = SandboxId(format!("s{}", state.serial));
        let own_network = config.network != NamespaceMode::Node;
        let sandbox = Sandbox {
            netns: own_network.then(|| PathBuf::from(format!("/run/netns/{}", id.0))),
            id,
            config,
            ready: true,
            created_at: crate::time::now(),
            pid: 1,
        };
        let pod = labels::uid(&sandbox.config.labels).to_owned();
        if state.sandboxes.iter().any(|each| each.ready && labels::uid(&each.config.labels) == pod) {
            state.calls.push(format!("WRONG: a second sandbox for {pod}"));
        }
        state.calls.push(format!("run sandbox {}", sandbox.id.0));
        state.sandboxes.push(sandbox.clone());
        sandbox
    }

    fn made_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> ContainerId {
        let mut state = self.state.lock();
        state.serial += 1;
        let id = ContainerId(format!("c{}", state.serial));
        let (pod, name) = (labels::uid(&config.labels).to_owned(), config.name.clone());
        let same = |each: &Container| labels::uid(&each.labels) == pod && each.name == name;
        if state.containers.iter().any(|each| same(each) && each.state == ContainerState::Running) {
            state.calls.push(format!("WRONG: a second {name} for {pod}"));
        }
        if !state.sandboxes.iter().any(|each| each.id == *sandbox && each.ready) {
            state.calls.push(format!("WRONG: {name} for {pod} in a sandbox that is gone"));
        }
        state.calls.push(format!("create {} {:?}", config.name, config.command));
        state.containers.push(Container {
            id: id.clone(),
            sandbox: sandbox.clone(),
            name: config.name,
            labels: config.labels,
            state: ContainerState::Created,
            image: config.image,
            image_id: "sha256:0".into(),
            created_at: crate::time::now(),
            started_at: None,
            finished_at: None,
            exit_code: None,
            reason: None,
            message: (config.command == ["missing"]).then(|| "no such file".into()),
            pid: 0,
            log_path: config.log_path,
        });
        id
    }

    fn start_now(&self, id: &ContainerId) -> Result<(), Error> {
        let mut state = self.state.lock();
        let container = state
            .containers
            .iter_mut()
            .find(|each| each.id == *id)
            .ok_or_else(|| Error::NoContainer(id.clone()))?;
        container.started_at = Some(crate::time::now());
        if let Some(message) = container.message.clone() {
            end(container, 127);
            container.reason = Some("StartError".into());
            return Err(Error::Start { exit_code: 127, message });
        }
        container.state = ContainerState::Running;
        container.pid = 7;
        let event = Event::ContainerStarted(id.clone(), container.sandbox.clone());
        let started = (labels::uid(&container.labels).to_owned(), container.name.clone());
        state.started.push(started);
        let _ = self.events.send(event);
        Ok(())
    }
}

fn end(container: &mut Container, code: i32) {
    container.state = ContainerState::Exited;
    container.exit_code = Some(code);
    container.finished_at = Some(crate::time::now());
    container.reason = Some(if code == 0 { "Completed" } else { "Error" }.into());
    container.pid = 0;
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        self.gate.pass().await;
        let sandbox = self.made_sandbox(config);
        self.gate.pass().await;
        Ok(sandbox)
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.gate.pass().await;
        {
            let mut state = self.state.lock();
            state.calls.push(format!("stop sandbox {}", id.0));
            state.sandboxes.iter_mut().filter(|each| each.id == *id).for_each(|each| each.ready = false);
            let of = |each: &&mut Container| each.sandbox == *id && each.state == ContainerState::Running;
            state.containers.iter_mut().filter(of).for_each(|each| end(each, 137));
        }
        self.gate.pass().await;
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.gate.pass().await;
        {
            let mut state = self.state.lock();
            state.calls.push(format!("remove sandbox {}", id.0));
            state.sandboxes.retain(|each| each.id != *id);
            state.containers.retain(|each| each.sandbox != *id);
        }
        self.gate.pass().await;
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        Ok(self.state.lock().sandboxes.clone())
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        self.gate.pass().await;
        let id = self.made_container(sandbox, config);
        self.gate.pass().await;
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.gate.pass().await;
        let started = self.start_now(id);
        self.gate.pass().await;
        started
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        self.gate.pass().await;
        let held = {
            let mut state = self.state.lock();
            state.calls.push(format!("stop {} after {} s", id.0, grace.as_secs()));
            let held = state.ends_held;
            let running =
                |each: &&mut Container| !held && each.id == *id && each.state == ContainerState::Running;
            if let Some(container) = state.containers.iter_mut().find(running) {
                end(container, 143);
                let event = Event::ContainerExited(id.clone(), container.sandbox.clone());
                let _ = self.events.send(event);
            }
            held
        };
        if held {
            std::future::pending::<()>().await;
        }
        self.gate.pass().await;
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.gate.pass().await;
        {
            let mut state = self.state.lock();
            state.calls.push(format!("remove {}", id.0));
            state.containers.retain(|each| each.id != *id);
        }
        self.gate.pass().await;
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<Container>, Error> {
        Ok(self.state.lock().containers.clone())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        _: Duration,
    ) -> Result<ExecOutput, Error> {
        let name = command.join(" ");
        *self.state.lock().asked.entry(name.clone()).or_default() += 1;
        if self.state.lock().unanswered.contains(&name) {
            return std::future::pending().await;
        }
        let code = self.state.lock().answers.get(&name).copied();
        let code = code.ok_or_else(|| Error::NotRunning(id.clone()))?;
        let stdout = format!("said by {name}").into_bytes();
        Ok(ExecOutput { exit_code: code, stdout, ..ExecOutput::default() })
    }

    async fn exec(&self, id: &ContainerId, _: ExecConfig) -> Result<Process, Error> {
        Err(Error::NotRunning(id.clone()))
    }

    async fn attach(&self, id: &ContainerId, _: bool) -> Result<Process, Error> {
        Err(Error::NotRunning(id.clone()))
    }

    async fn port_forward(&self, sandbox: &SandboxId, _: u16) -> Result<tokio::net::TcpStream, Error> {
        Err(Error::NoSandbox(sandbox.clone()))
    }

    async fn reopen_log(&self, _: &ContainerId) -> Result<(), Error> {
        Ok(())
    }

    async fn stats(&self, _: &ContainerId) -> Result<Stats, Error> {
        Ok(Stats::default())
    }

    async fn written(&self, _: &ContainerId) -> Result<usage::DiskUsage, Error> {
        Ok(usage::DiskUsage::default())
    }

    /// `private` images are given to [`owner`] alone.
    async fn pull_image(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Pulled, ImageError> {
        if reference.starts_with("absent") {
            return Err(ImageError::Pull { reference: reference.into(), reason: "not found".into() });
        }
        let mut state = self.state.lock();
        if reference.starts_with("private") {
            let who = auth.as_ref().map_or("nobody", |auth| auth.username.as_str());
            state.calls.push(format!("ask for {reference} as {who}"));
            if auth != Some(owner()) {
                let reason = format!("denied to {who}");
                return Err(ImageError::Pull { reference: reference.into(), reason });
            }
        }
        state.calls.push(format!("pull {reference}"));
        state.images.push(image(reference));
        let now = SystemTime::now();
        Ok(Pulled { image: image(reference), unpacking: Some((now, now + Duration::from_millis(1))) })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let name = format!("docker.io/library/{reference}");
        Ok(self.state.lock().images.iter().find(|image| image.tags.contains(&name)).cloned())
    }

    async fn is_image_given_to(
        &self,
        reference: &str,
        credentials: &[RegistryAuth],
    ) -> Result<bool, ImageError> {
        let given = !reference.starts_with("private") || credentials.contains(&owner());
        Ok(given && self.image(reference).await?.is_some())
    }

    async fn list_images(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.state.lock().images.clone())
    }

    async fn remove_image(&self, id: &str, removal: Removal) -> Result<(), ImageError> {
        let mut state = self.state.lock();
        let containers = state.used_images.get(id).copied().unwrap_or(0);
        if containers > 0 && removal != Removal::Forced {
            return Err(ImageError::InUse { reference: id.into(), containers });
        }
        let at = state.image_uses.iter().position(|image| image.id == id);
        let image = at.map(|at| state.image_uses.remove(at));
        let image = image.ok_or_else(|| ImageError::NotPresent(id.into()))?;
        state.image_disk.available_bytes += image.size_bytes;
        state.calls.push(format!("remove image {id}"));
        Ok(())
    }

    async fn image_uses(&self) -> Result<Vec<ImageUse>, ImageError> {
        Ok(self.state.lock().image_uses.clone())
    }

    async fn image_disk(&self) -> Result<ImageDisk, ImageError> {
        Ok(self.state.lock().image_disk)
    }

    async fn load_image(&self, _: &Path) -> Result<Vec<Loaded>, ImageError> {
        Ok(Vec::new())
    }

    async fn save_image(&self, reference: &str, _: &Path) -> Result<(), ImageError> {
        Err(ImageError::NotPresent(reference.into()))
    }
}
