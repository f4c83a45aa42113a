//! Taking the steps of a plan. Every decision has been made; what is here is order and error texts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions;
use skiff_client::DeleteOptions;
use skiff_explain::start::Phase;
use skiff_network::{HostPortConflict, Network, Protocol};
use skiff_runtime::{ContainerId, Error as RuntimeError, SandboxId};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::env::{self, Facts};
use crate::events::Kind;
use crate::given::{Given, Told};
use crate::images::{Local, chain};
use crate::observed::{Failure, ImageState, TokenState};
use crate::plan::{Step, Why};
use crate::translate::{self, Surroundings};
use crate::volumes::Part;
use crate::worker::{Done, Worker};
use crate::{labels, names, volumes};

/// How long a pod waits for the node's network or services before it says so.
const NODE_READY_TIMEOUT: Duration = Duration::from_secs(5);
/// A container that could not be created is tried again after this.
const CREATE_RETRY: Duration = Duration::from_secs(10);
/// A container that could not be started is tried again after this; then its back-off counts.
const START_RETRY: Duration = Duration::from_secs(1);

impl Worker {
    /// Takes one step. An error is for the log: the worker waits, looks and plans again.
    pub(crate) async fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::FetchTokens => self.fetch_tokens(),
            Step::MountVolumes => self.mount_volumes().await,
            Step::MountTokens => self.mount_tokens().await,
            Step::RunSandbox { attempt } => self.run_sandbox(attempt).await,
            Step::Attach { sandbox } => self.attach(&sandbox, None).await,
            Step::EnsureImage { container } => self.ensure_image(&container).await,
            Step::Start { container, attempt, crash } => self.start(&container, attempt, crash).await,
            Step::Stop { id, container, grace, why } => self.stop(id, &container, grace, &why),
            Step::Remove { id } => {
                let log = self.seen.containers.iter().find(|each| each.id == id);
                let log = log.and_then(|each| each.log_path.clone());
                self.context.runtime.remove_container(&id).await.map_err(|error| chain(&error))?;
                if let Some(log) = log {
                    crate::logs::remove(&log);
                }
                return Ok(());
            }
            Step::SandboxChanged => {
                let message = "Pod sandbox changed, it will be killed and re-created.".into();
                self.context.events.pod(&self.pod, None, Kind::Normal, "SandboxChanged", message);
                return Ok(());
            }
            Step::StopSandboxes => return self.stop_sandboxes().await,
            Step::RemoveSandbox { id } => return self.remove_sandbox(&id).await,
            Step::Finish => return Ok(()),
        }
        Ok(())
    }

    async fn mount_volumes(&mut self) {
        let part = if self.seen.tokens == TokenState::Settled { Part::All } else { Part::WithoutTokens };
        let began = crate::time::now();
        self.context.memory.begin(&self.uid, Phase::Volumes, began);
        match self.set_up_volumes(part).await {
            Ok(()) => {
                self.context.memory.mark(&self.uid, Phase::Volumes, began);
                self.seen.volumes_ready = true;
                self.pod_recovered();
            }
            Err(message) => self.pod_failure("FailedMount", message),
        }
    }

    async fn mount_tokens(&mut self) {
        match self.set_up_volumes(Part::All).await {
            Ok(()) => {
                self.seen.tokens = TokenState::Settled;
                self.pod_recovered();
            }
            Err(message) => self.pod_failure("FailedMount", message),
        }
    }

    /// Asks for tokens that are missing or due, unless that is being done.
    pub(crate) fn fetch_tokens(&mut self) {
        if self.seen.tokens == TokenState::Wanted {
            self.seen.tokens = TokenState::Fetching;
        }
        self.replacing_tokens = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.background.spawn(async move { Done::Tokens(context.tokens.fetch(&pod).await) });
    }

    async fn set_up_volumes(&mut self, part: Part) -> Result<(), String> {
        let objects = self.context.references.of(&self.pod).await?;
        let (tokens, _) = self.context.tokens.of(&self.uid);
        let given = Given { objects, tokens, metadata: Told::of(&self.pod) };
        if part == Part::All && self.mounted.as_ref() == Some(&given) {
            return Ok(());
        }
        let failed_with = given.objects.clone();
        let mounted = given.clone();
        let pod_dir = self.pod_dir();
        let (pod, pod_ip) = (self.pod.clone(), self.seen.ip);
        let (node_ip, capacity) = (self.context.config.node_ip(), self.context.capacity);
        // A disk may be slow, and other pods shall not wait for it.
        let made = tokio::task::spawn_blocking(move || {
            let facts = Facts {
                pod: &pod,
                pod_ip,
                node_ip,
                node_cpu_milli: capacity.cpu_milli,
                node_memory_bytes: i64::try_from(capacity.memory_bytes).unwrap_or(i64::MAX),
            };
            fs::create_dir_all(&pod_dir).map_err(|error| error.to_string())?;
            volumes::set_up(&pod_dir, &facts, &given, part).map_err(|error| chain(&error))
        });
        let made = made.await.map_err(|error| error.to_string())?;
        match made {
            Ok(()) if part == Part::All => self.mounted = Some(mounted),
            Ok(()) => {}
            Err(_) => self.failed_with = Some(failed_with),
        }
        made
    }

    /// Brings the content of volumes up to date while the pod runs.
    pub(crate) async fn refresh_volumes(&mut self) {
        let ends = self.seen.removed || self.pod.metadata.deletion_timestamp.is_some();
        let has_content = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| {
            volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.downward_api.is_some()
                || volume.projected.is_some()
        });
        let settled = self.seen.volumes_ready && self.seen.tokens == TokenState::Settled;
        if !settled || ends || !has_content {
            return;
        }
        // An object that was deleted leaves what the pod has of it.
        if let Err(error) = self.set_up_volumes(Part::All).await {
            debug!(pod = self.uid, error, "cannot refresh volumes");
        }
    }

    async fn run_sandbox(&mut self, attempt: u32) {
        let began = crate::time::now();
        // Most pods' users are the node's.
        let own_users = self.pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false));
        let users = own_users.then(|| self.context.users.take(&self.uid)).transpose();
        let mut required = None;
        let made =
            users.and_then(|users| translate::sandbox(&self.pod, attempt, users, &self.context.config));
        let made = match made {
            Ok(config) => {
                let (made, version) = tokio::join!(self.context.runtime.run_sandbox(config), self.required());
                required = Some(version);
                made.map_err(|error| chain(&error))
            }
            Err(message) => Err(message),
        };
        let sandbox = match made {
            Ok(sandbox) => sandbox,
            Err(message) => {
                return self.pod_failure(
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                );
            }
        };
        self.context.memory.mark(&self.uid, Phase::Sandbox, began);
        self.context.bells.learn(&sandbox.id, &self.uid);
        self.pod_recovered();
        self.seen.ip = None;
        let node_network = self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let id = sandbox.id.clone();
        self.seen.sandboxes.insert(0, sandbox);
        if node_network {
            self.warn_of_listeners().await;
        } else {
            self.attach(&id, required).await;
        }
    }

    async fn attach(&mut self, id: &SandboxId, required: Option<Result<u64, String>>) {
        if let Err(message) = self.try_attach(id, required).await {
            self.pod_failure("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
        }
    }

    /// The version of what restricts pods that this one must find in force.
    async fn required(&self) -> Result<u64, String> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        self.context.isolation.required(namespace).await.map_err(|error| chain(&*error))
    }

    async fn try_attach(
        &mut self,
        id: &SandboxId,
        required: Option<Result<u64, String>>,
    ) -> Result<(), String> {
        let began = crate::time::now();
        let network = self.network().await?;
        let netns = self.seen.sandboxes.iter().find(|sandbox| sandbox.id == *id);
        let netns =
            netns.and_then(|sandbox| sandbox.netns.clone()).ok_or("the sandbox has no network namespace")?;
        let attachment = network.attach(&id.0, &netns).await.map_err(|error| chain(&error))?;
        let runs = self.seen.containers.iter().any(|container| container.sandbox == *id);
        let required = match required {
            _ if runs => None,
            Some(required) => Some(required?),
            None => Some(self.required().await?),
        };
        let admitted = self.context.isolation.admit(&self.pod, attachment.ip, required).await;
        admitted.map_err(|error| chain(&*error))?;
        let ports = translate::host_ports(&self.pod);
        if !ports.is_empty() {
            let conflicts = network.set_host_ports(&id.0, &ports).await.map_err(|error| chain(&error))?;
            conflicts.iter().for_each(|conflict| self.warn_of_conflict(conflict));
        }
        self.context.memory.mark(&self.uid, Phase::Network, began);
        self.seen.ip = Some(attachment.ip);
        self.pod_recovered();
        Ok(())
    }

    async fn network(&self) -> Result<Arc<dyn Network>, String> {
        let mut slot = self.context.network.clone();
        let found = tokio::time::timeout(NODE_READY_TIMEOUT, slot.wait_for(Option::is_some)).await;
        let network = found.ok().and_then(Result::ok).and_then(|network| network.clone());
        network.ok_or_else(|| "network is not ready: the node has no pod CIDR yet".into())
    }

    /// The ports that a pod on the node's network says it will use.
    async fn warn_of_listeners(&self) {
        let Some(network) = self.context.network.borrow().clone() else { return };
        for port in translate::host_ports(&self.pod) {
            match network.listener(&port).await {
                Ok(Some(conflict)) => self.warn_of_conflict(&conflict),
                Ok(None) => {}
                Err(error) => debug!(error = %chain(&error), "cannot look for listeners"),
            }
        }
    }

    fn warn_of_conflict(&self, conflict: &HostPortConflict) {
        let HostPortConflict { port, pid, command } = conflict;
        let protocol = match port.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        let message = format!(
            "host port {}:{}/{protocol} is already used on this node by process {pid} ({command})",
            port.host_ip, port.host_port
        );
        self.context.events.pod(&self.pod, None, Kind::Warning, "HostPortConflict", message);
    }

    async fn ensure_image(&mut self, name: &str) {
        let Some(container) = self.container(name) else { return };
        let began = crate::time::now();
        self.context.memory.begin(&self.uid, Phase::Image, began);
        match self.context.puller.local(&self.pod, &container).await {
            Local::Ready => {
                self.context.memory.mark(&self.uid, Phase::Image, began);
                self.seen.images.insert(name.into(), ImageState::Ready);
            }
            Local::Failed(failure) => {
                self.seen.images.insert(name.into(), ImageState::Failed(failure));
            }
            Local::Pull => {
                let previous = match self.seen.images.remove(name) {
                    Some(ImageState::Failed(failure)) => Some(Box::new(failure)),
                    _ => None,
                };
                // Looked for once, pulled as often as it takes.
                if previous.is_none() {
                    self.context.memory.mark(&self.uid, Phase::Image, began);
                }
                let began = crate::time::now();
                self.context.memory.begin(&self.uid, Phase::Pull, began);
                self.seen.images.insert(name.into(), ImageState::Pulling { previous });
                let (context, pod, name) = (self.context.clone(), self.pod.clone(), name.to_owned());
                let uid = self.uid.clone();
                self.background.spawn(async move {
                    let (secrets, missing) = context.references.pull_secrets(&pod).await;
                    if !missing.is_empty() {
                        let message = format!(
                            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                            missing.join(", ")
                        );
                        let reason = "FailedToRetrieveImagePullSecret";
                        context.events.pod(&pod, None, Kind::Warning, reason, message);
                    }
                    let result = context.puller.pull(&pod, &container, &secrets).await;
                    if let Ok(pulled) = &result {
                        context.memory.mark_pull(&uid, began, pulled.unpacking);
                    }
                    Done::Pulled { container: name, result: result.map(drop) }
                });
            }
        }
    }

    async fn start(&mut self, name: &str, attempt: u32, crash: Option<SystemTime>) {
        let Some(container) = self.container(name) else { return };
        if let Some(at) = crash {
            let next = Backoff::next(self.seen.crashes.get(name).copied(), at);
            self.seen.crashes.insert(name.into(), next);
        }
        self.seen.images.remove(name);
        match self.try_start(&container, attempt).await {
            Ok(()) => {
                self.seen.failures.remove(name);
                self.failed_with = None;
            }
            Err((reason, message)) => {
                let retry = if reason == "RunContainerError" { START_RETRY } else { CREATE_RETRY };
                // The reason that the plan gives anyway has its event there.
                if reason != "CreateContainerConfigError" {
                    let text = format!("Error: {message}");
                    self.context.events.pod(&self.pod, Some(name), Kind::Warning, "Failed", text);
                }
                let retry_at = crate::time::now() + retry;
                self.seen.failures.insert(name.into(), Failure { reason: reason.into(), message, retry_at });
            }
        }
    }

    async fn try_start(&mut self, container: &Spec, attempt: u32) -> Result<(), (&'static str, String)> {
        let asked = crate::time::now();
        let config_error = |message: String| ("CreateContainerConfigError", message);
        let create_error = |message: String| ("CreateContainerError", message);
        let context = self.context.clone();
        let pod = self.pod.clone();
        let spec = pod.spec.as_ref().ok_or_else(|| config_error("the pod has no specification".into()))?;
        let sandbox = self.seen.sandbox().map(|sandbox| sandbox.id.clone());
        let sandbox = sandbox.ok_or_else(|| create_error("the pod has no sandbox".into()))?;
        let objects = context.references.of(&pod).await.map_err(config_error)?;
        self.failed_with = Some(objects.clone());
        if tokio::time::timeout(NODE_READY_TIMEOUT, context.services.synced()).await.is_err() {
            return Err(config_error(
                "services have not yet been read at least once, cannot construct envvars".into(),
            ));
        }
        let facts = Facts {
            pod: &pod,
            pod_ip: self.seen.ip,
            node_ip: context.config.node_ip(),
            node_cpu_milli: context.capacity.cpu_milli,
            node_memory_bytes: i64::try_from(context.capacity.memory_bytes).unwrap_or(i64::MAX),
        };
        let services = context.services.list();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = spec.enable_service_links.unwrap_or(true);
        let links = env::service_links(services.iter().map(|service| &**service), namespace, links);
        let env = env::environment(&facts, container, links, &objects)
            .map_err(|error| config_error(error.to_string()))?;
        let pod_dir = self.pod_dir();
        let volume_mounts = volumes::container_mounts(&pod, &pod_dir, container, &env)
            .map_err(|error| config_error(chain(&error)))?;
        let files = self.write_files(&pod_dir).map_err(|error| create_error(error.to_string()))?;
        let (message_path, log_path) = self
            .make_paths(&pod_dir, &container.name, attempt)
            .map_err(|error| create_error(error.to_string()))?;
        let image = container.image.as_deref().unwrap_or_default();
        let image = context.runtime.image(image).await.map_err(|error| create_error(chain(&error)))?;
        let image = image.ok_or_else(|| create_error("the image is gone again".into()))?;
        let around = Surroundings {
            attempt,
            env,
            volume_mounts,
            files,
            message_path,
            log_path,
            image: &image,
            memory_capacity_bytes: context.capacity.memory_bytes,
        };
        let config =
            translate::container(&pod, spec, container, around, &context.config).map_err(config_error)?;
        let began = tokio::time::Instant::now();
        let name = Some(container.name.as_str());
        let id = context
            .runtime
            .create_container(&sandbox, config)
            .await
            .map_err(|error| create_error(chain(&error)))?;
        context.events.pod(&pod, name, Kind::Normal, "Created", "Container created".into());
        let created = began.elapsed();
        context.memory.mark(&self.uid, Phase::Create, asked);
        let asked = crate::time::now();
        match context.runtime.start_container(&id).await {
            Ok(()) => {
                context.memory.mark(&self.uid, Phase::Start, asked);
                context.events.pod(&pod, name, Kind::Normal, "Started", "Container started".into());
                let (create_us, all_us) = (created.as_micros() as u64, began.elapsed().as_micros() as u64);
                info!(pod = %plan_name(&pod), container = container.name, attempt, create_us, all_us, "container started");
                Ok(())
            }
            Err(RuntimeError::Start { message, .. }) => Err(("RunContainerError", message)),
            Err(error) => Err(("RunContainerError", chain(&error))),
        }
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`: the pod's containers share them.
    fn write_files(&self, pod_dir: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let (pod, config) = (&*self.pod, &self.context.config);
        let node_hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let node_resolver = fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let hostname = names::hostname(pod, config).unwrap_or_default();
        let files = [
            ("/etc/hosts", "etc-hosts", names::hosts(pod, self.seen.ip, &node_hosts, config)),
            ("/etc/hostname", "etc-hostname", format!("{hostname}\n")),
            ("/etc/resolv.conf", "etc-resolv.conf", names::resolv_conf(pod, &node_resolver, config)),
        ];
        let mut made = Vec::new();
        for (target, name, text) in files {
            let path = pod_dir.join(name);
            // Written in place: containers that run have the very file mounted.
            if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                fs::write(&path, text)?;
            }
            made.push((PathBuf::from(target), path));
        }
        Ok(made)
    }

    fn make_paths(&self, pod_dir: &Path, name: &str, attempt: u32) -> io::Result<(PathBuf, PathBuf)> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let messages = pod_dir.join("containers").join(name);
        fs::create_dir_all(&messages)?;
        let message = messages.join(format!("{attempt}-termination"));
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW);
        // The container's user, whoever that is, writes it.
        options.open(&message)?.set_permissions(fs::Permissions::from_mode(0o666))?;
        let log = self.log_dir().join(name);
        fs::create_dir_all(&log)?;
        Ok((message, log.join(format!("{attempt}.log"))))
    }

    fn stop(&mut self, id: ContainerId, name: &str, grace: Duration, why: &Why) {
        let message = match why {
            Why::PodEnds | Why::SandboxGone => format!("Stopping container {name}"),
            Why::DefinitionChanged => format!("Container {name} definition changed, will be restarted"),
            Why::Unhealthy(probe) => format!("Container {name} failed {probe} probe, will be restarted"),
        };
        if !self.seen.removed || self.pod.metadata.namespace.is_some() {
            self.context.events.pod(&self.pod, Some(name), Kind::Normal, "Killing", message);
        }
        self.seen.stopping.insert(id.clone());
        let runtime = self.context.runtime.clone();
        self.background.spawn(async move {
            if let Err(error) = runtime.stop_container(&id, grace).await {
                warn!(container = id.0, error = %chain(&error), "cannot stop a container");
            }
            Done::Stopped { id }
        });
    }

    async fn stop_sandboxes(&mut self) -> Result<(), String> {
        for sandbox in self.seen.sandboxes.clone() {
            if sandbox.netns.is_some() {
                self.detach(&sandbox.id).await?;
            }
            self.context.runtime.stop_sandbox(&sandbox.id).await.map_err(|error| chain(&error))?;
        }
        Ok(())
    }

    async fn detach(&self, id: &SandboxId) -> Result<(), String> {
        let network = self.context.network.borrow().clone();
        match network {
            Some(network) => {
                let attached = network.attachments().await.map_err(|error| chain(&error))?;
                for attachment in attached.iter().filter(|this| this.sandbox == id.0) {
                    self.context.isolation.release(attachment.ip);
                }
                network.detach(&id.0).await.map_err(|error| chain(&error))
            }
            None => Ok(()),
        }
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), String> {
        self.detach(id).await?;
        self.context.runtime.remove_sandbox(id).await.map_err(|error| chain(&error))
    }

    /// Releases what the pod held, then lets its object go.
    pub(crate) async fn finish(&mut self) -> Result<(), String> {
        self.flush_status().await;
        for sandbox in &self.seen.sandboxes {
            self.remove_sandbox(&sandbox.id).await?;
        }
        let (pod_dir, log_dir) = (self.pod_dir(), self.log_dir());
        let removed = tokio::task::spawn_blocking(move || {
            volumes::tear_down(&pod_dir)?;
            match fs::remove_dir_all(&log_dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        removed.await.map_err(|error| error.to_string())?.map_err(|error: io::Error| chain(&error))?;
        self.context.references.release(&self.uid);
        self.context.tokens.release(&self.uid);
        self.context.users.release(&self.uid);
        self.context.puller.forget(&self.uid);
        if self.seen.removed {
            return Ok(());
        }
        let (namespace, name) = (
            self.pod.metadata.namespace.clone().unwrap_or_default(),
            self.pod.metadata.name.clone().unwrap_or_default(),
        );
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), ..Preconditions::default() }),
            ..DeleteOptions::default()
        };
        match self.context.client.delete::<Pod>(&namespace, &name, &options).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() || error.code() == Some(409) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    fn container(&self, name: &str) -> Option<Spec> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.find(|container| container.name == name).cloned()
    }

    pub(crate) fn pod_dir(&self) -> PathBuf {
        self.context.config.pod_dir(&self.uid)
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        let metadata = &self.pod.metadata;
        self.context.config.log_dir(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            &self.uid,
        )
    }
}

fn plan_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

/// A stand-in for a pod whose object is gone: just enough to end what is left of it.
pub(crate) fn orphan(labels_of: &BTreeMap<String, String>) -> Pod {
    let get = |label: &str| labels_of.get(label).cloned();
    let mut pod = Pod::default();
    pod.metadata.name = get(labels::POD_NAME);
    pod.metadata.namespace = get(labels::POD_NAMESPACE);
    pod.metadata.uid = get(labels::POD_UID);
    let grace = get(labels::GRACE).and_then(|text| text.parse().ok());
    let spec = pod.spec.get_or_insert_default();
    spec.termination_grace_period_seconds = grace;
    pod
}
