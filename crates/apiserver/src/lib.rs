//! The Kubernetes API: request → who → may they → admission → kind → store.
//!
//! One [`ApiServer`] serves callers in its own process ([`ApiServer::router`], a `tower` service that
//! takes an [`auth::Identity`] as request extension) and clients over TLS ([`ApiServer::serve`]) by the
//! same path. What there is to serve is one table, [`resources`]; reads come from the watch cache,
//! [`cache`]; writes are compare-and-sets on a [`skiff_store::Store`], which nobody else opens.

mod access;
mod admission;
mod agents;
pub mod at_rest;
pub mod audit;
pub mod auth;
mod authn;
mod cache;
mod claims;
mod clock;
mod config;
mod continue_token;
mod decode;
mod delete;
mod derived;
mod descriptions;
mod discovery;
mod encoding;
mod explain;
mod external_ips;
mod health;
mod host_ports;
pub mod http_body;
mod impersonation;
mod limits;
mod metadata;
mod metrics;
mod names;
mod node_access;
mod notes;
mod object;
mod openapi;
mod paths;
pub mod pki;
mod pod_security;
mod pretty;
pub mod private_file;
mod rbac;
mod read;
mod render;
mod request;
mod resources;
mod route;
mod scale;
mod seed;
mod select;
mod serve;
mod server;
mod streaming;
mod subresources;
mod tokens;
mod validation;
mod watch;
mod write;

pub use auth::Identity;
pub use cache::CacheError;
pub use clock::Clock;
pub use config::{Config, NodeNetwork, Range, RangeError};
pub use explain::PendingSource;
pub use http_body::{Body, Request, Response};
pub use limits::Limits;
pub use object::StoredObjectError;
pub use serve::Peer;
pub use server::{ApiServer, BuildError, Router};
pub use tokens::KeysError;
