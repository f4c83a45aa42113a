//! Making a container's image available: policy, one pull at a time for each image and the credentials for it,
//! back-off, events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use skiff_runtime::{ImageError, Pulled, RegistryAuth, Runtime};
use tokio::sync::{Semaphore, watch};

use crate::backoff::Backoff;
use crate::events::{Kind, Recorder};
use crate::keyring::Keyring;
use crate::observed::ImageFailure;
use crate::time::go_duration;

/// Pulls at once; more share the same line.
const PULLS_MAX: usize = 4;

type Outcome = Option<Result<Pulled, (&'static str, String)>>;

/// What a pull is made of. Who has other credentials may not get what these opened.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Wanted {
    image: String,
    /// Tried in this order.
    credentials: Vec<RegistryAuth>,
}

/// Pulls images for all pods of the node.
pub(crate) struct Puller {
    runtime: Arc<dyn Runtime>,
    events: Recorder,
    running: Arc<Mutex<HashMap<Wanted, watch::Receiver<Outcome>>>>,
    backoffs: Mutex<HashMap<(String, String), Backoff>>,
    slots: Arc<Semaphore>,
}

/// When the policy asks a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// The container's policy, defaulted by its tag as the API server does.
pub(crate) fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("IfNotPresent") => Policy::IfNotPresent,
        Some("Never") => Policy::Never,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or(image);
            let untagged = !last.contains(':') && !last.contains('@');
            if untagged || last.ends_with(":latest") { Policy::Always } else { Policy::IfNotPresent }
        }
    }
}

/// What is known without a registry and without secrets: ready, failed, or that it takes either.
pub(crate) enum Local {
    Ready,
    Failed(ImageFailure),
    Pull,
}

impl Puller {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, events: Recorder) -> Self {
        let slots = Arc::new(Semaphore::new(PULLS_MAX));
        Self { runtime, events, running: Arc::default(), backoffs: Mutex::default(), slots }
    }

    /// Looks at what the node has.
    pub(crate) async fn local(&self, pod: &Pod, container: &Container) -> Local {
        let image = container.image.as_deref().unwrap_or_default();
        let name = container.name.as_str();
        let present = match self.runtime.image(image).await {
            Ok(present) => present.is_some(),
            Err(ImageError::InvalidName { reason, .. }) => {
                let message = format!(
                    "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {reason}"
                );
                self.events.pod(pod, Some(name), Kind::Warning, "InspectFailed", message.clone());
                self.events.pod(pod, Some(name), Kind::Warning, "Failed", "Error: InvalidImageName".into());
                return Local::Failed(self.failure(pod, image, "InvalidImageName", message));
            }
            Err(_) => false,
        };
        match policy(container) {
            Policy::Always => Local::Pull,
            Policy::IfNotPresent | Policy::Never if present => match self.is_given(image, &[]).await {
                true => {
                    self.tell_present(pod, container);
                    Local::Ready
                }
                // The pod's secrets may show that it is.
                false => Local::Pull,
            },
            Policy::IfNotPresent => Local::Pull,
            Policy::Never => Local::Failed(self.never(pod, container)),
        }
    }

    /// Where that can't be told the registry is asked.
    async fn is_given(&self, image: &str, credentials: &[RegistryAuth]) -> bool {
        self.runtime.is_image_given_to(image, credentials).await.unwrap_or(false)
    }

    fn tell_present(&self, pod: &Pod, container: &Container) {
        let image = container.image.as_deref().unwrap_or_default();
        let message =
            format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
        self.events.pod(pod, Some(&container.name), Kind::Normal, "Pulled", message);
    }

    fn never(&self, pod: &Pod, container: &Container) -> ImageFailure {
        let (image, name) = (container.image.as_deref().unwrap_or_default(), Some(container.name.as_str()));
        let message = format!("Container image \"{image}\" is not present with pull policy of Never");
        self.events.pod(pod, name, Kind::Warning, "ErrImageNeverPull", message.clone());
        self.events.pod(pod, name, Kind::Warning, "Failed", "Error: ErrImageNeverPull".into());
        self.failure(pod, image, "ErrImageNeverPull", message)
    }

    /// Pulls, unless the pod's secrets show that what is there may be used; whoever wants the same image with the
    /// same credentials meanwhile waits for the same pull.
    pub(crate) async fn pull(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Secret>],
    ) -> Result<Option<Pulled>, ImageFailure> {
        let image = container.image.clone().unwrap_or_default();
        let name = container.name.as_str();
        let repository = skiff_runtime::images::repository(&image).unwrap_or_default();
        let credentials = Keyring::of(secrets.iter().map(|secret| &**secret));
        let credentials = credentials.map(|keyring| keyring.of_repository(&repository));
        let own = credentials.as_deref().unwrap_or_default();
        match policy(container) {
            Policy::Always => {}
            _ if self.is_given(&image, own).await => {
                self.tell_present(pod, container);
                return Ok(None);
            }
            Policy::IfNotPresent => {}
            Policy::Never => return Err(self.never(pod, container)),
        }
        self.events.pod(pod, Some(name), Kind::Normal, "Pulling", format!("Pulling image \"{image}\""));
        let asked = Instant::now();
        let result = match credentials {
            Ok(credentials) => self.joined(Wanted { image: image.clone(), credentials }).await,
            Err(malformed) => Err(("ErrImagePull", malformed.to_string())),
        };
        match result {
            Ok(pulled) => {
                let took = go_duration(round(asked.elapsed()));
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    pulled.image.size_bytes
                );
                self.events.pod(pod, Some(name), Kind::Normal, "Pulled", message);
                self.backoffs.lock().remove(&backoff_key(pod, &image));
                Ok(Some(pulled))
            }
            Err((reason, message)) => {
                let text = format!("Failed to pull image \"{image}\": {message}");
                self.events.pod(pod, Some(name), Kind::Warning, "Failed", text);
                self.events.pod(pod, Some(name), Kind::Warning, "Failed", format!("Error: {reason}"));
                Err(self.failure(pod, &image, reason, message))
            }
        }
    }

    async fn joined(&self, wanted: Wanted) -> Result<Pulled, (&'static str, String)> {
        let mut outcome = self.join(wanted);
        let result = match outcome.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        result.unwrap_or_else(|| Err(("ErrImagePull", "the pull was interrupted".into())))
    }

    fn join(&self, wanted: Wanted) -> watch::Receiver<Outcome> {
        let mut running = self.running.lock();
        if let Some(outcome) = running.get(&wanted) {
            return outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        running.insert(wanted.clone(), outcome.clone());
        let (runtime, slots, table) = (self.runtime.clone(), self.slots.clone(), self.running.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            let result = try_all(&*runtime, &wanted).await;
            table.lock().remove(&wanted);
            tell.send_replace(Some(result));
        });
        outcome
    }

    fn failure(&self, pod: &Pod, image: &str, reason: &str, message: String) -> ImageFailure {
        let at = crate::time::now();
        let mut backoffs = self.backoffs.lock();
        let key = backoff_key(pod, image);
        let next = Backoff::next(backoffs.get(&key).copied(), at);
        backoffs.insert(key, next);
        ImageFailure { reason: reason.into(), message, at, backoff: next.delay }
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.backoffs.lock().retain(|(pod, _), _| pod != uid);
    }
}

