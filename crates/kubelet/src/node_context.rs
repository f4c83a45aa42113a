//! What all pod workers of a node share.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use parking_lot::Mutex;
use skiff_client::{Cache, Client};
use skiff_network::Network;
use skiff_runtime::{Runtime, SandboxId};
use tokio::sync::{Notify, Semaphore, watch};

use crate::agent::Samples;
use crate::capacity::Capacity;
use crate::config::Config;
use crate::events::Recorder;
use crate::explain::Memory;
use crate::images::Puller;
use crate::isolation::Isolation;
use crate::made_paths::MadePaths;
use crate::references::References;
use crate::security::users::UserRanges;
use crate::tokens::Tokens;

/// The node's network, from when its range is known.
pub(crate) type NetworkSlot = watch::Receiver<Option<Arc<dyn Network>>>;

/// Shared by reference; holds no pod's own state.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: NetworkSlot,
    pub(crate) isolation: Arc<dyn Isolation>,
    pub(crate) events: Recorder,
    pub(crate) references: References,
    pub(crate) tokens: Tokens,
    pub(crate) puller: Puller,
    pub(crate) pods: Cache<Pod>,
    pub(crate) services: Cache<Service>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) capacity: Capacity,
    pub(crate) users: UserRanges,
    pub(crate) bells: Arc<Bells>,
    /// For `/stats/summary`.
    pub(crate) samples: Mutex<Samples>,
    /// Places for commands whose clients have gone.
    pub(crate) commands_left: Arc<Semaphore>,
    /// For explanations.
    pub(crate) memory: Arc<Memory>,
    pub(crate) made_paths: Arc<MadePaths>,
}

/// How to make a pod's worker look again.
#[derive(Default)]
pub(crate) struct Bells {
    by_uid: Mutex<HashMap<String, Arc<Notify>>>,
    by_sandbox: Mutex<HashMap<SandboxId, String>>,
}

impl Bells {
    /// The bell of a new worker; `None` if the pod has one already.
    pub(crate) fn hang(&self, uid: &str) -> Option<Arc<Notify>> {
        let mut bells = self.by_uid.lock();
        if bells.contains_key(uid) {
            return None;
        }
        let bell = Arc::new(Notify::new());
        bells.insert(uid.into(), bell.clone());
        Some(bell)
    }

    /// The worker has ended.
    pub(crate) fn take_down(&self, uid: &str) {
        self.by_uid.lock().remove(uid);
        self.by_sandbox.lock().retain(|_, owner| owner != uid);
    }

    /// A sandbox belongs to that pod.
    pub(crate) fn learn(&self, sandbox: &SandboxId, uid: &str) {
        self.by_sandbox.lock().insert(sandbox.clone(), uid.into());
    }

    pub(crate) fn ring(&self, uid: &str) {
        if let Some(bell) = self.by_uid.lock().get(uid) {
            bell.notify_one();
        }
    }

    /// Whose it is, or everybody where that is not known.
    pub(crate) fn ring_sandbox(&self, sandbox: &SandboxId) {
        let owner = self.by_sandbox.lock().get(sandbox).cloned();
        match owner {
            Some(uid) => self.ring(&uid),
            None => self.ring_all(),
        }
    }

    pub(crate) fn ring_all(&self) {
        self.by_uid.lock().values().for_each(|bell| bell.notify_one());
    }

    /// Whether that pod has a worker.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.by_uid.lock().contains_key(uid)
    }
}
