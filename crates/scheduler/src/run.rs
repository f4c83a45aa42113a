//! The scheduler's loop: changes in, one decision at a time, writes beside it.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use skiff_client::{Cache, Change, Changes, Client, EventRecorder, ListParams, ObjectKey};
use skiff_explain::start::{Phase, Starts};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::explain::{Asked, Question, Questions, explain};
use crate::snapshot::PodInfo;
use crate::state::{Action, State};
use crate::verdicts::{Verdict, Verdicts};
use crate::writes;

/// Decisions between two looks at what changed.
const DECISIONS_AT_ONCE: usize = 32;

/// What the scheduler is to do, and how much of it at a time.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pods that name this scheduler are its own.
    pub scheduler_name: String,
    /// Bindings and other writes under way at a time.
    pub writes_max: usize,
    /// Where the verdicts go.
    pub verdicts: Verdicts,
    /// Who asks why a pod has no node.
    pub questions: Questions,
    /// Where queue, decision, binding and the news of readiness are marked.
    pub starts: Starts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            writes_max: 64,
            verdicts: Verdicts::default(),
            questions: Questions::default(),
            starts: Starts::default(),
        }
    }
}

/// How a write went.
pub(crate) enum Done {
    Bound(Arc<PodInfo>),
    BindFailed(Arc<PodInfo>),
    /// A status or an eviction; nothing follows from it.
    Written,
    /// Some pods that were to end for this one do not.
    EvictionFailed {
        pod: Arc<PodInfo>,
        staying: Vec<Arc<PodInfo>>,
    },
}

/// Schedules until `shutdown`, then lets the writes under way finish.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) {
    let pods = Cache::<Pod>::new(client.clone(), ListParams::default());
    let nodes = Cache::<Node>::new(client.clone(), ListParams::default());
    let namespaces = Cache::<Namespace>::new(client.clone(), ListParams::default());
    let mut namespace_changes = namespaces.subscribe();
    let (events, write_events) = EventRecorder::new(client.clone(), &config.scheduler_name, "");
    let (mut pod_changes, mut node_changes) = (pods.subscribe(), nodes.subscribe());
    let mut background = JoinSet::new();
    background.spawn(pods.clone().run());
    background.spawn(nodes.clone().run());
    background.spawn(namespaces.clone().run());
    background.spawn(write_events);
    // Until all nodes and pods are known, a decision would be wrong.
    tokio::select! {
        () = async { tokio::join!(nodes.synced(), pods.synced(), namespaces.synced()); } => {}
        () = shutdown.cancelled() => return,
    }
    let mut state = State::new(&config.scheduler_name);
    resync_namespaces(&mut state, &namespaces);
    state.resync_nodes(&nodes.list());
    state.resync_pods(&pods.list());
    info!(nodes = nodes.len(), pods = pods.len(), "scheduler is ready");
    let mut writes: JoinSet<Done> = JoinSet::new();
    let mut asked = config.questions.answering().await;
    loop {
        drain(&mut node_changes, |change| node_changed(&mut state, &nodes, change));
        drain(&mut pod_changes, |change| pod_changed(&mut state, &pods, &config, change));
        while let Some(done) = writes.try_join_next() {
            finish(&mut state, done);
        }
        let mut decided = 0;
        while decided < DECISIONS_AT_ONCE && writes.len() < config.writes_max {
            let began = SystemTime::now();
            let Some(action) = state.next(Instant::now()) else { break };
            decided += 1;
            mark_decision(&config.starts, &action, began);
            keep_verdict(&config.verdicts, &action);
            writes.spawn(writes::write(client.clone(), events.clone(), config.starts.clone(), action));
        }
        if decided == DECISIONS_AT_ONCE {
            tokio::task::yield_now().await;
            continue;
        }
        let wake_at = state.queue.next_wake().filter(|_| writes.len() < config.writes_max);
        // All branches are cancel-safe: a change, a join and a sleep are taken whole or not at all.
        tokio::select! {
            change = namespace_changes.next() => namespace_changed(&mut state, &namespaces, change),
            change = node_changes.next() => node_changed(&mut state, &nodes, change),
            change = pod_changes.next() => pod_changed(&mut state, &pods, &config, change),
            Some(question) = next_question(&mut asked) => {
                let told = explain(&state.snapshot, &config.verdicts, question.pod);
                // Who asked may have gone.
                let _ = question.answer.send(told);
            }
            Some(done) = writes.join_next() => finish(&mut state, done),
            () = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => {}
            Some(ended) = background.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
            () = shutdown.cancelled() => break,
        }
    }
    while writes.join_next().await.is_some() {}
}

