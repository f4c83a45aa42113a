//! `skiff reset` makes a real machine what it was; `--prove` says so only if it is so.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use skiff_tests::{Background, Cluster, Output, run, skiff, skiff_path, wait_until};

use super::machines::{Machine, join};
use super::prove::{check_made, maker};

/// What a machine has, found without the program under test; one line a fact, by kind. Of mounts those where a
/// server or agent makes some: others come with the machine that the tests run on.
const EVERYTHING: &str = r#"
ip -o link show | awk '{print "link", $2}'
ip -o addr show | awk '{print "address", $2, $4}'
ip -4 route show table all | sed 's/^/route /'
ip rule show | sed 's/^/rule /'
nft list tables | sed 's/^/table /'
awk -v own="$1" 'index($5, own) == 1 || index($5, "/run/skiff-") == 1 {print "mount", $5}' /proc/self/mountinfo
find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
for file in ip_forward conf/all/send_redirects conf/all/forwarding conf/eth0/forwarding; do
  echo "sysctl $file $(cat /proc/sys/net/ipv4/$file)"
done
for dir in /proc/[0-9]*; do
  [ "$dir" = "/proc/$$" ] && continue
  line=$(tr '\0' ' ' 2>/dev/null < $dir/cmdline)
  case "$line" in ''|'tr '*) ;; *) echo "process ${dir#/proc/} $line" ;; esac
