//! Services.

use serde_json::{Map, Value, json};

use super::{each, made, missing, text};

pub(super) fn service(service: &mut Map<String, Value>) {
    let Some(spec) = made(service, "spec") else { return };
    text(spec, "sessionAffinity", "None");
    text(spec, "type", "ClusterIP");
    let affinity = spec.get("sessionAffinity").and_then(Value::as_str).unwrap_or_default().to_owned();
    if affinity == "ClientIP"
        && let Some(config) = made(spec, "sessionAffinityConfig").and_then(|c| made(c, "clientIP"))
    {
        missing(config, "timeoutSeconds", 10800);
    }
    for port in each(spec, "ports") {
        text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port.get("targetPort").is_some_and(|t| *t == json!(0) || *t == json!(""))
        {
            port.insert("targetPort".into(), number);
        }
    }
    let type_ = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let external = matches!(type_.as_str(), "NodePort" | "LoadBalancer")
        || (type_ == "ClusterIP"
            && spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty()));
    if external {
        text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(type_.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        text(spec, "internalTrafficPolicy", "Cluster");
    }
    if type_ == "LoadBalancer" {
        missing(spec, "allocateLoadBalancerNodePorts", true);
        ingress_modes(service);
    }
}

/// What is delivered to an address of a load balancer is delivered as it came, unless it is said otherwise.
fn ingress_modes(service: &mut Map<String, Value>) {
    let status = service.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
    let Some(balancer) = status.and_then(Value::as_object_mut) else { return };
    for way in each(balancer, "ingress") {
        if way.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
            missing(way, "ipMode", "VIP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults::apply;

    #[test]
    fn an_address_of_a_load_balancer_is_one_of_its_own() {
        let way = |kind: &str, way: Value| {
            let mut service = json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [way]}}});
            apply("", "Service", &mut service);
            service["status"]["loadBalancer"]["ingress"][0]["ipMode"].clone()
        };
        assert_eq!(way("LoadBalancer", json!({"ip": "10.0.0.1"})), "VIP");
        assert_eq!(way("LoadBalancer", json!({"ip": "10.0.0.1", "ipMode": "Proxy"})), "Proxy");
        assert_eq!(way("LoadBalancer", json!({"hostname": "a"})), Value::Null);
        assert_eq!(way("NodePort", json!({"ip": "10.0.0.1"})), Value::Null);
    }

    #[test]
    fn a_port_is_its_own_target() {
        let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        apply("", "Service", &mut service);
        assert_eq!(
            service["spec"],
            json!({
                "type": "NodePort", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
            })
        );
    }
}
