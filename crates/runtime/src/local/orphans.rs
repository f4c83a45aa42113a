//! What a dead shim leaves: its containers are ended, and what is told of them is written down in its place.
//!
//! containerd does the same. Where a container still runs when its shim is missed, its clean-up kills it and
//! tells 137, which is true; where it has ended meanwhile, there is no exit code to tell, so that 255 and
//! `Unknown` stand for one, and the moment at which that was found for its end, as the last one possible.

use std::time::{Duration, Instant, SystemTime};

use skiff_sys::cgroup::Group;
use tracing::warn;

use super::Inner;
use crate::files::{read_json, write_json};
use crate::protocol::Progress;
use crate::shim::STATE;

/// What was killed is gone in milliseconds, unless it hangs in the kernel.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);
/// As containerd has it.
const EXIT_CODE_UNKNOWN: i32 = 255;
const EXIT_CODE_KILLED: i32 = 128 + nix::libc::SIGKILL;

/// A container of a dead shim.
struct Orphan {
    id: String,
    group: Group,
    recorded: Progress,
    /// Its first process was there before it was killed.
    lived: bool,
}

impl Inner {
    /// Kills what a sandbox's dead shim left, waits until it is gone, and records how its containers ended.
    pub(super) fn end_orphans(&self, sandbox: &str) {
        let (groups, orphans) = {
            let state = self.state.lock();
            let Some(entry) = state.sandboxes.get(sandbox) else { return };
            let own = state.containers.values().filter(|container| container.record.sandbox == sandbox);
            let orphans: Vec<Orphan> =
                own.map(|container| self.orphan(&container.record.id, &container.record.cgroup)).collect();
            (vec![self.pause_group(&entry.record)], orphans)
        };
        let groups: Vec<&Group> = groups.iter().chain(orphans.iter().map(|orphan| &orphan.group)).collect();
        groups.iter().for_each(|group| group.kill());
        let until = Instant::now() + DEATH_TIMEOUT;
        // The kernel tells nobody when a version 1 group has become empty.
        while groups.iter().any(|group| !group.processes().is_empty()) {
            if Instant::now() > until {
                warn!(sandbox, "what its dead shim left does not die");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for Orphan { id, recorded, lived, .. } in &orphans {
            let Some(ended) = ended(recorded, *lived, SystemTime::now()) else { continue };
            // Written down, so that the same is told for as long as the container is.
            if let Err(error) = write_json(&self.container_dir(id).join(STATE), &ended, true) {
                let error = &error as &dyn std::error::Error;
                warn!(container = id, error, "cannot record the end of a container whose shim died");
            }
        }
    }

    fn orphan(&self, id: &str, cgroup: &std::path::Path) -> Orphan {
        let group = self.hierarchy.group(cgroup);
        let recorded = self.recorded_progress(id);
        let lived = recorded.pid != 0 && group.processes().contains(&recorded.pid);
        Orphan { id: id.to_owned(), group, recorded, lived }
    }

    /// What its shim recorded last of a container.
    pub(super) fn recorded_progress(&self, id: &str) -> Progress {
        let recorded: Option<Progress> = read_json(&self.container_dir(id).join(STATE)).unwrap_or_default();
        recorded.unwrap_or_default()
    }
}

/// What is told of a container whose shim recorded so much and then died. `None` where that is enough, and of
/// one that never started, which has no end.
fn ended(recorded: &Progress, lived: bool, now: SystemTime) -> Option<Progress> {
    if recorded.finished_at.is_some() || recorded.started_at.is_none() {
        return None;
    }
    let (code, reason, message) = if lived {
        (EXIT_CODE_KILLED, "Error", "The container was killed because the shim that ran it had died")
    } else {
        (EXIT_CODE_UNKNOWN, "Unknown", "The shim that ran the container had died before it ended")
    };
    Some(Progress {
        pid: 0,
        started_at: recorded.started_at,
        finished_at: Some(now),
        exit_code: Some(code),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shim_recorded_stands_and_what_it_did_not_is_told_as_far_as_it_is_known() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |recorded: &Progress, lived| {
            ended(recorded, lived, at(9)).map(|told| {
                assert_eq!((told.started_at, told.finished_at, told.pid), (Some(at(1)), Some(at(9)), 0));
                (told.exit_code.unwrap_or_default(), told.reason.unwrap_or_default())
            })
        };
        let ran = Progress { pid: 7, started_at: Some(at(1)), ..Progress::default() };
        assert_eq!(check(&ran, true), Some((137, "Error".to_owned())));
        assert_eq!(check(&ran, false), Some((255, "Unknown".to_owned())));
        let over = Progress { pid: 0, finished_at: Some(at(2)), exit_code: Some(3), ..ran };
        assert_eq!(check(&over, false), None);
        assert_eq!(check(&Progress::default(), false), None, "it never started");
    }
}
