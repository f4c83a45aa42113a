//! Nodes, pods and services as a trace knows them, from the server's own copies.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::Value;
use skiff_explain::trace::{
    Ended, Endpoint, Node, Outside, Pod, PodPort, Range, Service, ServicePort, Surroundings, World,
};

use crate::cache::in_namespace;
use crate::resources::find;
use crate::server::Inner;

pub(super) fn of(server: &Inner) -> World {
    let all = |group: &str, plural: &str| -> Vec<Value> {
        let row = find(group, plural).expect("the table has it");
        let view = server.caches.of(row).view(server.caches.applied());
        in_namespace(&view.objects, row, "", None).map(|object| object.value(row)).collect()
    };
    let slices = all("discovery.k8s.io", "endpointslices");
    let mut of_services: HashMap<(&str, &str), Vec<&Value>> = HashMap::new();
    for slice in slices.iter().filter(|slice| slice["addressType"] == "IPv4") {
        let metadata = &slice["metadata"];
        let service = metadata["labels"]["kubernetes.io/service-name"].as_str();
        if let (Some(namespace), Some(service)) = (metadata["namespace"].as_str(), service) {
            of_services.entry((namespace, service)).or_default().push(slice);
        }
    }
    let config = &server.config;
    let own = config.node_network;
    let ranges = [("pods", Some(config.cluster_cidr)), ("services", Some(config.service_cidr))];
    let ranges = ranges.into_iter().chain([("nodes", own.map(|own| own.range))]);
    let pods = pods(server);
    World {
        ranges: ranges
            .filter_map(|(of, range)| Some(Range { of, network: range?.network, prefix: range?.prefix }))
            .collect(),
        surroundings: own.map(|own| Surroundings { router: own.router, machine: own.machine }),
        ended: pods.iter().filter_map(ended).collect(),
        nodes: all("", "nodes").iter().filter_map(|node| self::node(node, server.config.uplink)).collect(),
        pods: pods.iter().filter_map(pod).collect(),
        services: all("", "services").iter().map(|service| self::service(service, &of_services)).collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn ip(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn protocol(value: &Value) -> String {
    value.as_str().unwrap_or("TCP").to_owned()
}

fn node(node: &Value, uplink: Option<bool>) -> Option<Node> {
    let mut addresses = each(&node["status"]["addresses"]);
    let internal = addresses.find(|address| address["type"] == "InternalIP")?;
    Some(Node { name: text(&node["metadata"]["name"]), ip: ip(&internal["address"])?, uplink })
}

/// What a trace asks of a pod. There are many pods, and most of what is written in them is not read for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    metadata: AskedMetadata,
    #[serde(default)]
    spec: AskedSpec,
    #[serde(default)]
    status: AskedStatus,
}

#[derive(Deserialize)]
struct AskedMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AskedSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    init_containers: Option<Vec<AskedContainer>>,
    containers: Option<Vec<AskedContainer>>,
}

#[derive(Deserialize)]
struct AskedContainer {
    ports: Option<Vec<AskedPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AskedPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: Option<u16>,
    host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AskedStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

fn pods(server: &Inner) -> Vec<Asked> {
    let row = find("", "pods").expect("the table has it");
    let view = server.caches.of(row).view(server.caches.applied());
    let all = in_namespace(&view.objects, row, "", None);
    all.filter_map(|object| serde_json::from_slice(&object.body).ok()).collect()
}

fn ended(pod: &Asked) -> Option<Ended> {
    let phase = pod.status.phase.as_deref().filter(|phase| matches!(*phase, "Succeeded" | "Failed"))?;
    let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    Some(Ended { namespace, name, phase: phase.to_owned() })
}

/// Pods that have ended have no part in the network.
fn pod(pod: &Asked) -> Option<Pod> {
    if ended(pod).is_some() {
        return None;
    }
    let spec = &pod.spec;
    let address = |text: &Option<String>| text.as_deref()?.parse::<Ipv4Addr>().ok();
    let number = |port: Option<u16>| port.filter(|port| *port > 0);
    let containers = spec.init_containers.iter().chain(&spec.containers).flatten();
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|own| {
        let host_ip = address(&own.host_ip).unwrap_or(Ipv4Addr::UNSPECIFIED);
        Some(PodPort {
            name: own.name.clone().unwrap_or_default(),
            protocol: own.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: number(own.container_port)?,
            host_port: number(own.host_port).map(|port| (host_ip, port)),
        })
    });
    Some(Pod {
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        ip: address(&pod.status.pod_ip),
        node: spec.node_name.clone().unwrap_or_default(),
        host_network: spec.host_network == Some(true),
        ports: ports.collect(),
    })
}

fn service(service: &Value, slices: &HashMap<(&str, &str), Vec<&Value>>) -> Service {
    let (namespace, name) = (text(&service["metadata"]["namespace"]), text(&service["metadata"]["name"]));
    let own = slices.get(&(namespace.as_str(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
    let ports = each(&service["spec"]["ports"]).filter_map(|this| {
        let (name, protocol) = (text(&this["name"]), protocol(&this["protocol"]));
        let all = |ready: bool| {
            let mut endpoints: Vec<Endpoint> =
                own.iter().flat_map(|slice| behind(slice, &name, &protocol, ready)).collect();
            endpoints.sort_by_key(|endpoint| (endpoint.ip, endpoint.port));
            endpoints.dedup();
            endpoints
        };
        let has = |slice: &&&Value| ports_of(slice, &name, &protocol).next().is_some();
        let lacking = own.iter().filter(|slice| !has(slice)).flat_map(|slice| addresses(slice, true));
        let target = &this["targetPort"];
        Some(ServicePort {
            port: port(&this["port"])?,
            node_port: port(&this["nodePort"]),
            endpoints: all(true),
            unready: all(false),
            lacking: lacking.collect(),
            target: target.as_str().map_or_else(|| target.to_string(), str::to_owned),
            name,
            protocol,
        })
    });
    let spec = &service["spec"];
    Service {
        cluster_ip: ip(&spec["clusterIP"]),
        ports: ports.collect(),
        internal_local: spec["internalTrafficPolicy"] == "Local",
        external_local: spec["externalTrafficPolicy"] == "Local",
        outside: outside(service),
        external_name: spec["externalName"]
            .as_str()
            .filter(|_| spec["type"] == "ExternalName")
            .map(str::to_owned),
        namespace,
        name,
    }
}

/// The addresses that nodes open for clients outside of the cluster, as the service proxy has them.
fn outside(service: &Value) -> Vec<Outside> {
    let spec = &service["spec"];
    let given = each(&service["status"]["loadBalancer"]["ingress"]);
    let given = given.filter(|own| spec["type"] == "LoadBalancer" && own["ipMode"] != "Proxy");
    let balanced = given.filter_map(|own| ip(&own["ip"])).map(|ip| Outside { ip, by: "LoadBalancer" });
    let external = each(&spec["externalIPs"]).filter_map(ip);
    let external = external.map(|ip| Outside { ip, by: "externalIP" });
    let headless = !spec["clusterIP"].as_str().is_some_and(|ip| ip.parse::<Ipv4Addr>().is_ok());
    let mut all: Vec<Outside> = balanced.chain(external).filter(|_| !headless).collect();
    let mut seen = BTreeSet::new();
    all.retain(|outside| seen.insert(outside.ip));
    all
}

/// The endpoints of a slice for one port of its service, those that are ready or the others.
fn behind<'a>(
    slice: &'a Value,
    name: &'a str,
    protocol: &'a str,
    ready: bool,
) -> impl Iterator<Item = Endpoint> + 'a {
    let ends = move |port| addresses(slice, ready).map(move |ip| Endpoint { ip, port });
    ports_of(slice, name, protocol).flat_map(ends)
}

/// A slice's numbers for one port of its service.
fn ports_of<'a>(slice: &'a Value, name: &'a str, protocol: &'a str) -> impl Iterator<Item = u16> + 'a {
    each(&slice["ports"])
        .filter(move |own| text(&own["name"]) == name && self::protocol(&own["protocol"]) == protocol)
        .filter_map(|own| port(&own["port"]))
}

fn addresses(slice: &Value, ready: bool) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let ends = each(&slice["endpoints"]).filter(move |own| (own["conditions"]["ready"] != false) == ready);
    ends.filter_map(|own| ip(&own["addresses"][0]))
}
