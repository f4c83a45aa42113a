//! What claims are held against: a pod, its node, and who connects from where.

use std::process::Command;

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, Output, peer_path, run, wait_until};

use super::super::truth::{explained, text};

/// What a claim is held against. `asker` is another pod of the namespace, with a network of its own.
pub(crate) struct Ground<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) name: &'a str,
    asker: &'a str,
    pub(super) pod: Value,
    pub(super) node: String,
}

/// One answer of one socket.
pub(super) struct Told<'a> {
    pub(super) from: &'a str,
    pub(super) answer: &'a str,
    pub(super) address: String,
    pub(super) port: u64,
    pub(super) protocol: String,
    pub(super) device: Option<String>,
}

impl Told<'_> {
    /// How one comes to an address of the socket, by its protocol.
    pub(super) fn way(&self, at: &str) -> String {
        if self.protocol == "UDP" { format!("{at}/UDP") } else { at.to_owned() }
    }
}

pub(super) type Found = Result<(), String>;

pub(super) fn holds(claim: bool, what: &str) -> Found {
    if claim { Ok(()) } else { Err(what.to_owned()) }
}

impl<'a> Ground<'a> {
    pub(crate) fn new(namespace: &'a Namespace, name: &'a str, asker: &'a str) -> Self {
        let pod = namespace.pod(name);
        let node = text(&pod["spec"]["nodeName"]);
        Self { namespace, name, asker, pod, node }
    }

    /// Every reason that is told of the pod's sockets, until services and policies are in force everywhere.
    pub(crate) fn check_reasons(&self) {
        wait_until(&format!("{}'s sockets are reached for the reasons that are told", self.name), || {
            let wrong = self.wrong(&explained(self.namespace, "pod", self.name));
            wrong.iter().for_each(|why| eprintln!("{}: {why}", self.name));
            wrong.is_empty()
        });
    }

    /// The reasons that do not hold.
    pub(super) fn wrong(&self, told: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        each(told, |told, reason| {
            let found = self.tried(told, reason);
            wrong.extend(
                found.err().map(|why| format!("from {} {}: {reason}: {why}", told.from, told.answer)),
            );
        });
        wrong
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.namespace.cluster
    }

    pub(super) fn on_host_network(&self) -> bool {
        self.pod["spec"]["hostNetwork"] == true
    }

    pub(super) fn pod_ip(&self) -> String {
        text(&self.pod["status"]["podIP"])
    }

    pub(super) fn node_ip(&self) -> String {
        self.cluster().node_ip(&self.node)
    }

    /// A connection from there, or a question where it ends in `/UDP`.
    fn connect(&self, from: &str, at: &str, expected: bool) -> Output {
        let patience = if expected { "5000" } else { "1000" };
        let (how, at) = at.strip_suffix("/UDP").map_or(("get", at), |at| ("ask", at));
        let (path, args) = (peer_path().display().to_string(), [how, at, patience]);
        let program = [&[path.as_str()], args.as_slice()].concat();
        match from {
            "pod network" => self.namespace.exec(self.asker, &[&["peer"], args.as_slice()].concat()),
            "node" => self.cluster().on_node(&self.node, &program),
            "other nodes" => self.cluster().on_node(&self.cluster().control_plane(), &program),
            _ => run(Command::new(path).args(args)),
        }
    }

    /// This pod's program answers there.
    pub(super) fn answers(&self, from: &str, at: &str) -> Found {
        let own = if self.on_host_network() { &self.node } else { self.name };
        let met = self.connect(from, at, true);
        let host = met.stdout.split(' ').next().unwrap_or_default();
        holds(met.code == 0 && host == own, &format!("from {from} at {at}: {met:?}, not {own}"))
    }

    pub(super) fn is_silent(&self, from: &str, at: &str) -> Found {
        let met = self.connect(from, at, false);
        holds(met.code != 0, &format!("from {from} at {at}: {met:?}"))
    }
}

/// Each answer of each socket of the pod's own.
fn each(told: &Value, mut look: impl FnMut(&Told<'_>, &str)) {
    for listener in told["listeners"].as_array().into_iter().flatten() {
        for reach in listener["reachable"].as_array().into_iter().flatten() {
            let told = Told {
                from: reach["from"].as_str().unwrap_or_default(),
                answer: reach["answer"].as_str().unwrap_or_default(),
                address: text(&listener["address"]),
                port: listener["port"].as_u64().unwrap_or_default(),
                protocol: text(&listener["protocol"]),
                device: listener["device"].as_str().map(str::to_owned),
            };
            look(&told, reach["reason"].as_str().unwrap_or_default());
        }
    }
}
