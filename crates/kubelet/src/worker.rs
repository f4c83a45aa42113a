//! One pod's worker: observes, asks [`crate::plan`] what to do, does it, and tells the API.
//!
//! It looks when something rings (the API, the runtime, a probe, a pull, a clock) and never polls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container as Spec, Node, Pod, PodStatus};
use skiff_client::ObjectKey;
use skiff_explain::start::Phase;
use skiff_runtime::{Container, ContainerId, ContainerState};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::admission::{self, Room};
use crate::events::Kind;
use crate::given::Given;
use crate::local_storage::{self, Due, Survey};
use crate::node_context::Context;
use crate::observed::{Failure, ImageFailure, ImageState, Observed, Probed, TokenState, is_over};
use crate::plan::{self, Plan, Step, Waiting};
use crate::prober::{Prober, Verdict, is_probed};
use crate::references::Objects;
use crate::security::admission::Host;
use crate::status::{OWN_CONDITIONS, container_id, status};
use crate::status_writer::StatusWriter;
use crate::told::{Pace, Standing, standing};
use crate::{labels, tokens};

/// After a step failed, the worker waits this long, doubling.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(20);
/// As upstream waits at most between two attempts to mount.
const POD_RETRY_MAX: Duration = Duration::from_secs(122);
/// How long a new pod waits for the copy of the node's own object.
const NODE_KNOWN_TIMEOUT: Duration = Duration::from_secs(5);
const MESSAGE_BYTES_MAX: usize = 4_096;
const MESSAGE_LOG_BYTES_MAX: usize = 2_048;
const MESSAGE_LOG_LINES_MAX: usize = 80;

/// What background work of a pod came to.
pub(crate) enum Done {
    Pulled { container: String, result: Result<(), ImageFailure> },
    Stopped { id: ContainerId },
    Tokens(Result<(), String>),
    Measured(Option<Waiting>),
}

/// When the status in the API has to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    WhenRung,
    WhenAnswered,
    After(Duration),
}

pub(crate) struct Worker {
    pub(crate) context: Arc<Context>,
    pub(crate) uid: String,
    key: ObjectKey,
    pub(crate) pod: Arc<Pod>,
    bell: Arc<Notify>,
    pub(crate) seen: Observed,
    sent: Option<PodStatus>,
    /// How often others' writes over `sent` are answered.
    pace: Pace,
    writer: StatusWriter,
    probers: HashMap<ContainerId, AbortHandle>,
    verdicts: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
    pub(crate) background: JoinSet<Done>,
    messages: HashMap<ContainerId, Option<String>>,
    told: BTreeMap<String, String>,
    pub(crate) retry: Duration,
    /// How long the next failure of volumes, sandbox or network waits.
    pub(crate) pod_retry: Duration,
    /// What the pod's config maps and secrets were when a step failed that needed them.
    pub(crate) failed_with: Option<Objects>,
    /// What the volumes were last made of.
    pub(crate) mounted: Option<Given>,
    /// Tokens are being asked for.
    pub(crate) replacing_tokens: bool,
    /// When what the pod keeps on the disk is counted, if anything limits that.
    storage: Option<local_storage::Pace>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.probers.values().for_each(AbortHandle::abort);
    }
}

