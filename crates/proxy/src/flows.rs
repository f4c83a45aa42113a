//! UDP and SCTP flows that began before a change: they begin anew where they would now go elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use skiff_sys::netlink::Socket;
use skiff_sys::netlink::conntrack::{self, Flow};
use skiff_sys::netlink::route::Connection;

use crate::plan::{Backend, Frontend, Protocol};

#[derive(Debug)]
pub(crate) struct Flows {
    kernel: Mutex<(Socket, Connection)>,
}

impl Flows {
    /// For the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Flows> {
        let links = Connection::open().map_err(|error| error.source)?;
        Ok(Flows { kernel: Mutex::new((conntrack::open()?, links)) })
    }

    /// Forgets the flows to these frontends that don't end at one of their endpoints. Should that fail,
    /// they end when their client has been silent for a while.
    pub(crate) fn forget(&self, changed: &BTreeMap<Frontend, Vec<Backend>>) {
        if changed.keys().all(|frontend| frontend.protocol == Protocol::Tcp) {
            return;
        }
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, links) = &*kernel;
        let own: BTreeSet<Ipv4Addr> = links.addresses().into_iter().flatten().map(|this| this.ip).collect();
        match conntrack::forget(socket, |flow| stale(flow, changed, &own)) {
            Ok(count) => tracing::debug!(count, "flows to changed services forgotten"),
            Err(error) => tracing::warn!(%error, "cannot forget flows to changed services"),
        }
    }
}

fn stale(flow: &Flow, changed: &BTreeMap<Frontend, Vec<Backend>>, own: &BTreeSet<Ipv4Addr>) -> bool {
    let protocols = [Protocol::Udp, Protocol::Sctp];
    let Some(protocol) = protocols.into_iter().find(|this| *this as u8 == flow.protocol) else {
        return false;
    };
    let (address, port) = flow.destination;
    let to = |address| changed.get(&Frontend { address, protocol, port });
    let node = || to(Ipv4Addr::UNSPECIFIED).filter(|_| own.contains(&address));
    to(address).or_else(node).is_some_and(|backends| !backends.contains(&flow.answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn flows_are_stale_if_their_endpoint_is_gone() {
        let frontend = |address, protocol, port| Frontend { address: ip(address), protocol, port };
        let changed = BTreeMap::from([
            (frontend("10.96.0.5", Protocol::Udp, 53), vec![(ip("10.244.1.2"), 5353)]),
            (frontend("10.96.0.6", Protocol::Tcp, 80), vec![]),
            (frontend("0.0.0.0", Protocol::Udp, 30053), vec![]),
        ]);
        let own = BTreeSet::from([ip("10.100.0.2")]);
        for (protocol, to, answers, expected) in [
            (17, ("10.96.0.5", 53), ("10.244.1.2", 5353), false),
            (17, ("10.96.0.5", 53), ("10.244.1.3", 5353), true),
            (17, ("10.96.0.5", 54), ("10.244.1.3", 5353), false),
            (6, ("10.96.0.6", 80), ("10.244.1.3", 80), false),
            (17, ("10.100.0.2", 30053), ("10.100.0.2", 30053), true),
            (17, ("10.100.0.3", 30053), ("10.100.0.3", 30053), false),
        ] {
            let flow = Flow {
                protocol,
                source: (ip("10.244.1.9"), 4000),
                destination: (ip(to.0), to.1),
                answers: (ip(answers.0), answers.1),
            };
            assert_eq!(stale(&flow, &changed, &own), expected, "{flow:?}");
        }
    }
}
