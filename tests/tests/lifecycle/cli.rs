//! What a user may rely on of the command line itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use skiff_tests::{Background, Cluster, Output, run, skiff, skiff_path, wait_until};

use super::one_sentence;

const COMMANDS: &[&[&str]] = &[
    &[],
    &["up"],
    &["down"],
    &["server"],
    &["agent"],
    &["reset"],
    &["status"],
    &["node"],
    &["node", "ls"],
    &["node", "shell"],
    &["logs"],
    &["ps"],
    &["image"],
    &["image", "load"],
    &["image", "pull"],
    &["image", "ls"],
    &["image", "rm"],
    &["image", "save"],
    &["kubectl"],
    &["version"],
    &["completion"],
];

#[test]
fn every_command_explains_itself_and_a_wrong_one_ends_with_2() {
    for command in COMMANDS {
        let mut args = command.to_vec();
        args.push("--help");
        let output = skiff(&args);
        assert!(output.code == 0 && output.stdout.contains("Usage: skiff"), "{args:?}: {output:?}");
        // Each flag and command says what it is for.
        args.pop();
        args.push("--no-such-flag");
        if *command != ["kubectl"] {
            let output = skiff(&args);
            assert!(
                output.code == 2 && output.stdout.is_empty() && output.stderr.starts_with("error: "),
                "{args:?}: {output:?}"
            );
        }
    }
    for args in [
        &["no-such-command"][..],
        &["up", "--nodes", "0"],
        &["up", "--nodes", "x"],
        &["up", "--pod-cidr", "10.0.0.1/16"],
        &["up", "--pod-cidr", "10.244.0.0/30"],
        &["up", "--name", "Bad Name"],
        &["down", "--name", "Bad Name"],
        &["server", "--pod-cidr", "10.244.0.0/30"],
        &["server", "--service-cidr", "10.96.0.0/30"],
        &["agent", "--server", "foo", "--token", "a.b"],
        &["agent", "--server", "https://192.0.2.1:6443", "--token", "a.b", "--image-gc-low-threshold", "101"],
        &["logs"],
        &["completion", "tcsh"],
    ] {
        let output = skiff(args);
        assert!(output.code == 2 && output.stderr.starts_with("error: "), "{args:?}: {output:?}");
    }
    let agent = skiff(&["agent", "--help"]).ok();
    assert_eq!(agent.matches("[env: SKIFF_TOKEN]").count(), 1, "{agent}");
    assert!(skiff(&["--version"]).ok().starts_with("skiff "));
    let version: Value = serde_json::from_str(&skiff(&["version", "-o", "json"]).ok()).expect("JSON");
    assert!(version["kubernetes"].as_str().is_some_and(|text| text.starts_with("v1.36")), "{version}");
}

#[test]
fn completion_scripts_parse() {
    for shell in ["bash", "zsh", "fish"] {
        let script = skiff(&["completion", shell]).ok();
        assert!(
            script.contains("kubeconfig") && !script.contains("component"),
            "{shell}: the user's commands only"
        );
        let path = std::env::temp_dir().join(format!("skiff-completion-{}.{shell}", std::process::id()));
        fs::write(&path, &script).expect("it is written");
        // Those of the shells that are installed; bash always is.
        if shell == "bash" || Command::new(shell).arg("-c").arg("true").stdout(Stdio::null()).status().is_ok()
        {
            assert_eq!(run(Command::new(shell).arg("-n").arg(&path)).ok(), "");
        }
        fs::remove_file(path).expect("it is there");
        // Nobody reads it: the other end of the pipe is closed before the command begins.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(skiff_path());
        let unread = command.args(["completion", shell]).stdout(writer).stderr(Stdio::piped()).output();
        let unread = unread.expect("it ends");
        let said = String::from_utf8_lossy(&unread.stderr);
        assert!(unread.status.success() && said.is_empty(), "{shell}: {:?} {said}", unread.status);
    }
}

