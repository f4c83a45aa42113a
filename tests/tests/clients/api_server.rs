//! The API server as tools beside kubectl's usual commands see it: texts of fields, metrics, the proxy to pods
//! and services, and what listens at all.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skiff_tests::{Cluster, skiff, wait_for, wait_until};

use crate::{BOTH, with};

#[test]
fn fields_are_explained() {
    let namespace = Cluster::shared().namespace("api-explain");
    for which in BOTH {
        let text = with(&namespace, which, &["explain", "pod.spec.hostNetwork"]).ok();
        assert!(text.contains("hostNetwork"), "{text}");
        assert!(text.contains("Host networking requested for this pod. Use the host's network"), "{text}");
        let text = with(&namespace, which, &["explain", "deployments"]).ok();
        assert!(text.contains("Deployment enables declarative updates for Pods and ReplicaSets."), "{text}");
    }
}

#[test]
fn metrics_are_read_by_who_may() {
    let namespace = Cluster::shared().namespace("api-metrics");
    namespace.kubectl(&["create", "configmap", "counted"]).ok();
    let post = ["resource=\"configmaps\"", "verb=\"POST\"", "code=\"201\""];
    let has = |text: &str, start: &str, parts: &[&str]| {
        text.lines().any(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)))
    };
    let text = wait_for("what was answered is counted", || {
        let text = namespace.kubectl(&["get", "--raw", "/metrics"]).ok();
        has(&text, "apiserver_request_total{", &post).then_some(text)
    });
    assert!(has(&text, "workqueue_adds_total{name=\"", &[]), "{text}");
    assert!(has(&text, "process_resident_memory_bytes ", &[]), "{text}");
    let refused = namespace.kubectl(&["get", "--raw", "/metrics", "--as", "jane"]).err();
    assert!(refused.contains("forbidden"), "{refused}");
}

#[test]
fn pods_and_services_are_reached_through_the_server() {
    let namespace = Cluster::shared().namespace("api-proxy");
    namespace
        .apply(
            "{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: \
             {terminationGracePeriodSeconds: 1, containers: [{name: main, image: alpine, ports: \
             [{containerPort: 8080}], command: [sh, -c, 'mkdir /www && echo hello from the pod > \
             /www/page && exec httpd -f -p 8080 -h /www']}]}}\n---\n{apiVersion: v1, kind: Service, metadata: \
             {name: front}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}",
        )
        .ok();
    namespace.ready("web");
    let get = |path: &str| {
        let path = format!("/api/v1/namespaces/{}/{path}", namespace.name);
        namespace.kubectl(&["get", "--raw", &path])
    };
    for path in ["pods/web/proxy/page", "pods/web:8080/proxy/page", "services/front:http/proxy/page"] {
        wait_until(path, || get(path).stdout == "hello from the pod\n");
    }
    let refused = get("services/front:none/proxy/page").err();
    assert!(refused.contains("no service port \"none\" found for service \"front\""), "{refused}");
    let absent = get("pods/none/proxy/").err();
    assert!(absent.contains("pods \"none\" not found"), "{absent}");
}

/// Protocol, address and port of the sockets that take what comes from outside.
fn listening(tables: &str) -> BTreeSet<(&'static str, IpAddr, u16)> {
    let mut found = BTreeSet::new();
    let mut protocol = "";
    for line in tables.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            protocol = if name.contains("tcp") { "tcp" } else { "udp" };
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some((address, port)) = fields.get(1).and_then(|local| local.split_once(':')) else { continue };
        let state = fields.get(3).copied().unwrap_or_default();
        // TCP_LISTEN, and of UDP what is not connected to one peer.
        if state != "0A" && !(protocol == "udp" && state == "07") {
            continue;
        }
        let Ok(port) = u16::from_str_radix(port, 16) else { continue };
        let words: Vec<u32> = (0..address.len() / 8)
            .filter_map(|n| u32::from_str_radix(&address[n * 8..][..8], 16).ok())
            .collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let ip: IpAddr = match <[u8; 4]>::try_from(&bytes[..]) {
            Ok(bytes) => Ipv4Addr::from(bytes).into(),
            Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).expect("an address")).to_canonical(),
        };
        if !ip.is_loopback() {
            found.insert((protocol, ip, port));
        }
    }
    found
}

const TABLES: &str = "for table in tcp tcp6 udp udp6; do echo == $table; cat /proc/net/$table; done";

#[test]
fn nothing_listens_but_the_api_the_agents_and_the_dns() {
    let cluster = Cluster::start("sockets", 2);
    let dns: IpAddr = {
        let service = cluster.object(&["-n", "default", "service", "kubernetes"]);
        let own: Ipv4Addr =
            service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an address");
        Ipv4Addr::from(u32::from(own) + 9).into()
    };
    let endpoints = cluster.object(&["-n", "default", "endpoints", "kubernetes"]);
    let api = &endpoints["subsets"][0]["ports"][0]["port"];
    let api = api.as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    for (node, serves) in [(cluster.control_plane(), true), (cluster.worker(1), false)] {
        let look = || listening(&cluster.on_node(&node, &["sh", "-c", TABLES]).ok());
        wait_until("agent and DNS listen", || {
            let found = look();
            found.iter().any(|(_, _, port)| *port == 10250) && found.contains(&("udp", dns, 53))
        });
        let found = look();
        let strangers: Vec<_> = found
            .iter()
            .filter(|(protocol, ip, port)| match (*protocol, *port) {
                ("tcp", 10250) => false,
                ("tcp", port) if port == api => !serves,
                ("tcp" | "udp", 53) => *ip != dns,
                _ => true,
            })
            .collect();
        assert!(strangers.is_empty(), "{node}: {strangers:?}");
        assert!(found.iter().any(|(_, _, port)| *port == 10250), "{node}: {found:?}");
        assert!(found.contains(&("udp", dns, 53)), "{node}: {found:?}");
        assert_eq!(found.iter().any(|(_, _, port)| *port == api), serves, "{node}: {found:?}");
    }

    // On the machine itself: what the cluster's processes hold there is on loopback.
    let tables = skiff_tests::run(std::process::Command::new("sh").args(["-c", TABLES])).ok();
    let status = skiff(&["status", "--name", "sockets", "-o", "json"]).ok();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&status).expect("JSON");
    let mut held = BTreeSet::new();
    for pid in rows.iter().filter_map(|row| row["pid"].as_u64()) {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
            held.extend(inode.map(str::to_owned));
        }
    }
    let of_cluster: String = tables
        .lines()
        .filter(|line| {
            line.starts_with("== ")
                || line.split_whitespace().nth(9).is_some_and(|inode| held.contains(inode))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(of_cluster.contains(" 0A "), "the API listens on the machine's loopback: {of_cluster}");
    assert_eq!(listening(&of_cluster), BTreeSet::new());
}
