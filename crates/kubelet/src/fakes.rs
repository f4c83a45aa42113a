//! Small honest stand-ins: a runtime, a network and an API server that keep what they are told.

mod api;
mod gate;
mod network;
mod runtime;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub(crate) use self::api::FakeApi;
pub(crate) use self::gate::Gate;
pub(crate) use self::network::FakeNetwork;
pub(crate) use self::runtime::FakeRuntime;
use crate::config::{Config, Serving};

pub(crate) fn config() -> Config {
    Config {
        node_name: "node".into(),
        node_ips: vec![Ipv4Addr::new(10, 100, 0, 2)],
        data_dir: PathBuf::from("/nonexistent"),
        cluster_dns: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
        cluster_domain: "cluster.local".into(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        register: true,
        pod_cidr: None,
        pods_max: 110,
        cgroup_root: "kubepods".into(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        listen: ([127, 0, 0, 1], 0).into(),
        allowed_unsafe_sysctls: Vec::new(),
        seccomp_default: false,
        platform_logs: None,
        first_user: crate::FIRST_USER,
        image_gc: crate::ImageGc::default(),
        serving: Serving {
            tls: None,
            ready: None,
            allowed_names: Vec::new(),
            bounds: crate::ServingBounds {
                connections_max: 64,
                ..crate::ServingBounds::of_descriptors(1_024)
            },
        },
        version: "1.36.0+skiff".into(),
    }
}
