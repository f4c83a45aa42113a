//! What is taken and may not be what was meant, in upstream's words: texts for `Warning` headers.

use serde_json::Value;

use super::cursor::At;
use super::ip;

#[derive(Clone, Copy)]
enum Form {
    Address,
    Range,
}
use Form::{Address, Range};

/// Where addresses stand that have more than one form: group, kind, and the way there (`*` for each element).
const PLACES: &[(&str, &str, &str, Form)] = &[
    ("", "Service", "spec.clusterIPs.*", Address),
    ("", "Service", "spec.externalIPs.*", Address),
    ("", "Service", "spec.loadBalancerIP", Address),
    ("", "Service", "spec.loadBalancerSourceRanges.*", Range),
    ("", "Pod", "spec.dnsConfig.nameservers.*", Address),
    ("", "Pod", "spec.hostAliases.*.ip", Address),
    ("", "Node", "spec.podCIDRs.*", Range),
    ("", "Endpoints", "subsets.*.addresses.*.ip", Address),
    ("", "Endpoints", "subsets.*.notReadyAddresses.*.ip", Address),
    ("discovery.k8s.io", "EndpointSlice", "endpoints.*.addresses.*", Address),
    ("apps", "", "spec.template.spec.dnsConfig.nameservers.*", Address),
    ("apps", "", "spec.template.spec.hostAliases.*.ip", Address),
    ("networking.k8s.io", "NetworkPolicy", "spec.ingress.*.from.*.ipBlock.cidr", Range),
    ("networking.k8s.io", "NetworkPolicy", "spec.ingress.*.from.*.ipBlock.except.*", Range),
    ("networking.k8s.io", "NetworkPolicy", "spec.egress.*.to.*.ipBlock.cidr", Range),
    ("networking.k8s.io", "NetworkPolicy", "spec.egress.*.to.*.ipBlock.except.*", Range),
];

/// Warnings of an object that has no faults.
pub(super) fn of(group: &str, kind: &str, object: &Value) -> Vec<String> {
    let object = At::root(object);
    let mut warnings = Vec::new();
    for (_, _, way, form) in PLACES.iter().filter(|row| row.0 == group && (row.1 == kind || row.1.is_empty()))
    {
        for place in along(&object, way) {
            match form {
                Address => warnings.extend(ip::address_warning(&place.path, place.text())),
                Range => warnings.extend(ip::range_warnings(&place.path, place.text())),
            }
        }
    }
    if (group, kind) == ("", "Service") {
        service(&object, &mut warnings);
    }
    warnings
}

/// The places at the end of a way.
fn along<'a>(object: &At<'a>, way: &str) -> Vec<At<'a>> {
    let mut places = vec![At { value: object.value, path: object.path.clone() }];
    for step in way.split('.') {
        places = match step {
            "*" => places.iter().flat_map(At::items).collect(),
            field => places.iter().map(|place| place.get(field)).collect(),
        };
    }
    places
}

fn service(service: &At<'_>, warnings: &mut Vec<String>) {
    let spec = service.get("spec");
    let (kind, external_ips) = (spec.get("type"), spec.get("externalIPs"));
    let mut warn = |applies: bool, text: &str| warnings.extend(applies.then(|| text.to_owned()));
    let headless = kind.text() == "ClusterIP" && spec.get("clusterIP").text() == "None";
    let external_name = kind.text() == "ExternalName";
    let listed = !external_ips.is_empty();
    let annotation = "service.kubernetes.io/topology-aware-hints";
    let hinted = service.get("metadata").get("annotations").get(annotation).is_there();
    warn(
        hinted,
        "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
         service.kubernetes.io/topology-mode instead",
    );
    warn(
        headless && !spec.get("loadBalancerIP").is_empty(),
        "spec.loadBalancerIP is ignored for headless services",
    );
    warn(headless && listed, "spec.externalIPs is ignored for headless services");
    // The capital letter is upstream's.
    warn(
        headless && spec.get("sessionAffinity").text() != "None",
        "spec.SessionAffinity is ignored for headless services",
    );
    warn(listed, "spec.externalIPs is deprecated");
    warn(external_name && listed, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    warn(
        !external_name && !spec.get("externalName").is_empty(),
        "spec.externalName is ignored when spec.type is not \"ExternalName\"",
    );
    warn(
        spec.get("trafficDistribution").text() == "PreferClose",
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(group: &str, kind: &str, object: Value, expected: &[&str]) {
        assert_eq!(of(group, kind, &object), expected);
    }

    #[test]
    fn each_place_of_an_address_is_looked_at() {
        const FORM: &str = "should be in RFC 5952 canonical format (\"fd00::1\")";
        for (group, kind, object, place) in [
            ("", "Service", json!({"spec": {"clusterIPs": ["10.0.0.1", "FD00::1"]}}), "spec.clusterIPs[1]"),
            ("", "Service", json!({"spec": {"loadBalancerIP": "FD00::1"}}), "spec.loadBalancerIP"),
            (
                "",
                "Pod",
                json!({"spec": {"dnsConfig": {"nameservers": ["FD00::1"]}}}),
                "spec.dnsConfig.nameservers[0]",
            ),
            ("", "Pod", json!({"spec": {"hostAliases": [{"ip": "FD00::1"}]}}), "spec.hostAliases[0].ip"),
            (
                "apps",
                "DaemonSet",
                json!({"spec": {"template": {"spec": {"hostAliases": [{"ip": "FD00::1"}]}}}}),
                "spec.template.spec.hostAliases[0].ip",
            ),
            (
                "",
                "Endpoints",
                json!({"subsets": [{"notReadyAddresses": [{"ip": "FD00::1"}]}]}),
                "subsets[0].notReadyAddresses[0].ip",
            ),
            (
                "discovery.k8s.io",
                "EndpointSlice",
                json!({"endpoints": [{"addresses": ["FD00::1"]}]}),
                "endpoints[0].addresses[0]",
            ),
        ] {
            check(group, kind, object, &[&format!("{place}: IPv6 address \"FD00::1\" {FORM}")]);
        }
        let policy = json!({"spec": {
            "ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "FD00::/16", "except": ["FD00:1::/32"]}}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.5/8"}}]}],
        }});
        let place = "spec.ingress[0].from[1].ipBlock";
        check(
            "networking.k8s.io",
            "NetworkPolicy",
            policy,
            &[
                &format!(
                    "{place}.cidr: IPv6 CIDR value \"FD00::/16\" should be in RFC 5952 canonical format (\"fd00::/16\")"
                ),
                &format!(
                    "{place}.except[0]: IPv6 CIDR value \"FD00:1::/32\" should be in RFC 5952 canonical format \
                     (\"fd00:1::/32\")"
                ),
                "spec.egress[0].to[0].ipBlock.cidr: CIDR value \"10.0.0.5/8\" is ambiguous in this context (should be \
                 \"10.0.0.0/8\" or \"10.0.0.5/32\"?)",
            ],
        );
    }

    #[test]
    fn what_a_service_says_in_vain_is_told() {
        let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let plain = json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "sessionAffinity": "None"});
        check("", "Service", service(plain), &[]);
        check(
            "",
            "Service",
            service(json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
                "externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP", "externalName": "x"})),
            &[
                "spec.externalIPs is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services",
                "spec.externalIPs is deprecated",
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ],
        );
        check(
            "",
            "Service",
            service(json!({"type": "ExternalName", "externalName": "x", "externalIPs": ["192.0.2.1"],
                "trafficDistribution": "PreferClose"})),
            &[
                "spec.externalIPs is deprecated",
                "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
            ],
        );
    }
}
