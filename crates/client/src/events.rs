//! Events: what happened to an object, for people to read.
//!
//! Recording never waits and never fails its caller: events beyond the queue's bound are dropped. A repeat
//! of an event raises the first one's count.

use std::collections::HashMap;
use std::future::Future;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

use crate::client::{Client, Object, Patch};

/// Events that wait to be written.
const WAITING_MAX: usize = 4096;
/// Events whose repeats are counted.
const REMEMBERED_MAX: usize = 4096;
/// Writes at a time.
const WRITES_MAX: usize = 8;

/// How the reader should take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    event_type: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

type Same = (Option<String>, Option<String>, EventType, String, String);

struct Known {
    name: String,
    count: i32,
}

/// Writes events in the name of one component. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventRecorder(mpsc::Sender<Note>);

impl EventRecorder {
    /// The recorder, and the work of writing, which ends when the last recorder is dropped. `component` is
    /// such as `default-scheduler`; `host` is empty for what belongs to no node.
    pub fn new(
        client: Client,
        component: &str,
        host: &str,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|host| !host.is_empty()),
        };
        (Self(sender), write_all(client, source, receiver))
    }

    /// Records that something happened to the object that `about` names.
    pub fn record(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        let (reason, message) = (reason.into(), message.into());
        let note = Note { about, event_type, reason, message, at: now() };
        if let Err(mpsc::error::TrySendError::Full(note)) = self.0.try_send(note) {
            debug!(reason = %note.reason, "event dropped, too many wait");
        }
    }
}

/// The time by this machine's clock.
pub fn now() -> Timestamp {
    let since_epoch =
        std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = i128::try_from(since_epoch.as_nanos()).unwrap_or_default();
    Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A reference to an object, as events and bindings have it.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

async fn write_all(client: Client, source: EventSource, mut receiver: mpsc::Receiver<Note>) {
    let mut known: HashMap<Same, Known> = HashMap::new();
    let mut writes = tokio::task::JoinSet::new();
    while let Some(note) = receiver.recv().await {
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let same = (
            note.about.uid.clone(),
            note.about.name.clone(),
            note.event_type,
            note.reason.clone(),
            note.message.clone(),
        );
        let event = event(note, &source);
        let repeat = known.get_mut(&same).map(|known| {
            known.count = known.count.saturating_add(1);
            (known.name.clone(), known.count)
        });
        if repeat.is_none() {
            let name = event.metadata.name.clone().unwrap_or_default();
            known.insert(same, Known { name, count: 1 });
        }
        while writes.len() >= WRITES_MAX {
            writes.join_next().await;
        }
        writes.spawn(write(client.clone(), event, repeat));
    }
    while writes.join_next().await.is_some() {}
}

/// Events are best effort: a refusal (the namespace ends, say) is noted and that's it.
async fn write(client: Client, mut event: Event, repeat: Option<(String, i32)>) {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    if let Some((name, count)) = repeat {
        let patch = json!({"count": count, "lastTimestamp": event.last_timestamp});
        match client.patch::<Event>(&namespace, &name, None, &Patch::Merge(patch)).await {
            Ok(_) => return,
            // It has expired meanwhile, or its creation failed: write it anew.
            Err(error) if error.is_not_found() => event.count = Some(count),
            Err(error) => return debug!(error = &error as &dyn std::error::Error, "event not counted"),
        }
    }
    if let Err(error) = client.create_unread(&event).await {
        debug!(error = &error as &dyn std::error::Error, "event not written");
    }
}

fn event(note: Note, source: &EventSource) -> Event {
    let namespace = note.about.namespace.clone().filter(|namespace| !namespace.is_empty());
    let base = note.about.name.as_deref().unwrap_or_default();
    let base: String = base.chars().take(200).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{base}.{:016x}", unique(note.at))),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: note.about,
        type_: Some(format!("{:?}", note.event_type)),
        reason: Some(note.reason),
        message: Some(note.message),
        count: Some(1),
        first_timestamp: Some(Time(note.at)),
        last_timestamp: Some(Time(note.at)),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        ..Event::default()
    }
}

/// The time in nanoseconds, its last digits random: two events of one moment must not share a name.
fn unique(at: Timestamp) -> u64 {
    let nanos = u64::try_from(at.as_nanosecond()).unwrap_or_default();
    nanos / 4096 * 4096 + u64::from(rand::random::<u16>() % 4096)
}
