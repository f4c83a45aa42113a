//! Services, their endpoints, and who may talk to whom.

use serde_json::Value;

use super::format::{NONE, age, first_three, labels, list, name, number, selector, text_or};
use super::{AGE, Column, NAME, col, wide};

pub(super) static COLUMNS: &[Column] =
    &[NAME, col("Type"), col("Cluster-IP"), col("External-IP"), col("Port(s)"), AGE, wide("Selector")];

pub(super) fn service(service: &Value, now: i64) -> Vec<Value> {
    let spec = &service["spec"];
    vec![
        name(service),
        text_or(&spec["type"], "").into(),
        text_or(&spec["clusterIP"], NONE).into(),
        external(service).into(),
        ports(spec).into(),
        age(service, now).into(),
        labels(&spec["selector"]).into(),
    ]
}

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let mut ips: Vec<&str> = list(&spec["externalIPs"]).iter().filter_map(Value::as_str).collect();
    match spec["type"].as_str().unwrap_or_default() {
        "ExternalName" => text_or(&spec["externalName"], NONE).to_owned(),
        "LoadBalancer" => {
            let given = list(&service["status"]["loadBalancer"]["ingress"]).iter();
            let given = given.filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()));
            let mut all: Vec<&str> = given.collect();
            all.append(&mut ips);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if ips.is_empty() => NONE.into(),
        _ => ips.join(","),
    }
}

fn ports(spec: &Value) -> String {
    let ports: Vec<String> = list(&spec["ports"])
        .iter()
        .map(|p| {
            let protocol = text_or(&p["protocol"], "TCP");
            match number(&p["nodePort"]) {
                0 => format!("{}/{protocol}", number(&p["port"])),
                node_port => format!("{}:{node_port}/{protocol}", number(&p["port"])),
            }
        })
        .collect();
    if ports.is_empty() { NONE.into() } else { ports.join(",") }
}

pub(super) fn endpoints(endpoints: &Value, now: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        let ips = || list(&subset["addresses"]).iter().map(|a| text_or(&a["ip"], ""));
        let ports = list(&subset["ports"]);
        if ports.is_empty() {
            all.extend(ips().map(String::from));
        }
        for port in ports {
            all.extend(ips().map(|ip| format!("{ip}:{}", number(&port["port"]))));
        }
    }
    vec![name(endpoints), first_three(&all, NONE).into(), age(endpoints, now).into()]
}

pub(super) fn endpoint_slice(slice: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = list(&slice["ports"])
        .iter()
        .map(|p| match p["port"].as_i64() {
            Some(port) => port.to_string(),
            None => text_or(&p["name"], "*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list(&slice["endpoints"])
        .iter()
        .flat_map(|e| list(&e["addresses"]))
        .filter_map(|a| a.as_str().map(String::from))
        .collect();
    vec![
        name(slice),
        text_or(&slice["addressType"], "").into(),
        first_three(&ports, "<unset>").into(),
        first_three(&addresses, "<unset>").into(),
        age(slice, now).into(),
    ]
}

pub(super) fn network_policy(policy: &Value, now: i64) -> Vec<Value> {
    vec![name(policy), selector(&policy["spec"]["podSelector"]).into(), age(policy, now).into()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn node_ports_stand_beside_their_ports() {
        let spec = json!({"ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]});
        assert_eq!(ports(&spec), "80:30080/TCP,53/UDP");
        assert_eq!(ports(&json!({})), NONE);
    }
}
