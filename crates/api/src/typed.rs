//! Typed objects beside their bytes, for callers in the same process.
//!
//! An HTTP response between components of one process carries, as an `http::Extensions` value next to
//! its (lazily rendered) body, the object that the server has parsed already. So one request path serves
//! insiders and outsiders alike, and insiders don't pay for JSON. A request asks for it with [`Wanted`];
//! who gets no extension back reads the body, so both sides stay correct without it.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_core::Stream;

/// An `Arc<K>` for a `k8s-openapi` kind `K`, with `metadata.resourceVersion` set.
pub type AnyObject = Arc<dyn Any + Send + Sync>;

/// Request extension: the caller lives in this process and takes typed values instead of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Wanted;

/// Request extension: of the answer its status is all that the caller reads, so nothing is made typed for it.
#[derive(Debug, Clone, Copy)]
pub struct Unread;

/// Response extension of get, create, update and patch.
#[derive(Clone)]
pub struct Object(pub AnyObject);

/// Response extension of list.
#[derive(Clone)]
pub struct List {
    pub items: Arc<Vec<AnyObject>>,
    pub resource_version: String,
}

/// One event of a watch, as `metav1.WatchEvent` has them.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "errors are rare, and events are handled one by one")]
pub enum Event {
    Added(AnyObject),
    Modified(AnyObject),
    /// The object's last state, with the deletion's resource version.
    Deleted(AnyObject),
    /// Something happened to an object whose stored bytes don't fit its type: its JSON, and whether it was
    /// deleted.
    Unreadable {
        json: Bytes,
        gone: bool,
    },
    Bookmark {
        resource_version: String,
        /// The annotation `k8s.io/initial-events-end` was on it.
        initial_events_end: bool,
    },
    /// The watch ends with this error (`410 Expired` when the watcher was too slow or too late).
    Error(k8s_openapi::apimachinery::pkg::apis::meta::v1::Status),
}

/// The boxed stream inside a [`Watch`].
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Response extension of watch. The stream can be taken once.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Option<EventStream>>>);

impl Watch {
    /// Wraps the stream for its one taker.
    pub fn new(stream: EventStream) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    /// The stream, unless somebody took it before.
    pub fn take(&self) -> Option<EventStream> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}
