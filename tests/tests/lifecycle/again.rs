//! Clusters that come back, lie side by side, run in the foreground, or are refused.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use skiff_tests::{Cluster, run, skiff, skiff_path, wait_until};

use super::stock::traces;
use super::{one_sentence, signal};

const APP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: skiff/peer:v1, command: [peer, tcp, '7001'], ports: [{containerPort: 7001}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 7001}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
data: {a: b}
";

/// Names and UIDs of what a user made, and of what the platform made of it.
fn identities(cluster: &Cluster) -> Vec<(String, String)> {
    let list = cluster.object(&["-A", "deployments,replicasets,pods,services,configmaps,nodes,namespaces"]);
    let text =
        |item: &Value, path: &str| item.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let items = list["items"].as_array().expect("a list").iter();
    let mut found: Vec<_> = items
        .map(|item| {
            (format!("{} {}", text(item, "/kind"), text(item, "/metadata/name")), text(item, "/metadata/uid"))
        })
        .collect();
    found.sort();
    found
}

/// What addresses there are: nodes', their pods', services'.
fn ranges(cluster: &Cluster) -> String {
    let path =
        "jsonpath={range .items[*]}{.spec.podCIDR} {.status.addresses[0].address} {.spec.clusterIP};{end}";
    cluster.kubectl(&["get", "nodes,services", "-A", "-o", path]).ok()
}

#[test]
fn kept_data_bring_the_same_cluster_back() {
    let cluster = Cluster::start("lc-keep", 2);
    let namespace = cluster.namespace("k");
    namespace.apply(APP).ok();
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    // What a controller adds to each namespace.
    wait_until("every namespace has the cluster's CA", || {
        let found = identities(&cluster);
        let count = |start: &str| found.iter().filter(|(name, _)| name.starts_with(start)).count();
        count("ConfigMap kube-root-ca.crt") == count("Namespace ")
    });
    let before = (identities(&cluster), ranges(&cluster));
    skiff(&["down", "--name", "lc-keep", "--keep-data"]).ok();
    assert!(traces("lc-keep").is_empty(), "{:?}", traces("lc-keep"));

    let data_dir = cluster.data_dir().to_str().expect("UTF-8").to_owned();
    let up = |more: &[&str]| {
        let plain = ["up", "--detach", "--name", "lc-keep", "--port", "0", "--data-dir", &data_dir];
        skiff(&[&plain[..], more].concat())
    };
    let refused = up(&["--nodes", "1"]).err();
    assert!(refused.contains("--nodes 1") && refused.contains("are of 2 nodes"), "{refused}");
    up(&[]).ok();
    let serves = || {
        let command = ["node", "shell", "--name", "lc-keep", "lc-keep-worker-1", "--"];
        let address = format!(
            "{}:80",
            cluster.object(&["-n", "k", "service", "web"])["spec"]["clusterIP"].as_str().expect("it has one")
        );
        let peer = skiff_tests::peer_path();
        let mut all = command.to_vec();
        all.extend([peer.to_str().expect("UTF-8"), "get", &address]);
        skiff(&all).stdout.starts_with("web-")
    };
    wait_until("the service answers", serves);
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=120s"]).ok();
    assert_eq!((identities(&cluster), ranges(&cluster)), before);
    let pods = cluster.object(&["-n", "k", "pods"]);
    let answers = pods["items"].as_array().expect("a list").iter().all(|pod| {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        namespace.exec(name, &["hostname"]).ok().trim() == name
    });
    assert!(answers);

    // The server's data are lost, the nodes' are not: they join the new cluster.
    skiff(&["down", "--name", "lc-keep", "--keep-data"]).ok();
    std::fs::remove_dir_all(cluster.data_dir().join("server")).expect("it is there");
    up(&["--nodes", "2"]).ok();
    let namespace = cluster.namespace("fresh");
    namespace.apply(APP).ok();
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    wait_until("pods of the lost cluster are gone", || {
        super::pids("lc-keep", "lc-keep-worker-1", "shim").len() == 2
    });
}

#[test]
fn what_runs_on_holds_nothing_that_was_open_in_the_shell() {
    let name = "lc-inherit";
    let file = tempfile::NamedTempFile::new().expect("a file");
    let data_dir = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
    let mut up = Command::new("sh");
    up.args(["-c", "file=$1; shift; exec \"$@\" 7<\"$file\"", "sh"]).arg(file.path()).arg(skiff_path());
    up.args(["up", "--detach", "--port", "0", "--name", name, "--data-dir"]).arg(&data_dir);
    run(&mut up).ok();
    let of_the_cluster: Vec<u64> =
        super::processes(name).iter().filter_map(|row| row["pid"].as_u64()).collect();
    let holders: Vec<u64> = of_the_cluster
        .iter()
        .copied()
        .filter(|pid| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|target| target == file.path())
        })
        .collect();
    skiff(&["down", "--name", name]).ok();
    assert!(!of_the_cluster.is_empty());
    assert!(holders.is_empty(), "{holders:?}");
}