impl Worker {
    pub(crate) fn new(context: Arc<Context>, pod: Arc<Pod>, bell: Arc<Notify>) -> Self {
        let key = ObjectKey::of(&*pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let writer =
            StatusWriter::start(context.client.clone(), key.namespace.clone(), key.name.clone(), uid.clone());
        let tokens = match tokens::wanted(&pod).is_empty() {
            true => TokenState::Settled,
            false => TokenState::Wanted,
        };
        // A pod that has containers already is adopted: its start is past.
        let starts = pod.status.as_ref().is_none_or(|status| status.container_statuses.is_none());
        if starts {
            let now = crate::time::now();
            context.memory.starts.mark(&uid, Phase::Seen, now, now);
        }
        let storage = local_storage::is_limited(&pod).then(local_storage::Pace::default);
        Self {
            context,
            uid,
            key,
            pod,
            bell,
            seen: Observed { seen_since: Some(crate::time::now()), tokens, ..Observed::default() },
            sent: None,
            pace: Pace::default(),
            writer,
            probers: HashMap::new(),
            verdicts: mpsc::channel(64),
            background: JoinSet::new(),
            messages: HashMap::new(),
            told: BTreeMap::new(),
            retry: RETRY_MIN,
            pod_retry: RETRY_MIN,
            failed_with: None,
            mounted: None,
            replacing_tokens: false,
            storage,
        }
    }

    /// Works until the pod is gone from the node.
    pub(crate) async fn run(mut self) {
        self.seen.rejected = self.rejection().await;
        loop {
            if let Err(error) = self.observe().await {
                warn!(pod = %self.key, error = %crate::images::chain(&error), "cannot list what runs, retrying");
                tokio::time::sleep(RETRY_MIN).await;
                continue;
            }
            self.forgive().await;
            let look = self.notice_foreign_status();
            let now = crate::time::now();
            let pod = self.pod_as_told();
            let plan = plan::actions(&pod, &self.seen, now);
            self.tell(&pod, &plan, now);
            if plan.steps.contains(&Step::Finish) {
                match self.finish().await {
                    Ok(()) => return self.context.memory.forget(&self.uid),
                    Err(error) => self.failed("finish", &error),
                }
                self.wait(None, look, true).await;
                continue;
            }
            let mut failed = false;
            let progressed = !plan.steps.is_empty();
            for step in plan.steps {
                let began = Instant::now();
                let name = step.name();
                let taken = self.take(step).await;
                debug!(pod = %self.key, step = name, micros = began.elapsed().as_micros() as u64, "step taken");
                if let Err(error) = taken {
                    self.failed("take a step", &error);
                    failed = true;
                    break;
                }
            }
            if failed {
                self.wait(plan.wake_at, look, true).await;
            } else {
                if progressed {
                    // What changed may call for more at once.
                    continue;
                }
                self.retry = RETRY_MIN;
                let tokens_due = self.replace_tokens(now);
                let storage_due = if plan.terminal { None } else { self.measure_storage(now) };
                self.refresh_volumes().await;
                let due = plan.wake_at.into_iter().chain(tokens_due).chain(storage_due).min();
                self.wait(due, look, false).await;
            }
        }
    }

    /// Why the node does not take the pod.
    async fn rejection(&self) -> Option<Waiting> {
        if admission::is_started(&self.pod) {
            return None;
        }
        let context = &self.context;
        // Where the node can't be read, what depends on its labels is left to the scheduler's word.
        let _ = tokio::time::timeout(NODE_KNOWN_TIMEOUT, context.nodes.synced()).await;
        let node = context.nodes.get(&ObjectKey::new("", &context.config.node_name));
        let host = Host::read(&context.config.allowed_unsafe_sysctls);
        let bytes = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let judge = |node: Option<&Node>| {
            let room = Room {
                pods: context.config.pods_max,
                cpu_milli: context.capacity.cpu_milli,
                memory_bytes: bytes(context.capacity.memory_bytes),
                disk_bytes: bytes(context.capacity.disk_bytes),
                node,
            };
            admission::rejection(&self.pod, &context.pods.list(), &host, &room)
        };
        let refused = judge(node.as_deref())?;
        if refused.reason != "NodeAffinity" {
            return Some(refused);
        }
        // The scheduler may have seen labels that the copy here has not.
        match context.client.get::<Node>("", &context.config.node_name).await {
            Ok(fresh) => judge(Some(&*fresh)),
            Err(_) => Some(refused),
        }
    }

    /// Asks for new tokens in time, and says when that is next.
    fn replace_tokens(&mut self, now: SystemTime) -> Option<SystemTime> {
        let ends = self.seen.removed || self.pod.metadata.deletion_timestamp.is_some();
        if ends || self.replacing_tokens || self.seen.tokens != TokenState::Settled {
            return None;
        }
        let due = self.context.tokens.of(&self.uid).1?;
        if due <= now {
            self.fetch_tokens();
            return None;
        }
        Some(due)
    }

    /// Counts what a pod with limits keeps on the disk, and says when that is next.
    fn measure_storage(&mut self, now: SystemTime) -> Option<SystemTime> {
        match self.storage.as_mut()?.look(now) {
            Due::At(at) => return Some(at),
            Due::Later => return None,
            Due::Now => {}
        }
        let runtime = self.context.runtime.clone();
        let survey = Survey::of(&self.pod, &self.seen, runtime, &self.pod_dir(), &self.log_dir());
        self.background.spawn(async move { Done::Measured(survey.judge().await) });
        None
    }

    /// What failed for want of a config map or secret is tried again as soon as one has changed.
    async fn forgive(&mut self) {
        let Some(before) = &self.failed_with else { return };
        if self.context.references.of(&self.pod).await.is_ok_and(|now| now == *before) {
            return;
        }
        self.failed_with = None;
        self.pod_retry = RETRY_MIN;
        self.seen.failures.retain(|_, failure| failure.reason != "CreateContainerConfigError");
        if self.seen.pod_failure.as_ref().is_some_and(|failure| failure.reason == "FailedMount") {
            self.seen.pod_failure = None;
        }
    }

    fn failed(&self, what: &'static str, error: &str) {
        debug!(pod = %self.key, error, what, "a step failed, retrying");
    }

    /// The pod, with the status that was told last in place of one that the copy may have from before.
    fn pod_as_told(&self) -> Pod {
        let mut pod = Pod::clone(&self.pod);
        if let Some(sent) = &self.sent {
            let mut status = sent.clone();
            let own = OWN_CONDITIONS;
            let foreign = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let foreign: Vec<_> =
                foreign.filter(|condition| !own.contains(&condition.type_.as_str())).cloned().collect();
            let conditions = status.conditions.get_or_insert_default();
            conditions.retain(|condition| own.contains(&condition.type_.as_str()));
            conditions.extend(foreign);
            pod.status = Some(status);
        }
        pod
    }

    /// The control plane says of a node that was silent that its pods are not ready. Once such a node
    /// speaks again, what it said before has to be said anew, as after any write over it.
    fn notice_foreign_status(&mut self) -> Look {
        if self.sent.is_none() || self.seen.removed {
            return Look::WhenRung;
        }
        match standing(&self.writer.told(), &self.pod) {
            Standing::Holds => Look::WhenRung,
            Standing::Open => Look::WhenAnswered,
            Standing::Overwritten => match self.pace.take(Instant::now()) {
                Some(left) => Look::After(left),
                None => {
                    debug!(pod = %self.key, "somebody else wrote the pod's status, telling it anew");
                    self.sent = None;
                    Look::WhenRung
                }
            },
        }
    }

    /// Brings `self.seen` up to date.
    async fn observe(&mut self) -> Result<(), skiff_runtime::Error> {
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
            .retain(|id| containers.iter().any(|container| container.id == *id && !is_over(container)));
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
        self.probers.retain(|id, task| {
            let keep = !ends
                && !seen.stopping.contains(id)
                && seen
                    .containers
                    .iter()
                    .any(|container| container.id == *id && container.state == ContainerState::Running);
            if !keep {
                task.abort();
            }
            keep
        });
        let Some(spec) = self.pod.spec.as_ref().filter(|_| !ends) else { return };
        let ip = match spec.host_network {
            Some(true) => Some(self.context.config.node_ip()),
            _ => self.seen.ip,
        };
        let Some(ip) = ip else { return };
        for container in spec.containers.iter().filter(|container| is_probed(container)) {
            let Some(running) = self.seen.latest(&container.name) else { continue };
            if running.state != ContainerState::Running
                || self.probers.contains_key(&running.id)
                || self.seen.stopping.contains(&running.id)
            {
                continue;
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
            };
            let (id, initial) = (running.id.clone(), prober.initial.clone());
            self.probers.insert(id.clone(), tokio::spawn(prober.run()).abort_handle());
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

    /// Its sandbox runs and its address is not known yet, mostly since the agent was restarted: what the
    /// API was told before holds until it is. A restart must not make a pod look unready.
    fn is_being_adopted(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        let node_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let ends = self.pod.metadata.deletion_timestamp.is_some();
        !ends
            && !node_network
            && self.seen.ip.is_none()
            && self.seen.sandbox().is_some_and(|sandbox| sandbox.ready)
    }

    /// Writes the status if it changed, and events for new back-offs.
    fn tell(&mut self, pod: &Pod, plan: &Plan, now: SystemTime) {
        if self.seen.removed || self.is_being_adopted() {
            return;
        }
        self.context.memory.publish(&self.uid, crate::explain::waits(pod, &self.seen, plan), now);
        let status = status(pod, &self.seen, plan, self.context.config.node_ip(), now);
        if readiness(Some(&status)) == Some("True") {
            self.context.memory.mark_ready(&self.uid);
        }
        let known = self.sent.as_ref().or(self.pod.status.as_ref());
        if known != Some(&status) {
            self.writer.write(status.clone());
            self.sent = Some(status);
        }
        let events = &self.context.events;
        if let Some(verdict) = &plan.verdict {
            let message = verdict.message.clone().unwrap_or_default();
            // A pod that has ended is told of once, also by an agent that was restarted since.
            let ended =
                self.pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"));
            if self.told.insert(String::new(), message.clone()).is_none() && !ended {
                let message = message.trim_start_matches("Pod was rejected: ").to_owned();
                // As upstream has it: the deadline is what the pod asked for.
                let kind = if verdict.reason == "DeadlineExceeded" { Kind::Normal } else { Kind::Warning };
                events.pod(pod, None, kind, &verdict.reason, message);
            }
        }
        for (container, waiting) in &plan.waiting {
            let text = format!("{} {}", waiting.reason, waiting.message.as_deref().unwrap_or_default());
            if self.told.insert(container.clone(), text.clone()).as_deref() == Some(text.as_str()) {
                continue;
            }
            let image = || {
                let containers = pod
                    .spec
                    .iter()
                    .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
                let mut containers = containers.filter(|each| each.name == *container);
                containers.next().and_then(|each| each.image.clone()).unwrap_or_default()
            };
            match waiting.reason.as_str() {
                "CrashLoopBackOff" => {
                    let message = format!(
                        "Back-off restarting failed container {container} in pod {}",
                        plan::full_name(pod)
                    );
                    events.pod(pod, Some(container), Kind::Warning, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    events.pod(
                        pod,
                        Some(container),
                        Kind::Normal,
                        "BackOff",
                        format!("Back-off pulling image \"{}\"", image()),
                    );
                    events.pod(
                        pod,
                        Some(container),
                        Kind::Warning,
                        "Failed",
                        "Error: ImagePullBackOff".into(),
                    );
                }
                "CreateContainerConfigError" => {
                    let message = format!("Error: {}", waiting.message.as_deref().unwrap_or_default());
                    events.pod(pod, Some(container), Kind::Warning, "Failed", message);
                }
                _ => {}
            }
        }
        // The pod's own verdict, which has no container's name, is told once.
        self.told.retain(|container, _| container.is_empty() || plan.waiting.contains_key(container));
    }

    /// Until something rings, reports, or the time comes.
    async fn wait(&mut self, wake_at: Option<SystemTime>, look: Look, failed: bool) {
        let mut limit = wake_at.map(|at| at.duration_since(crate::time::now()).unwrap_or_default());
        if let Look::After(left) = look {
            limit = Some(limit.map_or(left, |limit| limit.min(left)));
        }
        if failed {
            limit = Some(limit.map_or(self.retry, |limit| limit.min(self.retry)));
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
        let sleep = async move {
            match limit {
                // The clock of the plan is the system's; a millisecond more than needed does no harm.
                Some(limit) => tokio::time::sleep(limit + Duration::from_millis(1)).await,
                None => std::future::pending().await,
            }
        };
        // All of these are cancel-safe.
        tokio::select! {
            () = self.bell.notified(), if !failed => {}
            Some(verdict) = self.verdicts.1.recv() => {
                self.seen.probes.insert(verdict.0, verdict.1);
            }
            Some(done) = self.background.join_next() => self.done(done),
            () = self.writer.answered(), if look == Look::WhenAnswered => {}
            () = sleep => {}
        }
        while let Ok((id, probed)) = self.verdicts.1.try_recv() {
            self.seen.probes.insert(id, probed);
        }
        while let Some(done) = self.background.try_join_next() {
            self.done(done);
        }
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Pulled { container, result }) => {
                let state = match result {
                    Ok(()) => ImageState::Ready,
                    Err(failure) => ImageState::Failed(failure),
                };
                self.seen.images.insert(container, state);
            }
            Ok(Done::Stopped { id }) => {
                self.seen.stopping.remove(&id);
            }
            Ok(Done::Tokens(result)) => self.have_tokens(result),
            Ok(Done::Measured(verdict)) => {
                self.storage.iter_mut().for_each(local_storage::Pace::measured);
                if verdict.is_some() {
                    self.seen.evicted = verdict;
                }
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn have_tokens(&mut self, result: Result<(), String>) {
        self.replacing_tokens = false;
        let first = self.seen.tokens == TokenState::Fetching;
        match result {
            Ok(()) if first => self.seen.tokens = TokenState::Fetched,
            Ok(()) => {}
            Err(message) => {
                if first {
                    self.seen.tokens = TokenState::Wanted;
                }
                let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
                let mut volumes = volumes.filter(|volume| tokens::of_volume(volume).next().is_some());
                let volume = volumes.next().map(|volume| volume.name.clone()).unwrap_or_default();
                let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {message}");
                self.pod_failure("FailedMount", message);
            }
        }
    }

    /// A failed step of the pod as a whole, shown by an event and tried again.
    pub(crate) fn pod_failure(&mut self, reason: &str, message: String) {
        self.context.events.pod(&self.pod, None, Kind::Warning, reason, message.clone());
        let retry_at = crate::time::now() + self.pod_retry;
        self.pod_retry = (self.pod_retry * 2).min(POD_RETRY_MAX);
        self.seen.pod_failure = Some(Failure { reason: reason.into(), message, retry_at });
    }

    /// The step succeeded that had failed.
    pub(crate) fn pod_recovered(&mut self) {
        self.seen.pod_failure = None;
        self.pod_retry = RETRY_MIN;
    }

    pub(crate) async fn flush_status(&self) {
        if !self.seen.removed {
            self.writer.flush().await;
        }
    }
}

fn read_start(path: &std::path::Path, max: usize) -> Option<String> {
    use std::io::Read;
    let mut text = Vec::new();
    crate::log_place::open(path).ok()?.take(max as u64).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The status of the pod's condition Ready.
fn readiness(status: Option<&PodStatus>) -> Option<&str> {
    let mut conditions = status?.conditions.as_ref()?.iter();
    conditions.find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}
