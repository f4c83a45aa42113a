//! Watches: a position in a storage's ring of events, seen through selectors.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rand::RngExt;
use serde_json::json;
use skiff_api::status::{Cause, StatusError};
use skiff_api::typed;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::cache::{Behind, Event, EventType, StorageCache, in_namespace};
use crate::http_body::{BoxError, Response, empty};
use crate::object::Object;
use crate::read;
use crate::render::{Renderer, Shape};
use crate::resources::Resource;
use crate::select::Selection;
use crate::server::{Call, Inner};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without a timeout ends after this and up to twice as long, so that ends spread out.
const TIMEOUT_DEFAULT_S: u64 = 1800;
/// Events taken from the ring at a time.
const BATCH: usize = 256;
/// As many of them as come to this: they lie in memory until the client takes them.
const BATCH_BYTES: usize = 256 << 10;
/// An object from this size on is sent as it lies in the cache and not copied for each watch.
const LARGE_BYTES: usize = 64 << 10;

/// One event of one watch.
enum Item {
    Change { kind: EventType, object: Arc<Object>, event: Option<Arc<Event>> },
    Bookmark { revision: u64, initial_events_end: bool },
    Error(StatusError),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Change { object, .. } => object.size(),
            Self::Bookmark { .. } | Self::Error(_) => 0,
        }
    }
}

/// How many of these sizes make a batch: at least one.
fn batch(sizes: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0_usize;
    let fit = sizes.take(BATCH).take_while(|size| {
        let fits = sum < BATCH_BYTES;
        sum += size;
        fits
    });
    fit.count()
}

struct Watcher {
    server: Arc<Inner>,
    cache: Arc<StorageCache>,
    stored: &'static Resource,
    namespace: String,
    selection: Selection,
    position: u64,
    wake: watch::Receiver<u64>,
    initial: VecDeque<Item>,
    bookmarks: bool,
    next_bookmark: Instant,
    /// The revision up to which the client knows everything.
    told: u64,
    deadline: Instant,
    /// Made once a watch and not once an event: each costs a lock that all watches share.
    timer: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

/// Where a watch starts, by its options.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// All present objects as ADDED first; with a bookmark at their end, if asked.
    Present {
        end_bookmark: bool,
    },
    /// Only what is new from now on.
    Now,
    After(u64),
}

fn start(
    revision: Option<u64>,
    send_initial: Option<bool>,
    matching: Option<&str>,
    bookmarks: bool,
) -> Result<Start, Cause> {
    match (send_initial, matching) {
        (None, Some(_)) => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(Cause::forbidden("resourceVersionMatch", why));
        }
        (Some(_), None | Some("")) => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Cause::forbidden("resourceVersionMatch", why));
        }
        (Some(_), Some(other)) if other != "NotOlderThan" => {
            return Err(Cause::not_supported("resourceVersionMatch", other, &["NotOlderThan"]));
        }
        _ => {}
    }
    Ok(match (send_initial, revision) {
        (Some(true), _) => Start::Present { end_bookmark: bookmarks },
        (None, None | Some(0)) => Start::Present { end_bookmark: false },
        (Some(false), None | Some(0)) => Start::Now,
        (_, Some(revision)) => Start::After(revision),
    })
}

pub(crate) async fn watch(
    server: &Arc<Inner>,
    call: &Call,
    row: &'static Resource,
) -> Result<Response, StatusError> {
    let stored = server.stored_row(row);
    let renderer = server.renderer(call, row)?;
    let query = &call.query;
    let selection = Selection::parse(row, query)?.with_name(&call.address.name);
    let revision = read::parse_version(query.given("resourceVersion"))?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let send_initial = query.choice("sendInitialEvents");
    let start = start(revision, send_initial, query.given("resourceVersionMatch"), bookmarks)
        .map_err(|fault| StatusError::invalid("meta.k8s.io", "ListOptions", "", &[fault]))?;
    let timeout_s = match query.number("timeoutSeconds")?.unwrap_or(0) {
        0 => TIMEOUT_DEFAULT_S + rand::rng().random_range(0..TIMEOUT_DEFAULT_S),
        // Whose time was over before it began ends at once.
        given => u64::try_from(given).unwrap_or(0),
    };
    if let (Start::Present { .. }, Some(revision)) = (&start, revision) {
        read::wait_for(server, revision).await?;
    }

    let cache = Arc::clone(server.caches.of(stored));
    let wake = cache.subscribe();
    let namespace = if row.namespaced { call.address.namespace.clone() } else { String::new() };
    let mut watcher = Watcher {
        server: Arc::clone(server),
        stored,
        namespace,
        selection,
        position: 0,
        wake,
        initial: VecDeque::new(),
        bookmarks,
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        told: 0,
        deadline: deadline(Instant::now(), timeout_s),
        timer: Box::pin(tokio::time::sleep(BOOKMARK_EVERY)),
        stopping: Box::pin(server.stopping.clone().cancelled_owned()),
        ended: false,
        cache,
    };
    // A watch that can't start says so as its first and last event, as upstream's does.
    if let Err(error) = watcher.begin(start) {
        watcher.initial.push_back(Item::Error(error));
        watcher.ended = true;
    }
    Ok(respond(watcher.stream(), renderer, call.wanted, crate::clock::now))
}

