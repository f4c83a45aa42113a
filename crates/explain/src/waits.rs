//! What a pod that has a node waits for there: an image, a volume, a container or a probe.
//!
//! A node's agent keeps it in [`Waits`] as long as the pod waits.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// `image`, `volume`, `sandbox`, `network`, `container`, `probe` or `agent`.
    pub what: String,
    /// The container that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// As the pod's status says: `ImagePullBackOff`, `CrashLoopBackOff`, …
    pub reason: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it is tried again, RFC 3339; `never`, and what would be, where nothing but another pod helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
}

impl Wait {
    /// `container main`, `image of container main`, `volume`.
    pub fn subject(&self) -> String {
        match (self.what.as_str(), &self.container) {
            ("container", Some(name)) => format!("container {name}"),
            (what, Some(name)) => format!("{what} of container {name}"),
            (what, None) => what.to_owned(),
        }
    }
}

/// Probes that are remembered until their wait is told; the rest is dropped.
const PROBES_MAX: usize = 512;
/// What is kept of an error's text.
const ERROR_BYTES_MAX: usize = 1_024;

/// What each pod of a node waits for now, and since when. Shared by workers, who write, and by who asks.
#[derive(Debug, Default)]
pub struct Waits(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// By the pod's UID.
    pods: HashMap<String, Vec<Wait>>,
    /// Probes that containers wait for, by the pod's UID and the container's name.
    probes: HashMap<(String, String), Probing>,
}

/// What is known of a probe that has not succeeded.
#[derive(Debug, Clone, Default)]
struct Probing {
    last_error: Option<String>,
    next_try: Option<String>,
}

impl Waits {
    /// What a pod waits for at `now`, in RFC 3339. What it waited for before keeps its beginning.
    pub fn publish(&self, uid: &str, mut waits: Vec<Wait>, now: &str) {
        let mut kept = self.lock();
        if waits.is_empty() {
            kept.pods.remove(uid);
            return;
        }
        let before = kept.pods.get(uid);
        for wait in &mut waits {
            let same = before.into_iter().flatten().find(|old| {
                // A back-off is the same wait as the failure that it follows.
                old.what == wait.what && old.container == wait.container
            });
            wait.since = match same {
                Some(old) => old.since.clone(),
                None => Some(now.to_owned()),
            };
            wait.last_error = wait.last_error.take().map(bounded);
        }
        waits.shrink_to_fit();
        kept.pods.insert(uid.to_owned(), waits);
    }

    /// What a pod waits for.
    pub fn of(&self, uid: &str) -> Vec<Wait> {
        let kept = self.lock();
        let mut waits = kept.pods.get(uid).cloned().unwrap_or_default();
        // Probes go on while the pod's worker has nothing to look at.
        for wait in waits.iter_mut().filter(|wait| wait.what == "probe") {
            let key = (uid.to_owned(), wait.container.clone().unwrap_or_default());
            let probing = kept.probes.get(&key).cloned().unwrap_or_default();
            (wait.last_error, wait.next_try) = (probing.last_error, probing.next_try);
        }
        waits
    }

    /// A startup or readiness probe that a container waits for is tried at `next`, in RFC 3339; before that it
    /// failed, if there is an error.
    pub fn probes_again(&self, uid: &str, container: &str, error: Option<&str>, next: String) {
        let probes = &mut self.lock().probes;
        let key = (uid.to_owned(), container.to_owned());
        if probes.len() < PROBES_MAX || probes.contains_key(&key) {
            let probing = probes.entry(key).or_default();
            probing.next_try = Some(next);
            if let Some(error) = error {
                probing.last_error = Some(bounded(error.to_owned()));
            }
        }
    }

    /// The container waits for no probe.
    pub fn probe_succeeded(&self, uid: &str, container: &str) {
        self.lock().probes.remove(&(uid.to_owned(), container.to_owned()));
    }

    /// The pod is gone from the node.
    pub fn forget(&self, uid: &str) {
        let mut kept = self.lock();
        kept.pods.remove(uid);
        kept.probes.retain(|(own, _), _| own != uid);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of an error's text, as much as is kept.
fn bounded(mut error: String) -> String {
    if error.len() > ERROR_BYTES_MAX {
        let end = (0..=ERROR_BYTES_MAX).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
        error.truncate(end);
        error.push('…');
    }
    error.shrink_to_fit();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(what: &str, reason: &str) -> Wait {
        Wait {
            what: what.into(),
            container: Some("c".into()),
            reason: reason.into(),
            since: None,
            last_error: None,
            next_try: None,
        }
    }

    #[test]
    fn a_wait_keeps_its_beginning() {
        let waits = Waits::default();
        waits.publish("u", vec![wait("image", "ErrImagePull")], "10");
        waits.publish("u", vec![wait("image", "ImagePullBackOff")], "20");
        assert_eq!(waits.of("u")[0].since.as_deref(), Some("10"));
        waits.publish("u", vec![wait("probe", "readiness")], "30");
        waits.probes_again("u", "c", None, "31".into());
        let told = waits.of("u").remove(0);
        assert_eq!((told.last_error, told.next_try.as_deref()), (None, Some("31")));
        // The error stays while the next try is known.
        waits.probes_again("u", "c", Some("refused"), "33".into());
        waits.probes_again("u", "c", None, "35".into());
        let told = waits.of("u").remove(0);
        assert_eq!((told.last_error.as_deref(), told.next_try.as_deref()), (Some("refused"), Some("35")));
        assert_eq!(told.since.as_deref(), Some("30"));
        waits.probe_succeeded("u", "c");
        assert_eq!(waits.of("u").remove(0).last_error, None);
        waits.publish("u", Vec::new(), "40");
        assert!(waits.of("u").is_empty());
    }

    #[test]
    fn of_a_long_error_the_beginning_is_kept() {
        let waits = Waits::default();
        let long = Wait { last_error: Some("ä".repeat(5_000)), ..wait("image", "ErrImagePull") };
        waits.publish("u", vec![long], "1");
        let kept = waits.of("u").remove(0).last_error.unwrap_or_default();
        assert!(kept.len() <= ERROR_BYTES_MAX + '…'.len_utf8() && kept.ends_with("ä…"), "{}", kept.len());
        waits.forget("u");
        assert!(waits.of("u").is_empty());
    }

    #[test]
    fn probes_are_bounded() {
        let waits = Waits::default();
        for pod in 0..PROBES_MAX + 9 {
            waits.probes_again(&pod.to_string(), "c", Some("refused"), "1".into());
        }
        assert_eq!(waits.lock().probes.len(), PROBES_MAX);
        waits.forget("0");
        assert_eq!(waits.lock().probes.len(), PROBES_MAX - 1);
    }
}
