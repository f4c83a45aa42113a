//! Makes this node's containers match its pods: the one translator between Kubernetes and Linux.
//!
//! Each pod has a worker. A worker observes (the pod, the runtime, probes), asks a plain function what to
//! do ([`plan::actions`]), takes the steps, and tells the API what came of it ([`status::status`]). Beside
//! the workers run the node's own object ([`Config::register`], status, lease, routes) and the server
//! that the API server asks for logs, exec, attach and port-forward.
//!
//! A restart of the agent changes nothing for pods: workers find their sandboxes and containers by label.

mod admission;
mod agent;
mod backoff;
mod capacity;
mod config;
mod env;
mod events;
mod execute;
mod expansion;
mod explain;
#[cfg(test)]
mod fakes;
mod given;
mod image_gc;
mod images;
mod isolation;
mod keyring;
mod labels;
mod local_storage;
mod log_place;
mod logs;
mod made_paths;
mod names;
mod node;
mod node_context;
mod observed;
mod plan;
pub mod platform;
mod prober;
mod probes;
mod references;
mod resources;
mod restarts;
mod security;
mod status;
mod status_writer;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod tokens;
mod told;
mod translate;
mod unsupported;
mod volumes;
mod worker;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use skiff_client::{Cache, Change, Client, ListParams, ObjectKey};
use skiff_network::Network;
use skiff_runtime::{Event, Runtime, tree};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use config::{Config, Serving, ServingBounds};
pub use image_gc::ImageGc;
pub use isolation::{BoxError, Isolation, Unrestricted};
pub use made_paths::{MadePath, made_paths};
pub use security::sysctls::check_allowed as check_allowed_sysctls;
pub use security::users::FIRST as FIRST_USER;

use crate::capacity::Capacity;
use crate::images::{Puller, chain};
use crate::node::NodeAgent;
use crate::node_context::{Bells, Context};
use crate::references::References;
use crate::security::users::UserRanges;
use crate::tokens::Tokens;
use crate::worker::Worker;

