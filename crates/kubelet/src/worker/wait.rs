//! Waiting for what concerns a pod, and taking in what its background work came to.

use std::time::{Duration, SystemTime};

use super::{Done, Look, RETRY_MAX, Worker};
use crate::local_storage;
use crate::observed::{ImageState, TokenState};
use crate::tokens;

impl Worker {
    /// Until something rings, reports, or the time comes.
    pub(super) async fn wait(&mut self, wake_at: Option<SystemTime>, look: Look, failed: bool) {
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
                Some(limit) => tokio::time::sleep(limit.saturating_add(Duration::from_millis(1))).await,
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
}
