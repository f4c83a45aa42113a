//! G: kubectl as in the notes, new and old.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use skiff_tests::{Background, Cluster, manifest, skiff, wait_for, wait_until};

const SLEEPER: &str = "{apiVersion: v1, kind: Pod, metadata: {name: sleeper}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: alpine, command: [sh, -c, 'echo started; sleep 999999 & wait']}]}}";

#[test]
fn g_create_get_describe_exec_logs_delete() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("g");
    assert_eq!(namespace.pipe(&["create", "-f", "-"], SLEEPER).ok(), "pod/sleeper created\n");
    assert_eq!(
        namespace.apply(&SLEEPER.replace("{name: sleeper}", "{name: other}")).ok(),
        "pod/other created\n"
    );
    // Both, since the widest status makes the column.
    ["sleeper", "other"].iter().for_each(|pod| namespace.ready(pod));
    let listing = namespace.kubectl(&["get", "pods"]).ok();
    assert!(listing.starts_with("NAME ") && listing.contains("1/1     Running   0"), "{listing}");
    let wide = namespace.kubectl(&["get", "po", "-o", "wide"]).ok();
    assert!(wide.contains("NOMINATED NODE"), "{wide}");
    // Events come in their own time.
    for text in ["Successfully assigned g/sleeper to", "Created", "Started", "QoS Class:", "BestEffort"] {
        wait_until(&format!("{text} is shown"), || {
            namespace.kubectl(&["describe", "pods", "sleeper"]).ok().contains(text)
        });
    }
    for (reason, text) in [
        ("Scheduled", "Successfully assigned g/sleeper to "),
        ("Pulling", "Pulling image \"alpine\""),
        ("Pulled", "Successfully pulled image \"alpine\" in "),
        ("Created", "Container created"),
        ("Started", "Container started"),
    ] {
        let message = namespace.event("sleeper", reason, text);
        assert!(message.starts_with(text), "{reason}: {message}");
    }
    let pulled = namespace.event("sleeper", "Pulled", " including waiting). Image size: ");
    assert!(pulled.ends_with(" bytes."), "{pulled}");
    assert_eq!(namespace.exec("sleeper", &["echo", "hello"]).ok(), "hello\n");
    assert_eq!(namespace.exec("sleeper", &["sh", "-c", "exit 7"]).code, 7);
    let output = namespace.exec("sleeper", &["sh", "-c", "echo out; echo err >&2"]);
    assert!(output.stdout == "out\n" && output.stderr.starts_with("err\n"), "{output:?}");
    let log = wait_for("its program speaks", || {
        Some(namespace.kubectl(&["logs", "sleeper"]).ok()).filter(|log| !log.is_empty())
    });
    assert_eq!(log, "started\n");
    let deleted = namespace.kubectl(&["delete", "pods", "sleeper"]).ok();
    assert!(deleted.starts_with("pod \"sleeper\" deleted"), "{deleted}");
    let missing = namespace.kubectl(&["get", "pod", "sleeper"]).err();
    assert_eq!(missing, "Error from server (NotFound): pods \"sleeper\" not found\n");
}

#[test]
fn g_delete_by_file() {
    let namespace = Cluster::shared().namespace("g-file");
    namespace.kubectl(&["create", "-f", &manifest("host-pid-ipc.yaml")]).ok();
    let deleted =
        namespace.kubectl(&["delete", "-f", &manifest("host-pid-ipc.yaml"), "--grace-period=1"]).ok();
    assert!(deleted.starts_with("pod \"pod-with-host-pid-and-ipc\" deleted"), "{deleted}");
}

