//! One pod's worker: observes, asks [`crate::plan`] what to do, does it, and tells the API.
//!
//! It looks when something rings (the API, the runtime, a probe, a pull, a clock) and never polls.

mod observe;
mod tell;
mod wait;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use skiff_client::ObjectKey;
use skiff_explain::start::Phase;
use skiff_runtime::ContainerId;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::admission::{self, Room};
use crate::events::Kind;
use crate::given::Given;
use crate::local_storage::{self, Due, Survey};
use crate::node_context::Context;
use crate::observed::{Failure, ImageFailure, Observed, TokenState};
use crate::plan::{self, Step, Waiting};
use crate::prober::{Probing, Verdict};
use crate::references::Objects;
use crate::security::admission::Host;
use crate::status_writer::StatusWriter;
use crate::tokens;
use crate::told::Pace;

/// After a step failed, the worker waits this long, doubling.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(20);
/// As upstream waits at most between two attempts to mount.
const POD_RETRY_MAX: Duration = Duration::from_secs(122);
/// How long a new pod waits for the copy of the node's own object.
const NODE_KNOWN_TIMEOUT: Duration = Duration::from_secs(5);

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
    probers: HashMap<ContainerId, Probing>,
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
        self.probers.values().for_each(Probing::abort);
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
