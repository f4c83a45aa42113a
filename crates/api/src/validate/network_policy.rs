//! Network policies (upstream's pkg/apis/networking/validation).

use serde_json::Value;

use super::cursor::At;
use super::{ip, names, selector};
use crate::status::Cause;

const DIRECTIONS: &[&str] = &["Ingress", "Egress"];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

pub(super) fn check(policy: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = policy.get("spec");
    selector::check(&spec.get("podSelector"), faults);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(rules).items() {
            rule.get("ports").items().for_each(|this| port(&this, faults));
            rule.get(peers).items().for_each(|this| peer(&this, faults));
        }
    }
    let types = spec.get("policyTypes");
    if types.items().count() > DIRECTIONS.len() {
        let detail = "may not specify more than two policyTypes";
        faults.push(Cause::invalid(types.path.clone(), types.value.clone(), detail));
        return;
    }
    for this in types.items().filter(|this| !DIRECTIONS.contains(&this.text())) {
        faults.push(Cause::not_supported(this.path.clone(), this.text(), DIRECTIONS));
    }
}

fn port(port: &At<'_>, faults: &mut Vec<Cause>) {
    let protocol = port.get("protocol");
    if protocol.is_there() && !PROTOCOLS.contains(&protocol.text()) {
        faults.push(Cause::not_supported(protocol.path.clone(), protocol.text(), PROTOCOLS));
    }
    let (first, last) = (port.get("port"), port.get("endPort"));
    let mut bad_end = |detail: &str| {
        if let Some(number) = last.number() {
            faults.push(Cause::invalid(last.path.clone(), number, detail));
        }
    };
    match first.value {
        Value::Number(_) => {
            let number = first.number().unwrap_or(0);
            if last.number().is_some_and(|last| last < number) {
                bad_end("must be greater than or equal to `port`");
            }
            for place in [&first, &last].into_iter().filter(|place| place.is_there()) {
                let number = place.number().unwrap_or(0);
                faults.extend(
                    names::port(number).map(|fault| Cause::invalid(place.path.clone(), number, fault)),
                );
            }
        }
        Value::String(name) => {
            bad_end("may not be specified when `port` is non-numeric");
            let wrong = names::port_name(name).into_iter();
            faults.extend(wrong.map(|fault| Cause::invalid(first.path.clone(), name.as_str(), fault)));
        }
        _ => bad_end("may not be specified when `port` is not specified"),
    }
}

fn peer(peer: &At<'_>, faults: &mut Vec<Cause>) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    [&pods, &namespaces].into_iter().for_each(|this| selector::check(this, faults));
    if block.is_there() {
        ip_block(&block, faults);
    }
    match (pods.is_there() || namespaces.is_there(), block.is_there()) {
        (false, false) => faults.push(Cause::required(peer.path.clone(), "must specify a peer")),
        (true, true) => {
            faults.push(Cause::forbidden(peer.path.clone(), "may not specify both ipBlock and another peer"))
        }
        _ => {}
    }
}