/// An `up` that is refused, in one sentence and before anything is made.
#[track_caller]
fn refused(name: &str, flags: &[&str]) -> String {
    let mut all = vec!["up", "--detach", "--port", "0", "--name", name];
    all.extend(flags);
    let output = skiff(&all);
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
    assert!(traces(name).is_empty(), "{:?}", traces(name));
    one_sentence(&output.stderr).to_owned()
}

#[test]
fn data_are_one_clusters_and_keep_their_ranges_while_it_is_down() {
    let cluster = Cluster::start("lc-owner", 1);
    let data_dir = cluster.data_dir().to_str().expect("UTF-8").to_owned();
    let before = ranges(&cluster);
    let pods = before.split('.').take(2).collect::<Vec<_>>().join(".") + ".0.0/16";
    let owned = |refusal: &str| {
        assert!(refusal.contains(&format!("{data_dir} holds the data of cluster \"lc-owner\"")), "{refusal}");
    };
    owned(&refused("lc-thief", &["--data-dir", &data_dir]));
    skiff(&["down", "--name", "lc-owner", "--keep-data"]).ok();
    owned(&refused("lc-thief", &["--data-dir", &data_dir]));
    let output = skiff(&["down", "--name", "lc-thief", "--data-dir", &data_dir]);
    assert_eq!(output.code, 1, "{output:?}");
    owned(one_sentence(&output.stderr));
    let elsewhere = format!("{data_dir}-thief");
    let refusal = refused("lc-thief", &["--data-dir", &elsewhere, "--pod-cidr", &pods]);
    assert!(refusal.contains(&pods) && refusal.contains("\"lc-owner\", kept in "), "{refusal}");
    let neighbour = Cluster::start("lc-neighbour", 1);
    assert!(!ranges(&neighbour).contains(pods.trim_end_matches("0.0/16")), "{}", ranges(&neighbour));

    let refusal = refused("lc-owner", &["--data-dir", &data_dir, "--pod-cidr", "10.9.0.0/16"]);
    assert!(refusal.contains("--pod-cidr 10.9.0.0/16") && refusal.contains(&pods), "{refusal}");
    skiff(&["up", "--detach", "--name", "lc-owner", "--port", "0", "--data-dir", &data_dir]).ok();
    assert_eq!(ranges(&cluster), before);
}

#[test]
fn an_up_that_fails_leaves_nothing_running() {
    let dir = std::env::temp_dir().join(format!("skiff-test-lc-fails-{}", std::process::id()));
    let (data, images) = (dir.join("data"), dir.join("images"));
    let data_dir = data.to_str().expect("UTF-8");
    // What can be known before is told before.
    let refusal = refused("lc-fails", &["--data-dir", data_dir, "--kubeconfig", "/proc/nope"]);
    assert!(refusal.contains("cannot write /proc/nope"), "{refusal}");
    assert!(!data.exists());
    // What fails when nodes run ends them.
    std::fs::create_dir_all(&images).expect("a directory");
    std::fs::write(images.join("junk.tar"), b"no archive").expect("a file");
    let kubeconfig = dir.join("kubeconfig");
    let mut up = Command::new(skiff_path());
    up.args(["up", "--detach", "--port", "0", "--name", "lc-fails", "--data-dir", data_dir]);
    let output = run(up.arg("--images").arg(&images).arg("--kubeconfig").arg(&kubeconfig));
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
    let last = output.stderr.lines().last().expect("a sentence");
    assert!(
        last.starts_with("skiff: ") && last.contains("junk.tar") && last.contains(data_dir),
        "{output:?}"
    );
    assert!(traces("lc-fails").is_empty(), "{:?}", traces("lc-fails"));
    assert!(!kubeconfig.exists());
    assert!(data.join("nodes/lc-fails/logs/agent.log").exists(), "logs say why");
    skiff(&["down", "--name", "lc-fails", "--data-dir", data_dir]).ok();
    assert!(!data.exists());
    std::fs::remove_dir_all(&dir).expect("it is there");
}

#[test]
fn a_cluster_in_the_foreground_ends_with_ctrl_c() {
    let name = "lc-front";
    let data_dir: PathBuf = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
    let mut up = Command::new(skiff_path());
    up.args(["up", "--port", "0", "--name", name, "--data-dir"]).arg(&data_dir);
    let mut up = up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(up.stdout.take().expect("it is piped")).lines();
    let first = lines.next().expect("a line").expect("UTF-8");
    assert_eq!(first, format!("export KUBECONFIG={}", data_dir.join("kubeconfig").display()));
    let mut kubectl = Command::new(std::env::var_os("KUBECTL").expect("KUBECTL"));
    kubectl.args(["get", "nodes", "--no-headers", "--kubeconfig"]).arg(data_dir.join("kubeconfig"));
    assert!(run(&mut kubectl).ok().contains(" Ready "));

    let again = skiff(&["up", "--port", "0", "--name", name, "--detach"]);
    assert_eq!(again.code, 1);
    assert!(one_sentence(&again.stderr).contains("cluster \"lc-front\" is up"), "{again:?}");

    signal("INT", &[u64::from(up.id())]);
    let output = up.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("Cluster \"lc-front\" is down."), "{output:?}");
    assert!(traces(name).is_empty(), "{:?}", traces(name));
    assert!(!data_dir.exists());
}