/// With each of the credentials until one opens it, or without any; the errors of all.
async fn try_all(runtime: &dyn Runtime, wanted: &Wanted) -> Result<Pulled, (&'static str, String)> {
    let Wanted { image, credentials } = wanted;
    let tries: Vec<Option<RegistryAuth>> = match credentials.is_empty() {
        true => vec![None],
        false => credentials.iter().cloned().map(Some).collect(),
    };
    let mut errors: Vec<String> = Vec::new();
    for auth in tries {
        match runtime.pull_image(image, auth).await {
            Ok(pulled) => return Ok(pulled),
            Err(error @ ImageError::InvalidName { .. }) => return Err(("InvalidImageName", chain(&error))),
            Err(error) => errors.push(chain(&error)),
        }
    }
    errors.dedup();
    let message = match errors.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    };
    Err(("ErrImagePull", message))
}

fn backoff_key(pod: &Pod, image: &str) -> (String, String) {
    (pod.metadata.uid.clone().unwrap_or_default(), image.to_owned())
}

/// Whole milliseconds, one at least.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// An error with all its causes, for a person.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use skiff_client::Client;

    use super::*;
    use crate::fakes::{FakeApi, FakeRuntime};

    fn container(image: &str, policy: Value) -> Container {
        serde_json::from_value(json!({"name": "c", "image": image, "imagePullPolicy": policy}))
            .expect("a container")
    }

    #[test]
    fn without_a_policy_the_tag_decides() {
        for (image, expected) in [
            ("web", Policy::Always),
            ("web:latest", Policy::Always),
            ("localhost:5000/web", Policy::Always),
            ("web:1", Policy::IfNotPresent),
            ("localhost:5000/web:1", Policy::IfNotPresent),
            ("web@sha256:12", Policy::IfNotPresent),
            ("web:latest@sha256:12", Policy::IfNotPresent),
        ] {
            assert_eq!(policy(&container(image, Value::Null)), expected, "{image}");
            assert_eq!(policy(&container(image, json!("Never"))), Policy::Never, "{image}");
        }
    }

    #[tokio::test]
    async fn the_policy_says_whether_a_registry_is_asked() {
        for (image, policy, expected, reason) in [
            ("web:1", "Always", "pull", ""),
            ("web:1", "IfNotPresent", "ready", "Pulled"),
            ("web:1", "Never", "ready", "Pulled"),
            ("other:1", "Always", "pull", ""),
            ("other:1", "IfNotPresent", "pull", ""),
            ("other:1", "Never", "ErrImageNeverPull", "ErrImageNeverPull"),
        ] {
            let api = FakeApi::default();
            let (events, writer) = crate::events::channel(Client::new(api.clone()), "node".into());
            tokio::spawn(writer.run());
            let puller = Puller::new(Arc::new(FakeRuntime::default()), events);
            let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}});
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            let found = match puller.local(&pod, &container(image, json!(policy))).await {
                Local::Ready => "ready".to_owned(),
                Local::Pull => "pull".to_owned(),
                Local::Failed(failure) => {
                    assert_eq!(
                        failure.message,
                        format!("Container image \"{image}\" is not present with pull policy of Never")
                    );
                    failure.reason
                }
            };
            assert_eq!(found, expected, "{image} {policy}");
            let told = async {
                while !reason.is_empty() && !api.all("/events/").iter().any(|event| event["reason"] == reason)
                {
                    tokio::task::yield_now().await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(30), told).await;
            assert!(in_time.is_ok(), "{image} {policy}: {:?}", api.all("/events/"));
        }
    }
}
