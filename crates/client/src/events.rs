//! Events: what happened to an object, for people to read.
//!
//! Recording never waits and never fails its caller: events beyond the queue's bound are dropped. A repeat
//! of an event raises the first one's count ([`repeats`]).

mod repeats;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

use self::repeats::Repeats;
use crate::client::{Client, Object, Patch};

/// Events that wait to be written.
const WAITING_MAX: usize = 4096;
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
    let mut repeats = Repeats::default();
    // Of each event one write at a time, so that none overtakes another; of what comes meanwhile the last counts.
    let mut under_way: HashMap<Key, Option<Event>> = HashMap::new();
    let mut writes = tokio::task::JoinSet::new();
    let mut open = true;
    while open || !writes.is_empty() {
        // Both are cancel-safe: a note and a task's end are taken whole or not at all.
        tokio::select! {
            note = receiver.recv(), if open && writes.len() < WRITES_MAX => {
                let Some(note) = note else {
                    open = false;
                    continue;
                };
                let event = event(note, &source, &mut repeats);
                match under_way.entry(key(&event)) {
                    Entry::Occupied(mut waiting) => *waiting.get_mut() = Some(event),
                    Entry::Vacant(free) => {
                        free.insert(None);
                        writes.spawn(write(client.clone(), event));
                    }
                }
            }
            Some(written) = writes.join_next() => match written {
                Ok(key) => {
                    if let Some(Some(next)) = under_way.remove(&key) {
                        under_way.insert(key, None);
                        writes.spawn(write(client.clone(), next));
                    }
                }
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => debug!(%error, "a write was cancelled"),
            },
        }
    }
}

/// Namespace and name.
type Key = (String, String);

fn key(event: &Event) -> Key {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    (part(&event.metadata.namespace), part(&event.metadata.name))
}

/// Events are best effort: a refusal (the namespace ends, say) is noted and that's it.
async fn write(client: Client, event: Event) -> Key {
    let key = key(&event);
    if event.count > Some(1) {
        let patch =
            json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
        match client.patch::<Event>(&key.0, &key.1, None, &Patch::Merge(patch)).await {
            Ok(_) => return key,
            // It has expired meanwhile, or its creation failed: write it anew.
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "event not counted");
                return key;
            }
        }
    }
    if let Err(error) = client.create_unread(&event).await {
        debug!(error = &error as &dyn std::error::Error, "event not written");
    }
    key
}

fn event(note: Note, source: &EventSource, repeats: &mut Repeats) -> Event {
    let namespace = note.about.namespace.clone().filter(|namespace| !namespace.is_empty());
    let base = note.about.name.as_deref().unwrap_or_default();
    let base: String = base.chars().take(200).collect();
    let told = repeats.tell(&note, &format!("{base}.{:016x}", unique(note.at)));
    Event {
        metadata: ObjectMeta {
            name: Some(told.name),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: note.about,
        type_: Some(format!("{:?}", note.event_type)),
        reason: Some(note.reason),
        message: Some(told.message),
        count: Some(told.count),
        first_timestamp: Some(Time(told.first)),
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use async_trait::async_trait;
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;
    use crate::{Body, Error, Transport};

    /// A server that keeps events by name, and says of others that it has none.
    #[derive(Default)]
    struct Events(Mutex<HashMap<String, Value>>);

    #[async_trait]
    impl Transport for Events {
        async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Error> {
            let path = request.uri().path().to_owned();
            let creates = request.method() == http::Method::POST;
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            // Others have their turn before it answers.
            tokio::task::yield_now().await;
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let mut events = self.0.lock().expect("nobody panicked");
            let answer = |code: u16, value: &Value| {
                let answer =
                    http::Response::builder().status(code).header("content-type", "application/json");
                Ok(answer.body(crate::full(value.to_string())).expect("an answer"))
            };
            if creates {
                let name = body["metadata"]["name"].as_str().expect("a name").to_owned();
                assert!(events.insert(name, body.clone()).is_none(), "it is made once");
                return answer(201, &body);
            }
            match events.get_mut(path.rsplit('/').next().unwrap_or_default()) {
                Some(event) => {
                    for (field, value) in body.as_object().expect("a patch") {
                        event[field] = value.clone();
                    }
                    answer(200, event)
                }
                None => answer(
                    404,
                    &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "reason": "NotFound", "code": 404}),
                ),
            }
        }
    }

    #[tokio::test]
    async fn repeats_are_counted_in_their_order_and_an_expired_event_is_made_anew() {
        let events = Arc::new(Events::default());
        let (recorder, work) = EventRecorder::new(Client::new(events.clone()), "c", "");
        let about = || ObjectReference {
            name: Some("web".into()),
            namespace: Some("default".into()),
            ..ObjectReference::default()
        };
        for _ in 0..20 {
            recorder.record(about(), EventType::Warning, "Failed", "why");
        }
        for number in 0..30 {
            recorder.record(about(), EventType::Normal, "Created", format!("pod {number}"));
        }
        let counts = || {
            let events = events.0.lock().expect("nobody panicked");
            let mut counts: Vec<(String, i64)> = events
                .values()
                .map(|event| {
                    let message = event["message"].as_str().expect("a message").to_owned();
                    (message, event["count"].as_i64().expect("a count"))
                })
                .filter(|(message, _)| !message.starts_with("pod"))
                .collect();
            counts.sort();
            (events.len(), counts)
        };
        let work = tokio::spawn(work);
        let combined = ("(combined from similar events): pod 29".to_owned(), 21);
        let written = async {
            while counts() != (11, vec![combined.clone(), ("why".to_owned(), 20)]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), written).await.expect("all of them are written");
        events.0.lock().expect("nobody panicked").clear();
        recorder.record(about(), EventType::Warning, "Failed", "why");
        drop(recorder);
        work.await.expect("it ends with its last recorder");
        assert_eq!(counts(), (1, vec![("why".to_owned(), 21)]));
    }
}
