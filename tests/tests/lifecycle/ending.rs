//! An agent that is asked to end does, whatever it is asked for just then, and what runs in pods goes on.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use skiff_tests::{Background, Cluster, skiff_path, wait_until};

use super::{containers, pids, signal};

/// One container writes, one serves, and one will be a registry that hangs.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: alpine, command: [sh, -c, 'mkfifo /go; echo written; exec sleep 999999']}
  - {name: web, image: skiff/peer:v1, command: [peer, tcp, '7001']}
  - {name: silent, image: skiff/peer:v1, command: [peer, tcp, '5000']}
";

/// A command that goes on, once it has written a line with that in it.
fn begun(command: &mut Command, says: &str) -> (Background, impl Read + use<>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    let child = Background(child);
    let mut line = String::new();
    out.read_line(&mut line).expect("it writes");
    assert!(line.contains(says), "{line:?}");
    (child, out)
}

#[test]
fn an_agent_ends_when_it_is_asked_to_and_what_it_was_asked_for_goes_on_or_ends() {
    let cluster = Cluster::start("lc-ending", 1);
    let node = "lc-ending";
    let namespace = cluster.namespace("e");
    namespace.apply(POD).ok();
    namespace.ready("p");
    let kubectl = |args: &[&str]| {
        let mut command = cluster.command("KUBECTL");
        command.args(["-n", "e"]).args(args);
        command
    };
    // The command's line is more than what its pipe holds, and comes when nobody is there to read it.
    let script = "echo started; read line < /go; head -c 300000 /dev/zero; echo $line > /ended";
    let exec = begun(&mut kubectl(&["exec", "-i", "p", "-c", "main", "--", "sh", "-c", script]), "started");
    let logs = begun(&mut kubectl(&["logs", "-f", "p", "-c", "main"]), "written");
    let forward = begun(&mut kubectl(&["port-forward", "pod/p", ":7001"]), "Forwarding from");
    // Connections come about, and nobody answers.
    let all = containers(&cluster, node, "p");
    let silent = all.iter().find(|row| row.0 == "silent").expect("it runs").2.to_string();
    cluster.on_node(node, &["kill", "-STOP", &silent]).ok();
    let registry = format!("{}:5000/hangs:v1", namespace.pod_ip("p"));
    let mut pull = Command::new(skiff_path());
    pull.args(["image", "pull", "--name", &cluster.name, &registry]).stdout(Stdio::null());
    let pull = Background(pull.stderr(Stdio::null()).spawn().expect("it starts"));
    wait_until("the registry was asked", || {
        let sockets = ["exec", "p", "-c", "main", "--", "cat", "/proc/net/tcp", "/proc/net/tcp6"];
        // Established (1), with that port at this end.
        let is_asked = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|local| local.ends_with(":1388")) && fields.get(3) == Some(&"01")
        };
        namespace.kubectl(&sockets).stdout.lines().any(is_asked)
    });

    let agent = pids(&cluster.name, node, "agent");
    assert_eq!(agent.len(), 1);
    signal("TERM", &agent);
    wait_until(
        "another is started in its place",
        || matches!(pids(&cluster.name, node, "agent").as_slice(), [new] if *new != agent[0]),
    );
    let log = fs::read_to_string(cluster.data_dir().join("nodes").join(node).join("logs/agent.log"));
    let log = log.expect("it logs");
    assert!(log.contains("the node agent stops; pods run on") && !log.contains("cut off"), "{log}");
    let in_main = |script: &str| {
        namespace.kubectl(&["exec", "p", "-c", "main", "--", "timeout", "60", "sh", "-c", script])
    };
    wait_until("exec works again", || in_main("true").code == 0);
    in_main("echo on > /go").ok();
    wait_until("the command comes to its end", || in_main("cat /ended").stdout == "on\n");
    drop((exec, logs, forward, pull));
}
