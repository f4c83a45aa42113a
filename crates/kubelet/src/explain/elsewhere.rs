//! Networks that processes of a pod went to: a container may leave the pod's for one of its own, or enter another's.

use std::collections::BTreeMap;

use skiff_explain::facts::{Elsewhere, Process};
use skiff_explain::namespaces::{Kind, Word};
use skiff_network::facts as network;

use super::collect::told_sockets;
use super::scan::Scan;

/// Networks of one pod that are told.
const NETWORKS_MAX: usize = 8;

/// The networks that processes of the pod are in beside its own, with what they listen at there.
pub(super) fn elsewhere(scan: &Scan, uid: &str, net: u64) -> Vec<Elsewhere> {
    let mut by_network: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for process in scan.strays(uid).iter().filter(|own| own.namespaces[0] != net) {
        by_network.entry(process.namespaces[0]).or_default().push(process.pid);
    }
    by_network.into_iter().take(NETWORKS_MAX).map(|(inode, pids)| one(scan, uid, inode, &pids)).collect()
}

fn one(scan: &Scan, uid: &str, inode: u64, pids: &[u32]) -> Elsewhere {
    let on_node = inode == scan.inodes.of(Kind::Net);
    let others = scan.members(Kind::Net, inode).iter().filter(|pid| !pids.contains(pid));
    // All of the node's own are too many, and say nothing.
    let others: Vec<Process> = match on_node {
        true => Vec::new(),
        false => others
            .filter(|pid| scan.pod_uid(**pid).as_deref() != Some(uid))
            .map(|pid| scan.process(*pid))
            .collect(),
    };
    // One of several that still is there tells of all.
    let read = pids.iter().find_map(|pid| network::read(*pid).ok()).unwrap_or_default();
    let mut sockets = told_sockets(scan, pids, &read.sockets, &read.links);
    // In a network of others only their own are this pod's.
    sockets.retain(|socket| socket.process.is_some());
    Elsewhere {
        inode,
        word: match (on_node, others.is_empty()) {
            (true, _) => Word::Host,
            (false, true) => Word::Own,
            (false, false) => Word::Shared,
        },
        others,
        processes: pids.iter().map(|pid| scan.process(*pid)).collect(),
        sockets,
    }
}
