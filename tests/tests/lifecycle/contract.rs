//! What `skiff up` promises at the moment when it returns, to whoever scripts against it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use skiff_tests::{Output, wait_until};

use super::network::Network;

const NAME: &str = "lc-contract";
/// Any port is free in a network of the test's own.
const PORT: &str = "7443";

/// A cluster where clusters lie by default, on a port that was asked for.
struct Inside {
    machine: Network,
    data_dir: PathBuf,
}

impl Inside {
    fn kubectl(&self, args: &[&str]) -> Output {
        self.machine.kubectl(&self.data_dir, args)
    }

    fn rows(&self, command: &[&str]) -> Vec<Value> {
        let mut args = command.to_vec();
        args.extend(["--name", NAME, "-o", "json"]);
        serde_json::from_str(&self.machine.skiff(&args).ok()).expect("JSON")
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let output = self.machine.skiff(&["down", "--name", NAME]);
        if !std::thread::panicking() {
            assert_eq!(output.code, 0, "{output:?}");
        }
    }
}

#[test]
fn when_up_returns_all_that_it_promises_is_there() {
    let inside = Inside { machine: Network::start(), data_dir: Path::new("/var/lib/skiff").join(NAME) };
    let begin = Instant::now();
    let printed =
        inside.machine.skiff(&["up", "--detach", "--nodes", "2", "--name", NAME, "--port", PORT]).ok();
    // Nothing below is waited for: it is there.
    let account = inside.kubectl(&["-n", "default", "get", "serviceaccount", "default", "-o", "name"]);
    let dns = inside.machine.skiff(&[
        "node",
        "shell",
        "--name",
        NAME,
        "lc-contract-worker-1",
        "--",
        "/bin/busybox",
        "nslookup",
        "kubernetes.default.svc.cluster.local",
        &dns_address(&inside),
    ]);
    let nodes = inside.kubectl(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(account.ok(), "serviceaccount/default\n");
    assert!(dns.code == 0 && dns.stdout.contains(&api_address(&inside)), "{dns:?}");
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");

    // The three lines that one needs next.
    let kubeconfig = inside.data_dir.join("kubeconfig");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    assert_eq!(lines[0], format!("export KUBECONFIG={}", kubeconfig.display()));
    assert!(lines[1].starts_with("kubectl get nodes "), "{printed}");
    assert_eq!(lines[2], format!("skiff down --name {NAME}"));

    // Cluster, user and context have the cluster's name, and the server's address is the machine's.
    let config: Value =
        serde_json::from_str(&inside.kubectl(&["config", "view", "--raw", "-o", "json"]).ok()).expect("JSON");
    for list in ["clusters", "users", "contexts"] {
        let entries = config[list].as_array().expect("a list");
        assert_eq!((entries.len(), &entries[0]["name"]), (1, &NAME.into()), "{list}");
    }
    assert_eq!(config["current-context"], NAME);
    let context = &config["contexts"][0]["context"];
    assert_eq!((&context["cluster"], &context["user"]), (&NAME.into(), &NAME.into()));
    assert_eq!(config["clusters"][0]["cluster"]["server"], format!("https://127.0.0.1:{PORT}"));
    assert_eq!(fs::metadata(&kubeconfig).expect("it is there").permissions().mode() & 0o777, 0o600);

    // The first node has upstream's label and taint, the other has neither.
    let label = "node-role.kubernetes.io/control-plane";
    let list: Value =
        serde_json::from_str(&inside.kubectl(&["get", "nodes", "-o", "json"]).ok()).expect("JSON");
    for node in list["items"].as_array().expect("a list") {
        let name = node["metadata"]["name"].as_str().expect("a name");
        let first = name == format!("{NAME}-control-plane");
        assert!(first || name == format!("{NAME}-worker-1"), "{name}");
        assert_eq!(node["metadata"]["labels"].get(label).is_some(), first, "{node}");
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let tainted = taints.iter().any(|taint| taint["key"] == label && taint["effect"] == "NoSchedule");
        assert_eq!(tainted, first, "{node}");
    }

    // Each of the platform's processes with all that is told of it; none is older than this test.
    let rows = inside.rows(&["status"]);
    let roles = |role: &str| rows.iter().filter(|row| row["role"] == role).count();
    assert_eq!((roles("init"), roles("server"), roles("agent")), (2, 1, 2), "{rows:?}");
    for row in &rows {
        for field in ["node", "role", "health"] {
            assert!(row[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {row}");
        }
        assert!(row["pid"].as_u64() > Some(0) && row["memoryBytes"].as_u64() > Some(0), "{row}");
        let since = row["sinceSeconds"].as_u64().expect("since when");
        assert!(since <= begin.elapsed().as_secs() + 1, "{row}");
    }
    wait_until("they grow older", || {
        inside.rows(&["status"]).iter().all(|row| row["sinceSeconds"].as_u64() > Some(0))
    });
    let headings = inside.machine.skiff(&["status", "--name", NAME]).ok();
    for heading in ["NODE", "ROLE", "PID", "SINCE", "MEMORY", "HEALTH"] {
        assert!(headings.lines().next().is_some_and(|line| line.contains(heading)), "{heading}: {headings}");
    }
}

fn api_address(inside: &Inside) -> String {
    let path = "jsonpath={.spec.clusterIP}";
    inside.kubectl(&["get", "service", "kubernetes", "-o", path]).ok()
}

/// The tenth address of the services' range, of which the API's is the first.
fn dns_address(inside: &Inside) -> String {
    let first: std::net::Ipv4Addr = api_address(inside).parse().expect("an address");
    std::net::Ipv4Addr::from(u32::from(first) + 9).to_string()
}
