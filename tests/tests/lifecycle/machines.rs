//! `skiff server` and `skiff agent` on machines of their own, which these tests make of namespaces.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use skiff_tests::{Background, Output, run, skiff_path, wait_for, wait_longer, wait_until};

use super::one_sentence;

/// Namespaces and control groups that look like a machine; ends with the value.
pub(crate) struct Machine {
    name: String,
    /// Holds the namespaces.
    holder: Background,
    /// A process inside.
    inside: u32,
    pub(crate) dir: PathBuf,
}

impl Machine {
    pub(crate) fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("skiff-machine-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("machine.sh"), "sh", name]).stdout(Stdio::piped());
        let mut child = command.stdin(Stdio::null()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it speaks");
        assert_eq!(line, "ready\n");
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let inside = fs::read_to_string(children).expect("it has a child").trim().parse().expect("one PID");
        Self { name: name.to_owned(), holder: Background(child), inside, dir }
    }

    /// A command inside, not started yet.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.inside.to_string(), "--"]).arg(program);
        command
    }

    pub(crate) fn run(&self, command: &[&str]) -> Output {
        run(self.command(Path::new(command[0])).args(&command[1..]))
    }

    /// kubectl as the administrator of the server whose data these are.
    pub(crate) fn kubectl(&self, data: &Path, args: &[&str]) -> Output {
        let program = PathBuf::from(std::env::var_os("KUBECTL").expect("KUBECTL"));
        let mut kubectl = self.command(&program);
        run(kubectl.args(args).env("KUBECONFIG", data.join("kubeconfig")).env("HOME", data))
    }

