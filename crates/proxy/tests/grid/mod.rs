//! Three namespaces of three pods each on two nodes, all of whose pairs are probed with real packets.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own share of it")]

pub mod model;
pub mod probe;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use skiff_client::{Body, Cache, Client, Error, ListParams, ObjectKey, Transport};
use skiff_proxy::policy::{LeanPod, Policies, Sources, Subject, follow};
use tokio::task::{JoinHandle, JoinSet};

use crate::lab::{Netns, ip};
use crate::world::{self, World};
use model::{Cluster, End};

pub const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["x", "y", "z"];

struct Nobody;

#[async_trait::async_trait]
impl Transport for Nobody {
    async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, Error> {
        std::future::pending().await
    }
}

/// A pod of the grid, and where it is.
pub struct Placed {
    pub pod: model::Pod,
    pub node: usize,
    pub netns: Netns,
}

pub struct Grid {
    pub world: World,
    pub pods: Vec<Placed>,
    pub handles: Vec<Policies>,
    pub cluster: Cluster,
    policies: Cache<NetworkPolicy>,
    pods_seen: Cache<LeanPod>,
    namespaces: Cache<Namespace>,
    version: u64,
    running: Vec<JoinHandle<Result<(), skiff_proxy::Error>>>,
}

impl Grid {
    /// With all pods, or with none.
    pub fn new(with_pods: bool) -> Grid {
        let client = Client::new(Nobody);
        let mut grid = Grid {
            world: World::new(2),
            pods: Vec::new(),
            handles: Vec::new(),
            cluster: Cluster::default(),
            policies: Cache::detached(client.clone(), []),
            pods_seen: Cache::detached(client.clone(), []),
            namespaces: Cache::detached(client, []),
            version: 1,
            running: Vec::new(),
        };
        for node in &grid.world.lab.nodes {
            let (range, via) = (node.config.pod_cidr.to_string(), node.ip.to_string());
            grid.world.lab.router.command("ip", &["route", "add", &range, "via", &via]);
        }
        for (index, name) in NAMESPACES.into_iter().enumerate() {
            grid.label_namespace(name, &json!({"ns": name, "team": if index < 2 { "one" } else { "two" }}));
        }
        if with_pods {
            for (number, (namespace, name)) in
                NAMESPACES.into_iter().flat_map(|namespace| NAMES.map(|name| (namespace, name))).enumerate()
            {
                grid.add_pod(namespace, name, number % 2);
            }
        }
        grid.start();
        grid
    }

    /// Starts following on all nodes.
    pub fn start(&mut self) {
        self.handles.clear();
        for (index, node) in self.world.lab.nodes.iter().enumerate() {
            let handle = Policies::new(Client::new(Nobody));
            let (pods, namespaces) = (self.pods_seen.clone(), self.namespaces.clone());
            let sources =
                move || Sources { pods: pods.clone(), namespaces: namespaces.clone(), tasks: JoinSet::new() };
            let work = follow(
                world::config(index),
                handle.clone(),
                self.policies.clone(),
                sources,
                node.ruleset.clone(),
            );
            self.running.push(node.spawn(work));
            self.handles.push(handle);
        }
        self.settle();
    }

    /// Starts following where nobody ever says which pods there are; returns when they were asked for.
    pub fn start_without_pods(&mut self) {
        self.handles.clear();
        let (asked, asks) = std::sync::mpsc::channel();
        for (index, node) in self.world.lab.nodes.iter().enumerate() {
            let asked = asked.clone();
            let sources = move || {
                asked.send(()).unwrap();
                let nobody = || Client::new(Nobody);
                Sources {
                    pods: Cache::new(nobody(), ListParams::default()),
                    namespaces: Cache::new(nobody(), ListParams::default()),
                    tasks: JoinSet::new(),
                }
            };
            let handle = Policies::new(Client::new(Nobody));
            let policies = self.policies.clone();
            let work = follow(world::config(index), handle, policies, sources, node.ruleset.clone());
            self.running.push(node.spawn(work));
        }
        for _ in &self.world.lab.nodes {
            asks.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
        }
    }

    /// Ends following, as the end of the agents would: what is in the kernel stays.
    pub fn stop(&mut self) {
        self.running.drain(..).for_each(|task| task.abort());
    }

    pub fn pod(&self, namespace: &str, name: &str) -> &Placed {
        self.pods.iter().find(|this| this.pod.namespace == namespace && this.pod.name == name).unwrap()
    }