done
for path in /run/*; do [ -e "$path" ] && echo "file $path"; done
[ -e "$1" ] && echo "file $1"
true
"#;

fn everything(machine: &Machine, data: &Path) -> Vec<String> {
    let output = machine.run(&["sh", "-c", EVERYTHING, "sh", data.to_str().expect("UTF-8")]).ok();
    let mut lines: Vec<String> = output.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn kinds(lines: &[String]) -> Vec<&str> {
    let mut kinds: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    kinds.dedup();
    kinds
}

/// What is in one and not in the other.
fn difference<'a>(one: &'a [String], other: &[String]) -> Vec<&'a str> {
    one.iter().filter(|line| !other.contains(line)).map(String::as_str).collect()
}

/// Ends processes of a machine that begin so, without asking them.
fn kill(machine: &Machine, beginning: &str) {
    let script = "for dir in /proc/[0-9]*; do case \"$(tr '\\0' ' ' 2>/dev/null < $dir/cmdline)\" in \
                  \"$1\"*) kill -KILL ${dir#/proc/} && echo one ;; esac; done; true";
    let killed = machine.run(&["sh", "-c", script, "sh", beginning]).ok();
    assert!(!killed.is_empty(), "a process {beginning:?} ran");
}

fn reset(machine: &Machine, args: &[&str]) -> Output {
    let mut command = machine.command(&skiff_path());
    run(command.arg("reset").args(args))
}

#[test]
fn reset_proves_that_server_and_agent_left_nothing_whatever_was_killed() {
    let (one, other) = (Machine::start("lc-r-one"), Machine::start("lc-r-two"));
    join(&one, &other);
    let (data, agent_data) = (one.dir.join("server"), other.dir.join("agent"));
    let before = everything(&one, &data);
    let other_before = everything(&other, &agent_data);
    let dir = data.to_str().expect("UTF-8");
    let server = one.skiff("server.txt", &["server", "--data-dir", dir, "--node-ip", "192.168.77.1"]);
    let kubeconfig = format!("{dir}/kubeconfig");
    let kubectl = |args: &[&str]| one.kubectl(&data, args);
    wait_until("the server answers", || kubectl(&["get", "--raw", "/readyz"]).code == 0);
    let token = fs::read_to_string(format!("{dir}/pki/join-token")).expect("a token").trim().to_owned();
    let agent = ["agent", "--server", "https://192.168.77.1:6443", "--node-ip", "192.168.77.2"];
    let agent = agent.into_iter().chain(["--token", &token, "--data-dir"]);
    let agent: Vec<&str> = agent.chain([agent_data.to_str().expect("UTF-8")]).collect();
    let joined = other.skiff("agent.txt", &agent);
    wait_until("both nodes are Ready", || {
        kubectl(&["get", "nodes", "--no-headers"]).stdout.matches(" Ready ").count() == 2
    });
    let archive = format!("{}/skiff-peer-v1.tar", std::env::var("SKIFF_IMAGES").expect("SKIFF_IMAGES"));
    run(one.command(&skiff_path()).args(["image", "load", "--kubeconfig", &kubeconfig, &archive])).ok();
    let pods = ["here", "there"].map(|name| {
        let node = if name == "here" { "lc-r-one" } else { "lc-r-two" };
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, containers: [{{name: main, image: 'skiff/peer:v1', command: [peer, tcp, '7001'], ports: [{{containerPort: 7001, hostPort: 9000}}], volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]}}}}\n---\n")
    });
    fs::write(one.dir.join("pods.yaml"), pods.concat()).expect("it is written");
    kubectl(&["apply", "-f", one.dir.join("pods.yaml").to_str().expect("UTF-8")]).ok();
    let ready = kubectl(&["wait", "--for=condition=Ready", "pod/here", "pod/there", "--timeout=120s"]);
    assert_eq!(ready.code, 0, "{ready:?}\n{}", kubectl(&["describe", "pods"]).stdout);
    let all = ["address", "cgroup", "file", "link", "mount", "process", "route", "sysctl", "table"];
    let changed: Vec<String> =
        difference(&everything(&other, &agent_data), &other_before).into_iter().map(str::to_owned).collect();
    assert_eq!(kinds(&changed), all, "the test sees each kind: {changed:?}");

    // The agent was killed, and its pods run on.
    kill(&other, "kubelet component agent");
    let proof = reset(&other, &["--prove"]);
    assert_eq!(proof.code, 0, "{proof:?}");
    assert!(proof.stdout.ends_with("Nothing of ours is left.\n"), "{proof:?}");
    assert!(!proof.stdout.contains("of ours: "), "{proof:?}");
    let after = everything(&other, &agent_data);
    assert_eq!(
        (difference(&after, &other_before), difference(&other_before, &after)),
        (vec![], vec![]),
        "{proof:?}"
    );
    drop(joined);

    // The supervisor was killed, and what it keeps running runs on. The data stay.
    kill(&one, &format!("{} server", skiff_path().display()));
    let kept = reset(&one, &["--keep-data", "--prove"]);
    assert_eq!(kept.code, 0, "{kept:?}");
    assert!(data.join("store.db").exists());
    drop(server);
    let server = one.skiff("again.txt", &["server", "--data-dir", dir, "--node-ip", "192.168.77.1"]);
    let phase = ["get", "pod", "here", "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}"];
    wait_until("the kept pod runs again", || kubectl(&phase).stdout == "True");

    // And as it stands, with everything alive.
    let elsewhere = reset(&one, &["--data-dir", "/nowhere"]);
    assert_eq!(elsewhere.code, 1, "{elsewhere:?}");
    assert!(super::one_sentence(&elsewhere.stderr).contains("/nowhere"), "{elsewhere:?}");
    let proof = reset(&one, &["--prove"]);
    assert_eq!(proof.code, 0, "{proof:?}");
    let after = everything(&one, &data);
    assert_eq!((difference(&after, &before), difference(&before, &after)), (vec![], vec![]), "{proof:?}");
    drop(server);

    // Once more finds nothing, and cannot prove what was never written down.
    let again = reset(&one, &[]);
    assert!(again.code == 0 && again.stderr.contains("neither server nor agent"), "{again:?}");
    let unproved = reset(&one, &["--prove"]);
    assert_eq!(unproved.code, 1, "{unproved:?}");
    assert!(super::one_sentence(&unproved.stderr).contains("nothing to compare"), "{unproved:?}");
}

#[test]
fn reset_tells_what_volumes_made_on_the_machine() {
    let machine = Machine::start("lc-r-made");
    let (data, dir) = (machine.dir.join("server"), machine.dir.join("paths"));
    fs::create_dir_all(dir.join("there")).expect("makes");
    for command in [
        "ip link add eth0 type veth peer name far",
        "ip address add 192.168.77.1/24 dev eth0",
        "ip link set far up",
        "ip link set eth0 up",
    ] {
        machine.run(&command.split(' ').collect::<Vec<_>>()).ok();
    }
    let args = ["server", "--data-dir", data.to_str().expect("UTF-8"), "--node-ip", "192.168.77.1"];
    let server = machine.skiff("server.txt", &args);
    let kubectl = |args: &[&str]| machine.kubectl(&data, args);
    wait_until("the node is Ready", || kubectl(&["get", "nodes", "--no-headers"]).stdout.contains(" Ready "));
    let archive = format!("{}/skiff-peer-v1.tar", std::env::var("SKIFF_IMAGES").expect("SKIFF_IMAGES"));
    let kubeconfig = data.join("kubeconfig");
    let load = ["image", "load", "--kubeconfig", kubeconfig.to_str().expect("UTF-8"), &archive];
    run(machine.command(&skiff_path()).args(load)).ok();
    let manifest = machine.dir.join("maker.yaml");
    fs::write(&manifest, maker("lc-r-made", dir.to_str().expect("UTF-8"))).expect("it is written");
    kubectl(&["apply", "-f", manifest.to_str().expect("UTF-8")]).ok();
    let ready = kubectl(&["wait", "--for=condition=Ready", "pod/maker", "--timeout=120s"]);
    assert_eq!(ready.code, 0, "{ready:?}\n{}", kubectl(&["describe", "pods"]).stdout);
    kubectl(&["delete", "pod", "maker", "--grace-period=1", "--timeout=120s"]).ok();
    fs::remove_dir(dir.join("gone")).expect("it was made too");
    let proof = reset(&machine, &["--prove"]);
    check_made(&proof, dir.to_str().expect("UTF-8"), "default");
    assert!(dir.join("made/deep").is_dir() && dir.join("there/part").is_dir() && !data.exists());
    drop(server);
}

#[test]
fn a_proof_fails_by_what_is_left_and_not_by_what_others_did() {
    let name = "lc-prove";
    let cluster = Cluster::start(name, 1);
    let range = cluster
        .kubectl(&["get", "node", name, "-o", "jsonpath={.spec.podCIDR}"])
        .ok()
        .replace(".0/24", ".77");
    // Somebody in the node's network, who does not go with the cluster, and a route to one of its pods.
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/run/skiff/{name}/netns/{name}"), "sleep", "infinity"]);
    let guest = Background(command.stdin(Stdio::null()).spawn().expect("it starts"));
    let network = format!("/proc/{}/ns/net", guest.0.id());
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    wait_until("it is there", || fs::read_link(&network).is_ok_and(|there| there != own));
    let network = fs::read_link(&network).expect("a namespace").display().to_string();
    let ip = |args: &[&str]| run(Command::new("ip").args(args)).ok();
    ip(&["route", "add", &format!("{range}/32"), "dev", "lo"]);
    // Somebody else's link, made meanwhile.
    ip(&["link", "add", "lc-prove-guest", "type", "bridge"]);
    let proof = skiff(&["down", "--prove", "--name", name]);
    ip(&["route", "del", &format!("{range}/32"), "dev", "lo"]);
    ip(&["link", "del", "lc-prove-guest"]);
    drop(guest);
    assert_eq!(proof.code, 1, "{proof:?}");
    let lines: Vec<&str> = proof.stdout.lines().collect();
    let left =
        |text: &str| lines.iter().any(|line| line.starts_with("left over of ours: ") && line.contains(text));
    assert!(left(&format!("namespaces: {network}")) && left("routes: lo "), "{proof:?}");
    assert!(lines.contains(&"made by others meanwhile: links: lc-prove-guest"), "{proof:?}");
    assert!(!left("lc-prove-guest"), "{proof:?}");
    assert!(proof.stdout.ends_with("2 of ours differ.\n"), "{proof:?}");

    // Without them it holds, whatever else others do on this machine meanwhile.
    let cluster = Cluster::start(name, 1);
    let proof = skiff(&["down", "--prove", "--name", name]);
    assert_eq!(proof.code, 0, "{proof:?}");
    assert!(proof.stdout.ends_with("Nothing of ours is left.\n"), "{proof:?}");
    let kinds: Vec<&str> =
        proof.stdout.lines().filter_map(|line| line.split(' ').next()).skip(1).take(11).collect();
    assert_eq!(
        kinds,
        [
            "links",
            "addresses",
            "routes",
            "rules",
            "nftables",
            "mounts",
            "cgroups",
            "namespaces",
            "processes",
            "sysctls",
            "files"
        ]
    );
    drop(cluster);
}
