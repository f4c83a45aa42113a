//! `cargo xtask demo`: the scenarios A to G, played with real kubectl on three real nodes.
//!
//! Each step shows the command, what it really printed, and whether that is what the row says. Commands
//! run in a shell with `kubectl` and `skiff` on PATH, so that each can be typed by hand as it stands.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::build::{self, Profile};
use crate::{images, setup};

const NAME: &str = "demo";
const PATIENCE: Duration = Duration::from_secs(60);

/// One command of a row.
struct Step {
    row: &'static str,
    says: &'static str,
    command: &'static str,
    /// All of these stand in what it prints (standard error included); `!` in front: does not. `{pods}`,
    /// `{nodes}` and `{services}` are how addresses of these ranges begin.
    expect: &'static [&'static str],
}

const fn step(
    row: &'static str,
    says: &'static str,
    command: &'static str,
    expect: &'static [&'static str],
) -> Step {
    Step { row, says, command, expect }
}

/// `$M` is the directory of the manifests; `$CP`, `$W1`, `$W2` are the nodes, `$CP_IP` … their addresses.
const STEPS: &[Step] = &[
    step(
        "A1",
        "a pod starts, held by a pause container",
        "kubectl apply -f $M/simpleweb-hostport.yaml",
        &["pod/simpleweb created"],
    ),
    step(
        "A1",
        "it becomes Ready",
        "kubectl wait --for=condition=Ready pod/simpleweb --timeout=60s",
        &["condition met"],
    ),
    step(
        "A1",
        "the node's runtime shows one pause sandbox a pod",
        "skiff ps --name demo | grep simpleweb",
        &["pause", "Running"],
    ),
    step(
        "A3",
        "it has an address of its node's range",
        "kubectl get pods -o wide",
        &["simpleweb", "1/1", "Running", "{pods}"],
    ),
    step(
        "A3",
        "and sees eth0 and nothing of the host",
        "kubectl exec simpleweb -- ifconfig",
        &["eth0", "{pods}", "!cbr0"],
    ),
    step(
        "A2",
        "two containers of a pod reach each other on localhost",
        "kubectl apply -f $M/demo-two-containers.yaml && kubectl wait --for=condition=Ready pod/two --timeout=60s && kubectl exec two -c other -- wget -q -O - http://127.0.0.1:8080",
        &["You've hit two"],
    ),
    step(
        "B1",
        "the node's bridge owns its pod range",
        "skiff node shell --name demo $W1 -- ip -4 addr show cbr0",
        &["cbr0", "{pods}"],
    ),
    step(
        "B2",
        "each node has routes to the other nodes' ranges",
        "skiff node shell --name demo $W1 -- ip route",
        &["via {nodes}", "cbr0"],
    ),
    step(
        "B2",
        "pods of two nodes talk by their addresses",
        "kubectl apply -f $M/demo-peers.yaml && kubectl wait --for=condition=Ready pod/left pod/right --timeout=60s && kubectl exec left -- peer get $(kubectl get pod right -o jsonpath='{.status.podIP}'):7000 && kubectl get pod left -o jsonpath='{.status.podIP}'",
        &["right {pods}"],
    ),
    step(
        "B3",
        "a pod reaches the nodes",
        "kubectl exec left -- ping -c 1 -W 2 $CP_IP",
        &["1 packets received"],
    ),
    step(
        "D1",
        "port 9001 of the pod's node leads to the pod",
        "wget -q -O - http://$(kubectl get pod simpleweb -o jsonpath='{.status.hostIP}'):9001",
        &["Host:simpleweb | IP:{pods}"],
    ),
    step(
        "D1",
        "and refuses on another node",
        "wget -T 3 -t 1 -q -O - http://$CP_IP:9001 || echo refused",
        &["refused"],
    ),
    step(
        "D1",
        "it is deleted",
        "kubectl delete -f $M/simpleweb-hostport.yaml",
        &["pod \"simpleweb\" deleted"],
    ),
    step(
        "C1",
        "a pod in its node's network",
        "kubectl apply -f $M/host-network.yaml && kubectl wait --for=condition=Ready pod/pod-with-host-network --timeout=60s",
        &["pod/pod-with-host-network created"],
    ),
    step(
        "C1",
        "sees the node's interfaces",
        "kubectl exec pod-with-host-network -- ifconfig",
        &["cbr0", "eth0", "{nodes}"],
    ),
    step("C1", "and has the node's address", "kubectl get pods -o wide", &["{nodes}"]),
    step(
        "C3",
        "a server in the host's network",
        "kubectl apply -f $M/simpleweb-env.yaml && kubectl wait --for=condition=Ready pod/simpleweb --timeout=60s",
        &["pod/simpleweb created"],
    ),
    step(
        "C3",
        "answers on the node's address with all of its addresses",
        "wget -q -O - http://$(kubectl get pod simpleweb -o jsonpath='{.status.hostIP}'):9001",
        &["Host:demo-worker-", "{nodes}", "{pods}", "Version:1"],
    ),
    step(
        "C3",
        "it is deleted",
        "kubectl delete pod simpleweb --grace-period=1",
        &["pod \"simpleweb\" deleted"],
    ),
    step(
        "C4",
        "port 8080 is taken on both workers",
        "kubectl apply -f $M/demo-port-holders.yaml && kubectl wait --for=condition=Ready pod/holder-1 pod/holder-2 --timeout=60s && kubectl apply -f $M/simpleweb-pending.yaml",
        &["pod/simpleweb created"],
    ),
    step(
        "C4",
        "so the pod waits, and the scheduler says why",
        "kubectl describe pods simpleweb | tail -3",
        &[
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.",
        ],
    ),
    step("C4", "it is Pending, 0/1", "kubectl get pods simpleweb", &["0/1", "Pending"]),
    step(
        "C4",
        "when a port frees, it is scheduled",
        "kubectl delete pod holder-1 --grace-period=1 && kubectl wait --for=condition=Ready pod/simpleweb --timeout=60s",
        &["condition met"],
    ),
    step("C4", "all are deleted", "kubectl delete pod simpleweb holder-2 --grace-period=1", &["deleted"]),
    step(
        "D1",
        "hostPort 9000 leads to 8080",
        "kubectl apply -f $M/host-port.yaml && kubectl wait --for=condition=Ready pod/kubia-hostport --timeout=60s && wget -q -O - http://$(kubectl get pod kubia-hostport -o jsonpath='{.status.hostIP}'):9000",
        &["You've hit kubia-hostport"],
    ),
    step(
        "D3",
        "four replicas with one host port on three nodes",
        "kubectl apply -f $M/demo-four-replicas.yaml",
        &["deployment.apps/web created"],
    ),
    step("D3", "three run and one waits", "kubectl get pods -l app=web", &["Running", "Pending"]),
    step(
        "E1",
        "a NodePort opens on every node",
        "kubectl expose deployment web --type=NodePort --port=80 --target-port=8080 && wget -q -O - http://$CP_IP:$(kubectl get service web -o jsonpath='{.spec.ports[0].nodePort}')",
        &["You've hit web-"],
    ),
    step(
        "E1",
        "its name is answered in pods",
        "kubectl exec left -- nslookup web.default.svc.cluster.local",
        &["{services}"],
    ),
    step("E1", "and leads to a pod", "kubectl exec left -- wget -q -O - http://web", &["You've hit web-"]),
    step(
        "D3",
        "all are deleted",
        "kubectl delete service/web deployment/web pod/kubia-hostport --grace-period=1",
        &["deleted"],
    ),
    step(
        "F1",
        "a pod that sees its node's processes",
        "kubectl apply -f $M/simpleweb-hostpid-hostipc.yaml && kubectl wait --for=condition=Ready pod/simpleweb --timeout=60s && kubectl exec simpleweb -- ps aux | grep kubelet",
        &["kubelet"],
    ),
    step(
        "F2",
        "and its node's shared memory",
        "skiff node shell --name demo $(kubectl get pod simpleweb -o jsonpath='{.spec.nodeName}') -- sh -c 'echo from the node > /dev/shm/note' && kubectl exec simpleweb -- cat /dev/shm/note",
        &["from the node"],
    ),
    step(
        "G",
        "a bare number in the environment is refused",
        "kubectl apply -f $M/simpleweb-env-number.yaml; true",
        &["cannot unmarshal number", "value"],
    ),
    step(
        "G",
        "the platform's own parts are no pods",
        "kubectl get pods -n kube-system",
        &["No resources found"],
    ),
    step("G", "but processes", "skiff status --name demo", &["server", "agent"]),
];

