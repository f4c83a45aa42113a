//! Talk to an API server, in this process or over TLS; keep shared local copies; queue work.
//!
//! [`Client`] makes requests through a [`Transport`]; [`Cache`] is a local copy of a collection that a
//! list and a watch keep true; [`WorkQueue`] hands keys to reconcilers, each key to one at a time.

mod cache;
mod client;
mod error;
mod events;
pub mod kubeconfig;
mod objects;
mod queue;
mod remote;
mod transport;
mod watch;
mod yaml;

pub use cache::{Cache, Change, Changes, ObjectKey};
pub use client::{Client, DeleteOptions, List, ListParams, Object, Patch};
pub use error::Error;
pub use events::{EventRecorder, EventType, now, reference};
pub use objects::IndexBy;
pub use queue::metrics::write as write_queue_metrics;
pub use queue::{Requeue, WorkQueue, work};
pub use remote::{Remote, RemoteConfig};
pub use transport::{Body, BoxError, InProcess, Transport, empty, full};
pub use watch::{Unreadable, WatchEvent, WatchStream};