    pub fn add_pod(&mut self, namespace: &str, name: &str, node: usize) {
        let (netns, ip) = self.world.lab.nodes[node].sandbox(&format!("{namespace}-{name}"));
        let web = match name {
            "x" => 80,
            "y" => 81,
            _ => 90,
        };
        let labels = [("pod", name), ("tier", if name == "z" { "back" } else { "front" })];
        let pod = model::Pod {
            namespace: namespace.into(),
            name: name.into(),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ip,
            ports: vec![("web".into(), "TCP".into(), web), ("names".into(), "UDP".into(), 81)],
        };
        self.pods.push(Placed { pod, node, netns });
        self.tell(namespace, name);
    }

    /// Changes a pod's labels.
    pub fn label(&mut self, namespace: &str, name: &str, key: &str, value: &str) {
        let this = self.pods.iter_mut().find(|this| this.pod.namespace == namespace && this.pod.name == name);
        this.unwrap().pod.labels.insert(key.into(), value.into());
        self.tell(namespace, name);
        self.settle();
    }

    pub fn label_namespace(&mut self, name: &str, labels: &Value) {
        self.version += 1;
        let metadata = json!({"name": name, "labels": labels, "resourceVersion": self.version.to_string()});
        self.namespaces.apply(Arc::new(serde_json::from_value(json!({ "metadata": metadata })).unwrap()));
        self.cluster.namespaces.insert(name.into(), serde_json::from_value(labels.clone()).unwrap());
        self.settle();
    }

    /// Says of a pod what the API would.
    fn tell(&mut self, namespace: &str, name: &str) {
        self.version += 1;
        let object = pod_object(&self.pod(namespace, name).pod, self.pod(namespace, name).node, self.version);
        self.pods_seen.apply(Arc::new(serde_json::from_value(object).unwrap()));
    }

    /// Says of a pod that is none what the API would of one.
    pub fn tell_of(&mut self, pod: &model::Pod, node: usize) {
        self.version += 1;
        let object = pod_object(pod, node, self.version);
        self.pods_seen.apply(Arc::new(serde_json::from_value(object).unwrap()));
    }

    pub fn forget(&mut self, namespace: &str, name: &str) {
        self.pods_seen.remove(&ObjectKey::new(namespace, name), None);
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Puts these policies, and no others, in force; returns when they are.
    pub fn set(&mut self, policies: &[(&str, &str, Value)]) {
        self.put(policies);
        self.settle();
    }

    /// The same without waiting; says which version is the newest.
    pub fn put(&mut self, policies: &[(&str, &str, Value)]) -> u64 {
        for old in self.policies.list() {
            let key = ObjectKey::of(&*old);
            if !policies.iter().any(|(namespace, name, _)| key == ObjectKey::new(*namespace, *name)) {
                self.version += 1;
                let mut last = (*old).clone();
                last.metadata.resource_version = Some(self.version.to_string());
                self.policies.remove(&key, Some(Arc::new(last)));
            }
        }
        self.cluster.policies.clear();
        for (namespace, name, spec) in policies {
            self.version += 1;
            let metadata =
                json!({"namespace": namespace, "name": name, "resourceVersion": self.version.to_string()});
            let policy: NetworkPolicy =
                serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
            self.policies.apply(Arc::new(policy.clone()));
            self.cluster.policies.push(policy);
        }
        self.version
    }

    /// Returns when all nodes have taken in all changes so far: a claim made for this is in force then.
    pub fn settle(&self) {
        let newest =
            self.policies.list().into_iter().map(|policy| policy.metadata.resource_version.clone().unwrap());
        let newest = newest.map(|version| version.parse().unwrap()).max().unwrap_or(0);
        for (index, handle) in self.handles.iter().enumerate() {
            let node = &self.world.lab.nodes[index];
            node.block_on(handle.admit(ip("192.0.2.1"), nobody(), newest)).unwrap();
            handle.release(ip("192.0.2.1"));
        }
    }

    /// What the specification says of a connection between pods.
    pub fn expects(&self, from: &Placed, to: &Placed, protocol: &str, port: u16) -> bool {
        self.cluster.allows(End::Pod(&from.pod), End::Pod(&to.pod), protocol, port)
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.stop();
    }
}

fn nobody() -> Subject {
    Subject {
        pod: ObjectKey::new("nowhere", "nobody"),
        uid: "nobody".into(),
        labels: BTreeMap::new(),
        ports: Vec::new(),
        local: false,
    }
}

fn pod_object(pod: &model::Pod, node: usize, version: u64) -> Value {
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|(name, protocol, number)| json!({"name": name, "protocol": protocol, "containerPort": number}))
        .collect();
    json!({
        "metadata": {
            "namespace": pod.namespace, "name": pod.name, "uid": format!("{}-{}", pod.namespace, pod.name),
            "labels": pod.labels, "resourceVersion": version.to_string(),
        },
        "spec": {"nodeName": format!("node-{node}"), "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": "Running", "podIP": pod.ip},
    })
}

/// An address that is no pod's.
pub fn address(ip: Ipv4Addr) -> End<'static> {
    End::Address(ip)
}
