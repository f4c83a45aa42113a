//! Small honest stand-ins: a runtime, a network and an API server that keep what they are told.

mod gate;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::{Body, Transport, full};
use skiff_network::{Attachment, HostPort, HostPortConflict, Network, Route};
use skiff_runtime::*;
use tokio::sync::{broadcast, watch};

pub(crate) use self::gate::Gate;
use crate::config::{Config, Serving};
use crate::labels;

/// Whom private images are given to.
fn owner() -> RegistryAuth {
    RegistryAuth { username: "u".into(), password: "right".into() }
}

pub(crate) fn config() -> Config {
    Config {
        node_name: "node".into(),
        node_ips: vec![Ipv4Addr::new(10, 100, 0, 2)],
        data_dir: PathBuf::from("/nonexistent"),
        cluster_dns: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
        cluster_domain: "cluster.local".into(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        register: true,
        pod_cidr: None,
        pods_max: 110,
        cgroup_root: "kubepods".into(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        listen: ([127, 0, 0, 1], 0).into(),
        allowed_unsafe_sysctls: Vec::new(),
        seccomp_default: false,
        platform_logs: None,
        first_user: crate::FIRST_USER,
        image_gc: crate::ImageGc::default(),
        serving: Serving { tls: None, ready: None, allowed_names: Vec::new(), connections_max: 64 },
        version: "1.36.0+skiff".into(),
    }
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
    asked: BTreeSet<String>,
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
            asked: BTreeSet::new(),
            image_disk: ImageDisk::default(),
            image_uses: Vec::new(),
            used_images: BTreeMap::new(),
            started: Vec::new(),
        };
        Self { state: Mutex::new(state), events: broadcast::channel(64).0, gate: Arc::default() }
    }
}

pub(crate) fn image(name: &str) -> Image {
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
        self.state.lock().asked.iter().cloned().collect()
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
        if self.state.lock().unanswered.contains(&name) {
            self.state.lock().asked.insert(name);
            return std::future::pending().await;
        }
        let mut state = self.state.lock();
        let code = state.answers.get(&name).copied().ok_or_else(|| Error::NotRunning(id.clone()))?;
        let stdout = format!("said by {name}").into_bytes();
        state.asked.insert(name);
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

    async fn load_image(&self, _: &Path) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }

    async fn save_image(&self, reference: &str, _: &Path) -> Result<(), ImageError> {
        Err(ImageError::NotPresent(reference.into()))
    }
}

/// Gives out addresses in order. Port 9999 of the node is taken by process 7.
#[derive(Default)]
pub(crate) struct FakeNetwork {
    attached: Mutex<BTreeMap<String, Attachment>>,
    pub(crate) ports: Mutex<BTreeMap<String, Vec<HostPort>>>,
    gate: Arc<Gate>,
}

impl FakeNetwork {
    /// What its changes pass.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

fn conflict(port: &HostPort) -> Option<HostPortConflict> {
    (port.host_port == 9999).then(|| HostPortConflict { port: *port, pid: 7, command: "nginx".into() })
}

#[async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, sandbox: &str, _: &Path) -> Result<Attachment, skiff_network::Error> {
        self.gate.pass().await;
        let attachment = {
            let mut attached = self.attached.lock();
            let next = u8::try_from(attached.len() + 2).expect("few sandboxes");
            let attachment = Attachment {
                sandbox: sandbox.into(),
                ip: Ipv4Addr::new(10, 244, 0, next),
                host_link: format!("veth{next}"),
            };
            attached.entry(sandbox.into()).or_insert(attachment).clone()
        };
        self.gate.pass().await;
        Ok(attachment)
    }

    async fn detach(&self, sandbox: &str) -> Result<(), skiff_network::Error> {
        self.gate.pass().await;
        self.attached.lock().remove(sandbox);
        self.ports.lock().remove(sandbox);
        self.gate.pass().await;
        Ok(())
    }

    async fn set_host_ports(
        &self,
        sandbox: &str,
        ports: &[HostPort],
    ) -> Result<Vec<HostPortConflict>, skiff_network::Error> {
        self.gate.pass().await;
        self.ports.lock().insert(sandbox.into(), ports.to_vec());
        self.gate.pass().await;
        Ok(ports.iter().filter_map(conflict).collect())
    }

    async fn attachments(&self) -> Result<Vec<Attachment>, skiff_network::Error> {
        Ok(self.attached.lock().values().cloned().collect())
    }

    async fn set_routes(&self, _: &[Route]) -> Result<(), skiff_network::Error> {
        Ok(())
    }

    async fn listener(&self, port: &HostPort) -> Result<Option<HostPortConflict>, skiff_network::Error> {
        Ok(conflict(port))
    }

    async fn walk(
        &self,
        _: skiff_network::walk::Asked,
    ) -> Result<Vec<skiff_network::walk::Way>, skiff_network::Error> {
        Ok(Vec::new())
    }

    async fn approaches(
        &self,
        asked: skiff_network::walk::Approaches,
    ) -> Result<Vec<Result<Vec<skiff_network::walk::Way>, skiff_network::Error>>, skiff_network::Error> {
        Ok(asked.packets.iter().map(|_| Ok(Vec::new())).collect())
    }
}