fn drain<K: skiff_client::Object>(changes: &mut Changes<K>, mut each: impl FnMut(Change<K>)) {
    while let Some(change) = changes.next().now_or_never() {
        each(change);
    }
}

fn namespace_changed(state: &mut State, namespaces: &Cache<Namespace>, change: Change<Namespace>) {
    let name = |namespace: &Namespace| namespace.metadata.name.clone().unwrap_or_default();
    match change {
        Change::Applied { old, new } => {
            let labels = new.metadata.labels.clone();
            if old.is_none_or(|old| old.metadata.labels != labels) {
                state.namespace_applied(&name(&new), Some(labels.unwrap_or_default()));
            }
        }
        Change::Deleted(namespace) => state.namespace_applied(&name(&namespace), None),
        Change::Resync => resync_namespaces(state, namespaces),
    }
}

fn resync_namespaces(state: &mut State, namespaces: &Cache<Namespace>) {
    for namespace in namespaces.list() {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        state.namespace_applied(&name, Some(namespace.metadata.labels.clone().unwrap_or_default()));
    }
}

fn node_changed(state: &mut State, nodes: &Cache<Node>, change: Change<Node>) {
    match change {
        Change::Applied { new, .. } => state.node_applied(&new),
        Change::Deleted(node) => state.node_gone(node.metadata.name.as_deref().unwrap_or_default()),
        Change::Resync => state.resync_nodes(&nodes.list()),
    }
}

/// Cancel-safe, as the channel is.
async fn next_question(asked: &mut Option<Asked>) -> Option<Question> {
    match asked {
        Some(asked) => asked.recv().await,
        None => None,
    }
}

/// Only of a decision for a node: what came before it was waiting.
fn mark_decision(starts: &Starts, action: &Action, began: SystemTime) {
    if let Action::Bind { pod, .. } = action {
        starts.finish(pod.uid(), Phase::Queue, began);
        starts.mark(pod.uid(), Phase::Decision, began, SystemTime::now());
    }
}

/// A new pod is in the queue from now on. And the scheduler watches pods as any watcher does: when it hears
/// of readiness, others do.
fn mark_heard(starts: &Starts, old: Option<&Pod>, new: &Pod) {
    let ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|own| own.type_ == "Ready" && own.status == "True")
    };
    let uid = new.metadata.uid.as_deref().unwrap_or_default();
    let placed = new.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if old.is_none() && !placed {
        starts.begin(uid, Phase::Queue, SystemTime::now());
    }
    if ready(new) && !old.is_some_and(ready) && starts.has(uid, Phase::Write) {
        let now = SystemTime::now();
        starts.mark(uid, Phase::Watched, now, now);
    }
}

/// How its start went may still be asked about.
fn mark_gone(starts: &Starts, pod: &Pod) {
    let own = &pod.metadata;
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    starts.gone(&part(&own.uid), &part(&own.namespace), &part(&own.name), &node);
}

fn pod_changed(state: &mut State, pods: &Cache<Pod>, config: &Config, change: Change<Pod>) {
    match change {
        Change::Applied { old, new } => {
            mark_heard(&config.starts, old.as_deref(), &new);
            state.pod_applied(&new);
        }
        Change::Deleted(pod) => {
            let key = ObjectKey::of(&*pod);
            config.verdicts.forget(&key);
            mark_gone(&config.starts, &pod);
            state.pod_gone(&key);
        }
        Change::Resync => state.resync_pods(&pods.list()),
    }
}

fn finish(state: &mut State, done: Result<Done, tokio::task::JoinError>) {
    match done {
        Ok(Done::Bound(pod)) => state.bound(&pod),
        Ok(Done::BindFailed(pod)) => state.bind_failed(&pod, Instant::now()),
        Ok(Done::EvictionFailed { pod, staying }) => state.eviction_failed(&pod, &staying, Instant::now()),
        Ok(Done::Written) => {}
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => debug!(%error, "a write was cancelled"),
    }
}

fn keep_verdict(verdicts: &Verdicts, action: &Action) {
    let (pod, node, message, refused) = match action {
        Action::Bind { pod, node } => (pod, Some(node.clone()), None, Vec::new()),
        Action::Fail { pod, error, message, .. } => (pod, None, Some(message.clone()), error.refused.clone()),
    };
    let verdict = Verdict { pod_uid: pod.uid().to_owned(), node, message, refused };
    verdicts.put(&pod.key, verdict);
}
