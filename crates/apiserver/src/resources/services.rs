//! Services: cluster IPs and node ports are given out at creation, synchronously.

use std::net::Ipv4Addr;

use rand::RngExt;
use serde_json::{Map, Value, json};
use skiff_api::status::{Cause, GroupResource, StatusError};

use super::{Cx, Strategy};
use crate::claims::{Claim, Held, Taken};
use crate::config::{Config, Range};
use crate::metadata;

pub(crate) struct Services;

impl Strategy for Services {
    fn prepare_create(&self, _cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        new["status"] = json!({"loadBalancer": {}});
        Ok(())
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        if cx.subresource != "status" {
            keep_allocations(new, old);
        }
        Ok(())
    }

    fn allocate(&self, cx: &Cx<'_>, new: &mut Value, old: Option<&Value>) -> Result<Taken, StatusError> {
        if cx.subresource == "status" {
            return Ok(Taken::default());
        }
        allocate(cx, new, old)
    }

    fn name_rule(&self) -> fn(&str) -> Option<String> {
        crate::names::label
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

pub(crate) fn cluster_ip(service: &Value) -> Option<Ipv4Addr> {
    service["spec"]["clusterIP"].as_str()?.parse().ok()
}

pub(crate) fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array();
    ports
        .into_iter()
        .flatten()
        .filter_map(|p| p["nodePort"].as_u64())
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .collect()
}

fn wants_ip(type_: &str) -> bool {
    matches!(type_, "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn wants_ports_of(type_: &str) -> bool {
    matches!(type_, "NodePort" | "LoadBalancer")
}

fn wants_ports(service: &Value, type_: &str) -> bool {
    type_ == "NodePort"
        || (type_ == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"] != json!(false))
}

/// What a client that replaces a service may leave out: its addresses and ports stay.
fn keep_allocations(new: &mut Value, old: &Value) {
    let type_ = new["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let old_type = old["spec"]["type"].as_str().unwrap_or("ClusterIP");
    let Some(spec) = new["spec"].as_object_mut() else { return };
    if wants_ip(&type_) && wants_ip(old_type) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let missing =
                spec.get(field).is_none_or(|v| v.is_null() || v.as_str() == Some("") || *v == json!([]));
            if missing && let Some(value) = old["spec"].get(field) {
                spec.insert(field.into(), value.clone());
            }
        }
    }
    if type_ == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            // Moving to ExternalName drops the addresses, unless the client insists (and is refused).
            if spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
    }
    drop_dependents(spec, old, &type_);
    let keeps_ports = wants_ports_of(&type_);
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |o: &&Value| {
            o["port"] == port["port"]
                && o["protocol"].as_str().unwrap_or("TCP") == port["protocol"].as_str().unwrap_or("TCP")
        };
        let before = old_ports.iter().find(same).and_then(|o| o.get("nodePort"));
        let given = port["nodePort"].as_u64().unwrap_or(0);
        match before {
            Some(before) if keeps_ports && given == 0 => port["nodePort"] = before.clone(),
            Some(before) if !keeps_ports && before.as_u64() == Some(given) => {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
            _ => {}
        }
    }
}

/// What only the former type could have goes with it, unless the client insists (and is refused).
fn drop_dependents(spec: &mut Map<String, Value>, old: &Value, type_: &str) {
    let balanced = type_ == "LoadBalancer";
    let listed = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    let reachable = wants_ports_of(type_) || (type_ == "ClusterIP" && listed);
    let checked = balanced && spec.get("externalTrafficPolicy") == Some(&json!("Local"));
    for (field, stays) in [
        ("externalTrafficPolicy", reachable),
        ("healthCheckNodePort", checked),
        ("allocateLoadBalancerNodePorts", balanced),
        ("loadBalancerClass", balanced),
    ] {
        if !stays && spec.get(field) == old["spec"].get(field) {
            spec.remove(field);
        }
    }
}

fn allocate(cx: &Cx<'_>, new: &mut Value, old: Option<&Value>) -> Result<Taken, StatusError> {
    let name = metadata::text(new, "name").to_owned();
    let mut claimant = Claimant {
        cx,
        taken: cx.server.claims.attempt(metadata::text(new, "uid"), cx.key),
        old_ip: old.and_then(cluster_ip),
        old_ports: old.map(node_ports).unwrap_or_default(),
    };
    let outcome = claimant.ip(new).and_then(|()| claimant.ports(new));
    outcome.map(|()| claimant.taken).map_err(|fault| match fault {
        Fault::Field(cause) => StatusError::invalid("", "Service", &name, &[cause]),
        Fault::Exists => {
            StatusError::already_exists(GroupResource { group: "", resource: "services" }, &name)
        }
        Fault::Full(what) => StatusError::internal(format!("failed to allocate {what}: range is full")),
    })
}

/// A service on its way to what it needs; what it had before it has still.
struct Claimant<'a> {
    cx: &'a Cx<'a>,
    taken: Taken,
    old_ip: Option<Ipv4Addr>,
    old_ports: Vec<u16>,
}

