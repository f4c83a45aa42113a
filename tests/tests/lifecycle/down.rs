//! `down` removes everything, whatever became of the cluster before.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skiff_tests::{Cluster, run, skiff, skiff_path, wait_until};

use super::interrupted::EVERYTHING;
use super::network::Network;
use super::random::Random;
use super::stock::{members, traces};

/// Somebody's kubeconfig, with things in it that Skiff has no notion of.
const FOREIGN: &str = "\
apiVersion: v1
kind: Config
preferences: {colors: true}
current-context: work
clusters:
- name: work
  cluster: {server: 'https://work.example:6443', insecure-skip-tls-verify: true, extensions: [{name: x, extension: {a: [1, 2.5, null, 'yes', '0x1']}}]}
contexts:
- name: work
  context: {cluster: work, user: me, namespace: mine}
users:
- name: me
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, args: ['--long', \"a\\tb\"], interactiveMode: Never}}
x-own: |
  several
  lines
";

/// A YAML file's value, by kubectl's own reader.
fn value(path: &Path) -> String {
    let mut command = Command::new(std::env::var_os("KUBECTL").expect("KUBECTL"));
    run(command.args(["config", "view", "--raw", "-o", "json", "--kubeconfig"]).arg(path)).ok()
}

#[test]
fn down_leaves_nothing_and_the_user_s_kubeconfig_as_it_was() {
    let name = "lc-down";
    let kubeconfig = std::env::temp_dir().join(format!("lc-down-{}.yaml", std::process::id()));
    let mut file = fs::OpenOptions::new();
    let mut file =
        file.create(true).truncate(true).write(true).mode(0o600).open(&kubeconfig).expect("a file");
    file.write_all(FOREIGN.as_bytes()).expect("it is written");
    let before = value(&kubeconfig);
    let flags = ["--uplink", "--kubeconfig", kubeconfig.to_str().expect("UTF-8")];
    for round in ["down", "kill"] {
        let cluster = Cluster::start_with(name, 2, &flags);
        let merged = value(&kubeconfig);
        assert_ne!(merged, before);
        assert_eq!(fs::metadata(&kubeconfig).expect("a file").mode() & 0o777, 0o600);
        let mut kubectl = Command::new(std::env::var_os("KUBECTL").expect("KUBECTL"));
        kubectl.args(["get", "nodes", "-o", "name", "--kubeconfig"]).arg(&kubeconfig);
        assert_eq!(run(&mut kubectl).ok(), "node/lc-down-control-plane\nnode/lc-down-worker-1\n");
        let namespace = cluster.namespace("d");
        namespace
            .apply("{apiVersion: v1, kind: Pod, metadata: {name: holder}, spec: {containers: [{name: main, image: alpine, command: [sleep, '999999'], ports: [{containerPort: 80, hostPort: 9000}], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, emptyDir: {medium: Memory}}]}}")
            .ok();
        namespace.ready("holder");
        for kind in ["link", "route", "table", "mount", "cgroup", "record", "process"] {
            let traces = traces(name);
            assert!(
                traces.iter().any(|trace| trace.starts_with(kind)),
                "the test sees each {kind}: {traces:?}"
            );
        }
        let data_dir = cluster.data_dir().to_owned();
        if round == "kill" {
            // Those whose first process died before them are gone when their turn comes.
            let pids = members(name).into_iter().map(|pid| pid.to_string());
            run(Command::new("kill").arg("-KILL").args(pids));
            wait_until("all have died", || members(name).is_empty());
        }
        drop(cluster);
        assert!(traces(name).is_empty(), "after {round}: {:?}", traces(name));
        assert!(!data_dir.exists(), "{}", data_dir.display());
        assert_eq!(fs::metadata(&kubeconfig).expect("a file").mode() & 0o777, 0o600);
    }
    assert_eq!(value(&kubeconfig), before);
    let text = fs::read_to_string(&kubeconfig).expect("a file");
    assert!(text.contains("x-own") && text.contains("several"), "{text}");
    fs::remove_file(&kubeconfig).expect("it is there");
    let output = skiff(&["down", "--name", name]);
    assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{output:?}");
    assert!(output.stderr.contains("was not up"), "{output:?}");
}

#[test]
fn down_clears_up_after_an_up_that_was_killed_at_any_moment() {
    let mut random = Random::seeded();
    let name = "lc-killed";
    let data_dir: PathBuf = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
    // In a network of its own, so that all that is in it can be compared: others change the machine's meanwhile.
    let machine = Network::start();
    let everything = || machine.run(&["sh", "-c", EVERYTHING]).stdout;
    let before = everything();
    assert!(before.contains("lookup local"), "rules are looked at: {before}");
    for _ in 0..8 {
        let moment = random.moment();
        let mut up = machine.command(&skiff_path());
        up.args(["up", "--detach", "--uplink", "--port", "0", "--nodes", "2", "--name", name, "--data-dir"]);
        let mut up =
            up.arg(&data_dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        // Not a wait for something to happen: the moment is the test's input.
        std::thread::sleep(moment);
        up.kill().expect("it can be killed");
        up.wait().expect("it ends");
        let output =
            machine.skiff(&["down", "--name", name, "--data-dir", data_dir.to_str().expect("UTF-8")]);
        assert_eq!(output.code, 0, "killed after {moment:?}: {output:?}");
        assert!(traces(name).is_empty(), "killed after {moment:?}: {:?}", traces(name));
        assert_eq!(everything(), before, "killed after {moment:?}");
        assert!(!data_dir.exists(), "killed after {moment:?}");
    }
}