#[derive(Default)]
struct Objects {
    /// By request path.
    by_path: BTreeMap<String, Value>,
    version: u64,
    /// Every change, in order.
    events: Vec<(u64, &'static str, Value)>,
    /// How long tokens hold from now; none are given at first.
    token_seconds: Option<u64>,
    /// Path and body of each request for a token that was granted.
    token_requests: Vec<(String, Value)>,
    reviews: Reviews,
    /// How many times the control plane takes readiness back the moment that it is told.
    contradictions: u32,
    gate: Arc<Gate>,
}

/// What the API says of callers of the node.
#[derive(Default)]
struct Reviews {
    /// Users by token.
    known: BTreeMap<String, String>,
    /// User, verb, and subresource of the node.
    allowed: Vec<[String; 3]>,
    fail: bool,
    asked: Vec<Value>,
}

/// A key-value store with the API's manners: collections, watch, patches, versions.
#[derive(Clone)]
pub(crate) struct FakeApi(Arc<(Mutex<Objects>, watch::Sender<u64>)>);

impl Default for FakeApi {
    fn default() -> Self {
        Self(Arc::new((Mutex::default(), watch::channel(0).0)))
    }
}

impl FakeApi {
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut objects = self.0.0.lock();
        objects.version += 1;
        let version = objects.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let kind =
            if objects.by_path.insert(path.into(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        objects.events.push((version, kind, object));
        self.0.1.send_replace(version);
    }

    pub(crate) fn remove(&self, path: &str) -> bool {
        let mut objects = self.0.0.lock();
        let Some(mut object) = objects.by_path.remove(path) else { return false };
        objects.version += 1;
        let version = objects.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.events.push((version, "DELETED", object));
        self.0.1.send_replace(version);
        true
    }

    /// What the agent's writes about pods pass.
    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.0.0.lock().gate.clone()
    }

    /// From now on tokens are given that hold so long, named `token-1` and on.
    pub(crate) fn grant_tokens_of(&self, seconds: u64) {
        self.0.0.lock().token_seconds = Some(seconds);
    }

    pub(crate) fn token_requests(&self) -> Vec<(String, Value)> {
        self.0.0.lock().token_requests.clone()
    }

    /// As many times, a pod that is told to be ready is said not to be before anybody sees it.
    pub(crate) fn contradict(&self, times: u32) {
        self.0.0.lock().contradictions = times;
    }

    /// How many are left of those.
    pub(crate) fn contradictions(&self) -> u32 {
        self.0.0.lock().contradictions
    }

    /// Says the opposite of a status that was just written, if it is to.
    fn contradiction(&self, object: &Value) -> Option<Value> {
        let mut object = (object["kind"] == "Pod").then(|| object.clone())?;
        let conditions = object["status"]["conditions"].as_array_mut()?;
        let ready = conditions.iter_mut().find(|each| each["type"] == "Ready" && each["status"] == "True")?;
        ready["status"] = json!("False");
        let mut objects = self.0.0.lock();
        objects.contradictions = objects.contradictions.checked_sub(1)?;
        Some(object)
    }

