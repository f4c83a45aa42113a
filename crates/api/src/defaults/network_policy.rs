//! Network policies.

use serde_json::{Map, Value, json};

use super::{each, made, text};

pub(super) fn network_policy(policy: &mut Map<String, Value>) {
    let Some(spec) = made(policy, "spec") else { return };
    // Required by its type, so never left out of what is answered.
    made(spec, "podSelector");
    for rules in ["ingress", "egress"] {
        for rule in each(spec, rules) {
            each(rule, "ports").for_each(|port| text(port, "protocol", "TCP"));
        }
    }
    let is_empty = |value: Option<&Value>| value.and_then(Value::as_array).is_none_or(Vec::is_empty);
    if is_empty(spec.get("policyTypes")) {
        let types =
            if is_empty(spec.get("egress")) { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults::apply;

    #[test]
    fn types_follow_from_the_rules_there_are() {
        let types = |spec: Value| {
            let mut policy = json!({ "spec": spec });
            apply("networking.k8s.io", "NetworkPolicy", &mut policy);
            policy["spec"]["policyTypes"].clone()
        };
        assert_eq!(types(json!({"podSelector": {}})), json!(["Ingress"]));
        assert_eq!(types(json!({"podSelector": {}, "egress": []})), json!(["Ingress"]));
        assert_eq!(types(json!({"podSelector": {}, "egress": [{}]})), json!(["Ingress", "Egress"]));
        assert_eq!(types(json!({"podSelector": {}, "policyTypes": ["Egress"]})), json!(["Egress"]));
    }

    #[test]
    fn ports_are_of_tcp() {
        let mut policy =
            json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}, {"protocol": "UDP"}]}]}});
        apply("networking.k8s.io", "NetworkPolicy", &mut policy);
        let ports = &policy["spec"]["ingress"][0]["ports"];
        assert_eq!(*ports, json!([{"port": 80, "protocol": "TCP"}, {"protocol": "UDP"}]));
    }
}
