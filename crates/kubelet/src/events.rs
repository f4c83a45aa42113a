//! Events about pods and the node, as `kubectl describe` shows them.
//!
//! The same event again raises a count instead of making an object; an object that has many different
//! ones is cut off for a while. Recording never waits: what doesn't fit in the queue is dropped.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use skiff_client::{Client, Patch};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::time::api_time;

const QUEUE_MAX: usize = 1_024;
/// An object may have this many events at once, and then one every five minutes, as upstream's filter.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// The same event after this long is a new one.
const FORGET_AFTER: Duration = Duration::from_secs(600);
const REMEMBERED_MAX: usize = 4_096;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

#[derive(Debug, Clone)]
struct Recorded {
    about: ObjectReference,
    kind: Kind,
    reason: String,
    message: String,
    at: SystemTime,
}

/// Takes events from everywhere in the agent.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<Recorded>);

/// Writes what a [`Recorder`] took.
pub(crate) struct Writer {
    queue: mpsc::Receiver<Recorded>,
    client: Client,
    node_name: String,
}

pub(crate) fn channel(client: Client, node_name: String) -> (Recorder, Writer) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    (Recorder(sender), Writer { queue, client, node_name })
}

impl Recorder {
    /// About a pod, or one of its containers.
    pub(crate) fn pod(&self, pod: &Pod, container: Option<&str>, kind: Kind, reason: &str, message: String) {
        let field_path = container.map(|name| {
            let is_init = pod
                .spec
                .iter()
                .flat_map(|spec| spec.init_containers.iter().flatten())
                .any(|container| container.name == name);
            format!("spec.{}{{{name}}}", if is_init { "initContainers" } else { "containers" })
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        };
        self.record(about, kind, reason, message);
    }

    /// About the node itself.
    pub(crate) fn node(&self, node: &Node, kind: Kind, reason: &str, message: String) {
        let name = node.metadata.name.clone();
        let about = ObjectReference {
            kind: Some("Node".into()),
            uid: name.clone(),
            name,
            ..ObjectReference::default()
        };
        self.record(about, kind, reason, message);
    }

    fn record(&self, about: ObjectReference, kind: Kind, reason: &str, message: String) {
        let recorded = Recorded { about, kind, reason: reason.into(), message, at: crate::time::now() };
        if self.0.try_send(recorded).is_err() {
            debug!(reason, "an event was dropped, too many wait");
        }
    }
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    about: (Option<String>, Option<String>),
    kind: Kind,
    reason: String,
    message: String,
}

struct Written {
    namespace: String,
    name: String,
    count: i32,
    last: SystemTime,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Writer {
    /// Writes until the last recorder is gone.
    pub(crate) async fn run(mut self) {
        let mut written: HashMap<Key, Written> = HashMap::new();
        let mut buckets: HashMap<Option<String>, Bucket> = HashMap::new();
        let mut serial = 0u64;
        while let Some(event) = self.queue.recv().await {
            if written.len() > REMEMBERED_MAX {
                written.retain(|_, written| {
                    event.at.duration_since(written.last).is_ok_and(|age| age < FORGET_AFTER)
                });
            }
            if buckets.len() > REMEMBERED_MAX {
                buckets.clear();
            }
            if !admit(&mut buckets, &event.about.uid) {
                continue;
            }
            let key = Key {
                about: (event.about.uid.clone(), event.about.field_path.clone()),
                kind: event.kind,
                reason: event.reason.clone(),
                message: event.message.clone(),
            };
            let known = written
                .get_mut(&key)
                .filter(|known| event.at.duration_since(known.last).is_ok_and(|age| age < FORGET_AFTER));
            if let Some(known) = known {
                known.count += 1;
                known.last = event.at;
                let patch = Patch::Merge(json!({"count": known.count, "lastTimestamp": api_time(event.at)}));
                match self.client.patch::<Event>(&known.namespace, &known.name, None, &patch).await {
                    Ok(_) => continue,
                    Err(error) if error.is_not_found() => {}
                    Err(error) => {
                        debug!(error = &error as &dyn std::error::Error, "cannot count an event");
                        continue;
                    }
                }
            }
            serial += 1;
            let object = self.object(&event, serial);
            let (namespace, name) = (
                object.metadata.namespace.clone().unwrap_or_default(),
                object.metadata.name.clone().unwrap_or_default(),
            );
            match self.client.create(&object).await {
                Ok(_) => {
                    written.insert(key, Written { namespace, name, count: 1, last: event.at });
                }
                Err(error) => debug!(error = &error as &dyn std::error::Error, "cannot write an event"),
            }
        }
    }

    fn object(&self, event: &Recorded, serial: u64) -> Event {
        let nanos = event.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let name = event.about.name.as_deref().unwrap_or("unknown");
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:016x}", nanos.wrapping_add(serial))),
                namespace: Some(event.about.namespace.clone().unwrap_or_else(|| "default".into())),
                ..ObjectMeta::default()
            },
            involved_object: event.about.clone(),
            type_: Some(match event.kind {
                Kind::Normal => "Normal".into(),
                Kind::Warning => "Warning".into(),
            }),
            reason: Some(event.reason.clone()),
            message: Some(event.message.clone()),
            count: Some(1),
            first_timestamp: Some(api_time(event.at)),
            last_timestamp: Some(api_time(event.at)),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node_name.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}

fn admit(buckets: &mut HashMap<Option<String>, Bucket>, uid: &Option<String>) -> bool {
    let now = Instant::now();
    let bucket = buckets.entry(uid.clone()).or_insert(Bucket { tokens: BURST, at: now });
    let earned = now.duration_since(bucket.at).as_secs_f64() / REFILL_SECONDS;
    bucket.tokens = (bucket.tokens + earned).min(BURST);
    bucket.at = now;
    if bucket.tokens < 1.0 {
        return false;
    }
    bucket.tokens -= 1.0;
    true
}
