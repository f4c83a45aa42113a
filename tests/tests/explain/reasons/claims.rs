//! What a reason claims, taken apart, and each claim tried.

use std::process::Command;

use skiff_tests::run;

use super::super::truth::explained;
use super::ground::{Found, Ground, Told, holds};
use super::policies::{names, split_policies};

impl Ground<'_> {
    /// Everything that a reason claims.
    pub(super) fn tried(&self, told: &Told<'_>, reason: &str) -> Found {
        let (reason, policies) = split_policies(reason);
        let (reason, far) = self.one_sided(reason)?;
        let reason = reason.as_str();
        // What comes from other nodes passes their rules as well, and nobody asked those.
        let passes = match told.from {
            "pod network" | "other nodes" => usize::from(told.answer != "no" && told.address != "127.0.0.1"),
            "outside" => reason.matches("on every node").count(),
            _ => 0,
        };
        holds(far == passes, &format!("{far} times it is as far as one node's rules go, not {passes}"))?;
        match told.answer {
            "no" => self.closed(told, reason),
            _ => {
                self.allowed(told, policies)?;
                // A policy that lets some in says nothing of this asker; that it lets in who fits is tried
                // where there is one.
                self.open(told, reason)
            }
        }
    }

    /// Without what says by whose rules alone it is judged, and how often that is said.
    fn one_sided(&self, reason: &str) -> Result<(String, usize), String> {
        let whole = format!(" (as far as {}'s own rules go)", self.node);
        let rest = reason.replace(&whole, "");
        holds(!rest.contains("own rules go"), "judged by another's rules")?;
        Ok((rest, reason.matches(&whole).count()))
    }

    fn open(&self, told: &Told<'_>, reason: &str) -> Found {
        if let Some(own) = reason.strip_suffix(" own loopback, and every hostNetwork pod's there") {
            let (address, node) = own.split_once(" is ").ok_or("whose loopback?")?;
            holds(address == told.address && node == format!("{}'s", self.node), "another's loopback")?;
            holds(told.from == "node" && self.on_host_network(), "not the node's network")?;
            return self.answers("node", &format!("{address}:{}", told.port));
        }
        let Some(rest) = reason.strip_prefix("at ") else { return self.doors(told, reason) };
        let at = rest.split([' ', ',']).next().unwrap_or_default().trim_end_matches(':');
        let how = &rest[at.len()..];
        let ip = if self.on_host_network() { self.node_ip() } else { self.pod_ip() };
        holds(at == format!("{ip}:{}", told.port), &format!("it is at {ip}:{}", told.port))?;
        self.answers(told.from, &told.way(at))?;
        let route = |node: &str| self.cluster().on_node(node, &["ip", "-o", "route", "get", &ip]).ok();
        let after = |line: &str, word: &str| {
            let mut words = line.split_whitespace().skip_while(|own| *own != word);
            words.nth(1).unwrap_or_default().to_owned()
        };
        match (told.from, how) {
            ("pod network", "") => holds(!self.on_host_network(), "it is not on the pod network"),
            ("node", ", over the bridge") => {
                let device = after(&route(&self.node), "dev");
                let link =
                    self.cluster().on_node(&self.node, &["ip", "-d", "link", "show", "dev", &device]).ok();
                holds(link.split_whitespace().any(|word| word == "bridge"), &link)
            }
            ("other nodes", how) if how.starts_with(", by the route to the pods of ") => {
                holds(how.ends_with(&format!(" of {}", self.node)), "it is on another node")?;
                let line = route(&self.cluster().control_plane());
                holds(after(&line, "via") == self.node_ip(), &line)
            }
            ("outside", how) if how.starts_with(" only from machines with a route to it: ") => {
                holds(told.answer == "some", "not everybody has a route")?;
                let routed = run(Command::new("ip").args(["-o", "route", "get", &ip])).ok();
                holds(!after(&routed, "dev").is_empty(), &routed)?;
                let (_, doors) = how.split_once(": ").unwrap_or_default();
                self.no_doors(told, doors)
            }
            ("outside", how) if how.starts_with(", from wherever ") => {
                let whose = format!(", from wherever {}'s address can be reached", self.node);
                holds(self.on_host_network() && how == whose, "whose address?")
            }
            ("outside", _) => Err("nobody knows what that says".into()),
            (_, ": the socket is the node's own, with no translation before it") => {
                holds(self.on_host_network(), "it is the pod's own")?;
                let listening = ["ss", "-H", "-l", "-n", "-t", "sport", "=", &told.port.to_string()];
                let shown = self.cluster().on_node(&self.node, &listening).ok();
                holds(!shown.trim().is_empty(), "nothing listens in the node's own network")
            }
            _ => Err("nobody knows what that says".into()),
        }
    }

    /// Why nobody from there comes in.
    fn closed(&self, told: &Told<'_>, reason: &str) -> Found {
        let own = if self.on_host_network() { self.node_ip() } else { self.pod_ip() };
        self.is_silent(told.from, &told.way(&format!("{own}:{}", told.port)))?;
        if let Some(rest) = reason.strip_prefix("it is bound to the link ") {
            let named = rest.strip_suffix(", and others come in by eth0").unwrap_or_default();
            holds(told.device.as_deref() == Some(named), "it is bound to another link")?;
            let shown = self.shown(told.port, &told.protocol);
            return holds(shown.contains(&format!("%{named}:{}", told.port)), &shown);
        }
        if let Some(rest) = reason.strip_prefix("it is bound to ") {
            let (address, why) = rest.split_once(", which ").unwrap_or_default();
            holds(address == told.address && self.binds(address, told.port), "ss shows another address")?;
            let loopback = address.starts_with("127.");
            return match why {
                "is inside the pod alone" => {
                    holds(loopback && !self.on_host_network(), "it is no loopback of a pod")?;
                    let at = format!("{address}:{}", told.port);
                    let met = self.namespace.exec(self.name, &["peer", "get", &at]);
                    holds(met.code == 0, "not even inside")
                }
                "pods with a network of their own cannot reach" => {
                    holds(loopback && self.on_host_network() && told.from == "pod network", "they can")
                }
                "other machines cannot reach" => {
                    let away = matches!(told.from, "other nodes" | "outside");
                    holds(loopback && self.on_host_network() && away, "they can")
                }
                why => {
                    let known = why == format!("is not the pod's address {}", self.pod_ip());
                    holds(known && address != self.pod_ip() && !loopback, "that is the pod's address")
                }
            };
        }
        if reason == "it takes IPv6 alone, and the addresses of nodes and pods are IPv4" {
            let shown = self.shown(told.port, &told.protocol);
            return holds(shown.contains("[::]") && shown.contains("v6only:1"), &shown);
        }
        let at = format!("at {}/{}", told.port, told.protocol);
        let named = |one: &str, many: &str| -> Option<(Vec<String>, bool)> {
            let single = reason.strip_prefix("policy ").and_then(|rest| rest.strip_suffix(one));
            let several = reason.strip_prefix("policies ").and_then(|rest| rest.strip_suffix(many));
            Some((names(single.or(several)?), several.is_some()))
        };
        let one = format!(" selects the pod and lets nobody from there in {at}");
        let many = format!(" select the pod, and none lets anybody from there in {at}");
        let (named, several) = named(&one, &many).ok_or("nobody knows what that says")?;
        holds(several == (named.len() > 1), "how many?")?;
        holds(told.from != "node", "a node reaches its own pods")?;
        let mut selecting = self.selecting();
        selecting.sort();
        holds(named == selecting, &format!("{selecting:?} select it"))
    }

    /// The line of `ss` for that port in the pod's network.
    fn shown(&self, port: u64, protocol: &str) -> String {
        let told = explained(self.namespace, "pod", self.name);
        let pid = told["sandbox"]["pid"].to_string();
        let (flag, port) = (if protocol == "UDP" { "-u" } else { "-t" }, port.to_string());
        let listening = ["nsenter", "--net", "--target", &pid, "ss", "-H", "-l", "-n", "-e", flag];
        let filter = ["sport", "=", &port];
        self.cluster().on_node(&self.node, &[listening.as_slice(), &filter].concat()).ok()
    }

    /// `ss` in the pod's network.
    fn binds(&self, address: &str, port: u64) -> bool {
        let told = explained(self.namespace, "pod", self.name);
        let pid = told["sandbox"]["pid"].to_string();
        let listening = ["nsenter", "--net", "--target", &pid, "ss", "-H", "-l", "-n", "-t"];
        let shown = self.cluster().on_node(&self.node, &listening).ok();
        shown.lines().any(|line| line.split_whitespace().nth(3) == Some(&format!("{address}:{port}")))
    }
}