#[test]
fn clusters_lie_side_by_side_and_clashes_are_refused() {
    // Its output and errors reach their end though the cluster runs on: that is how `start` returns.
    let one = Cluster::start("lc-one", 1);
    let data_dir = std::env::temp_dir().join(format!("skiff-test-lc-two-{}", std::process::id()));
    let data_dir = data_dir.to_str().expect("UTF-8");
    let mut up = Command::new(skiff_path());
    up.args(["up", "--detach", "--port", "0", "--name", "lc-two", "--data-dir", data_dir]);
    let mut up =
        up.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut input = up.stdin.take().expect("it is piped");
    let output = up.wait_with_output().expect("its output ends");
    assert!(output.status.success(), "{output:?}");
    let error = input.write_all(b"x").expect_err("nobody reads it any more");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    let get = |kubeconfig: &str| {
        let mut kubectl = Command::new(std::env::var_os("KUBECTL").expect("KUBECTL"));
        let path = "jsonpath={.items[0].spec.podCIDR} {.items[0].status.addresses[0].address}";
        run(kubectl.args(["get", "nodes", "-o", path, "--kubeconfig", kubeconfig])).ok()
    };
    let (first, second) =
        (get(one.kubeconfig.to_str().expect("UTF-8")), get(&format!("{data_dir}/kubeconfig")));
    let network = |text: &str, parts: usize| text.split('.').take(parts).collect::<Vec<_>>().join(".");
    assert_ne!(network(&first, 2), network(&second, 2), "pods: {first}, {second}");
    let address = |text: &str| text.split(' ').nth(1).expect("an address").to_owned();
    assert_ne!(network(&address(&first), 3), network(&address(&second), 3), "nodes: {first}, {second}");

    // Which cluster is meant must be said.
    let which = skiff(&["node", "ls"]);
    assert_eq!(which.code, 1);
    assert!(one_sentence(&which.stderr).contains("choose one with --name"), "{which:?}");

    let try_up = |flags: &[&str]| {
        let mut all = vec!["up", "--detach", "--name", "lc-three", "--data-dir", "/nonexistent/lc-three"];
        all.extend(flags);
        let output = skiff(&all);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(traces("lc-three").is_empty(), "{:?}", traces("lc-three"));
        one_sentence(&output.stderr).to_owned()
    };
    let taken = format!("{}.0.0/16", network(&first, 2));
    let refusal = try_up(&["--port", "0", "--pod-cidr", &taken]);
    assert!(refusal.contains(&taken) && refusal.contains("\"lc-one\""), "{refusal}");
    let refusal = try_up(&["--port", "0", "--pod-cidr", "10.7.0.0/16", "--service-cidr", "10.7.128.0/17"]);
    assert!(refusal.contains("10.7.0.0/16") && refusal.contains("10.7.128.0/17"), "{refusal}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let refusal = try_up(&["--port", &port]);
    assert!(refusal.contains(&format!("127.0.0.1:{port}")) && refusal.contains("in use"), "{refusal}");
    let refusal = try_up(&["--port", "0", "--images", "/nonexistent/images"]);
    assert!(refusal.contains("--images /nonexistent/images"), "{refusal}");

    skiff(&["down", "--name", "lc-two"]).ok();
    assert!(traces("lc-two").is_empty(), "{:?}", traces("lc-two"));
    assert_eq!(get(one.kubeconfig.to_str().expect("UTF-8")), first, "the other cluster is unharmed");
}

#[test]
fn two_clusters_started_at_once_take_different_ranges() {
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| Cluster::start("lc-race-1", 1));
        let second = scope.spawn(|| Cluster::start("lc-race-2", 1));
        (first.join().expect("it starts"), second.join().expect("it starts"))
    });
    let ranges = |cluster: &Cluster| {
        let nodes = cluster.object(&["nodes"]);
        let service = cluster.object(&["service", "kubernetes"]);
        [&nodes["items"][0]["spec"]["podCIDR"], &service["spec"]["clusterIP"]].map(ToString::to_string)
    };
    let (first, second) = (ranges(&first), ranges(&second));
    assert!(first.iter().zip(&second).all(|(a, b)| a != b), "{first:?} {second:?}");
}
