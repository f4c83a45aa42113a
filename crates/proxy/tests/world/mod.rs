//! A lab whose nodes serve the services that a test puts into the shared copies.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own share of it")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use skiff_client::{Body, Cache, Client, Error, ObjectKey, Transport};
use skiff_proxy::{Config, Range};
use tokio::task::JoinHandle;

use crate::lab::{Lab, ip};

/// The address that nodes answer themselves.
pub const DNS: &str = "10.96.0.10";

struct Nobody;

#[async_trait::async_trait]
impl Transport for Nobody {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, Error> {
        std::future::pending().await
    }
}

pub fn range(address: &str, prefix: u8) -> Range {
    Range { address: ip(address), prefix }
}

/// What the node of that number is told.
pub fn config(index: usize) -> Config {
    Config {
        node_name: format!("node-{index}"),
        node_ip: Ipv4Addr::new(10, 100, 0, 2 + u8::try_from(index).unwrap()),
        cluster_cidr: range("10.244.0.0", 16),
        service_cidr: range("10.96.0.0", 16),
        local_addresses: vec![ip(DNS)],
    }
}

pub struct World {
    pub lab: Lab,
    pub nodes: Cache<core::Node>,
    pub services: Cache<core::Service>,
    pub slices: Cache<EndpointSlice>,
    running: Vec<JoinHandle<Result<(), skiff_proxy::Error>>>,
}

impl World {
    pub fn new(nodes: u8) -> World {
        let client = Client::new(Nobody);
        let mut world = World {
            lab: Lab::new(nodes),
            nodes: Cache::detached(client.clone(), []),
            services: Cache::detached(client.clone(), []),
            slices: Cache::detached(client, []),
            running: Vec::new(),
        };
        world.start();
        world
    }

    /// Starts serving on all nodes, and returns when they do.
    pub fn start(&mut self) {
        for (index, node) in self.lab.nodes.iter().enumerate() {
            let follow = skiff_proxy::follow(
                config(index),
                self.nodes.clone(),
                self.services.clone(),
                self.slices.clone(),
                node.ruleset.clone(),
            );
            self.running.push(node.spawn(follow));
        }
        self.settle();
    }

    pub fn stop(&mut self) {
        self.running.drain(..).for_each(|task| task.abort());
    }

    /// Says where a node is. Nobody waits until it is taken in.
    pub fn zone(&self, node: usize, zone: &str) {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        let node = json!({"metadata": {"name": format!("node-{node}"), "labels": labels}});
        self.nodes.apply(Arc::new(serde_json::from_value(node).unwrap()));
    }

    /// Puts a service and its endpoints (node, address, ready) in place; returns when all nodes serve it.
    pub fn set(&self, service: &Service, endpoints: &[(usize, Ipv4Addr, bool)], port: u16) {
        self.put(service, endpoints, port);
        self.settle();
    }

    /// The same without waiting.
    pub fn put(&self, service: &Service, endpoints: &[(usize, Ipv4Addr, bool)], port: u16) {
        let (service, slice) = (service.object(), service.slice(endpoints, port));
        self.slices.apply(Arc::new(slice));
        self.services.apply(Arc::new(service));
    }

    pub fn delete(&self, service: &Service) {
        let key = ObjectKey::new("default", service.name.clone());
        self.services.remove(&key, None);
        self.slices.remove(&key, None);
        self.settle();
    }

    /// Returns when all nodes have taken in all changes so far: a service made for this is there then.
    fn settle(&self) {
        if self.running.is_empty() {
            return;
        }
        let mark = Service::new("mark", "10.96.255.254").port(1);
        self.services.apply(Arc::new(mark.object()));
        self.served(&mark, 1, true);
        self.services.remove(&ObjectKey::new("default", "mark"), None);
        self.served(&mark, 1, false);
    }

    /// Returns when all nodes serve this port of the service, or don't.
    pub fn served(&self, service: &Service, port: u16, present: bool) {
        let address = ip(service.spec["clusterIP"].as_str().unwrap());
        let key = skiff_sys::nft::Key::EMPTY.address(address).protocol(6).port(port);
        for node in &self.lab.nodes {
            crate::lab::eventually("serving", || {
                node.ruleset.element("proxy", "services", &key).is_some() == present
            });
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A service to be made.
#[derive(Clone)]
pub struct Service {
    name: String,
    spec: Value,
    status: Value,
    /// Of the endpoints on each node.
    hints: Vec<Value>,
}

impl Service {
    pub fn new(name: &str, address: &str) -> Service {
        let spec = json!({"clusterIP": address, "type": "ClusterIP", "ports": []});
        Service { name: name.into(), spec, status: json!({}), hints: Vec::new() }
    }

    pub fn port(self, port: u16) -> Service {
        self.add(port, "TCP")
    }

    pub fn udp(self, port: u16) -> Service {
        self.add(port, "UDP")
    }

    /// For the port added last.
    pub fn node_port(mut self, port: u16) -> Service {
        self.spec["type"] = "NodePort".into();
        let last = self.spec["ports"].as_array_mut().unwrap().last_mut().unwrap();
        last["nodePort"] = port.into();
        self
    }

    pub fn external_local(self) -> Service {
        self.with("externalTrafficPolicy", "Local".into())
    }

    pub fn internal_local(self) -> Service {
        self.with("internalTrafficPolicy", "Local".into())
    }

    pub fn external_ip(self, address: &str) -> Service {
        self.with("externalIPs", json!([address]))
    }

    /// With an address that a load balancer gave it.
    pub fn balanced(mut self, address: &str) -> Service {
        self.status = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
        self.with("type", "LoadBalancer".into())
    }

    /// The ranges whose connections to that address are taken.
    pub fn only_from(self, ranges: &[&str]) -> Service {
        self.with("loadBalancerSourceRanges", json!(ranges))
    }

    /// What is said of the endpoints on each node.
    pub fn hints(mut self, hints: &[Value]) -> Service {
        self.hints = hints.to_vec();
        self
    }

    fn with(mut self, field: &str, value: Value) -> Service {
        self.spec[field] = value;
        self
    }

    fn add(mut self, port: u16, protocol: &str) -> Service {
        let entry = json!({"name": format!("{protocol}-{port}"), "port": port, "protocol": protocol});
        self.spec["ports"].as_array_mut().unwrap().push(entry);
        self
    }

    pub fn object(&self) -> core::Service {
        let metadata = json!({"namespace": "default", "name": self.name});
        serde_json::from_value(json!({"metadata": metadata, "spec": self.spec, "status": self.status}))
            .unwrap()
    }

    pub fn slice(&self, endpoints: &[(usize, Ipv4Addr, bool)], port: u16) -> EndpointSlice {
        let labels = json!({"kubernetes.io/service-name": self.name});
        let ports: Vec<Value> = self.spec["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|this| json!({"name": this["name"], "protocol": this["protocol"], "port": port}))
            .collect();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(node, ip, ready)| {
                let hints = self.hints.get(*node).cloned().unwrap_or(json!({}));
                json!({"addresses": [ip], "nodeName": format!("node-{node}"), "conditions": {"ready": ready},
                    "hints": hints})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": self.name, "labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints,
        }))
        .unwrap()
    }
}
