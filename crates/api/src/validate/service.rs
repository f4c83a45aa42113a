//! Services, and what stands behind them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::container::{choice, port_reference};
use super::cursor::At;
use super::{address, ip, metadata, names};
use crate::selector::label_key_faults;
use crate::status::Cause;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn check(service: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = service.get("spec");
    let kind = spec.get("type");
    choice(&kind, TYPES, faults);
    let ports = spec.get("ports");
    let headless = spec.get("clusterIP").text() == "None";
    let external = kind.text() == "ExternalName";
    if ports.is_empty() && !headless && !external {
        faults.push(Cause::required(ports.path.clone(), ""));
    }
    if headless && ["NodePort", "LoadBalancer"].contains(&kind.text()) {
        let detail = format!("may not be set to 'None' for {} services", kind.text());
        faults.push(Cause::invalid(spec.child("clusterIPs[0]"), "None", detail));
    }
    if external {
        let name = spec.get("externalName");
        let text = name.text().strip_suffix('.').unwrap_or(name.text());
        if text.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if let Some(fault) = names::subdomain(text) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
        if !spec.get("clusterIP").is_empty() {
            let detail = "may not be set for ExternalName services";
            faults.push(Cause::forbidden(spec.child("clusterIPs[0]"), detail));
        }
    }
    let cluster_ip = spec.get("clusterIP");
    if !cluster_ip.is_empty()
        && !headless
        && let Some(fault) = ip::fault(cluster_ip.text())
    {
        faults.push(Cause::invalid(spec.child("clusterIPs[0]"), cluster_ip.text(), fault));
    }
    metadata::labels(&spec.get("selector"), faults);
    // The proxy keeps no client to one endpoint yet: better refused than silently spread.
    choice(&spec.get("sessionAffinity"), &["None"], faults);
    families(&spec, faults);
    from_outside(&spec, faults);
    choice(&spec.get("internalTrafficPolicy"), &["Cluster", "Local"], faults);
    choice(&spec.get("trafficDistribution"), &["PreferClose", "PreferSameNode", "PreferSameZone"], faults);
    for ip in spec.get("externalIPs").items() {
        address::not_special(&ip, faults);
    }
    service_ports(&ports, kind.text(), faults);
}

