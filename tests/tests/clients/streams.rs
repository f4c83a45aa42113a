//! logs, exec, attach, cp and port-forward, over WebSocket (1.35) and SPDY (1.20).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use skiff_tests::{Background, Cluster, Namespace, Output, http_get, run, wait_for, wait_until};

use crate::{BOTH, sleeper, with};

fn piped(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("kubectl reads");
    let output = child.wait_with_output().expect("kubectl ends");
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}

fn one_pod(name: &str) -> Namespace {
    let namespace = Cluster::shared().namespace(name);
    namespace.apply(&sleeper("p")).ok();
    namespace.ready("p");
    namespace
}

#[test]
fn exec_passes_codes_and_streams() {
    let namespace = one_pod("s-exec");
    for which in BOTH {
        let exec = |command: &[&str]| {
            let mut all = vec!["exec", "p", "--"];
            all.extend(command);
            with(&namespace, which, &all)
        };
        let failed = exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"));
        assert_eq!(failed.stderr, "err\ncommand terminated with exit code 7\n");
        let absent = exec(&["nonexistent"]).err();
        assert!(absent.contains("exec: \"nonexistent\": executable file not found in $PATH"), "{absent}");
        let container = with(&namespace, which, &["exec", "p", "-c", "none", "--", "ls"]).err();
        assert_eq!(container, "Error from server (BadRequest): container none is not valid for pod p\n");
        assert_eq!(exec(&["cat"]).ok(), "", "without -i there is no input");
        // The end of the input ends the program; its last words arrive.
        let mut command = namespace.cluster.command(which);
        command.args(["-n", "s-exec", "exec", "-i", "p", "--", "sh", "-c", "wc -c; echo end"]);
        let counted = piped(&mut command, &"x".repeat(1_000_000)).ok();
        assert_eq!(counted.split_whitespace().collect::<Vec<_>>(), ["1000000", "end"]);
        assert_eq!(exec(&["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' y"]).ok().len(), 3_000_000);
    }
}

#[test]
fn a_command_whose_kubectl_is_killed_comes_to_its_end() {
    let namespace = one_pod("s-killed");
    for which in BOTH {
        let script = format!(
            "mkfifo /go-{which}; echo started; cat; echo gone > /gone-{which}; \
             head -c 1000000 /dev/zero && read line < /go-{which} && echo $line > /ended-{which}"
        );
        let mut command = namespace.cluster.command(which);
        command.args(["-n", "s-killed", "exec", "-i", "p", "--", "sh", "-c", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        out.read_line(&mut line).expect("kubectl writes");
        assert_eq!(line, "started\n");
        drop(Background(child));
        let has = |file: &str| namespace.exec("p", &["cat", &format!("/{file}-{which}")]).code == 0;
        wait_until("the command hears that its input has ended", || has("gone"));
        // Who opens a pipe for writing waits for its reader, which comes when all before is written.
        namespace.exec("p", &["timeout", "60", "sh", "-c", &format!("echo on > /go-{which}")]).ok();
        wait_until("it goes on to its end", || has("ended"));
    }
}

#[test]
fn no_output_of_a_short_command_is_lost() {
    let namespace = Cluster::shared().namespace("s-short");
    let short = |name: &str, script: &str, input: &str| {
        let mut command = namespace.cluster.command("KUBECTL");
        command.args([
            "-n",
            "s-short",
            "run",
            "-i",
            "--rm",
            "--restart=Never",
            "--image=alpine",
            "--quiet",
            name,
        ]);
        piped(command.args(["--", "sh", "-c", script]), input)
    };
    for round in 0..30 {
        // It has ended before anybody can attach.
        let ended = short(&format!("a{round}"), "echo out; echo err >&2", "");
        // kubectl itself turns to the log, which is one stream, where it sees the pod end first.
        assert_eq!((ended.code, ended.stdout.lines().next()), (0, Some("out")), "{ended:?}");
        assert!(!ended.stderr.contains("couldn't attach"), "{ended:?}");
        assert!(ended.stderr.contains("err\n") || ended.stdout == "out\nerr\n", "{ended:?}");
        // It waits for its input, having said something before.
        let waits = short(&format!("b{round}"), "echo early; cat; exit 3", "typed\n");
        assert_eq!((waits.code, waits.stdout.as_str()), (3, "early\ntyped\n"), "{waits:?}");
    }
}

#[test]
fn attach_reaches_the_running_process() {
    let namespace = Cluster::shared().namespace("s-attach");
    for (which, name) in BOTH.into_iter().zip(["a", "b"]) {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: alpine, stdin: true, stdinOnce: true, command: [sh, -c, 'while read l; do echo got $l; done; echo end']}}]}}}}"
        );
        namespace.apply(&pod).ok();
        namespace.ready(name);
        let mut command = namespace.cluster.command(which);
        let attached = piped(command.args(["-n", "s-attach", "attach", "-i", name]), "one\ntwo\n").ok();
        assert_eq!(attached, "got one\ngot two\nend\n");
        wait_until("it has ended", || namespace.pod(name)["status"]["phase"] == "Succeeded");
        assert_eq!(with(&namespace, which, &["logs", name]).ok(), "got one\ngot two\nend\n");
    }
    let run = namespace.pipe(
        &[
            "run",
            "c",
            "--image=alpine",
            "-i",
            "--rm",
            "--restart=Never",
            "--quiet",
            "--",
            "sh",
            "-c",
            "read l; echo heard $l",
        ],
        "me\n",
    );
    assert!(run.ok().starts_with("heard me\n"));
    wait_until("it is removed", || namespace.kubectl(&["get", "pod", "c"]).code != 0);
}