/// How often log files are measured; none grows far beyond its size between two looks.
const LOGS_EVERY: Duration = Duration::from_secs(10);
/// How long a pod whose worker has panicked is left alone at first; each time twice as long.
const PANIC_PAUSE: Duration = Duration::from_secs(1);
const PANIC_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Starts the node's network once its range (`spec.podCIDR`) is known.
pub type NetworkFactory =
    Box<dyn Fn(String) -> Result<Arc<dyn Network>, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Why the agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the data directory")]
    DataDir(#[source] io::Error),
    #[error("cannot list what runs")]
    List(#[source] skiff_runtime::Error),
    #[error("{0} has ended")]
    Ended(&'static str),
}

/// Runs the node agent until `shutdown`. Pods live on without it.
pub async fn run(
    config: Config,
    client: Client,
    runtime: Arc<dyn Runtime>,
    make_network: NetworkFactory,
    isolation: Arc<dyn Isolation>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    for dir in ["pods", "pods-log", security::SECCOMP_DIR] {
        skiff_runtime::private::make_dir(&config.data_dir.join(dir)).map_err(Error::DataDir)?;
    }
    let users = UserRanges::read(config.data_dir.join("pods"), config.first_user, config.pods_max)
        .map_err(Error::DataDir)?;
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let port = listener.local_addr().map_err(|source| Error::Listen { address, source })?.port();

    let capacity = Capacity::read(&config.data_dir);
    let own = ListParams {
        field_selector: Some(format!("spec.nodeName={}", config.node_name)),
        ..ListParams::default()
    };
    let pods: Cache<Pod> = Cache::new(client.clone(), own);
    let services: Cache<Service> = Cache::new(client.clone(), ListParams::default());
    let nodes: Cache<Node> = Cache::new(client.clone(), ListParams::default());
    let (events, event_writer) = events::channel(client.clone(), config.node_name.clone());
    let (network_slot, network) = watch::channel(None);
    let bells = Arc::new(Bells::default());
    let ring = bells.clone();
    let references = References::new(client.clone(), Arc::new(move |uid: &str| ring.ring(uid)));
    let puller = Puller::new(runtime.clone(), events.clone());
    let agent = Arc::new(NodeAgent {
        config: config.clone(),
        client: client.clone(),
        runtime: runtime.clone(),
        nodes: nodes.clone(),
        events: events.clone(),
        capacity,
        port,
    });
    let images_changed = Arc::new(Notify::new());
    let collector = image_gc::Collector {
        runtime: runtime.clone(),
        events: events.clone(),
        node_name: config.node_name.clone(),
        policy: config.image_gc,
        images_changed: images_changed.clone(),
    };
    let made_paths = Arc::new(made_paths::MadePaths::new(&config.data_dir));
    let context = Arc::new(Context {
        config,
        client: client.clone(),
        runtime,
        network: network.clone(),
        isolation,
        events,
        references,
        tokens: Tokens::new(client.clone()),
        puller,
        pods: pods.clone(),
        services: services.clone(),
        nodes: nodes.clone(),
        capacity,
        users,
        bells,
        samples: parking_lot::Mutex::default(),
        commands_left: Arc::new(Semaphore::new(agent::COMMANDS_LEFT_MAX)),
        memory: Arc::default(),
        made_paths,
    });

    let mut parts: JoinSet<&'static str> = JoinSet::new();
    let ended = |what: &'static str| move |()| what;
    parts.spawn(event_writer.run().map(ended("the event writer")));
    parts.spawn(pods.run().map(ended("the copy of pods")));
    parts.spawn(services.run().map(ended("the copy of services")));
    parts.spawn(nodes.run().map(ended("the copy of nodes")));
    let server = agent::Server::new(context.clone(), images_changed.clone());
    parts.spawn(server.run(listener, shutdown.clone()).map(ended("the agent's server")));
    let node = agent.clone();
    parts.spawn(async move {
        node.register().await;
        tokio::join!(
            node.keep_network(make_network, network_slot),
            node.keep_status(network, images_changed),
            node.keep_lease()
        );
        "the node's own object"
    });
    parts.spawn(follow_runtime(context.clone()).map(ended("the runtime's events")));
    parts.spawn(collector.run().map(ended("image garbage collection")));
    parts.spawn(keep_logs(context.clone()).map(ended("log rotation")));
    parts.spawn(follow_pods(context).map(ended("the pods' workers")));

    // Both are cancel-safe.
    let ended = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = parts.join_next() => ended,
    };
    match ended {
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // On shutdown parts end by themselves as well.
        Some(Ok(what)) if !shutdown.is_cancelled() => Err(Error::Ended(what)),
        _ => {
            info!("the node agent stops; pods run on");
            Ok(())
        }
    }
}

/// How a worker has ended.
enum Ended {
    /// The pod is gone from the node.
    Done { uid: String },
    /// By a fault of ours. Whatever it is about this pod, the others go on.
    Panicked { pod: Arc<Pod> },
    /// That was a while ago.
    Again { pod: Arc<Pod> },
}

type Workers = JoinSet<Ended>;

/// Gives every pod of the node its worker, and what is left of pods that are gone one that ends it.
async fn follow_pods(context: Arc<Context>) {
    let mut workers = Workers::new();
    // How often in a row the workers of pods have panicked, by the pods' UIDs.
    let mut panics: HashMap<String, u32> = HashMap::new();
    let mut changes = context.pods.subscribe();
    // Until the copy is whole, a pod that is missing in it may well exist.
    context.pods.synced().await;
    adopt(&context, &mut workers).await;
    loop {
        // Both are cancel-safe.
        tokio::select! {
            change = changes.next() => match change {
                Change::Applied { new, .. } => wake(&context, &mut workers, &new),
                Change::Deleted(old) => context.bells.ring(old.metadata.uid.as_deref().unwrap_or_default()),
                Change::Resync => {
                    context.pods.list().iter().for_each(|pod| wake(&context, &mut workers, pod));
                    context.bells.ring_all();
                }
            },
            Some(ended) = workers.join_next() => match ended {
                Ok(Ended::Done { uid }) => {
                    panics.remove(&uid);
                    context.bells.take_down(&uid);
                }
                Ok(Ended::Panicked { pod }) => {
                    let uid = pod.metadata.uid.clone().unwrap_or_default();
                    let count = panics.entry(uid).and_modify(|count| *count += 1).or_insert(1);
                    let pause = (PANIC_PAUSE * (1 << (*count - 1).min(16))).min(PANIC_PAUSE_MAX);
                    error!(pod = %ObjectKey::of(&*pod), seconds = pause.as_secs(), "a pod's worker panicked, and starts anew");
                    // Until then its bell hangs, so nobody starts another.
                    workers.spawn(async move {
                        tokio::time::sleep(pause).await;
                        Ended::Again { pod }
                    });
                }
                Ok(Ended::Again { pod }) => {
                    context.bells.take_down(pod.metadata.uid.as_deref().unwrap_or_default());
                    let now = context.pods.get(&ObjectKey::of(&*pod));
                    let now = now.filter(|now| now.metadata.uid == pod.metadata.uid);
                    wake(&context, &mut workers, &now.unwrap_or(pod));
                }
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
        }
    }
}

async fn adopt(context: &Arc<Context>, workers: &mut Workers) {
    for pod in context.pods.list() {
        wake(context, workers, &pod);
    }
    let sandboxes = loop {
        match context.runtime.list_sandboxes().await {
            Ok(sandboxes) => break sandboxes,
            Err(error) => {
                warn!(error = %chain(&error), "cannot list what runs, retrying");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    for sandbox in sandboxes {
        if !labels::uid(&sandbox.config.labels).is_empty() {
            // Does nothing where the pod has a worker.
            wake(context, workers, &Arc::new(execute::orphan(&sandbox.config.labels)));
        }
    }
    remove_left_directories(context);
}

/// Directories of pods that nobody works on: their volumes were torn down, or never came to be. How long it
/// takes to remove them is up to what the pods wrote, and nobody waits for it.
fn remove_left_directories(context: &Arc<Context>) {
    let below =
        |name: &str| std::fs::read_dir(context.config.data_dir.join(name)).into_iter().flatten().flatten();
    let nobodys = |uid: &&str| !context.bells.has(uid);
    let pods = below("pods").filter_map(|entry| {
        let name = entry.file_name();
        Some((entry.path(), name.to_str().filter(nobodys)?.to_owned()))
    });
    let pods: Vec<_> = pods.collect();
    let logs = below("pods-log").filter_map(|entry| {
        // NAMESPACE_NAME_UID; none of the three has an underscore.
        let name = entry.file_name();
        name.to_str()?.rsplit('_').next().filter(nobodys)?;
        Some(entry.path())
    });
    let logs: Vec<_> = logs.collect();
    let context = context.clone();
    tokio::task::spawn_blocking(move || {
        for (path, uid) in pods {
            match volumes::tear_down(&path) {
                Ok(()) => context.users.release(&uid),
                Err(error) => warn!(uid, error = %chain(&error), "cannot remove what is left of a pod"),
            }
        }
        for path in logs {
            if let Err(error) = tree::remove(&path) {
                warn!(path = %path.display(), error = %chain(&error), "cannot remove a pod's old logs");
            }
        }
    });
}

/// Rings the pod's worker, or starts it.
fn wake(context: &Arc<Context>, workers: &mut Workers, pod: &Arc<Pod>) {
    let Some(uid) = pod.metadata.uid.clone() else { return };
    match context.bells.hang(&uid) {
        None => context.bells.ring(&uid),
        Some(bell) => {
            let (context, pod) = (context.clone(), pod.clone());
            workers.spawn(async move {
                let work = async { Worker::new(context, pod.clone(), bell).run().await };
                // What the worker held goes with it; what others share is behind locks that no panic poisons.
                match std::panic::AssertUnwindSafe(work).catch_unwind().await {
                    Ok(()) => Ended::Done { uid },
                    Err(_) => Ended::Panicked { pod },
                }
            });
        }
    }
}

async fn follow_runtime(context: Arc<Context>) {
    let mut events = context.runtime.events();
    loop {
        match events.recv().await {
            Ok(Event::SandboxStopped(sandbox)) => context.bells.ring_sandbox(&sandbox),
            Ok(Event::ContainerStarted(_, sandbox) | Event::ContainerExited(_, sandbox)) => {
                context.bells.ring_sandbox(&sandbox);
            }
            Err(RecvError::Lagged(_)) => context.bells.ring_all(),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Rotates the logs of running containers.
async fn keep_logs(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(LOGS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(containers) = context.runtime.list_containers().await else { continue };
        for container in containers {
            let Some(path) = container.log_path.filter(|_| container.pid != 0) else { continue };
            match logs::rotate(&path) {
                Ok(false) => {}
                Ok(true) => {
                    if let Err(error) = context.runtime.reopen_log(&container.id).await {
                        warn!(container = container.id.0, error = %chain(&error), "cannot reopen a log");
                    }
                }
                Err(error) => warn!(path = %path.display(), error = %chain(&error), "cannot rotate a log"),
            }
        }
    }
}
