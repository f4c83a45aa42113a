//! What the runtime has of a pod, and the probes of what runs.

use k8s_openapi::api::core::v1::Container as Spec;
use skiff_runtime::{Container, ContainerId, ContainerState};
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::labels;
use crate::observed::{Probed, is_over};
use crate::prober::{Prober, Probing, is_probed};
use crate::status::container_id;

const MESSAGE_BYTES_MAX: usize = 4_096;
const MESSAGE_LOG_BYTES_MAX: usize = 2_048;
const MESSAGE_LOG_LINES_MAX: usize = 80;

impl Worker {
    /// Brings `self.seen` up to date.
    pub(super) async fn observe(&mut self) -> Result<(), skiff_runtime::Error> {
        match self.context.pods.get(&self.key) {
            Some(pod) if pod.metadata.uid.as_deref() == Some(self.uid.as_str()) => self.pod = pod,
            _ => self.seen.removed = true,
        }
        let runtime = &self.context.runtime;
        let mut sandboxes = runtime.list_sandboxes().await?;
        sandboxes.retain(|sandbox| labels::uid(&sandbox.config.labels) == self.uid);
        sandboxes.sort_by_key(|sandbox| {
            std::cmp::Reverse((labels::attempt(&sandbox.config.labels), sandbox.created_at))
        });
        let mut containers = runtime.list_containers().await?;
        containers.retain(|container| labels::uid(&container.labels) == self.uid);
        containers.sort_by_key(|container| {
            std::cmp::Reverse((container.created_at, labels::attempt(&container.labels)))
        });
        for container in &mut containers {
            if is_over(container) && container.message.is_none() {
                container.message = self.message(container);
            }
        }
        for sandbox in &sandboxes {
            self.context.bells.learn(&sandbox.id, &self.uid);
        }
        if !sandboxes.first().is_some_and(|sandbox| sandbox.ready) {
            self.seen.ip = None;
        }
        self.seen
            .stopping
            .retain(|id, _| containers.iter().any(|container| container.id == *id && !is_over(container)));
        self.seen.redefined.retain(|id| containers.iter().any(|container| container.id == *id));
        self.seen.probes.retain(|id, _| containers.iter().any(|container| container.id == *id));
        self.messages.retain(|id, _| containers.iter().any(|container| container.id == *id));
        self.seen.sandboxes = sandboxes;
        self.seen.containers = containers;
        self.keep_probing();
        Ok(())
    }

    /// The termination message: its file, or the end of its log where the pod says so.
    fn message(&mut self, container: &Container) -> Option<String> {
        if let Some(message) = self.messages.get(&container.id) {
            return message.clone();
        }
        let path = container.labels.get(labels::MESSAGE_PATH);
        let mut message = path.and_then(|path| read_start(path.as_ref(), MESSAGE_BYTES_MAX));
        let from_logs = container.labels.contains_key(labels::MESSAGE_FROM_LOGS);
        if message.is_none() && from_logs && container.exit_code != Some(0) {
            message = container
                .log_path
                .as_ref()
                .and_then(|path| crate::logs::tail(path, MESSAGE_LOG_LINES_MAX, MESSAGE_LOG_BYTES_MAX));
        }
        self.messages.insert(container.id.clone(), message.clone());
        message
    }

    /// Starts and ends probe tasks as containers come and go.
    fn keep_probing(&mut self) {
        let ends = self.seen.removed || self.pod.metadata.deletion_timestamp.is_some();
        let seen = &self.seen;
        // Its verdict is known, so nothing is asked until it runs anew.
        let has_failed = |id: &ContainerId| seen.probes.get(id).is_some_and(|probed| probed.failed.is_some());
        self.probers.retain(|id, probing| {
            let runs = seen
                .containers
                .iter()
                .any(|container| container.id == *id && container.state == ContainerState::Running);
            let stops = ends || seen.stopping.contains_key(id);
            if !runs || stops && has_failed(id) {
                probing.abort();
                return false;
            }
            if stops {
                probing.end_pod();
            }
            true
        });
        let Some(spec) = self.pod.spec.as_ref() else { return };
        let ip = match spec.host_network {
            Some(true) => Some(self.context.config.node_ip()),
            _ => self.seen.ip,
        };
        let Some(ip) = ip else { return };
        let mut begun = Vec::new();
        for container in spec.containers.iter().filter(|container| is_probed(container)) {
            let Some(running) = self.seen.latest(&container.name) else { continue };
            if running.state != ContainerState::Running
                || self.probers.contains_key(&running.id)
                || has_failed(&running.id)
            {
                continue;
            }
            let over = CancellationToken::new();
            if ends || self.seen.stopping.contains_key(&running.id) {
                over.cancel();
            }
            let prober = Prober {
                runtime: self.context.runtime.clone(),
                events: self.context.events.clone(),
                memory: self.context.memory.clone(),
                pod: self.pod.clone(),
                container: container.clone(),
                id: running.id.clone(),
                ip: ip.into(),
                started_at: running.started_at.unwrap_or(running.created_at),
                initial: self.probed_before(container, running),
                tell: self.verdicts.0.clone(),
                ends: over,
            };
            let (id, initial) = (running.id.clone(), prober.initial.clone());
            self.probers.insert(id.clone(), Probing::begin(prober));
            begun.push((id, initial));
        }
        for (id, initial) in begun {
            self.seen.probes.entry(id).or_insert(initial);
        }
    }

    /// After a restart of the agent, what the API was told of this very container holds until probes
    /// say otherwise: an agent's restart must not make a pod unready.
    fn probed_before(&self, container: &Spec, running: &Container) -> Probed {
        let id = container_id(running);
        let mut told = self.pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let told =
            told.find(|status| status.name == container.name && status.container_id.as_ref() == Some(&id));
        Probed {
            started: told.is_some_and(|told| told.started == Some(true)),
            ready: told.is_some_and(|told| told.ready),
            ..Probed::default()
        }
    }
}

fn read_start(path: &std::path::Path, max: usize) -> Option<String> {
    use std::io::Read;
    let mut text = Vec::new();
    crate::log_place::open(path).ok()?.take(max as u64).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}