/// When a watch of so many seconds ends, which may be more than a clock can count.
fn deadline(now: Instant, timeout_s: u64) -> Instant {
    const YEAR_S: u64 = 365 * 86_400;
    now + Duration::from_secs(timeout_s.min(YEAR_S))
}

impl Watcher {
    fn begin(&mut self, start: Start) -> Result<(), StatusError> {
        let applied = self.server.caches.applied();
        match start {
            Start::After(revision) => {
                self.position = self
                    .cache
                    .position_after(revision)
                    .map_err(|Behind { oldest }| StatusError::too_old(revision, oldest))?;
                self.told = revision;
            }
            Start::Now => {
                let (view, position) = self.cache.view_with_position(applied);
                self.position = position;
                self.told = view.revision;
            }
            Start::Present { end_bookmark } => {
                let (view, position) = self.cache.view_with_position(applied);
                self.position = position;
                self.told = view.revision;
                self.initial = in_namespace(&view.objects, self.stored, &self.namespace, None)
                    .filter(|o| self.selection.matches(o))
                    .map(|o| Item::Change { kind: EventType::Added, object: Arc::clone(o), event: None })
                    .collect();
                if end_bookmark {
                    self.initial
                        .push_back(Item::Bookmark { revision: view.revision, initial_events_end: true });
                }
            }
        }
        Ok(())
    }

    fn stream(self) -> impl Stream<Item = Vec<Item>> + Send {
        futures_util::stream::unfold(self, |mut watcher| async move {
            let batch = watcher.next().await?;
            Some((batch, watcher))
        })
    }

    /// The next events, at least one; `None` at the watch's end.
    async fn next(&mut self) -> Option<Vec<Item>> {
        if !self.initial.is_empty() {
            let n = batch(self.initial.iter().map(Item::bytes));
            return Some(self.initial.drain(..n).collect());
        }
        if self.ended {
            return None;
        }
        loop {
            // Seen before the ring is read, so that an event in between wakes the wait below.
            self.wake.borrow_and_update();
            let applied = self.server.caches.applied();
            let events = match self.cache.events_from(self.position, BATCH) {
                Ok(events) => events,
                Err(Behind { oldest }) => {
                    self.ended = true;
                    return Some(vec![Item::Error(StatusError::too_old(self.told, oldest))]);
                }
            };
            let mut drained = events.len() < BATCH;
            let mut batch = Vec::new();
            let mut bytes = 0;
            for event in events {
                if bytes >= BATCH_BYTES {
                    drained = false;
                    break;
                }
                self.position += 1;
                self.told = event.revision;
                let seen = event.seen_by(|o| self.selects(o)).map(|(kind, o)| (kind, Arc::clone(o)));
                if let Some((kind, object)) = seen {
                    bytes += object.size();
                    batch.push(Item::Change { kind, object, event: Some(event) });
                }
            }
            if drained {
                self.told = self.told.max(applied);
            }
            let now = Instant::now();
            let over = now >= self.deadline;
            if self.bookmarks && drained && (over || now >= self.next_bookmark) {
                self.next_bookmark = now + BOOKMARK_EVERY;
                batch.push(Item::Bookmark { revision: self.told, initial_events_end: false });
            }
            self.ended = over;
            if !batch.is_empty() {
                return Some(batch);
            }
            if over {
                return None;
            }
            if !drained {
                continue;
            }
            let until = if self.bookmarks { self.next_bookmark.min(self.deadline) } else { self.deadline };
            if self.timer.deadline() != until {
                self.timer.as_mut().reset(until);
            }
            tokio::select! {
                // All are cancel-safe: a change not seen here is still marked as unseen.
                changed = self.wake.changed() => if changed.is_err() { return None },
                () = self.timer.as_mut() => {}
                () = self.stopping.as_mut() => return None,
            }
        }
    }

    fn selects(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || object.namespace() == self.namespace) && self.selection.matches(object)
    }
}