enum Fault {
    Field(Cause),
    Full(&'static str),
    /// A service of the same name has it.
    Exists,
}

impl Claimant<'_> {
    fn ip(&mut self, new: &mut Value) -> Result<(), Fault> {
        let type_ = new["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        if !wants_ip(&type_) {
            return Ok(());
        }
        let listed = new["spec"]["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        let given = match new["spec"]["clusterIP"].as_str().unwrap_or_default() {
            "" => listed,
            given => given.to_owned(),
        };
        let address = match given.as_str() {
            "None" => "None".to_owned(),
            "" => {
                let config = &self.cx.server.config;
                let key = self.cx.key;
                let free = config.service_cidr.dynamic().filter(|ip| !is_reserved(config, *ip, key));
                let free = self.cx.server.claims.take_any(&mut self.taken, free.map(Claim::ClusterIp));
                match free {
                    Some(Claim::ClusterIp(ip)) => ip.to_string(),
                    _ => return Err(Fault::Full("a service IP")),
                }
            }
            given => {
                self.explicit_ip(given)?;
                given.to_owned()
            }
        };
        if let Some(spec) = new["spec"].as_object_mut() {
            spec.insert("clusterIP".into(), address.as_str().into());
            spec.insert("clusterIPs".into(), json!([address]));
            spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
            spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
        }
        Ok(())
    }

    fn explicit_ip(&mut self, given: &str) -> Result<(), Fault> {
        let invalid = |why: String| Fault::Field(Cause::invalid("spec.clusterIPs", json!([given]), why));
        let Ok(ip) = given.parse::<Ipv4Addr>() else {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            return Err(Fault::Field(Cause::invalid("spec.clusterIPs[0]", given, why)));
        };
        let range = self.cx.server.config.service_cidr;
        if self.old_ip == Some(ip) {
            return Ok(());
        }
        if !range.contains(ip) {
            return Err(invalid(format!(
                "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of \
             valid IPs is {range}"
            )));
        }
        let reserved = is_reserved(&self.cx.server.config, ip, self.cx.key);
        let taken = match reserved {
            true => Err(Held::ByAnother),
            false => self.cx.server.claims.take(&mut self.taken, Claim::ClusterIp(ip)),
        };
        match taken {
            Ok(()) => Ok(()),
            Err(Held::ByNamesake) => Err(Fault::Exists),
            Err(Held::ByAnother) => {
                Err(invalid(format!("failed to allocate IP {ip}: provided IP is already allocated")))
            }
        }
    }

    fn ports(&mut self, new: &mut Value) -> Result<(), Fault> {
        let type_ = new["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        if !wants_ports(new, &type_) {
            return Ok(());
        }
        let (low, high) = self.cx.server.config.node_ports;
        // Protocols of one service may share a number, as upstream gives it to the same port of both.
        let mut given_out: Vec<(u64, u16)> = Vec::new();
        let count = new["spec"]["ports"].as_array().map_or(0, Vec::len);
        for i in 0..count {
            let port = &new["spec"]["ports"][i];
            let number = port["port"].as_u64().unwrap_or(0);
            let given = port["nodePort"].as_u64().unwrap_or(0);
            let field = format!("spec.ports[{i}].nodePort");
            let chosen = if given != 0 {
                let fits = u16::try_from(given).ok().filter(|p| (low..=high).contains(p));
                let Some(port) = fits else {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                    );
                    return Err(Fault::Field(Cause::invalid(field, given, why)));
                };
                if !self.old_ports.contains(&port) {
                    match self.cx.server.claims.take(&mut self.taken, Claim::NodePort(port)) {
                        Ok(()) => {}
                        Err(Held::ByNamesake) => return Err(Fault::Exists),
                        Err(Held::ByAnother) => {
                            let why = "provided port is already allocated";
                            return Err(Fault::Field(Cause::invalid(field, given, why)));
                        }
                    }
                }
                port
            } else if let Some((_, shared)) = given_out.iter().find(|(n, _)| *n == number) {
                *shared
            } else {
                let size = high - low + 1;
                let start = rand::rng().random_range(0..size);
                let candidates = (0..size).map(|i| Claim::NodePort(low + (start + i) % size));
                match self.cx.server.claims.take_any(&mut self.taken, candidates) {
                    Some(Claim::NodePort(port)) => port,
                    _ => return Err(Fault::Full("a nodePort")),
                }
            };
            given_out.push((number, chosen));
            new["spec"]["ports"][i]["nodePort"] = chosen.into();
        }
        Ok(())
    }
}

/// Whether an address of services is kept for another than the service with this key: the first for the API's
/// own, and the cluster DNS's for no service at all, as each node answers there itself.
fn is_reserved(config: &Config, ip: Ipv4Addr, key: &str) -> bool {
    match ip {
        ip if ip == config.cluster_dns => true,
        ip if ip == config.service_cidr.nth(1) => key != "/services/default/kubernetes",
        _ => false,
    }
}

/// Addresses to try in turn: from a random one on in the upper part, then the lower part, which is
/// kept for addresses that are asked for by name.
impl Range {
    fn dynamic(self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = self.hosts();
        let size = last.saturating_sub(first) + 1;
        // As upstream: min(max(16, size / 16), 256).
        let kept = (size / 16).clamp(16, 256).min(size.saturating_sub(1));
        let upper = size - kept;
        let start = rand::rng().random_range(0..upper.max(1));
        let upper = (0..upper).map(move |i| first + kept + (start + i) % upper);
        let lower = (0..kept).map(move |i| first + i);
        upper.chain(lower).map(Ipv4Addr::from)
    }
}