    /// That token is that user's.
    pub(crate) fn know(&self, token: &str, user: &str) {
        self.0.0.lock().reviews.known.insert(token.into(), user.into());
    }

    /// The user may do that to the node's subresource.
    pub(crate) fn allow(&self, user: &str, verb: &str, subresource: &str) {
        self.0.0.lock().reviews.allowed.push([user.into(), verb.into(), subresource.into()]);
    }

    pub(crate) fn fail_reviews(&self) {
        self.0.0.lock().reviews.fail = true;
    }

    /// How often somebody asked who or whether.
    pub(crate) fn reviews(&self) -> usize {
        self.0.0.lock().reviews.asked.len()
    }

    pub(crate) fn last_review(&self) -> Value {
        self.0.0.lock().reviews.asked.last().cloned().unwrap_or_default()
    }

    fn review(&self, mut body: Value) -> Response<Body> {
        let reviews = &mut self.0.0.lock().reviews;
        reviews.asked.push(body.clone());
        if reviews.fail {
            return not_found();
        }
        let spec = &body["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        body["status"] = if spec["token"].is_string() {
            match reviews.known.get(&text(&spec["token"])) {
                Some(user) => json!({"authenticated": true, "user": {"username": user, "groups": ["g"]}}),
                None => json!({"authenticated": false, "error": "unknown"}),
            }
        } else {
            let what = &spec["resourceAttributes"];
            let asked = [text(&spec["user"]), text(&what["verb"]), text(&what["subresource"])];
            json!({"allowed": reviews.allowed.contains(&asked)})
        };
        Response::new(full(body.to_string()))
    }

    fn token(&self, path: String, mut body: Value) -> Response<Body> {
        let mut objects = self.0.0.lock();
        let Some(seconds) = objects.token_seconds else { return not_found() };
        objects.token_requests.push((path, body.clone()));
        let until = crate::time::api_time(crate::time::now() + Duration::from_secs(seconds));
        let token = format!("token-{}", objects.token_requests.len());
        body["status"] = json!({"token": token, "expirationTimestamp": until});
        Response::new(full(body.to_string()))
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.0.lock().by_path.get(path).cloned()
    }

    pub(crate) fn all(&self, part: &str) -> Vec<Value> {
        self.0
            .0
            .lock()
            .by_path
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Every status that an object of that name has had.
    pub(crate) fn history(&self, name: &str) -> Vec<Value> {
        let objects = self.0.0.lock();
        let own = objects.events.iter().filter(|(.., object)| object["metadata"]["name"] == name);
        own.map(|(.., object)| object["status"].clone()).collect()
    }

    /// Waits until `test` holds of the object at `path`.
    pub(crate) async fn until(
        &self,
        path: &str,
        what: &str,
        test: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let mut changes = self.0.1.subscribe();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                let now = self.get(path);
                if test(now.as_ref()) {
                    return now;
                }
                changes.changed().await.expect("the store lives");
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), waiting).await {
            Ok(object) => object,
            Err(_) => panic!("{what}: {:#}", self.get(path).unwrap_or_default()),
        }
    }
}

/// A merge patch, and of a strategic one what the agent uses: conditions by type, lists that are replaced.
fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Array(items) if items.first().is_some_and(|item| item["$patch"] == "replace") => {
            *target = items[1..].to_vec().into();
        }
        Value::Array(items) if items.iter().any(|item| item.get("lastTransitionTime").is_some()) => {
            let mut merged = target.as_array().cloned().unwrap_or_default();
            for item in items {
                let at = merged.iter().position(|old| old["type"] == item["type"]).unwrap_or_else(|| {
                    merged.push(json!({}));
                    merged.len() - 1
                });
                merge(&mut merged[at], item);
            }
            *target = merged.into();
        }
        Value::Object(fields) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    target.as_object_mut().expect("it is one").remove(key);
                } else {
                    merge(&mut target[key], value);
                }
            }
        }
        other => *target = other.clone(),
    }
}

