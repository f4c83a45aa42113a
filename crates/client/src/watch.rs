//! Watches: what happens to a collection, as a stream of events.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_core::Stream;
use http_body::Body as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use serde_json::value::RawValue;
use skiff_api::typed;
use tracing::warn;

use crate::client::{Object, decode, downcast};
use crate::transport::Body;
use crate::{Error, ObjectKey};

/// A watch frame holds one object; objects are bounded far below this.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// What a watch tells.
#[derive(Debug, Clone)]
pub enum WatchEvent<K> {
    Added(Arc<K>),
    Modified(Arc<K>),
    Deleted(Arc<K>),
    Bookmark {
        resource_version: String,
        initial_events_end: bool,
    },
    /// Something happened to an object that this program can't read. Others go on.
    Unreadable(Unreadable),
}

/// What is known of an object that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub key: ObjectKey,
    pub resource_version: String,
    /// It was deleted.
    pub gone: bool,
}

impl Unreadable {
    /// What the object says of itself beside what can't be read; an error where not even that can be.
    /// `why` is logged, as nobody else will tell of it.
    pub(crate) fn of<K: Object>(json: &[u8], gone: bool, why: Error) -> Result<Self, Error> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Metadata {
            namespace: String,
            name: String,
            resource_version: String,
        }
        #[derive(serde::Deserialize)]
        struct Named {
            metadata: Metadata,
        }
        let Ok(Named { metadata }) = serde_json::from_slice(json) else { return Err(why) };
        if metadata.name.is_empty() {
            return Err(why);
        }
        let key = ObjectKey::new(metadata.namespace, metadata.name);
        warn!(
            kind = K::KIND,
            object = %key,
            error = &why as &dyn std::error::Error,
            "an object can't be read and is passed over"
        );
        Ok(Self { key, resource_version: metadata.resource_version, gone })
    }
}

enum Inner {
    Typed(typed::EventStream),
    Bytes { body: Body, buffer: BytesMut },
}

/// A running watch.
pub struct WatchStream<K> {
    inner: Inner,
    kind: PhantomData<fn() -> K>,
}

impl<K> WatchStream<K> {
    /// Of a server in this process, which hands over the objects themselves.
    pub(crate) fn typed(events: typed::EventStream) -> Self {
        Self { inner: Inner::Typed(events), kind: PhantomData }
    }

    /// Of a body with one event a line.
    pub(crate) fn of_lines(body: Body) -> Self {
        Self { inner: Inner::Bytes { body, buffer: BytesMut::new() }, kind: PhantomData }
    }
}

impl<K: Object> Stream for WatchStream<K> {
    type Item = Result<WatchEvent<K>, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.get_mut().inner {
            Inner::Typed(stream) => stream.as_mut().poll_next(context).map(|event| event.map(from_typed)),
            Inner::Bytes { body, buffer } => loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line = buffer.split_to(end);
                    buffer.advance(1);
                    return Poll::Ready(Some(from_line(&line)));
                }
                if buffer.len() > FRAME_BYTES_MAX {
                    return Poll::Ready(Some(Err(Error::Decode("a watch frame exceeds 16 MiB".into()))));
                }
                match std::task::ready!(Pin::new(&mut *body).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            buffer.extend_from_slice(&data);
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(Error::Transport(error)))),
                    None => return Poll::Ready(None),
                }
            },
        }
    }
}

fn from_typed<K: Object>(event: typed::Event) -> Result<WatchEvent<K>, Error> {
    Ok(match event {
        typed::Event::Added(object) => WatchEvent::Added(downcast(object)?),
        typed::Event::Modified(object) => WatchEvent::Modified(downcast(object)?),
        typed::Event::Deleted(object) => WatchEvent::Deleted(downcast(object)?),
        typed::Event::Bookmark { resource_version, initial_events_end } => {
            WatchEvent::Bookmark { resource_version, initial_events_end }
        }
        typed::Event::Unreadable { json, gone } => match decode::<K>(&json) {
            Ok(object) if gone => WatchEvent::Deleted(object),
            Ok(object) => WatchEvent::Modified(object),
            Err(why) => WatchEvent::Unreadable(Unreadable::of::<K>(&json, gone, why)?),
        },
        typed::Event::Error(status) => return Err(Error::Status(Box::new(status))),
    })
}

