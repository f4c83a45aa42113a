//! What one client may take of the server, so that the others still get their share.
//!
//! A connection is counted where it comes from and by whether it is known whose it is
//! ([`skiff_streams::places`]), has to say something within a time
//! ([`activity`]), and its requests are counted by user ([`Gate`]), watches apart ([`watches`]). Sizes are
//! bounded where bytes are read.

pub(crate) mod activity;
mod gate;
pub(crate) mod guarded;
pub(crate) mod watches;

use std::time::Duration;

use skiff_streams::places::Bounds;

pub(crate) use gate::{Gate, Kind, Slot};

/// The bounds. The defaults are upstream's where it has such a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that read, in flight at once. Watches and streams do not count, here and below.
    pub readonly_inflight_max: usize,
    /// Requests that write, in flight at once.
    pub mutating_inflight_max: usize,
    /// Watches of one user open at once; components', nodes' and administrators' are not counted. Upstream has no
    /// such bound: this one is far beyond what clients of one user have.
    pub watches_per_user_max: usize,
    /// A quarter of these is for who has shown no credential yet.
    pub connections_max: usize,
    /// Connections from one address; nodes' and administrators' are not counted.
    pub connections_per_source_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// Requests that a client may take back on one connection, beyond those it let finish.
    pub cancelled_max: usize,
    pub handshake_timeout: Duration,
    /// From a request's first byte to the end of its header.
    pub header_timeout: Duration,
    /// From a request's header to the end of its body.
    pub body_timeout: Duration,
    /// How long a connection may lie open without a request.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of an answer that waits for it.
    pub stall_timeout: Duration,
}

impl Limits {
    pub(crate) fn places(&self) -> Bounds {
        Bounds { connections_max: self.connections_max, per_source_max: self.connections_per_source_max }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readonly_inflight_max: 400,
            mutating_inflight_max: 200,
            watches_per_user_max: 1000,
            connections_max: 8192,
            connections_per_source_max: 2048,
            streams_max: 250,
            cancelled_max: 200,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(32),
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(90),
            stall_timeout: Duration::from_secs(60),
        }
    }
}