#[test]
fn cp_copies_trees_both_ways() {
    let namespace = one_pod("s-cp");
    for which in BOTH {
        let dir = namespace.cluster.data_dir().join(format!("{which}-cp"));
        fs::create_dir_all(dir.join("tree/below")).expect("a directory");
        let bytes: Vec<u8> =
            (0..2_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(dir.join("tree/below/big"), &bytes).expect("writes");
        fs::write(dir.join("tree/small"), "small\n").expect("writes");
        let cp = |from: &str, to: &str| {
            run(namespace.cluster.command(which).current_dir(&dir).args(["-n", "s-cp", "cp", from, to])).ok()
        };
        cp("tree", &format!("p:/tmp/{which}"));
        cp(&format!("p:/tmp/{which}"), "back");
        assert!(fs::read(dir.join("back/below/big")).expect("it came back") == bytes);
        assert_eq!(fs::read_to_string(dir.join("back/small")).expect("it came back"), "small\n");
        fs::remove_dir_all(&dir).expect("removes");
    }
}

#[test]
fn port_forward_serves_again_and_again() {
    let namespace = Cluster::shared().namespace("s-forward");
    namespace.kubectl(&["run", "web", "--image=luksa/kubia", "--port=8080", "--expose"]).ok();
    namespace.ready("web");
    let forward = |which: &str, target: &str, port: &str| {
        let mut command = namespace.cluster.command(which);
        command.args(["-n", "s-forward", "port-forward", "--address=127.0.0.1", target, &format!(":{port}")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Background(command.spawn().expect("kubectl starts"));
        let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
        let line = lines.next().expect("a line").expect("it reads");
        let address =
            line.strip_prefix("Forwarding from ").and_then(|l| l.split(' ').next()).expect("an address");
        (child, address.to_owned(), lines)
    };
    for which in BOTH {
        for (target, port) in [("pod/web", "8080"), ("service/web", "8080")] {
            let (_child, address, _lines) = forward(which, target, port);
            for _ in 0..3 {
                let answer = wait_for("an answer", || http_get(&address).ok());
                assert_eq!(answer.trim_end(), "You've hit web", "{which} {target}");
            }
        }
        let (mut child, address, _lines) = forward(which, "pod/web", "81");
        let answer = http_get(&address);
        assert!(answer.as_ref().map_or(true, String::is_empty), "{answer:?}");
        let errors = BufReader::new(child.0.stderr.take().expect("it is piped")).lines();
        let said = errors.map_while(Result::ok).find(|line| line.contains("an error occurred forwarding"));
        assert!(said.is_some_and(|line| line.contains("refused")), "{which}");
    }
}

#[test]
fn logs_by_container_time_and_selector() {
    let namespace = Cluster::shared().namespace("s-logs");
    namespace
        .apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers: [{name: first, image: alpine, command: [echo, from init]}]
  containers:
  - {name: a, image: alpine, command: [sh, -c, 'echo from a; sleep 999999 & wait']}
  - {name: b, image: alpine, command: [sh, -c, 'echo one; echo two; sleep 999999 & wait']}
",
        )
        .ok();
    namespace.ready("two");
    wait_until("all have spoken", || {
        let log = namespace.kubectl(&["logs", "two", "--all-containers"]).ok();
        log.contains("from a\n") && log.contains("two\n")
    });
    for which in BOTH {
        let logs = |args: &[&str]| {
            let mut all = vec!["logs"];
            all.extend(args);
            with(&namespace, which, &all)
        };
        assert_eq!(logs(&["two", "-c", "a"]).ok(), "from a\n");
        assert_eq!(logs(&["two", "-c", "b", "--tail=1"]).ok(), "two\n");
        assert_eq!(logs(&["two", "-c", "b", "--limit-bytes=3"]).ok(), "one");
        // kubectl asks for the containers in no order.
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let all = sorted(logs(&["two", "--all-containers"]).ok());
        assert_eq!(all, ["from a", "from init", "one", "two"]);
        let prefixed = sorted(logs(&["-l", "app=two", "--all-containers", "--prefix"]).ok());
        let wanted =
            ["[pod/two/a] from a", "[pod/two/b] one", "[pod/two/b] two", "[pod/two/first] from init"];
        assert_eq!(prefixed, wanted);
        let stamped = logs(&["two", "-c", "a", "--timestamps"]).ok();
        let (time, text) = stamped.split_once(' ').expect("a time and a text");
        assert!(
            text == "from a\n" && time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000000Z".len(),
            "{stamped}"
        );
        assert_eq!(logs(&["two", "-c", "a", "--since-time=2100-01-01T00:00:00Z"]).ok(), "");
        let previous = logs(&["two", "-c", "a", "--previous"]).err();
        assert_eq!(
            previous,
            "Error from server (BadRequest): previous terminated container \"a\" in pod \"two\" not found\n"
        );
    }
}

#[test]
fn the_log_before_a_restart_is_kept() {
    let namespace = Cluster::shared().namespace("s-previous");
    namespace.apply("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: main, image: alpine, command: [sh, -c, 'echo life; exit 3']}]}}").ok();
    wait_until("it was restarted", || {
        namespace.pod("p")["status"]["containerStatuses"][0]["restartCount"]
            .as_u64()
            .is_some_and(|count| count > 0)
    });
    for which in BOTH {
        assert_eq!(with(&namespace, which, &["logs", "p", "--previous"]).ok(), "life\n");
    }
    let status = namespace.pod("p")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    let described = namespace.kubectl(&["describe", "pod", "p"]).ok();
    assert!(described.contains("Exit Code:    3"), "{described}");
}