fn from_line<K: Object>(line: &[u8]) -> Result<WatchEvent<K>, Error> {
    let read = |object: &RawValue, event: fn(Arc<K>) -> WatchEvent<K>, gone| {
        let json = object.get().as_bytes();
        match decode(json) {
            Ok(object) => Ok(event(object)),
            Err(why) => Unreadable::of::<K>(json, gone, why).map(WatchEvent::Unreadable),
        }
    };
    Ok(match frame(line)? {
        WireEvent::Added(object) => read(object, WatchEvent::Added, false)?,
        WireEvent::Modified(object) => read(object, WatchEvent::Modified, false)?,
        WireEvent::Deleted(object) => read(object, WatchEvent::Deleted, true)?,
        WireEvent::Bookmark { resource_version, initial_events_end } => {
            WatchEvent::Bookmark { resource_version, initial_events_end }
        }
    })
}

/// A frame of a watch, its object not yet read.
enum WireEvent<'a> {
    Added(&'a RawValue),
    Modified(&'a RawValue),
    Deleted(&'a RawValue),
    Bookmark { resource_version: String, initial_events_end: bool },
}

fn frame(line: &[u8]) -> Result<WireEvent<'_>, Error> {
    #[derive(serde::Deserialize)]
    struct Wire<'a> {
        #[serde(rename = "type")]
        kind: String,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    #[derive(serde::Deserialize)]
    struct Bookmark {
        metadata: ObjectMeta,
    }
    let unreadable = |error: serde_json::Error| Error::Decode(error.into());
    let wire: Wire<'_> = serde_json::from_slice(line).map_err(unreadable)?;
    let object = wire.object;
    Ok(match wire.kind.as_str() {
        "ADDED" => WireEvent::Added(object),
        "MODIFIED" => WireEvent::Modified(object),
        "DELETED" => WireEvent::Deleted(object),
        "BOOKMARK" => {
            let Bookmark { metadata } =
                serde_json::from_slice(object.get().as_bytes()).map_err(unreadable)?;
            let initial_events_end = metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get("k8s.io/initial-events-end"))
                .is_some_and(|value| value == "true");
            WireEvent::Bookmark {
                resource_version: metadata.resource_version.unwrap_or_default(),
                initial_events_end,
            }
        }
        "ERROR" => {
            let status: Status = serde_json::from_slice(object.get().as_bytes()).map_err(unreadable)?;
            return Err(Error::Status(Box::new(status)));
        }
        other => return Err(Error::Decode(format!("unknown watch event type {other:?}").into())),
    })
}

impl<K: Object> WatchEvent<K> {
    /// The key of the object it is about; none for bookmarks.
    pub fn key(&self) -> Option<ObjectKey> {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => {
                Some(ObjectKey::of(&**object))
            }
            Self::Unreadable(object) => Some(object.key.clone()),
            Self::Bookmark { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[test]
    fn watch_lines_decode() {
        let line = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        let event = from_line::<Pod>(line).expect("a bookmark");
        assert!(
            matches!(event, WatchEvent::Bookmark { resource_version, initial_events_end: true } if resource_version == "7")
        );
        let line = br#"{"type":"ERROR","object":{"code":410,"reason":"Expired"}}"#;
        assert!(from_line::<Pod>(line).expect_err("an error").is_expired());
    }

    #[test]
    fn an_object_that_the_server_can_not_read_is_named_as_well() {
        let json =
            || br#"{"metadata":{"namespace":"a","name":"b","resourceVersion":"7","deletionTimestamp":""}}"#;
        for gone in [false, true] {
            let event = typed::Event::Unreadable { json: bytes::Bytes::from_static(json()), gone };
            let event = from_typed::<Pod>(event).expect("an event");
            let WatchEvent::Unreadable(object) = event else { panic!("{event:?}") };
            let key = ObjectKey::new("a", "b");
            assert_eq!(object, Unreadable { key, resource_version: "7".into(), gone });
        }
    }

    #[test]
    fn an_object_that_does_not_fit_its_type_is_named() {
        let read = |kind: &str, metadata: &str| {
            let line = format!(r#"{{"type":"{kind}","object":{{"metadata":{metadata}}}}}"#);
            from_line::<Pod>(line.as_bytes())
        };
        let metadata = r#"{"namespace":"a","name":"b","resourceVersion":"7","deletionTimestamp":""}"#;
        for (kind, gone) in [("ADDED", false), ("MODIFIED", false), ("DELETED", true)] {
            let event = read(kind, metadata).expect("an event");
            let WatchEvent::Unreadable(object) = event else { panic!("{event:?}") };
            let key = ObjectKey::new("a", "b");
            assert_eq!(object, Unreadable { key, resource_version: "7".into(), gone });
        }
        assert!(matches!(read("ADDED", r#"{"deletionTimestamp":""}"#), Err(Error::Decode(_))), "no name");
    }
}