/// `cargo xtask demo [--keep]`.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let keep = match args {
        [] => false,
        ["--keep"] => true,
        _ => bail!("usage: cargo xtask demo [--keep]"),
    };
    setup::run_quietly()?;
    build::skiff(Profile::Release)?;
    images::build(&build::target_dir().join("images"))?;
    if keep {
        return play(true);
    }
    // A network namespace without a way out, as the tests have: nothing that the demo sends can leave.
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().context("xtask knows itself")?)
        .arg("demo-inside");
    build::run(&mut command)
}

/// Starts the cluster, plays the scenarios, and takes it down unless it shall be kept.
pub(crate) fn play(keep: bool) -> anyhow::Result<()> {
    let skiff = build::target_dir().join("release/skiff");
    let images_dir = build::target_dir().join("images");
    let mut demo = Demo { skiff, clients: setup::clients(), nodes: Vec::new(), ranges: Vec::new() };
    let down = |demo: &Demo| {
        let down = demo.shell(&format!("skiff down --name {NAME}"));
        print!("{}", down.text);
        if down.code != 0 {
            bail!("the cluster did not go down");
        }
        Ok(())
    };
    // What an interrupted demo left.
    down(&demo)?;
    let up = demo.shell(&format!(
        "skiff up --detach --name {NAME} --nodes 3 --port 0 --images {}",
        images_dir.display()
    ));
    println!("{}", up.text);
    if up.code != 0 {
        bail!("the cluster did not start");
    }
    demo.look_around();
    let result = demo.play();
    if keep {
        println!("\nThe cluster is up. Use it and end it so:\n");
        println!("export KUBECONFIG=/var/lib/skiff/{NAME}/kubeconfig PATH={}:$PATH", demo.path());
        println!("kubectl get nodes -o wide\nskiff down --name {NAME}");
    } else {
        down(&demo)?;
    }
    result
}