#[test]
fn what_needs_root_says_so() {
    // A copy, since the build directory need not be open to everyone.
    let program = std::env::temp_dir().join(format!("skiff-copy-{}", std::process::id()));
    // By another program: what another test starts just then would hold the open file, and nobody may execute it.
    run(Command::new("cp").arg(skiff_path()).arg(&program)).ok();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    for args in [
        &["up"][..],
        &["down"],
        &["server"],
        &["agent", "--server", "https://192.0.2.1:6443", "--token", "a.b"],
        &["reset"],
        &["node", "shell", "x"],
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        let output = run(&mut command);
        assert_eq!(output.code, 1, "{args:?}: {output:?}");
        assert!(one_sentence(&output.stderr).contains("as root"), "{args:?}: {output:?}");
    }
    fs::remove_file(program).expect("it is there");
}

#[test]
fn commands_about_a_running_cluster() {
    let cluster = Cluster::start("lc-cli", 2);
    let (first, worker) = ("lc-cli-control-plane", "lc-cli-worker-1");
    let ok = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--name", "lc-cli"]);
        skiff(&all).ok()
    };
    let failed = |args: &[&str]| {
        let output = skiff(args);
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{args:?}: {output:?}");
        one_sentence(&output.stderr).to_owned()
    };
    for command in [&["node", "ls"][..], &["status"], &["ps"], &["image", "ls"], &["token", "ls"]] {
        let with = |format: &str| {
            let mut all = command.to_vec();
            all.extend(["-o", format]);
            ok(&all)
        };
        let rows: Vec<Value> = serde_json::from_str(&with("json")).expect("JSON");
        let keys = rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys());
        let foreign: Vec<&String> = keys.filter(|key| key.contains(['_', '-'])).collect();
        assert!(foreign.is_empty(), "{command:?}: not in camelCase: {foreign:?}");
        let table = with("table");
        assert_eq!(table.lines().count(), rows.len() + 1, "{command:?}: {table}");
        assert!(table.starts_with(|c: char| c.is_ascii_uppercase()), "{table}");
        let yaml = with("yaml");
        assert!(rows.is_empty() || yaml.starts_with("- "), "{yaml}");
    }
    let listing = ok(&["node", "ls"]);
    assert!(listing.contains(first) && listing.contains(worker), "{listing}");
    assert_eq!(listing.matches(" yes ").count(), 2, "{listing}");
    let roles = ok(&["status"]);
    for role in ["init", "server", "agent"] {
        assert!(roles.contains(role), "{roles}");
    }
    let logs = ok(&["logs", first]);
    assert!(logs.lines().any(|line| line.starts_with("server ")) && logs.contains("\nagent "), "{logs}");
    let refusal = failed(&["logs", "--name", "lc-cli", "nobody"]);
    assert!(refusal.contains("\"nobody\"") && refusal.contains(worker), "{refusal}");
    assert!(failed(&["status", "--name", "lc-none"]).contains("lc-none"));
    assert!(failed(&["ps", "--kubeconfig", "/nonexistent"]).contains("/nonexistent"));
    assert!(failed(&["ps", "--name", "lc-cli", "--node", "nobody"]).contains("nobody"));

    // An image goes out as an archive, away, and in again, as the same image.
    let (node, name) = (["--node", worker], "docker.io/library/nginx:latest");
    let image = |name: &str| {
        let rows: Vec<Value> = serde_json::from_str(&ok(&["image", "ls", "-o", "json"])).expect("JSON");
        rows.into_iter().find(|row| row["image"] == name)
    };
    let before = image(name).expect("it was loaded by up");
    assert!(before["sizeBytes"].as_u64() > Some(0), "{before}");
    let archive = cluster.data_dir().join("saved.tar");
    let archive = archive.to_str().expect("UTF-8");
    ok(&["image", "save", node[0], node[1], "nginx", archive]);
    ok(&["image", "rm", node[0], node[1], "nginx"]);
    assert_eq!(image(name), None, "{}", ok(&["image", "ls"]));
    assert!(
        failed(&["image", "save", "--name", "lc-cli", "--node", worker, "nginx", archive]).contains("nginx")
    );
    assert_eq!(ok(&["image", "load", node[0], node[1], archive]).trim(), name);
    assert_eq!(image(name).expect("it is back")["id"], before["id"]);
    assert_eq!(
        ok(&["image", "pull", node[0], node[1], "nginx"]).trim(),
        before["id"].as_str().expect("an ID")
    );
    // One that a container uses stays, whichever of the nodes that share it is asked.
    let namespace = cluster.namespace("used");
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: user}}, spec: {{nodeName: {worker}, terminationGracePeriodSeconds: 1, containers: [{{name: main, image: alpine, command: [sleep, '999999']}}]}}}}"
    );
    namespace.apply(&pod).ok();
    namespace.ready("user");
    for node in [first, worker] {
        let refusal = failed(&["image", "rm", "--name", "lc-cli", "--node", node, "alpine"]);
        assert!(
            refusal.contains("image \"alpine\" has 1 container") && refusal.contains("--force"),
            "{refusal}"
        );
    }
    let used = "docker.io/library/alpine:latest";
    assert!(image(used).is_some());
    ok(&["image", "rm", "--force", "alpine"]);
    assert_eq!(image(used), None);
    assert_eq!(namespace.exec("user", &["echo", "runs on"]).ok(), "runs on\n");
    namespace.kubectl(&["delete", "pod", "user", "--timeout=120s"]).ok();
    let refusal = failed(&["image", "rm", "--name", "lc-cli", "alpine"]);
    assert!(refusal.contains("has no image \"alpine\""), "{refusal}");
    let refusal = failed(&["image", "load", "--name", "lc-cli", "/nonexistent.tar"]);
    assert!(refusal.contains("/nonexistent.tar"), "{refusal}");
    let junk = cluster.data_dir().join("junk.tar");
    fs::write(&junk, b"no archive").expect("it is written");
    let output =
        skiff(&["image", "load", "--name", "lc-cli", "--node", worker, junk.to_str().expect("UTF-8")]);
    assert!(output.code == 1 && output.stderr.contains("junk.tar"), "{output:?}");

    // kubectl is whatever is on PATH.
    let mut command = Command::new(skiff_path());
    let output =
        run(command.args(["kubectl", "--name", "lc-cli", "get", "nodes"]).env("PATH", "/nonexistent"));
    assert_eq!(output.code, 1);
    assert!(one_sentence(&output.stderr).contains("kubernetes-client"), "{output:?}");
    let dir = cluster.data_dir().join("bin");
    fs::create_dir_all(&dir).expect("a directory");
    std::os::unix::fs::symlink(std::env::var_os("KUBECTL").expect("KUBECTL"), dir.join("kubectl"))
        .expect("a link");
    let mut command = Command::new(skiff_path());
    command.args(["kubectl", "--name", "lc-cli", "get", "nodes", "-o", "name"]).env("PATH", &dir);
    assert_eq!(run(&mut command).ok(), format!("node/{first}\nnode/{worker}\n"));
    let mut command = Command::new(skiff_path());
    command.args(["kubectl", "--name", "lc-cli", "get", "pod", "nobody"]).env("PATH", &dir);
    assert_eq!(run(&mut command).code, 1, "kubectl's own exit code");

    // A command on a node has its own exit code.
    assert_eq!(cluster.on_node(worker, &["hostname"]).ok().trim(), worker);
    assert_eq!(cluster.on_node(worker, &["sh", "-c", "exit 7"]).code, 7);
}

