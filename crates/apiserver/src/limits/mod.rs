//! What one client may take of the server, so that the others still get their share.
//!
//! A connection is counted where it comes from and by whether it is known whose it is
//! ([`skiff_streams::places`]), has to say something within a time
//! ([`activity`]), and its requests are counted by user ([`Gate`], [`shares`]), watches apart ([`watches`]), and so is
//! what lasts and has a connection to an agent for itself ([`lasting`]). Sizes are bounded where bytes are read.

pub(crate) mod activity;
mod gate;
pub(crate) mod guarded;
pub(crate) mod lasting;
mod shares;
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
    /// Watches of one user open at once; components' and administrators' are not counted. Upstream has no
    /// such bound: this one is far beyond what clients of one user have.
    pub watches_per_user_max: usize,
    /// The same of all service accounts of a namespace together.
    pub watches_per_namespace_max: usize,
    /// The same of a node, which watches each config map and secret that its pods name by itself.
    pub watches_per_node_max: usize,
    /// Logs, commands, forwarded ports and proxied requests at once, each of which takes a connection to an agent or
    /// a pod. Administrators have a quarter as many for themselves.
    pub lasting_max: usize,
    /// Of these, one user's.
    pub lasting_per_user_max: usize,
    /// Of these, those of all service accounts of a namespace.
    pub lasting_per_namespace_max: usize,
    /// A quarter of these is for who has shown no credential yet. Nodes' and administrators' are not counted.
    pub connections_max: usize,
    /// Connections from one address; nodes' and administrators' are not counted.
    pub connections_per_source_max: usize,
    /// Connections by which a node of one name is known. An agent has a few.
    pub connections_per_node_max: usize,
    /// Connections of all administrators.
    pub connections_of_administrators_max: usize,
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
        Bounds {
            connections_max: self.connections_max,
            per_source_max: self.connections_per_source_max,
            per_node_max: self.connections_per_node_max,
            privileged_max: self.connections_of_administrators_max,
        }
    }

    /// The bounds of a process that may have so many descriptors open. Three eighths are for clients, a quarter for
    /// what lasts on its way to agents, a sixteenth for administrators; the rest is for what lasts of theirs, for
    /// nodes, the store and files.
    pub fn of_descriptors(descriptors_max: u64) -> Self {
        let all = usize::try_from(descriptors_max).unwrap_or(usize::MAX);
        let most = Self::default();
        let connections_max = most.connections_max.min(all / 8 * 3);
        Self {
            connections_max,
            connections_per_source_max: most.connections_per_source_max.min(connections_max / 4),
            lasting_max: most.lasting_max.min(all / 4),
            connections_of_administrators_max: most.connections_of_administrators_max.min(all / 16),
            ..most
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readonly_inflight_max: 400,
            mutating_inflight_max: 200,
            watches_per_user_max: 1000,
            watches_per_namespace_max: 4000,
            watches_per_node_max: 2000,
            lasting_max: 4096,
            lasting_per_user_max: 300,
            lasting_per_namespace_max: 600,
            connections_max: 8192,
            connections_per_source_max: 2048,
            connections_per_node_max: 64,
            connections_of_administrators_max: 1024,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_may_have_open_leaves_descriptors_for_the_rest() {
        for descriptors in [1_024, 4_096, 20_000, 65_536, 1 << 20, u64::MAX] {
            let limits = Limits::of_descriptors(descriptors);
            let of_what_lasts = limits.lasting_max + limits.lasting_max / 4;
            let taken = limits.connections_max + limits.connections_of_administrators_max + of_what_lasts;
            assert!(taken as u64 <= descriptors / 8 * 7, "{descriptors}: {limits:?}");
            assert!(limits.connections_per_source_max * 4 <= limits.connections_max, "{descriptors}");
        }
        assert_eq!(Limits::of_descriptors(1 << 20), Limits::default(), "no more than has a use");
        assert_eq!(Limits::of_descriptors(20_000).connections_max, 7_500);
    }
}
