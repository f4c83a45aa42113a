//! The services that lead to a pod: those of its namespace whose selector its labels match.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort as Spec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_explain::pod::ServicePort;

/// The ports of the services that select the pod.
pub(super) fn services<'a>(pod: &Pod, all: impl Iterator<Item = &'a Service>) -> Vec<ServicePort> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let mut found = Vec::new();
    for service in all.filter(|service| service.metadata.namespace == pod.metadata.namespace) {
        let Some(spec) = &service.spec else { continue };
        let selector = spec.selector.clone().unwrap_or_default();
        let selects =
            !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        if !selects || spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        let local = |policy: &Option<String>| policy.clone().filter(|own| own == "Local").unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            let Some(target_port) = target(pod, port) else { continue };
            let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
            found.push(ServicePort {
                service: format!(
                    "{}/{}",
                    service.metadata.namespace.as_deref().unwrap_or_default(),
                    service.metadata.name.as_deref().unwrap_or_default()
                ),
                cluster_ip: spec.cluster_ip.clone().unwrap_or_default(),
                port: number(port.port).unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                target_port,
                node_port: port.node_port.and_then(number),
                external_traffic_policy: local(&spec.external_traffic_policy),
                internal_traffic_policy: local(&spec.internal_traffic_policy),
                // The node need not know the endpoints of all; the API server does.
                endpoint: None,
            });
        }
    }
    found.sort_by(|a, b| (&a.service, a.port).cmp(&(&b.service, b.port)));
    found
}

/// The pod's port that a service's port leads to.
fn target(pod: &Pod, port: &Spec) -> Option<u16> {
    match port.target_port.as_ref() {
        None => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(0)) => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let own = ports.find(|own| own.name.as_ref() == Some(name))?;
            u16::try_from(own.container_port).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_select_by_labels_and_lead_by_name_or_number() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "a", "more": "x"}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        }))
        .unwrap();
        let service = |name: &str, namespace: &str, selector: serde_json::Value| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"selector": selector, "clusterIP": "10.96.0.9",
                    "externalTrafficPolicy": if name == "mine" { "Local" } else { "Cluster" },
                    "internalTrafficPolicy": "Cluster",
                    "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}, {"port": 9, "protocol": "UDP"}]},
            }))
            .unwrap()
        };
        let all = [
            service("mine", "n", json!({"app": "a"})),
            service("other", "n", json!({"app": "b"})),
            service("elsewhere", "m", json!({"app": "a"})),
            service("manual", "n", json!({})),
        ];
        let found = services(&pod, all.iter());
        let told: Vec<_> = found
            .iter()
            .map(|port| (port.service.as_str(), port.port, port.target_port, port.node_port))
            .collect();
        assert_eq!(told, [("n/mine", 9, 9, None), ("n/mine", 80, 8080, Some(30080))]);
        // That a selector matches does not say that the service leads there.
        assert!(found.iter().all(|port| port.endpoint.is_none()));
        assert!(found.iter().all(|port| port.external_traffic_policy == "Local"));
        assert!(found.iter().all(|port| port.internal_traffic_policy.is_empty()));
        let mut inside = service("mine", "n", json!({"app": "a"}));
        inside.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".into());
        let found = services(&pod, [inside].iter());
        assert!(found.iter().all(|port| port.internal_traffic_policy == "Local"), "{found:?}");
    }
}
