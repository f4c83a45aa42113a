//! Steps about single containers: image, creation and start, end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Container as Spec;
use skiff_explain::start::Phase;
use skiff_runtime::{ContainerId, Error as RuntimeError};
use tracing::{info, warn};

use super::{NODE_READY_TIMEOUT, plan_name};
use crate::backoff::Backoff;
use crate::env::{self, Facts};
use crate::events::Kind;
use crate::images::{Local, chain};
use crate::observed::{Failure, ImageState};
use crate::plan::Why;
use crate::translate::{self, Surroundings};
use crate::worker::{Done, Worker};
use crate::{names, volumes};

/// A container that could not be created is tried again after this.
const CREATE_RETRY: Duration = Duration::from_secs(10);
/// A container that could not be started is tried again after this; then its back-off counts.
const START_RETRY: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) async fn ensure_image(&mut self, name: &str) {
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
                    if let Ok(Some(pulled)) = &result {
                        context.memory.mark_pull(&uid, began, pulled.unpacking);
                    }
                    Done::Pulled { container: name, result: result.map(drop) }
                });
            }
        }
    }

    pub(super) async fn start(&mut self, name: &str, attempt: u32, crash: Option<SystemTime>) {
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
            node_disk_bytes: i64::try_from(context.capacity.disk_told_bytes()).unwrap_or(i64::MAX),
        };
        let services = context.services.list();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = spec.enable_service_links.unwrap_or(true);
        let links = env::service_links(services.iter().map(|service| &**service), namespace, links);
        let env = env::environment(&facts, container, links, &objects)
            .map_err(|error| config_error(error.to_string()))?;
        let pod_dir = self.pod_dir();
        let volume_mounts = volumes::container_mounts(&pod, &pod_dir, container, &env, &context.made_paths)
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
            if !holds(&path, &text) {
                fs::write(&path, text)?;
            }
            made.push((PathBuf::from(target), path));
        }
        Ok(made)
    }

    fn make_paths(&self, pod_dir: &Path, name: &str, attempt: u32) -> io::Result<(PathBuf, PathBuf)> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let messages = pod_dir.join("containers").join(name);
        skiff_runtime::private::make_dir(&messages)?;
        let message = messages.join(format!("{attempt}-termination"));
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW);
        // The container's user, whoever that is, writes it.
        options.open(&message)?.set_permissions(fs::Permissions::from_mode(0o666))?;
        let log = self.log_dir().join(name);
        skiff_runtime::private::make_dir(&log)?;
        Ok((message, log.join(format!("{attempt}.log"))))
    }

    pub(super) fn stop(&mut self, id: ContainerId, name: &str, grace: Duration, why: &Why) {
        let message = match why {
            Why::PodEnds | Why::SandboxGone => format!("Stopping container {name}"),
            Why::DefinitionChanged => format!("Container {name} definition changed, will be restarted"),
            Why::Unhealthy(probe) => format!("Container {name} failed {probe} probe, will be restarted"),
        };
        if !self.seen.removed || self.pod.metadata.namespace.is_some() {
            self.context.events.pod(&self.pod, Some(name), Kind::Normal, "Killing", message);
        }
        if *why == Why::DefinitionChanged {
            self.seen.redefined.insert(id.clone());
        }
        self.seen.stopping.insert(id.clone(), grace);
        let runtime = self.context.runtime.clone();
        self.background.spawn(async move {
            if let Err(error) = runtime.stop_container(&id, grace).await {
                warn!(container = id.0, error = %chain(&error), "cannot stop a container");
            }
            Done::Stopped { id }
        });
    }
}

/// Whether a file that containers may write holds just this. One of another length is not read.
fn holds(path: &Path, text: &str) -> bool {
    let same_length = fs::metadata(path).is_ok_and(|found| found.len() == text.len() as u64);
    same_length && fs::read_to_string(path).is_ok_and(|held| held == text)
}