fn not_found() -> Response<Body> {
    let body = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"});
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

/// Whether `path` is an object of the collection at `collection` (of all namespaces, if it names none).
fn is_in(path: &str, collection: &str) -> bool {
    if collection.contains("/namespaces/") || path.matches("/namespaces/").count() == 0 {
        return path.rsplit_once('/').is_some_and(|(parent, _)| parent == collection);
    }
    let Some((_, plural)) = collection.rsplit_once('/') else { return false };
    path.rsplit('/').nth(1) == Some(plural)
}

#[async_trait]
impl Transport for FakeApi {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, skiff_client::Error> {
        let guarded = request.method() != Method::GET && request.uri().path().contains("/pods/");
        if !guarded {
            return self.answer(request).await;
        }
        let gate = self.gate();
        gate.pass().await;
        let answer = self.answer(request).await;
        gate.pass().await;
        answer
    }
}

impl FakeApi {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, skiff_client::Error> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect().await.map_err(skiff_client::Error::Transport)?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = path.trim_end_matches("/status").to_owned();
        let name = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"))
            .map(str::to_owned);
        let selected = move |object: &Value| {
            name.as_ref().is_none_or(|name| object["metadata"]["name"] == name.as_str())
        };
        Ok(match method {
            Method::POST if path.ends_with("/token") => self.token(path, body),
            Method::POST if path.ends_with("reviews") => self.review(body),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or("none").to_owned();
                let path = format!("{path}/{name}");
                self.put(&path, body);
                Response::new(full(self.get(&path).unwrap_or_default().to_string()))
            }
            Method::PATCH => {
                let Some(mut object) = self.get(&path) else { return Ok(not_found()) };
                merge(&mut object, &body);
                self.put(&path, object.clone());
                let object = self.get(&path).unwrap_or_default();
                if let Some(contradiction) = self.contradiction(&object) {
                    self.put(&path, contradiction);
                }
                Response::new(full(object.to_string()))
            }
            Method::DELETE => {
                if self.remove(&path) {
                    Response::new(full("{}"))
                } else {
                    not_found()
                }
            }
            _ if query.contains("watch=true") => {
                let from: u64 = query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("resourceVersion="))
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                let (store, changes) = (self.clone(), self.0.1.subscribe());
                let frames = futures_util::stream::unfold((from, changes), move |(mut seen, mut changes)| {
                    let (store, path, selected) = (store.clone(), path.clone(), selected.clone());
                    async move {
                        loop {
                            changes.borrow_and_update();
                            let next = {
                                let objects = store.0.0.lock();
                                objects.events.iter().find(|(version, ..)| *version > seen).cloned()
                            };
                            let Some((version, kind, object)) = next else {
                                changes.changed().await.ok()?;
                                continue;
                            };
                            seen = version;
                            let own = object_path(&object);
                            if !is_in(&own, &path) || !selected(&object) {
                                continue;
                            }
                            let line = format!("{}\n", json!({"type": kind, "object": object}));
                            let frame = http_body::Frame::data(bytes::Bytes::from(line));
                            return Some((Ok(frame), (seen, changes)));
                        }
                    }
                });
                Response::new(BodyExt::boxed_unsync(http_body_util::StreamBody::new(frames)))
            }
            _ => match self.get(&path) {
                Some(object) => Response::new(full(object.to_string())),
                None if path.rsplit('/').next().is_some_and(|last| last.ends_with('s')) => {
                    let objects = self.0.0.lock();
                    let items: Vec<&Value> = objects
                        .by_path
                        .iter()
                        .filter(|(own, object)| is_in(own, &path) && selected(object))
                        .map(|(_, object)| object)
                        .collect();
                    let list =
                        json!({"metadata": {"resourceVersion": objects.version.to_string()}, "items": items});
                    Response::new(full(list.to_string()))
                }
                None => not_found(),
            },
        })
    }
}

/// Where an object lies, by its kind: only those that tests put.
fn object_path(object: &Value) -> String {
    let (kind, metadata) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]);
    let plural = format!("{}s", kind.to_lowercase());
    let name = metadata["name"].as_str().unwrap_or_default();
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/api/v1/{plural}/{name}"),
    }
}