fn ip_block(block: &At<'_>, faults: &mut Vec<Cause>) {
    let cidr = block.get("cidr");
    if cidr.is_empty() {
        faults.push(Cause::required(cidr.path, ""));
        return;
    }
    let Some(whole) = ip::range(&cidr, faults) else { return };
    for except in block.get("except").items() {
        let Some(part) = ip::range(&except, faults) else { continue };
        if !ip::is_strict_subset(part, whole) {
            let detail = "must be a strict subset of `cidr`";
            faults.push(Cause::invalid(except.path.clone(), except.text(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::create;

    #[track_caller]
    fn check(spec: &Value, expected: &[&str]) {
        let policy = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        let faults = create("networking.k8s.io", "NetworkPolicy", &policy);
        let texts: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        assert_eq!(texts, expected);
    }

    fn ingress_port(port: Value) -> Value {
        json!({"podSelector": {}, "ingress": [{"ports": [port]}]})
    }

    fn ingress_peer(peer: Value) -> Value {
        json!({"podSelector": {}, "egress": [{"to": [peer]}]})
    }

    #[test]
    fn what_upstream_takes_is_taken() {
        check(&json!({"podSelector": {}}), &[]);
        let rule = json!({
            "ports": [{"protocol": "UDP"}, {"port": 80, "endPort": 80}, {"port": "http", "protocol": "SCTP"}, {}],
            "from": [
                {"podSelector": {}},
                {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
                {"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}},
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.1/32"]}},
            ],
        });
        check(&json!({"podSelector": {}, "ingress": [rule, {}], "policyTypes": ["Ingress", "Egress"]}), &[]);
    }

    #[test]
    fn ports_are_numbers_ranges_or_names() {
        let place = "spec.ingress[0].ports[0]";
        for (port, expected) in [
            (
                json!({"protocol": "ICMP"}),
                "protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ),
            (json!({"port": 0}), "port: Invalid value: 0: must be between 1 and 65535, inclusive"),
            (
                json!({"port": 80, "endPort": 79}),
                "endPort: Invalid value: 79: must be greater than or equal to `port`",
            ),
            (
                json!({"port": 80, "endPort": 70000}),
                "endPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"port": "http", "endPort": 90}),
                "endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
            ),
            (
                json!({"endPort": 90}),
                "endPort: Invalid value: 90: may not be specified when `port` is not specified",
            ),
            (json!({"port": "http-"}), "port: Invalid value: \"http-\": must not begin or end with a hyphen"),
        ] {
            check(&ingress_port(port), &[&format!("{place}.{expected}")]);
        }
    }

    #[test]
    fn peers_are_selectors_or_a_block() {
        let place = "spec.egress[0].to[0]";
        for (peer, expected) in [
            (json!({}), ": Required value: must specify a peer"),
            (
                json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
                ": Forbidden: may not specify both ipBlock and another peer",
            ),
            (json!({"ipBlock": {"cidr": ""}}), ".ipBlock.cidr: Required value"),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0"}}),
                ".ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.5/8"}}),
                ".ipBlock.cidr: Invalid value: \"10.0.0.5/8\": must not have bits set beyond the prefix length",
            ),
            (
                json!({"ipBlock": {"cidr": "010.0.0.0/8"}}),
                ".ipBlock.cidr: Invalid value: \"010.0.0.0/8\": must not have leading 0s in IP or prefix length",
            ),
            (
                json!({"ipBlock": {"cidr": "::/0", "except": ["::ffff:1.2.3.4/104"]}}),
                ".ipBlock.except[0]: Invalid value: \"::ffff:1.2.3.4/104\": must not have an IPv4-mapped IPv6 address",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}),
                ".ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
                ".ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["2001:db8::/64"]}}),
                ".ipBlock.except[0]: Invalid value: \"2001:db8::/64\": must be a strict subset of `cidr`",
            ),
            (
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
                ".podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            (
                json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
                ".namespaceSelector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator",
            ),
        ] {
            check(&ingress_peer(peer), &[&format!("{place}{expected}")]);
        }
    }

    #[test]
    fn a_range_that_is_stored_in_an_old_form_may_stay() {
        let policy = |ranges: &[&str]| {
            let peers: Vec<Value> = ranges.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}, "egress": [{"to": peers}]}})
        };
        let said = |new: &[&str], old: &[&str]| {
            let faults =
                crate::validate::update("networking.k8s.io", "NetworkPolicy", "", &policy(new), &policy(old));
            faults.into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(said(&["10.0.0.5/8"], &["10.0.0.5/8"]), [""; 0]);
        // Wherever it stands, but nothing else like it.
        let place = "spec.egress[0].to[0].ipBlock.cidr";
        assert_eq!(said(&["10.0.0.6/8", "10.0.0.5/8"], &["10.0.0.5/8"]), [place]);
        assert_eq!(said(&["10.0.0.5"], &["10.0.0.5"]), [place], "what is no range at all");
    }

    #[test]
    fn a_policy_has_two_types_at_most() {
        check(
            &json!({"podSelector": {}, "policyTypes": ["Ingres"]}),
            &[
                "spec.policyTypes[0]: Unsupported value: \"Ingres\": supported values: \"Ingress\", \"Egress\"",
            ],
        );
        check(
            &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress", "Ingress"]}),
            &[
                "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes",
            ],
        );
    }
}