struct Demo {
    skiff: PathBuf,
    clients: setup::Clients,
    /// Variable, name and address of each node, once they are up.
    nodes: Vec<(&'static str, String, String)>,
    /// What stands for a range in [`Step::expect`], and how its addresses begin.
    ranges: Vec<(&'static str, String)>,
}

struct Printed {
    text: String,
    code: i32,
}

impl Demo {
    fn path(&self) -> String {
        let dirs = [self.clients.kubectl_1_35.parent(), self.skiff.parent()];
        dirs.iter().flatten().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":")
    }

    fn shell(&self, command: &str) -> Printed {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 2>&1; {command}")]).stdin(std::process::Stdio::null());
        shell.env("PATH", format!("{}:{}", self.path(), std::env::var("PATH").unwrap_or_default()));
        shell.env("KUBECONFIG", format!("/var/lib/skiff/{NAME}/kubeconfig"));
        shell.env("M", build::root().join("tests/manifests"));
        for (variable, node, ip) in &self.nodes {
            shell.env(variable, node).env(format!("{variable}_IP"), ip);
        }
        match shell.output() {
            Ok(output) => Printed {
                text: String::from_utf8_lossy(&output.stdout).into_owned(),
                code: output.status.code().unwrap_or(-1),
            },
            Err(error) => Printed { text: error.to_string(), code: -1 },
        }
    }

    /// Another cluster on the machine makes the ranges move on, so they are asked for.
    fn look_around(&mut self) {
        let ask = |command: &str| self.shell(command).text.trim().to_owned();
        let begin = |address: &str, parts: usize| {
            address.split('.').take(parts).map(|part| format!("{part}.")).collect::<String>()
        };
        let mut nodes = Vec::new();
        for (variable, suffix) in [("CP", "control-plane"), ("W1", "worker-1"), ("W2", "worker-2")] {
            let node = format!("{NAME}-{suffix}");
            let path = "jsonpath='{.status.addresses[?(@.type==\"InternalIP\")].address}'";
            let ip = ask(&format!("kubectl get node {node} -o {path}"));
            nodes.push((variable, node, ip));
        }
        let pods = ask(&format!("kubectl get node {NAME}-worker-1 -o jsonpath='{{.spec.podCIDR}}'"));
        let services = ask("kubectl get service kubernetes -o jsonpath='{.spec.clusterIP}'");
        self.ranges = vec![
            ("{pods}", begin(&pods, 2)),
            ("{nodes}", begin(&nodes[0].2, 3)),
            ("{services}", begin(&services, 2)),
        ];
        self.nodes = nodes;
    }

    fn holds(&self, step: &Step, text: &str) -> bool {
        step.expect.iter().all(|expected| {
            let expected = self
                .ranges
                .iter()
                .fold((*expected).to_owned(), |expected, (name, begin)| expected.replace(name, begin));
            match expected.strip_prefix('!') {
                Some(absent) => !text.contains(absent),
                None => text.contains(&expected),
            }
        })
    }

    fn play(&self) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for step in STEPS {
            println!("\n{}: {}\n$ {}", step.row, step.says, step.command);
            let deadline = Instant::now() + PATIENCE;
            let mut printed = self.shell(step.command);
            // What is still on its way is looked at again; only commands that change nothing are repeated.
            while !self.holds(step, &printed.text) && is_look(step.command) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(200));
                printed = self.shell(step.command);
            }
            print!("{}", printed.text);
            let ok = self.holds(step, &printed.text);
            println!("--> {}: {}", step.row, if ok { "as the row says" } else { "NOT as the row says" });
            if !ok {
                failed.push(format!("{}: {} (expected {:?})", step.row, step.says, step.expect));
            }
        }
        println!("\n{} of {} steps were as their rows say.", STEPS.len() - failed.len(), STEPS.len());
        if failed.is_empty() {
            return Ok(());
        }
        Err(anyhow::anyhow!("{}", failed.join("; "))).context("not as the rows say")
    }
}

fn is_look(command: &str) -> bool {
    !["apply", "delete", "expose"].iter().any(|verb| command.contains(verb))
}
