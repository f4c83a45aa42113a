//! A data directory is used by one command at a time: a second is refused and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use skiff_tests::{Cluster, Output, run, skiff, skiff_path, wait_until};

use super::machines::Machine;
use super::{one_sentence, pids};

/// All files of a directory with what changes when they are written: but those that whoever uses it writes.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, metadata) = (entry.path(), entry.metadata().expect("it is there"));
        let name = entry.file_name().to_string_lossy().into_owned();
        if metadata.is_file() && !name.starts_with("store.db") {
            let facts = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            found.insert(path, facts);
        }
    }
    found
}

/// The PID that a refusal names, where it names the directory too.
#[track_caller]
fn named(output: &Output, dir: &Path) -> u64 {
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
    let told = one_sentence(&output.stderr);
    let user = told.split_once(&format!("{} is in use by process ", dir.display()));
    let pid: String = user.expect(told).1.chars().take_while(char::is_ascii_digit).collect();
    pid.parse().expect(told)
}

/// The command line of a process of a machine, by its PID there.
fn command_line(machine: &Machine, pid: u64) -> String {
    machine.run(&["cat", &format!("/proc/{pid}/cmdline")]).ok().replace('\0', " ")
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let machine = Machine::start("lc-use-server");
    let data = machine.dir.join("server");
    let dir = data.to_str().expect("UTF-8");
    let args = ["server", "--data-dir", dir, "--node-ip", "127.0.0.1"];
    let second = || run(machine.command(&skiff_path()).args(args));
    let server = machine.skiff("server.txt", &args);
    let kubectl = |args: &[&str]| machine.kubectl(&data, args);
    wait_until("the server answers", || kubectl(&["get", "--raw", "/readyz"]).code == 0);
    // Its own agent writes its configuration anew when the token has been of use.
    wait_until("the machine's own token is forgotten", || {
        let kept = fs::read_to_string(data.join("agent.json")).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&kept).is_ok_and(|kept| kept["token"].is_null())
    });
    let notes = || machine.run(&["cat", "/run/skiff-machine/server.json"]).ok();
    let before = (files(&data), notes());
    let holder = named(&second(), &data);
    let line = command_line(&machine, holder);
    assert!(line.starts_with(&format!("{} server --data-dir {dir}", skiff_path().display())), "{line}");
    assert_eq!((files(&data), notes()), before, "nothing was changed");
    assert_eq!(kubectl(&["get", "--raw", "/readyz"]).stdout, "ok");
    // Nor does another command take it.
    let agent = ["agent", "--server", "https://127.0.0.1:6443", "--token", "a.b.c", "--node-ip", "127.0.0.1"];
    let agent = run(machine.command(&skiff_path()).args(agent).args(["--data-dir", dir]));
    assert_eq!(named(&agent, &data), holder);
    assert_eq!((files(&data), notes()), before, "nothing was changed");

    drop(server);
}

#[test]
fn a_second_agent_on_the_same_data_is_refused() {
    let machine = Machine::start("lc-use-agent");
    let data = machine.dir.join("agent");
    let dir = data.to_str().expect("UTF-8");
    // Nobody is there: it goes on asking, and that is enough to use its data.
    let pin = "0".repeat(64);
    let token = format!("{pin}.abcdef.0123456789abcdef");
    let args = ["agent", "--server", "https://127.0.0.1:1", "--token", &token, "--node-ip", "127.0.0.1"];
    let args: Vec<&str> = args.into_iter().chain(["--data-dir", dir]).collect();
    let first = machine.skiff("agent.txt", &args);
    wait_until("it runs as an agent", || machine.text("agent.txt").contains("Not joined yet"));
    wait_until("its configuration is written", || data.join("agent.json").exists());
    let before = files(&data);
    let holder = named(&run(machine.command(&skiff_path()).args(&args)), &data);
    let line = command_line(&machine, holder);
    assert!(line.contains("agent"), "{line}");
    assert_eq!(files(&data), before, "nothing was changed");
    drop(first);
}

#[test]
fn a_second_up_on_the_data_of_a_running_cluster_is_refused() {
    let cluster = Cluster::start("lc-use-up", 1);
    let data = cluster.data_dir();
    let dir = data.to_str().expect("UTF-8");
    let init = pids("lc-use-up", "lc-use-up", "init");
    let before = files(data);
    let up = |name: &str| skiff(&["up", "--detach", "--port", "0", "--name", name, "--data-dir", dir]);
    let again = up("lc-use-up");
    assert_eq!(named(&again, data), init[0]);
    assert!(again.stderr.contains("cluster \"lc-use-up\" is up"), "{again:?}");
    let other = up("lc-use-thief");
    assert!(other.stderr.contains("in use by process "), "{other:?}");
    assert!(one_sentence(&other.stderr).contains(&format!("{dir} holds the data of cluster")), "{other:?}");
    let server = skiff(&["server", "--data-dir", dir, "--node-ip", "127.0.0.1"]);
    assert_eq!(named(&server, data), init[0]);
    // Neither the record nor the data's owner says so any more; the cluster runs all the same.
    let record = Path::new("/run/skiff/lc-use-up/cluster.json");
    let record_text = fs::read(record).expect("it is there");
    fs::remove_file(record).expect("it is there");
    let unknown = up("lc-use-up");
    let kept = skiff(&["down", "--name", "lc-use-thief", "--data-dir", dir]);
    fs::write(record, record_text).expect("it is written");
    assert_eq!(named(&unknown, data), init[0]);
    assert_eq!(kept.code, 1, "{kept:?}");
    assert_eq!(files(data), before, "nothing was changed");
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

/// Neither is handed what is the other's: each one's data are free as soon as it is down itself.
#[test]
fn clusters_that_one_process_starts_at_once_keep_nothing_of_each_others() {
    let names = ["lc-once-a", "lc-once-b", "lc-once-c"];
    let clusters = std::thread::scope(|scope| {
        let starts = names.map(|name| scope.spawn(move || Cluster::start(name, 1)));
        starts.map(|start| start.join().expect("it starts"))
    });
    let [a, b, c] = &clusters;
    for (down, up) in [(a, b), (b, c)] {
        // Its own processes are gone; whoever else had its lock would be named, and the data would stay.
        skiff(&["down", "--name", &down.name]).ok();
        assert!(!down.data_dir().exists(), "{} is left", down.data_dir().display());
        assert_eq!(up.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
    }
}
