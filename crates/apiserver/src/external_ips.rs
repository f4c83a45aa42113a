//! What is said of a Service's `externalIPs`: that they are deprecated, as upstream says, and which of them
//! open nothing, since their places are the platform's own.

use serde_json::Value;

use crate::config::Config;
use crate::resources::{Cx, Resource};

/// Upstream's port of a node's agent.
const AGENT_PORT: u64 = 10250;

/// Warns where such addresses are written.
pub(crate) fn warn(cx: &Cx<'_>, row: &Resource, new: &Value, old: Option<&Value>) {
    if (row.group, row.plural, cx.subresource) != ("", "services", "") {
        return;
    }
    let of = |service: &Value| [service["spec"]["externalIPs"].clone(), service["spec"]["ports"].clone()];
    if old.is_some_and(|old| of(old) == of(new)) {
        return;
    }
    for warning in warnings(&cx.server.config, new) {
        cx.notes.warn(warning);
    }
}

fn warnings(config: &Config, service: &Value) -> Vec<String> {
    let addresses = service["spec"]["externalIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut warnings = Vec::new();
    if !addresses.is_empty() {
        warnings.push("spec.externalIPs is deprecated".to_owned());
    }
    for (at, address) in addresses.iter().enumerate() {
        let Some(ip) = address.as_str().and_then(|text| text.parse::<std::net::Ipv4Addr>().ok()) else {
            continue;
        };
        let field = format!("spec.externalIPs[{at}]");
        if config.service_cidr.contains(ip) {
            warnings.push(format!("{field}: {ip} is in the range of Services; it leads nowhere"));
            continue;
        }
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        for port in ports.filter(|port| port["protocol"].as_str().unwrap_or("TCP") == "TCP") {
            let number = port["port"].as_u64().unwrap_or_default();
            let whose = match number {
                AGENT_PORT => "the agent's on every node",
                number if (ip, number) == (config.advertise.0, config.advertise.1.into()) => {
                    "the API server's"
                }
                _ => continue,
            };
            warnings.push(format!("{field}: {ip}:{number} is {whose}; the Service can't have it"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_takes_the_platforms_places_is_told_that_nothing_comes_of_it() {
        let config = Config::default();
        let said = |addresses: Value, port: Value| {
            warnings(&config, &json!({"spec": {"externalIPs": addresses, "ports": [port]}}))
        };
        let deprecated = "spec.externalIPs is deprecated";
        let none: [&str; 0] = [];
        assert_eq!(said(json!(null), json!({"port": 10250})), none);
        assert_eq!(said(json!(["203.0.113.1"]), json!({"port": 80})), [deprecated]);
        assert_eq!(said(json!(["203.0.113.1"]), json!({"port": 10250, "protocol": "UDP"})), [deprecated]);
        let own = config.service_cidr.nth(1).to_string();
        let expected = format!("spec.externalIPs[0]: {own} is in the range of Services; it leads nowhere");
        assert_eq!(said(json!([own]), json!({"port": 443})), [deprecated, &expected]);
        let expected =
            "spec.externalIPs[1]: 203.0.113.2:10250 is the agent's on every node; the Service can't have it";
        assert_eq!(said(json!(["::1", "203.0.113.2"]), json!({"port": 10250})), [deprecated, expected]);
        let (ip, port) = config.advertise;
        let expected =
            format!("spec.externalIPs[0]: {ip}:{port} is the API server's; the Service can't have it");
        assert_eq!(said(json!([ip]), json!({"port": port})), [deprecated, &expected]);
    }
}