/// The binary where no record of this machine's clusters is seen, as on any other machine; not started yet.
fn afar(kubeconfig: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    // A mount namespace of its own, gone with the command; what is unmounted outside is so here, too.
    command.args([
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-c",
        "mount -t tmpfs none /run/skiff && exec \"$@\"",
        "sh",
    ]);
    command.arg(skiff_path()).args(args).env("KUBECONFIG", kubeconfig);
    command
}

fn from_afar(kubeconfig: &str, args: &[&str]) -> Output {
    run(&mut afar(kubeconfig, args))
}

#[test]
fn the_platform_is_seen_from_afar_and_from_its_machine() {
    let cluster = Cluster::start("lc-afar", 2);
    let (first, worker) = ("lc-afar-control-plane", "lc-afar-worker-1");
    // A copy elsewhere is known for this machine's cluster by its authority.
    let copy = cluster.data_dir().join("copied-kubeconfig");
    fs::copy(&cluster.kubeconfig, &copy).expect("it is copied");
    let copy = copy.to_str().expect("UTF-8");
    let rows = |output: Output| -> Vec<Value> { serde_json::from_str(&output.ok()).expect("JSON") };
    let roles = |rows: &[Value]| -> Vec<String> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        rows.iter().map(|row| format!("{} {}", text(row, "node"), text(row, "role"))).collect()
    };
    let here = rows(skiff(&["status", "-o", "json", "--kubeconfig", copy]));
    assert!(here.iter().all(|row| row["cluster"] == "lc-afar"), "{here:?}");
    let there = rows(from_afar(copy, &["status", "-o", "json"]));
    for role in [format!("{first} server"), format!("{first} agent"), format!("{worker} agent")] {
        assert!(roles(&here).contains(&role) && roles(&there).contains(&role), "{role}: {there:?}");
    }
    for row in &there {
        assert!(row["health"] == "ok" && row["version"].is_string(), "{row}");
        assert!(row["pid"].as_i64() > Some(0) && row["memoryBytes"].as_u64() > Some(0), "{row}");
    }

    let logs = from_afar(copy, &["logs", first]).ok();
    assert!(logs.lines().any(|line| line.starts_with("server ")) && logs.contains("\nagent "), "{logs}");
    assert!(!from_afar(copy, &["logs", worker]).ok().contains("server "));
    let refusal = from_afar(copy, &["logs", "nobody"]).err();
    assert!(one_sentence(&refusal).contains("nobody"), "{refusal}");
    assert_eq!(skiff(&["node", "shell", "--kubeconfig", copy, worker, "--", "hostname"]).ok().trim(), worker);
    let refusal = from_afar(copy, &["node", "shell", worker, "--", "hostname"]).err();
    assert!(one_sentence(&refusal).contains("on the machine that it is on"), "{refusal}");

    // An image is pulled in the node: whoever asks sees nothing of the node's data, and its store has it all the same.
    let own = tempfile::tempdir().expect("a directory");
    let config = own.path().join("kubeconfig");
    fs::copy(&cluster.kubeconfig, &config).expect("it is copied");
    let mut pull = Command::new("unshare");
    let hidden = "mount -t tmpfs none /run/skiff && mount -t tmpfs none \"$0\" && ! test -e \"$0/nodes\" && exec \"$@\"";
    pull.args(["--mount", "--propagation", "slave", "sh", "-c", hidden])
        .arg(cluster.data_dir())
        .arg(skiff_path());
    pull.args(["image", "pull", "--node", worker, "nginx"]).env("KUBECONFIG", &config);
    let pulled = run(&mut pull).ok();
    let images = rows(from_afar(copy, &["image", "ls", "--node", worker, "-o", "json"]));
    let image =
        images.iter().find(|row| row["image"] == "docker.io/library/nginx:latest").expect("it is there");
    assert_eq!(pulled.trim(), image["id"].as_str().expect("an ID"));

    // Followed logs go on.
    let mut command = afar(copy, &["logs", "--follow", first]);
    let path = cluster.data_dir().join("followed");
    let file = fs::File::create(&path).expect("a file");
    let _follower = Background(command.stdout(file).spawn().expect("it starts"));
    let log = cluster.data_dir().join("nodes").join(first).join("logs/server.log");
    wait_until("the log's beginning", || fs::read_to_string(&path).is_ok_and(|text| !text.is_empty()));
    let mut log = fs::File::options().append(true).open(log).expect("the server's log");
    writeln!(log, "2026-01-01T00:00:00Z written by the test").expect("it is written");
    wait_until("the new line", || {
        fs::read_to_string(&path)
            .is_ok_and(|text| text.contains("server 2026-01-01T00:00:00Z written by the test\n"))
    });
}