    /// Runs the program under test, with its output in a file, until the value is dropped.
    pub(crate) fn skiff(&self, log: &str, args: &[&str]) -> Background {
        let file = File::create(self.dir.join(log)).expect("a file");
        let mut command = self.command(&skiff_path());
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file);
        Background(command.spawn().expect("it starts"))
    }

    /// The PIDs of the agents inside, as seen from outside.
    fn agents(&self) -> Vec<String> {
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let own = network(&self.inside.to_string());
        let all = fs::read_dir("/proc").expect("there is one").flatten();
        let pids = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_agent = |pid: &String| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"kubelet\0") && network(pid) == own
        };
        pids.filter(is_agent).collect()
    }

    /// Who enters the machine is killed when a value is dropped, what it started there goes on.
    fn end_agents(&self) {
        wait_until("no agent is left", || {
            let pids = self.agents();
            // One that ended by itself meanwhile is as good.
            pids.iter().for_each(|pid| drop(Command::new("kill").args(["-KILL", pid]).output()));
            pids.is_empty()
        });
    }

    pub(crate) fn text(&self, log: &str) -> String {
        fs::read_to_string(self.dir.join(log)).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Everything inside ends with the holder, by its PID namespace.
        let _ = self.holder.0.kill();
        let _ = self.holder.0.wait();
        // The kernel tells nobody when the last process of a v1 cgroup has gone.
        let script = "for i in $(seq 100); do find /sys/fs/cgroup -depth -type d \\( -path \"*/$1/*\" -o -name \"$1\" \\) -exec rmdir {} + 2>/dev/null; find /sys/fs/cgroup -name \"$1\" | grep -q . || exit 0; sleep 0.02; done";
        let _ = run(Command::new("sh").args(["-c", script, "sh", &self.name]));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Joins two machines by a link: 192.168.77.1 and .2. Nothing leads further.
pub(crate) fn join(one: &Machine, other: &Machine) {
    let inside = other.inside.to_string();
    one.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"]).ok();
    // Seen from the machine that the tests run on, both are processes.
    let own = one.inside.to_string();
    let mut enter = Command::new("nsenter");
    enter.args(["--net", "--target", &own, "ip", "link", "set", "far", "netns", &inside, "name", "eth0"]);
    run(&mut enter).ok();
    for (machine, address) in [(one, "192.168.77.1/24"), (other, "192.168.77.2/24")] {
        machine.run(&["ip", "address", "add", address, "dev", "eth0"]).ok();
        machine.run(&["ip", "link", "set", "eth0", "up"]).ok();
    }
}

#[test]
fn a_server_and_an_agent_on_machines_of_their_own_are_a_cluster() {
    let (one, other) = (Machine::start("lc-m-one"), Machine::start("lc-m-two"));
    join(&one, &other);
    let data = one.dir.join("server");
    let data = data.to_str().expect("UTF-8");
    let flags = ["server", "--data-dir", data, "--node-ip", "192.168.77.1"];
    let server = one.skiff("server.txt", &flags);
    let kubeconfig = format!("{data}/kubeconfig");
    let kubectl = |args: &[&str]| one.kubectl(Path::new(data), args);
    wait_until("the server answers", || kubectl(&["get", "--raw", "/readyz"]).code == 0);
    assert!(one.text("server.txt").contains("skiff agent --server https://192.168.77.1:6443 --token"));
    let token = fs::read_to_string(format!("{data}/pki/join-token")).expect("a token").trim().to_owned();

    // A token that is not this cluster's: by its secret, by its authority, by its form.
    let (pin, secret) = token.split_once('.').expect("two parts");
    let agent = |token: &str, dir: &str| {
        let dir = other.dir.join(dir);
        let args =
            ["agent", "--server", "https://192.168.77.1:6443", "--node-ip", "192.168.77.2", "--token", token];
        let args =
            args.map(str::to_owned).into_iter().chain(["--data-dir".into(), dir.display().to_string()]);
        args.collect::<Vec<_>>()
    };
    let turned = |text: &str| text.chars().rev().collect::<String>();
    for (wrong, clue) in [
        (format!("{pin}.{}", turned(secret)), "join token"),
        (format!("{}.{secret}", turned(pin)), "authority"),
        ("nonsense".to_owned(), "malformed"),
    ] {
        let mut command = other.command(Path::new("timeout"));
        let output = run(command.arg("20").arg(skiff_path()).args(agent(&wrong, "wrong")));
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
        let refusal = one_sentence(&output.stderr);
        assert!(refusal.contains(clue) && !refusal.contains(secret), "{refusal}");
    }

    let args = agent(&token, "agent");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let joined = other.skiff("agent.txt", &args);
    wait_until("both nodes are Ready", || {
        let output = kubectl(&["get", "nodes", "--no-headers"]);
        output.stdout.matches(" Ready ").count() == 2
    });
    // One use of the token was enough: neither the agent's files nor its process have it any more.
    wait_until("the token is forgotten", || {
        let kept = fs::read_to_string(other.dir.join("agent/agent.json")).unwrap_or_default();
        !kept.is_empty() && !kept.contains(secret)
    });
    for pid in other.agents() {
        for file in ["cmdline", "environ"] {
            let shown = fs::read(format!("/proc/{pid}/{file}")).expect("it runs");
            assert!(!String::from_utf8_lossy(&shown).contains(secret), "{file} shows the token");
        }
    }
    let images = std::env::var("SKIFF_IMAGES").expect("SKIFF_IMAGES");
    let archive = format!("{images}/skiff-peer-v1.tar");
    run(one.command(&skiff_path()).args(["image", "load", "--kubeconfig", &kubeconfig, &archive])).ok();
    let pod = |name: &str, node: &str| {
        let text = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"nodeName\":\"{node}\",\"terminationGracePeriodSeconds\":1,\"containers\":[{{\"name\":\"main\",\"image\":\"skiff/peer:v1\",\"command\":[\"peer\",\"tcp\",\"7001\"]}}]}}}}"
        );
        let file = one.dir.join(format!("{name}.json"));
        fs::write(&file, text).expect("it is written");
        kubectl(&["apply", "-f", file.to_str().expect("UTF-8")]).ok();
    };
    pod("here", "lc-m-one");
    pod("there", "lc-m-two");
    let ready = kubectl(&["wait", "--for=condition=Ready", "pod/here", "pod/there", "--timeout=120s"]);
    assert_eq!(
        ready.code,
        0,
        "{ready:?}\n{}\n{}",
        kubectl(&["describe", "pods"]).stdout,
        other.text("agent.txt")
    );
    let ip = kubectl(&["get", "pod", "there", "-o", "jsonpath={.status.podIP}"]).ok();
    let answer = wait_for("pods of both machines reach each other", || {
        let output = kubectl(&["exec", "here", "--", "peer", "get", &format!("{ip}:7001")]);
        (output.code == 0).then_some(output.stdout)
    });
    let own = kubectl(&["get", "pod", "here", "-o", "jsonpath={.status.podIP}"]).ok();
    assert_eq!(answer.trim(), format!("there {own}"), "by its own address");

    // The agent is started again without the token's being asked for, which is gone: it kept what it got.
    drop(joined);
    other.end_agents();
    let id = secret.split_once('.').expect("a bootstrap token").0;
    kubectl(&["-n", "kube-system", "delete", "secret", &format!("bootstrap-token-{id}")]).ok();
    let kept = other.dir.join("agent/membership.json");
    let mode = fs::metadata(&kept).expect("it is kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = other.skiff("again.txt", &args);
    wait_until("exec works", || kubectl(&["exec", "there", "--", "hostname"]).stdout == "there\n");
    let count = "jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl(&["get", "pod", "there", "-o", count]).ok(), "0");
    drop(again);
    other.end_agents();

    // One that lost what it kept is told what to do, and helped by another token.
    fs::remove_file(&kept).expect("it is there");
    let mut command = other.command(Path::new("timeout"));
    let output = run(command.arg("20").arg(skiff_path()).args(&args));
    assert_eq!(output.code, 1, "{output:?}");
    let refusal = one_sentence(&output.stderr);
    assert!(refusal.contains("`skiff token create`") && !refusal.contains(secret), "{refusal}");
    let made = run(one.command(&skiff_path()).args(["token", "create", "--kubeconfig", &kubeconfig])).ok();
    let args = agent(made.trim(), "agent");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let healed = other.skiff("healed.txt", &args);
    // There is a Node of that name, so a token alone makes nobody it: an administrator has to say so.
    let asked = wait_for("its request waits", || {
        let list: serde_json::Value =
            serde_json::from_str(&kubectl(&["get", "csr", "-o", "json"]).stdout).ok()?;
        let waits = |csr: &&serde_json::Value| {
            csr["status"]["conditions"].is_null()
                && csr["spec"]["username"].as_str().is_some_and(|name| name.starts_with("system:bootstrap:"))
        };
        list["items"].as_array()?.iter().find(waits)?["metadata"]["name"].as_str().map(str::to_owned)
    });
    kubectl(&["certificate", "approve", &asked]).ok();
    wait_until("exec works again", || kubectl(&["exec", "there", "--", "hostname"]).stdout == "there\n");
    assert_eq!(kubectl(&["get", "pod", "there", "-o", count]).ok(), "0");
    // Its port proves by its certificate that it is at that address, and takes an administrator's.
    let door = ["--server", "https://192.168.77.2:10250", "get", "--raw", "/healthz"];
    wait_until("its certificate names its address", || kubectl(&door).stdout == "ok");
    drop(healed);
    drop(server);
}

/// A machine that never was a member, and tokens that the administrator makes for it.
#[test]
fn a_machine_joins_with_a_token_that_was_made_for_it_and_with_no_other() {
    let (one, other) = (Machine::start("lc-m-own"), Machine::start("lc-m-new"));
    join(&one, &other);
    let data = one.dir.join("server");
    let data = data.to_str().expect("UTF-8");
    let _server = one.skiff("server.txt", &["server", "--data-dir", data, "--node-ip", "192.168.77.1"]);
    let kubeconfig = format!("{data}/kubeconfig");
    let kubectl = |args: &[&str]| one.kubectl(Path::new(data), args);
    wait_until("the server answers", || kubectl(&["get", "--raw", "/readyz"]).code == 0);
    let token = |args: &[&str]| {
        let mut command = one.command(&skiff_path());
        run(command.arg("token").args(args).args(["--kubeconfig", &kubeconfig])).ok()
    };
    let dir = other.dir.join("agent").display().to_string();
    let agent = |token: &str| -> Vec<String> {
        let server = ["--server", "https://192.168.77.1:6443", "--node-ip", "192.168.77.2"];
        let flags = ["--token", token, "--data-dir", &dir];
        ["agent"].into_iter().chain(server).chain(flags).map(str::to_owned).collect()
    };
    let refused = |token: &str| {
        let mut command = other.command(Path::new("timeout"));
        let output = run(command.arg("20").arg(skiff_path()).args(agent(token)));
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
        let secret = token.rsplit('.').next().expect("a part");
        assert!(!output.stderr.contains(secret), "{output:?}");
        one_sentence(&output.stderr).to_owned()
    };

    // One that has ended, whether it was swept away already or not.
    let short = token(&["create", "--ttl", "1s"]);
    let short = short.trim();
    let id = short.split('.').nth(1).expect("three parts");
    wait_until("the token has ended", || {
        token(&["list"])
            .lines()
            .find(|line| line.starts_with(id))
            .is_none_or(|line| line.contains("<expired>"))
    });
    let refusal = refused(short);
    assert!(refusal.contains("does not know the join token, or it has expired: make another"), "{refusal}");

    let good = token(&["create", "--description", "for a rack"]);
    let good = good.trim();
    let (pin, rest) = good.split_once('.').expect("three parts");
    let turned: String = pin.chars().rev().collect();
    let refusal = refused(&format!("{turned}.{rest}"));
    assert!(refusal.contains("is not the one that the join token names"), "{refusal}");
    assert_eq!(kubectl(&["get", "nodes", "-o", "name"]).ok(), "node/lc-m-own\n", "nobody joined by these");

    let args = agent(good);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let joined = other.skiff("agent.txt", &args);
    wait_until("it is a node", || kubectl(&["get", "node", "lc-m-new"]).code == 0);
    // One use was enough: what it does from here on, it does by its certificate.
    token(&["delete", good]);
    wait_until("it is Ready", || {
        kubectl(&["get", "node", "lc-m-new", "--no-headers"]).stdout.contains(" Ready ")
    });
    drop(joined);
}

/// Certificates that are good for a minute, and a node that is there for longer.
#[test]
fn a_node_gets_other_certificates_before_its_own_end() {
    let one = Machine::start("lc-m-short");
    one.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"]).ok();
    one.run(&["ip", "link", "set", "far", "up"]).ok();
    one.run(&["ip", "address", "add", "192.168.77.1/24", "dev", "eth0"]).ok();
    one.run(&["ip", "link", "set", "eth0", "up"]).ok();
    let data = one.dir.join("server");
    let data = data.to_str().expect("UTF-8");
    let flags =
        ["server", "--data-dir", data, "--node-ip", "192.168.77.1", "--cluster-signing-duration", "1m"];
    let _server = one.skiff("server.txt", &flags);
    let kubectl = |args: &[&str]| one.kubectl(Path::new(data), args);
    wait_until("the node is Ready", || kubectl(&["get", "nodes", "--no-headers"]).stdout.contains(" Ready "));
    let kept = |which: &str| {
        let text = fs::read_to_string(one.dir.join("server/agent/membership.json")).expect("it is kept");
        let kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        kept[which]["certificate"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("it serves", || !kept("serving").is_empty());
    // From here on there is no token: nothing helps but the certificate itself.
    let tokens =
        ["-n", "kube-system", "delete", "secrets", "--field-selector=type=bootstrap.kubernetes.io/token"];
    kubectl(&tokens).ok();
    let (client, serving) = (kept("client"), kept("serving"));
    let end = Timestamp::now() + Duration::from_secs(60);
    let agent = one.agents();
    assert_eq!(agent.len(), 1);
    wait_longer("it has another client certificate", || kept("client") != client);
    wait_longer("and another to serve with", || kept("serving") != serving);
    // Past the end of the first one, it is still a node, and its door still opens.
    wait_longer("it writes its lease after the first one's end", || {
        let lease =
            ["-n", "kube-node-lease", "get", "lease", "lc-m-short", "-o", "jsonpath={.spec.renewTime}"];
        kubectl(&lease).stdout.parse::<Timestamp>().is_ok_and(|renewed| renewed > end)
    });
    assert_eq!(kubectl(&["get", "--raw", "/api/v1/nodes/lc-m-short/proxy/healthz"]).ok(), "ok");
    assert_eq!(one.agents(), agent, "without a restart");
}
