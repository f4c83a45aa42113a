//! Questions to a running scheduler, answered between two of its decisions.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_explain::pending::PendingExplanation;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Questions that wait at a time; who asks beyond that is told that nobody answers.
const WAITING_MAX: usize = 64;

/// One pod to explain.
pub(crate) struct Question {
    pub(crate) pod: Arc<Pod>,
    pub(crate) answer: oneshot::Sender<PendingExplanation>,
}

/// The scheduler's end.
pub(crate) type Asked = mpsc::Receiver<Question>;

/// Where to ask. Cheap to clone; the scheduler that gets one in its configuration answers.
#[derive(Debug, Clone)]
pub struct Questions {
    ask: mpsc::Sender<Question>,
    asked: Arc<Mutex<Option<Asked>>>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

impl Default for Questions {
    fn default() -> Self {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        Self { ask, asked: Arc::new(Mutex::new(Some(asked))) }
    }
}

impl Questions {
    /// Why this pod has no node; nothing where no scheduler runs that could say it.
    pub async fn pending(&self, pod: Arc<Pod>) -> Option<PendingExplanation> {
        let (answer, answered) = oneshot::channel();
        self.ask.try_send(Question { pod, answer }).ok()?;
        answered.await.ok()
    }

    /// The other end, for the one scheduler that answers.
    pub(crate) async fn answering(&self) -> Option<Asked> {
        self.asked.lock().await.take()
    }
}
