//! The policies that all pairs of pods are tried under.

use serde_json::{Value, json};

pub(crate) type Case = (&'static str, Vec<(&'static str, &'static str, Value)>);

/// One policy a case, or some that add up.
#[allow(clippy::too_many_lines, reason = "a table")]
pub(crate) fn cases() -> Vec<Case> {
    let x = || json!({"matchLabels": {"pod": "x"}});
    let one = |spec: Value| vec![("a", "policy", spec)];
    let ingress = |rule: Value| one(json!({"podSelector": {}, "ingress": [rule]}));
    let egress = |rule: Value| one(json!({"podSelector": {}, "egress": [rule], "policyTypes": ["Egress"]}));
    vec![
        ("default deny of ingress", one(json!({"podSelector": {}}))),
        ("default deny of egress", one(json!({"podSelector": {}, "policyTypes": ["Egress"]}))),
        ("default deny of both", one(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))),
        ("allow all ingress", ingress(json!({}))),
        ("allow all egress", egress(json!({}))),
        ("of some pods alone", one(json!({"podSelector": x()}))),
        (
            "pods selected by an expression",
            one(
                json!({"podSelector": {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["x"]}]}}),
            ),
        ),
        ("from pods of the own namespace", ingress(json!({"from": [{"podSelector": {}}]}))),
        ("from pods with a label", ingress(json!({"from": [{"podSelector": x()}]}))),
        ("from all namespaces", ingress(json!({"from": [{"namespaceSelector": {}}]}))),
        ("from a namespace", ingress(json!({"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}))),
        (
            "from some pods of some namespaces",
            ingress(
                json!({"from": [{"namespaceSelector": {"matchLabels": {"team": "one"}}, "podSelector": x()}]}),
            ),
        ),
        (
            "from either of two peers",
            ingress(
                json!({"from": [{"namespaceSelector": {"matchLabels": {"ns": "c"}}}, {"podSelector": x()}]}),
            ),
        ),
        (
            "from namespaces by an expression",
            ingress(
                json!({"from": [{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["two"]}]}}]}),
            ),
        ),
        ("to a port", ingress(json!({"ports": [{"port": 80, "protocol": "TCP"}]}))),
        ("to a range of ports", ingress(json!({"ports": [{"port": 80, "endPort": 89}]}))),
        ("to a named port", ingress(json!({"ports": [{"port": "web"}]}))),
        (
            "to a named port of another protocol",
            ingress(json!({"ports": [{"port": "names", "protocol": "UDP"}, {"port": "names"}]})),
        ),
        ("to a protocol", ingress(json!({"ports": [{"protocol": "UDP"}]}))),
        ("to another protocol", ingress(json!({"ports": [{"protocol": "SCTP", "port": 80}]}))),
        (
            "to many ports from many peers",
            ingress(json!({
                "from": [
                    {"podSelector": x()},
                    {"namespaceSelector": {"matchLabels": {"ns": "b"}}, "podSelector": {"matchLabels": {"tier": "back"}}},
                    {"ipBlock": {"cidr": "10.100.0.0/24"}},
                ],
                "ports": [{"port": 80}, {"port": "web"}, {"port": 81, "protocol": "UDP"}, {"port": 90, "endPort": 99}],
            })),
        ),
        ("from a block", ingress(json!({"from": [{"ipBlock": {"cidr": "10.244.1.0/24"}}]}))),
        (
            "from a block but for parts",
            ingress(
                json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.2.0/24", "10.244.1.2/32"]}}]}),
            ),
        ),
        ("to pods of the own namespace", egress(json!({"to": [{"podSelector": {}}]}))),
        (
            "to pods of another namespace",
            egress(
                json!({"to": [{"namespaceSelector": {"matchLabels": {"ns": "c"}}, "podSelector": {"matchLabels": {"tier": "back"}}}]}),
            ),
        ),
        ("to a port of everyone", egress(json!({"ports": [{"port": 81, "protocol": "UDP"}, {"port": 90}]}))),
        ("to what others call so", egress(json!({"ports": [{"port": "web"}]}))),
        (
            "to a block but for a part",
            egress(
                json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.2.0/25"]}}], "ports": [{"port": 80}]}),
            ),
        ),
        ("to outside", egress(json!({"to": [{"ipBlock": {"cidr": "10.100.0.1/32"}}]}))),
        (
            "policies that add up",
            vec![
                ("a", "deny", json!({"podSelector": {}})),
                (
                    "a",
                    "x",
                    json!({"podSelector": x(), "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}]}),
                ),
                ("a", "web", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})),
                (
                    "b",
                    "out",
                    json!({"podSelector": {}, "egress": [{"ports": [{"port": 80, "endPort": 81}]}], "policyTypes": ["Egress"]}),
                ),
            ],
        ),
        (
            "both sides have their say",
            vec![
                (
                    "a",
                    "out",
                    json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"ns": "b"}}}]}]}),
                ),
                (
                    "b",
                    "in",
                    json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": x()}]}]}),
                ),
                ("c", "in", json!({"podSelector": x(), "policyTypes": ["Ingress", "Egress"]})),
            ],
        ),
        ("no policy", vec![]),
    ]
}
