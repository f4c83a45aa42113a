//! What is known of one pod on this node: the runtime's listing and the agent's own memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use skiff_runtime::{Container, ContainerId, ContainerState, Sandbox, SandboxId};

use crate::backoff::Backoff;
use crate::labels;
use crate::plan::Waiting;

/// Everything that [`crate::plan::actions`] and [`crate::status::status`] look at beside the pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Newest first.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub(crate) containers: Vec<Container>,
    /// The pod's address, once its current sandbox is attached (the node's, on the node's network).
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) volumes_ready: bool,
    pub(crate) tokens: TokenState,
    /// A step for the pod as a whole that failed, and waits.
    pub(crate) pod_failure: Option<Failure>,
    /// By container name.
    pub(crate) images: BTreeMap<String, ImageState>,
    /// By container name: why it could not be created or started.
    pub(crate) failures: BTreeMap<String, Failure>,
    /// By container name.
    pub(crate) crashes: BTreeMap<String, Backoff>,
    /// By container.
    pub(crate) probes: BTreeMap<ContainerId, Probed>,
    /// Containers that somebody stops already, and how long they are given for it.
    pub(crate) stopping: BTreeMap<ContainerId, Duration>,
    /// Those that were stopped since their definition has changed: they run anew whatever the restart policy.
    pub(crate) redefined: BTreeSet<ContainerId>,
    /// The node did not take the pod.
    pub(crate) rejected: Option<Waiting>,
    /// It keeps more on the disk than it may.
    pub(crate) evicted: Option<Waiting>,
    /// The pod's object is gone from the API.
    pub(crate) removed: bool,
    /// When the agent first saw the pod.
    pub(crate) seen_since: Option<SystemTime>,
}

/// How far the tokens of the pod's volumes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// None is asked for, or all are in their volumes.
    #[default]
    Settled,
    /// To be asked for.
    Wanted,
    Fetching,
    /// There, and not in their volumes yet.
    Fetched,
}

/// A failed step: what to show, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) retry_at: SystemTime,
}

/// How far a container's image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageState {
    Pulling {
        /// What the status says meanwhile, if the pull before it failed.
        previous: Option<Box<ImageFailure>>,
    },
    Ready,
    Failed(ImageFailure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFailure {
    /// `ErrImagePull`, `InvalidImageName`, `ErrImageNeverPull`.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: SystemTime,
    pub(crate) backoff: Duration,
}

/// What the probes of a container say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// It has failed its startup or liveness probe: which, in words.
    pub(crate) failed: Option<String>,
    /// Its probe's own grace period.
    pub(crate) grace_seconds: Option<u64>,
}

impl Observed {
    /// The sandbox that the pod's containers should be in.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// Whether anything of the pod still holds what others may wait for: a process, a port, its network.
    pub(crate) fn holds_anything(&self) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.ready)
            || self.containers.iter().any(|container| !is_over(container))
    }

    pub(crate) fn is_current(&self, sandbox: &SandboxId) -> bool {
        self.sandbox().is_some_and(|current| current.id == *sandbox)
    }

    /// The containers of that name, newest first.
    pub(crate) fn history<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| labels::container_name(container) == name)
    }

    /// The newest container of that name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| labels::container_name(container) == name)
    }
}

/// It has ended, or what ended it is lost.
pub(crate) fn is_over(container: &Container) -> bool {
    matches!(container.state, ContainerState::Exited | ContainerState::Unknown)
}

/// What stands for an exit code that the runtime has none of, as upstream's kubelet has it. Of a container whose
/// end nobody saw the runtime itself tells 255 and `Unknown`, as containerd does.
pub(crate) const EXIT_CODE_UNKNOWN: i32 = 137;

/// Its exit code, as far as it is known.
pub(crate) fn exit_code(container: &Container) -> i32 {
    container.exit_code.unwrap_or(EXIT_CODE_UNKNOWN)
}