fn respond(
    stream: impl Stream<Item = Vec<Item>> + Send + 'static,
    mut renderer: Renderer,
    wanted: bool,
    now: impl Fn() -> i64 + Send + 'static,
) -> Response {
    if wanted && renderer.is_plain() {
        let events = stream.flat_map(move |batch| {
            let events: Vec<_> = batch.into_iter().map(|item| typed_event(item, renderer.stored)).collect();
            futures_util::stream::iter(events)
        });
        let mut response = http::Response::new(empty());
        response.extensions_mut().insert(typed::Watch::new(Box::pin(events)));
        return response;
    }
    let mut columns = true;
    let frames = stream.flat_map(move |batch| {
        let mut out = Frames::default();
        // Ages are told as of now, not as of the watch's beginning.
        renderer.now = now();
        for item in batch {
            frame(&renderer, item, &mut columns, &mut out);
        }
        let frames = out.done().into_iter().map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)));
        futures_util::stream::iter(frames)
    });
    let mut response = http::Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Frames put together; a single one stays shared, and so does what is large.
#[derive(Default)]
struct Frames {
    ready: Vec<Bytes>,
    one: Option<Bytes>,
    many: BytesMut,
}

impl Frames {
    fn push(&mut self, frame: Bytes) {
        match self.one.take() {
            None if self.many.is_empty() => self.one = Some(frame),
            first => {
                self.many.extend_from_slice(first.as_deref().unwrap_or_default());
                self.many.extend_from_slice(&frame);
            }
        }
    }

    fn push_apart(&mut self, part: Bytes) {
        self.flush();
        self.ready.push(part);
    }

    fn flush(&mut self) {
        let many = (!self.many.is_empty()).then(|| self.many.split().freeze());
        self.ready.extend(self.one.take().or(many));
    }

    fn done(mut self) -> Vec<Bytes> {
        self.flush();
        self.ready
    }
}

/// What stands before and after an event's object.
fn before_and_after(kind: &str) -> (BytesMut, &'static [u8]) {
    let mut begin = BytesMut::with_capacity(48);
    begin.put_slice(b"{\"type\":\"");
    begin.put_slice(kind.as_bytes());
    begin.put_slice(b"\",\"object\":");
    (begin, b"}\n")
}

fn wrap(kind: &str, object: &[u8]) -> Bytes {
    let (mut out, end) = before_and_after(kind);
    out.reserve(object.len() + end.len());
    out.put_slice(object);
    out.put_slice(end);
    out.freeze()
}

fn frame(renderer: &Renderer, item: Item, columns: &mut bool, out: &mut Frames) {
    let frame = match item {
        Item::Change { kind, object, event: None } if renderer.is_plain() && object.size() >= LARGE_BYTES => {
            let (head, rest) = object.json_parts(renderer.stored);
            let (mut begin, end) = before_and_after(kind.name());
            begin.extend_from_slice(&head);
            out.push(begin.freeze());
            out.push_apart(rest);
            Bytes::from_static(end)
        }
        Item::Change { kind, object, event } => {
            let render = || wrap(kind.name(), &renderer.object(&object));
            match event {
                Some(event) if renderer.is_plain() => event.frame(kind, render),
                _ if renderer.is_plain() => render(),
                _ => {
                    let value = crate::render::value(renderer.row, renderer.stored, &object);
                    wrap(kind.name(), &renderer.value(value, std::mem::take(columns)))
                }
            }
        }
        Item::Bookmark { revision, initial_events_end } => {
            let row = renderer.row;
            let mut object = json!({
                "kind": row.kind, "apiVersion": row.api_version(),
                "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
            });
            if initial_events_end {
                object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            }
            let object = match renderer.accepted.shape {
                Shape::Whole => object,
                Shape::Metadata(version) => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": object["metadata"],
                }),
                Shape::Table(version) => json!({
                    "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": [],
                    "rows": [{"cells": [], "object": object}],
                }),
            };
            wrap("BOOKMARK", object.to_string().as_bytes())
        }
        Item::Error(error) => {
            let status = serde_json::to_vec(&*error.0).expect("a Status can be written to memory");
            wrap("ERROR", &status)
        }
    };
    out.push(frame);
}

