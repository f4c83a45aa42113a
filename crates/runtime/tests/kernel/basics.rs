//! The life of sandboxes and containers.

use std::fs;
use std::time::Duration;

use skiff_runtime::*;

use crate::node::{LONG, Node, is_version_2};

#[tokio::test]
async fn a_container_lives_and_leaves_nothing() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    assert!(sandbox.ready && sandbox.pid != 0);
    assert_eq!(fs::read_to_string(format!("/proc/{}/cmdline", sandbox.pid)).unwrap(), "/pause\0");
    let mut events = node.runtime.events();
    let id = node
        .run(&sandbox, "trap 'exit 7' TERM; echo hello; echo oops >&2; while :; do sleep 0.05; done")
        .await;
    let container = node.get(&id).await;
    assert_eq!(container.state, ContainerState::Running);
    assert!(container.pid != 0 && container.started_at.is_some() && container.exit_code.is_none());
    assert_eq!(container.labels["who"], "test");
    assert!(container.image_id.starts_with("sha256:"));
    assert_eq!(node.exec(&id, "echo from exec").await, "from exec");
    // Before it has its handler, nothing would end it.
    while node.logged().lines().count() < 2 {
        tokio::task::yield_now().await;
    }
    node.runtime.stop_container(&id, LONG).await.unwrap();
    let container = node.get(&id).await;
    assert_eq!((container.state, container.exit_code), (ContainerState::Exited, Some(7)));
    assert_eq!(container.reason.as_deref(), Some("Error"));
    assert_eq!(container.pid, 0);
    let log = fs::read_to_string(node.log_path()).unwrap();
    let mut tags: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["stderr F oops", "stdout F hello"]);
    let time = log.split(' ').next().unwrap();
    assert!(time.len() == "2016-10-06T00:17:09.669794202Z".len() && time.ends_with('Z'), "{time}");
    assert_eq!(events.recv().await.unwrap(), Event::ContainerStarted(id.clone(), sandbox.id.clone()));
    assert_eq!(events.recv().await.unwrap(), Event::ContainerExited(id.clone(), sandbox.id.clone()));

    node.runtime.remove_container(&id).await.unwrap();
    node.runtime.remove_container(&id).await.unwrap();
    node.runtime.stop_sandbox(&sandbox.id).await.unwrap();
    assert!(!node.runtime.list_sandboxes().await.unwrap()[0].ready);
    assert_eq!(events.recv().await.unwrap(), Event::SandboxStopped(sandbox.id.clone()));
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert!(node.runtime.list_sandboxes().await.unwrap().is_empty());
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn removing_a_sandbox_takes_running_containers_along() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let waiting = node.runtime.create_container(&sandbox.id, node.container_config("true")).await.unwrap();
    let pid = node.get(&id).await.pid;
    assert_eq!(node.get(&waiting).await.state, ContainerState::Created);
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    assert!(node.runtime.list_containers().await.unwrap().is_empty());
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn exit_codes() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    for (script, code, reason) in [
        ("exit 0", 0, "Completed"),
        ("exit 1", 1, "Error"),
        ("nope", 127, "Error"),
        // PID 1 of a namespace can't kill itself, but its parent sees a child's signal through the shell.
        ("sh -c 'kill -9 $$'; exit $?", 137, "Error"),
    ] {
        let id = node.run(&sandbox, script).await;
        let container = node.finished(&id).await;
        assert_eq!(
            (container.exit_code, container.reason.as_deref()),
            (Some(code), Some(reason)),
            "{script}"
        );
        assert!(container.finished_at >= container.started_at);
    }
}

#[tokio::test]
async fn grace_ends_with_a_kill() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    // PID 1 without a handler doesn't notice SIGTERM.
    let id = node.run(&sandbox, "sleep 1000; true").await;
    node.runtime.stop_container(&id, Duration::from_millis(100)).await.unwrap();
    assert_eq!(node.get(&id).await.exit_code, Some(137));
    node.runtime.stop_container(&id, Duration::from_millis(100)).await.unwrap();
    let sandboxes = node.runtime.list_sandboxes().await.unwrap();
    assert!(sandboxes[0].ready, "pause outlives an application container");
}

#[tokio::test]
async fn the_images_stop_signal_can_be_replaced() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done";
    let id = node.run_with(&sandbox, script, |config| config.stop_signal = Some("SIGUSR1".into())).await;
    while node.logged() != "up\n" {
        tokio::task::yield_now().await;
    }
    node.runtime.stop_container(&id, LONG).await.unwrap();
    assert_eq!(node.get(&id).await.exit_code, Some(3));
}