#[test]
fn g_exec_takes_input_and_a_terminal() {
    let namespace = Cluster::shared().namespace("g-tty");
    namespace.apply(SLEEPER).ok();
    namespace.ready("sleeper");
    assert_eq!(namespace.pipe(&["exec", "-i", "sleeper", "--", "cat"], "through\n").ok(), "through\n");
    // `script` gives kubectl the terminal that -t asks for.
    let command = namespace.cluster.command("KUBECTL");
    let kubectl = command.get_program().to_str().expect("UTF-8").to_owned();
    let mut script = std::process::Command::new("script");
    script.env("KUBECONFIG", &namespace.cluster.kubeconfig).stdin(Stdio::piped()).stdout(Stdio::piped());
    script.args(["-qec", &format!("{kubectl} -n g-tty exec -it sleeper -- sh"), "/dev/null"]);
    let mut child = script.spawn().expect("script starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(b"tty; echo sum $((40 + 2)); exit 3\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/0") && text.contains("sum 42"), "{text}");
    assert_eq!(output.status.code(), Some(3), "the shell's own: {text}");
}

#[test]
fn g_logs_follow_until_the_end() {
    let namespace = Cluster::shared().namespace("g-logs");
    namespace
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: counter}, spec: {restartPolicy: Never, containers: [{name: main, image: alpine, command: [sh, -c, 'echo line 1; until [ -e /go ]; do sleep 0.02; done; echo line 2; echo line 3']}]}}")
        .ok();
    namespace.ready("counter");
    let mut follow = namespace.cluster.command("KUBECTL");
    follow.args(["-n", "g-logs", "logs", "-f", "counter"]).stdout(Stdio::piped());
    let mut follow = Background(follow.spawn().expect("kubectl starts"));
    let mut lines = BufReader::new(follow.0.stdout.take().expect("it is piped")).lines();
    let mut line = || lines.next().map(|line| line.expect("UTF-8"));
    // What is printed after it has begun comes too, and the end is the end.
    assert_eq!(line().as_deref(), Some("line 1"));
    namespace.exec("counter", &["touch", "/go"]).ok();
    assert_eq!([line(), line(), line()], [Some("line 2".into()), Some("line 3".into()), None]);
    assert!(follow.0.wait().expect("it ends").success());
    wait_until("it has ended", || namespace.pod("counter")["status"]["phase"] == "Succeeded");
    assert_eq!(namespace.kubectl(&["logs", "counter", "--tail=1"]).ok(), "line 3\n");
}

#[test]
fn g_the_old_kubectl_works_too() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("g-old");
    let applied = cluster.old_kubectl(&["-n", "g-old", "apply", "-f", &manifest("host-pid-ipc.yaml")]).ok();
    assert_eq!(applied, "pod/pod-with-host-pid-and-ipc created\n");
    namespace.ready("pod-with-host-pid-and-ipc");
    let old = |args: &[&str]| {
        let mut all = vec!["-n", "g-old"];
        all.extend(args);
        cluster.old_kubectl(&all)
    };
    assert_eq!(old(&["exec", "pod-with-host-pid-and-ipc", "echo", "old form"]).ok(), "old form\n");
    assert!(old(&["get", "pods"]).ok().contains("1/1     Running"));
    wait_until("its events are shown", || {
        old(&["describe", "pod", "pod-with-host-pid-and-ipc"]).ok().contains("Started")
    });
    let refused = old(&["apply", "-f", &manifest("simpleweb-env-number.yaml")]).err();
    assert!(refused.contains("EnvVar.spec.containers.env.value of type string"), "{refused}");
    // Its own validation, by `/openapi/v2`, before it sends anything.
    let directory = tempfile::tempdir().expect("a directory");
    let misspelt = directory.path().join("misspelt.yaml");
    let wrong =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {hostNetwrk: true, containers: [{name: c}]}\n";
    std::fs::write(&misspelt, wrong).expect("it is written");
    let refused = old(&["apply", "-f", misspelt.to_str().expect("UTF-8")]).err();
    let own = "ValidationError(Pod.spec): unknown field \"hostNetwrk\" in io.k8s.api.core.v1.PodSpec";
    assert!(refused.contains(own), "{refused}");
    let deleted = old(&["delete", "pod", "pod-with-host-pid-and-ipc", "--grace-period=1"]).ok();
    assert_eq!(deleted, "pod \"pod-with-host-pid-and-ipc\" deleted\n");
}

#[test]
fn g_an_environment_value_that_is_a_number_is_refused() {
    let namespace = Cluster::shared().namespace("g-env");
    let refused = namespace.apply_file("simpleweb-env-number.yaml").err();
    assert!(
        refused.contains("json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"),
        "{refused}"
    );
    assert_ne!(namespace.kubectl(&["get", "pod", "simpleweb"]).code, 0, "nothing was made");
}

#[test]
fn g_the_platform_s_own_parts_are_no_pods() {
    let cluster = Cluster::shared();
    let pods = cluster.object(&["-n", "kube-system", "pods"]);
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(0));
    let listing = skiff(&["status", "--name", &cluster.name, "-o", "json"]).ok();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listing).expect("JSON");
    let count = |role: &str| rows.iter().filter(|row| row["role"] == role && row["health"] == "ok").count();
    assert_eq!((count("server"), count("agent"), count("init")), (1, 3, 3), "{rows:?}");
    // The shims of other tests' pods come and go meanwhile.
    for row in rows.iter().filter(|row| row["role"] != "shim") {
        let pid = row["pid"].as_u64().expect("a PID");
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{row}");
    }
}