/// That something happened is told also of an object that can't be read: who follows must not go on with what
/// was before, and of a deletion the name is enough.
fn typed_event(item: Item, stored: &'static Resource) -> typed::Event {
    match item {
        Item::Change { kind, object, .. } => match (object.typed(stored), kind) {
            (Some(object), EventType::Added) => typed::Event::Added(object),
            (Some(object), EventType::Modified) => typed::Event::Modified(object),
            (Some(object), EventType::Deleted) => typed::Event::Deleted(object),
            (None, kind) => {
                typed::Event::Unreadable { json: object.json(stored), gone: kind == EventType::Deleted }
            }
        },
        Item::Bookmark { revision, initial_events_end } => {
            typed::Event::Bookmark { resource_version: revision.to_string(), initial_events_end }
        }
        Item::Error(error) => typed::Event::Error(*error.0),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::render::{Accepted, Include};
    use crate::resources::find;

    #[tokio::test]
    async fn ages_are_told_as_of_each_event() {
        let maps = find("", "configmaps").expect("config maps are served");
        let body = br#"{"metadata":{"name":"m","creationTimestamp":"2026-01-01T00:00:10Z"}}"#;
        let object = Object::from_stored(maps, "/configmaps/n/m".into(), 1, Bytes::from_static(body));
        let object = Arc::new(object.expect("an object"));
        let accepted = Accepted { shape: Shape::Table("v1"), yaml: false };
        let begin = 1_767_225_600;
        let renderer = Renderer { row: maps, stored: maps, accepted, include: Include::Metadata, now: begin };
        let event = |kind| vec![Item::Change { kind, object: Arc::clone(&object), event: None }];
        let events = vec![event(EventType::Added), event(EventType::Modified)];
        let times = std::sync::Mutex::new(vec![begin + 70, begin + 12]);
        let now = move || times.lock().expect("not poisoned").pop().expect("a time for each batch");
        let answer = respond(futures_util::stream::iter(events), renderer, false, now);
        let text = answer.into_body().collect().await.expect("frames").to_bytes();
        let ages = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
            let event: serde_json::Value = serde_json::from_slice(line).expect("an event");
            event["object"]["rows"][0]["cells"][2].clone()
        });
        assert_eq!(ages.collect::<Vec<_>>(), ["2s", "60s"]);
    }

    #[test]
    fn where_a_watch_starts() {
        let ok = |revision, send, matching| start(revision, send, matching, true).ok();
        assert_eq!(ok(None, None, None), Some(Start::Present { end_bookmark: false }));
        assert_eq!(ok(Some(0), None, None), Some(Start::Present { end_bookmark: false }));
        assert_eq!(ok(Some(5), None, None), Some(Start::After(5)));
        let match_ = Some("NotOlderThan");
        assert_eq!(ok(None, Some(true), match_), Some(Start::Present { end_bookmark: true }));
        assert_eq!(ok(None, Some(false), match_), Some(Start::Now));
        assert_eq!(ok(Some(5), Some(false), match_), Some(Start::After(5)));
        assert_eq!(ok(None, Some(true), None), None);
        assert_eq!(ok(None, None, match_), None);
        assert_eq!(ok(None, Some(true), Some("Exact")), None);
    }

    #[test]
    fn a_batch_is_bounded_by_number_and_by_bytes() {
        assert_eq!(batch(std::iter::empty()), 0);
        assert_eq!(batch([BATCH_BYTES * 9].into_iter()), 1, "one goes, however large");
        assert_eq!(batch([1, BATCH_BYTES, 1].into_iter()), 2);
        assert_eq!(batch([BATCH_BYTES, 1].into_iter()), 1);
        assert_eq!(batch(std::iter::repeat_n(1, BATCH + 1)), BATCH);
    }

    #[tokio::test]
    async fn what_is_large_is_sent_as_it_lies_in_the_cache() {
        let maps = find("", "configmaps").expect("config maps are served");
        let object = |name: &str, size: usize| {
            let body = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"k":"{}"}}}}"#, "x".repeat(size));
            let object =
                Object::from_stored(maps, format!("/configmaps/n/{name}").into(), 7, Bytes::from(body));
            Arc::new(object.expect("an object"))
        };
        let accepted = Accepted { shape: Shape::Whole, yaml: false };
        let renderer = Renderer { row: maps, stored: maps, accepted, include: Include::Metadata, now: 0 };
        let (small, large) = (object("small", 1), object("large", LARGE_BYTES));
        let change = |object: &Arc<Object>| Item::Change {
            kind: EventType::Added,
            object: Arc::clone(object),
            event: None,
        };
        let events = vec![change(&small), change(&large), change(&small)];
        let mut out = Frames::default();
        let mut columns = true;
        events.into_iter().for_each(|event| frame(&renderer, event, &mut columns, &mut out));
        let frames = out.done();
        let rest = large.json_parts(maps).1;
        assert!(frames.iter().any(|frame| frame.as_ptr() == rest.as_ptr()), "shared with the cache");
        let lines = frames.concat();
        let told = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
            let event: serde_json::Value = serde_json::from_slice(line).expect("an event");
            (event["type"] == "ADDED").then(|| event["object"].clone())
        });
        let expected = [&small, &large, &small]
            .map(|object| Some(serde_json::from_slice(&object.json(maps)).expect("an object")));
        assert_eq!(told.collect::<Vec<Option<serde_json::Value>>>(), expected);
    }
}