#[tokio::test]
async fn programs_that_cannot_be_executed() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let prefix = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc \
                  create failed: unable to start container process: error during container init: ";
    for (command, code, words) in [
        ("nope", 127, r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", 127, r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/etc/plain", 126, r#"exec: "/etc/plain": permission denied"#),
        ("/etc", 126, r#"exec: "/etc": is a directory"#),
    ] {
        let config = ContainerConfig { command: vec![command.into()], ..node.container_config("") };
        let id = node.runtime.create_container(&sandbox.id, config).await.unwrap();
        match node.runtime.start_container(&id).await.unwrap_err() {
            Error::Start { exit_code, message } => {
                assert_eq!((exit_code, message), (code, format!("{prefix}{words}")));
            }
            other => panic!("{other}"),
        }
        let container = node.get(&id).await;
        assert_eq!((container.state, container.exit_code), (ContainerState::Exited, Some(code)));
        assert_eq!(container.reason.as_deref(), Some("StartError"));
        assert_eq!(container.message, Some(format!("{prefix}{words}")));
        assert_eq!(container.started_at, None);
    }
}

#[tokio::test]
async fn what_eats_its_memory_is_oom_killed() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "exec tail /dev/zero";
    let id = node.run_with(&sandbox, script, |config| config.resources.memory_bytes = 16 << 20).await;
    let container = node.finished(&id).await;
    assert_eq!((container.exit_code, container.reason.as_deref()), (Some(137), Some("OOMKilled")));
}

#[tokio::test]
async fn limits_reach_the_control_group() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node
        .run_with(&sandbox, "sleep 1000", |config| {
            config.resources = Resources {
                cpu_shares: 512,
                cpu_quota: 20_000,
                cpu_period: 100_000,
                memory_bytes: 64 << 20,
                pids_max: 50,
                oom_score_adj: 900,
            };
        })
        .await;
    let pid = node.get(&id).await.pid;
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |controller: &str| {
        let (named, mount) = match is_version_2() {
            true => ("", String::new()),
            false => (controller, format!("/{controller}")),
        };
        let line = membership.lines().find(|line| line.split(':').nth(1) == Some(named)).unwrap();
        format!("/sys/fs/cgroup{mount}{}", line.split(':').nth(2).unwrap())
    };
    let read = |controller: &str, file: &str| {
        fs::read_to_string(format!("{}/{file}", path(controller))).unwrap().trim().to_owned()
    };
    if is_version_2() {
        // Of 2 to 262,144 shares the weight is one of 1 to 10,000.
        assert_eq!(read("cpu", "cpu.weight"), "20");
        assert_eq!(read("cpu", "cpu.max"), "20000 100000");
        assert_eq!(read("memory", "memory.max"), (64 << 20).to_string());
    } else {
        assert_eq!(read("cpu", "cpu.shares"), "512");
        assert_eq!(read("cpu", "cpu.cfs_quota_us"), "20000");
        assert_eq!(read("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
    }
    assert_eq!(read("pids", "pids.max"), "50");
    assert!(path("pids").ends_with(&format!("/burstable/pod1/{}", id.0)));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "900");
    let stats = node.runtime.stats(&id).await.unwrap();
    assert!(stats.pids == 1 && stats.memory_bytes > 0 && stats.cpu_nanoseconds > 0, "{stats:?}");
    // A command joins the same groups.
    assert_eq!(
        node.exec(&id, "grep -c /burstable/ /proc/self/cgroup || true").await,
        "0",
        "its own top is all it sees"
    );
}

#[tokio::test]
async fn two_sandboxes_may_share_a_cgroup_parent() {
    let node = Node::new().await;
    let (old, new) = (node.sandbox().await, node.sandbox().await);
    let id = node.run(&new, "sleep 1000").await;
    node.runtime.remove_sandbox(&old.id).await.unwrap();
    assert_eq!(node.get(&id).await.state, ContainerState::Running);
    assert!(node.runtime.list_sandboxes().await.unwrap()[0].ready);
}

#[tokio::test]
async fn commands_are_not_held_up_by_what_is_in_the_place_of_the_users_files() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "rm -f /etc/passwd /etc/group; mkfifo /etc/passwd; ln -s /dev/zero /etc/group; \
                  touch /tmp/ready; sleep 1000";
    let id = node.run(&sandbox, script).await;
    let pid = node.get(&id).await.pid;
    while !std::fs::exists(format!("/proc/{pid}/root/tmp/ready")).unwrap() {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.exec(&id, "echo well").await, "well");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
}