/// What says how traffic from outside of the cluster comes in.
fn from_outside(spec: &At<'_>, faults: &mut Vec<Cause>) {
    let kind = spec.get("type").text();
    let policy = spec.get("externalTrafficPolicy");
    let reachable = ["NodePort", "LoadBalancer"].contains(&kind)
        || (kind == "ClusterIP" && !spec.get("externalIPs").is_empty());
    if reachable {
        choice(&policy, &["Cluster", "Local"], faults);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        faults.push(Cause::invalid(policy.path.clone(), policy.text(), detail));
    }
    let balanced = kind == "LoadBalancer";
    let check = spec.get("healthCheckNodePort");
    if let Some(number) = check.number().filter(|number| *number != 0)
        && !(balanced && policy.text() == "Local")
    {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        faults.push(Cause::invalid(check.path.clone(), number, detail));
    }
    for field in ["loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts"] {
        let place = spec.get(field);
        if !balanced && place.is_there() && !place.value.as_array().is_some_and(Vec::is_empty) {
            faults.push(Cause::forbidden(place.path, "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    for range in spec.get("loadBalancerSourceRanges").items() {
        ip::range_of(&range, range.text().trim(), faults);
    }
}

/// Services have IPv4 addresses only.
fn families(spec: &At<'_>, faults: &mut Vec<Cause>) {
    let policy = spec.get("ipFamilyPolicy");
    if policy.text() == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        faults.push(Cause::invalid(policy.path.clone(), policy.text(), detail));
    }
    choice(&policy, &["PreferDualStack", "RequireDualStack", "SingleStack"], faults);
    for family in spec.get("ipFamilies").items() {
        match family.text() {
            "IPv6" => {
                let detail = "not configured on this cluster";
                faults.push(Cause::invalid(family.path.clone(), family.text(), detail));
            }
            _ => choice(&family, &["IPv4", "IPv6"], faults),
        }
    }
}

fn service_ports(ports: &At<'_>, kind: &str, faults: &mut Vec<Cause>) {
    let several = ports.items().count() > 1;
    let (mut seen_names, mut seen_ports, mut seen_node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let name = port.get("name");
        if name.is_empty() {
            if several {
                faults.push(Cause::required(name.path.clone(), ""));
            }
        } else if let Some(fault) = names::label(name.text()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        } else if !seen_names.insert(name.text()) {
            faults.push(Cause::duplicate(name.path.clone(), name.text()));
        }
        let number = port.get("port");
        faults.extend(
            names::port(number.number().unwrap_or(0))
                .map(|fault| Cause::invalid(number.path.clone(), number.number().unwrap_or(0), fault)),
        );
        let protocol = port.get("protocol");
        if protocol.is_empty() {
            faults.push(Cause::required(protocol.path.clone(), ""));
        }
        choice(&protocol, PROTOCOLS, faults);
        app_protocol(&port.get("appProtocol"), faults);
        let target = port.get("targetPort");
        if target.is_there() {
            port_reference(&target, faults);
        }
        if !seen_ports.insert((protocol.text(), number.number())) {
            let value = serde_json::json!({"port": number.value, "protocol": protocol.value});
            faults.push(Cause::duplicate(port.path.clone(), value));
        }
        let node_port = port.get("nodePort");
        if let Some(number) = node_port.number().filter(|number| *number != 0) {
            if ["ClusterIP", "ExternalName"].contains(&kind) {
                faults.push(Cause::forbidden(
                    node_port.path.clone(),
                    "may not be used when `type` is 'ClusterIP'",
                ));
            } else if !seen_node_ports.insert((protocol.text(), number)) {
                faults.push(Cause::duplicate(node_port.path.clone(), number));
            }
        }
    }
}

pub(super) fn endpoints(endpoints: &At<'_>, faults: &mut Vec<Cause>) {
    for subset in endpoints.get("subsets").items() {
        let lists = ["addresses", "notReadyAddresses"].map(|list| subset.get(list));
        if lists.iter().all(At::is_empty) {
            faults.push(Cause::required(
                subset.path.clone(),
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for address in lists.iter().flat_map(At::items) {
            address::not_special(&address.get("ip"), faults);
            names_of(&address, faults);
        }
        let several = subset.get("ports").items().count() > 1;
        for port in subset.get("ports").items() {
            let name = port.get("name");
            if name.is_empty() && several {
                faults.push(Cause::required(name.path, ""));
            } else if let Some(fault) = names::label(name.text()).filter(|_| !name.is_empty()) {
                faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
            }
            app_protocol(&port.get("appProtocol"), faults);
            let number = port.get("port");
            let value = number.number().unwrap_or(0);
            faults.extend(names::port(value).map(|fault| Cause::invalid(number.path.clone(), value, fault)));
            choice(&port.get("protocol"), PROTOCOLS, faults);
        }
    }
}

pub(super) fn endpoint_slice(slice: &At<'_>, faults: &mut Vec<Cause>) {
    let kind = slice.get("addressType");
    if kind.is_empty() {
        faults.push(Cause::required(kind.path.clone(), ""));
    }
    choice(&kind, &["FQDN", "IPv4", "IPv6"], faults);
    let endpoints = slice.get("endpoints");
    let count = endpoints.items().count();
    if count > 1000 {
        faults.push(Cause::too_many(endpoints.path.clone(), count, 1000));
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            faults.push(Cause::required(addresses.path.clone(), "must contain at least 1 address"));
        }
        for address in addresses.items() {
            match (kind.text(), address.text().parse()) {
                ("IPv4", Ok(IpAddr::V6(_))) | ("IPv6", Ok(IpAddr::V4(_))) => {
                    let detail = format!("must be an {} address", kind.text());
                    faults.push(Cause::invalid(address.path.clone(), address.text(), detail));
                }
                ("IPv4" | "IPv6", _) => address::not_special(&address, faults),
                _ => {}
            }
        }
        names_of(&endpoint, faults);
    }
    let ports = slice.get("ports");
    let count = ports.items().count();
    if count > 20_000 {
        faults.push(Cause::too_many(ports.path.clone(), count, 20_000));
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if let Some(fault) = names::label(name.text()).filter(|_| !name.is_empty()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
        if !seen.insert(name.text()) {
            faults.push(Cause::duplicate(name.path.clone(), name.text()));
        }
        choice(&port.get("protocol"), PROTOCOLS, faults);
        app_protocol(&port.get("appProtocol"), faults);
    }
}

/// How an endpoint is called, and the node that it is on.
fn names_of(endpoint: &At<'_>, faults: &mut Vec<Cause>) {
    for (field, rule) in
        [("hostname", names::label as fn(&str) -> Option<String>), ("nodeName", names::subdomain)]
    {
        let name = endpoint.get(field);
        if let Some(fault) = rule(name.text()).filter(|_| !name.is_empty()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
    }
}

fn app_protocol(protocol: &At<'_>, faults: &mut Vec<Cause>) {
    if !protocol.is_empty() {
        let wrong = label_key_faults(protocol.text());
        faults.extend(
            wrong.into_iter().map(|fault| Cause::invalid(protocol.path.clone(), protocol.text(), fault)),
        );
    }
}
