//! An agent that is started again, and shims that die.

use std::fs;
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_runtime::*;
use tokio::io::AsyncReadExt;

use crate::node::{LONG, Node};

#[tokio::test]
async fn a_restarted_agent_finds_all_as_it_was() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let running = node.run(&sandbox, "sleep 1000").await;
    let done = node.run(&sandbox, "exit 3").await;
    node.finished(&done).await;
    let before = node.runtime.list_containers().await.unwrap();
    node.reopen();
    assert_eq!(node.runtime.list_containers().await.unwrap(), before);
    assert_eq!(node.runtime.list_sandboxes().await.unwrap(), std::slice::from_ref(&sandbox));
    // It still hears of what happens.
    assert_eq!(node.exec(&running, "echo still here").await, "still here");
    let mut events = node.runtime.events();
    node.runtime.stop_container(&running, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::ContainerExited(running.clone(), sandbox.id.clone()));
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// The files below the directory that hold the text.
fn with_text(dir: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(with_text(&entry.path(), text));
        } else if kind.is_file() {
            // What stands for a namespace can not be read.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test]
async fn what_a_program_is_told_is_on_no_disk() {
    const SECRET: &str = "told-to-this-program-alone";
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let running = node
        .run_with(&sandbox, "sleep 1000", |config| config.env.push(("SECRET".into(), SECRET.into())))
        .await;
    assert_eq!(with_text(&node.config.data_dir, SECRET), Vec::<std::path::PathBuf>::new());
    let kept = with_text(&node.config.run_dir, SECRET);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let kind = nix::sys::statfs::statfs(&kept[0]).unwrap().filesystem_type();
    assert_eq!(kind, nix::sys::statfs::TMPFS_MAGIC);
    // Commands are told it too, also by an agent that was started again; and others run beside it.
    node.reopen();
    assert_eq!(node.exec(&running, "echo $SECRET").await, SECRET);
    let other = node.run(&sandbox, "sleep 1000").await;
    node.runtime.stop_container(&running, std::time::Duration::ZERO).await.unwrap();
    node.runtime.remove_container(&running).await.unwrap();
    assert_eq!(with_text(&node.config.run_dir, SECRET), Vec::<std::path::PathBuf>::new());
    assert_eq!(node.exec(&other, "echo still here").await, "still here");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn what_an_earlier_version_left_on_the_disk_is_moved_or_removed() {
    const SECRET: &str = "told-to-this-program-alone";
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let told = |config: &mut ContainerConfig| config.env.push(("SECRET".into(), SECRET.into()));
    let running = node.run_with(&sandbox, "sleep 1000", told).await;
    let other = node.sandbox().await;
    let lost = node.run_with(&other, "sleep 1000", told).await;
    let data = node.config.data_dir.clone();
    let spec = |id: &ContainerId| data.join("containers").join(&id.0).join("spec.json");
    for id in [&running, &lost] {
        let text = fs::read(spec(id)).unwrap();
        let kept = fs::read_link(spec(id)).unwrap();
        fs::remove_file(kept).unwrap();
        fs::remove_file(spec(id)).unwrap();
        fs::write(spec(id), text).unwrap();
    }
    assert_eq!(with_text(&data, SECRET).len(), 2);
    // The shim of one is gone before the agent is there again.
    kill(Pid::from_raw(shim_of(&other)), Signal::SIGKILL).unwrap();
    node.finished(&lost).await;
    for _ in 0..2 {
        node.reopen();
        assert_eq!(with_text(&data, SECRET), Vec::<std::path::PathBuf>::new());
        assert_eq!(node.exec(&running, "echo $SECRET").await, SECRET);
    }
    assert!(!fs::exists(spec(&lost)).unwrap());
    for sandbox in [&sandbox, &other] {
        node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    }
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn what_ended_while_nobody_looked_is_known() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "mkfifo /tmp/go; read x < /tmp/go; echo last words; exit 42").await;
    let pid = node.get(&id).await.pid;
    let fifo = format!("/proc/{pid}/root/tmp/go");
    while !fs::exists(&fifo).unwrap() {
        tokio::task::yield_now().await;
    }
    // The agent is away: nobody listens to the shim.
    let (config, dir) = (node.config.clone(), node.dir.path().to_owned());
    drop(std::mem::replace(&mut node.runtime, open_elsewhere(&dir)));
    fs::write(fifo, "go\n").unwrap();
    let state = config.data_dir.join("containers").join(&id.0).join("state.json");
    while !fs::read_to_string(&state).unwrap().contains("\"exit_code\":42") {
        tokio::task::yield_now().await;
    }
    node.reopen();
    let container = node.get(&id).await;
    assert_eq!((container.state, container.exit_code), (ContainerState::Exited, Some(42)));
    assert_eq!(node.logged(), "last words\n");
}

/// A command that goes on when nobody asks for it any more; answers once it has begun.
async fn surviving(node: &Node, id: &ContainerId, script: &str, tty: bool) -> Process {
    let command = ["sh", "-c", &format!("echo started; {script}")].map(String::from).to_vec();
    let config = ExecConfig { command, stdin: true, stdout: true, stderr: true, tty, survives: true };
    let mut process = node.runtime.exec(id, config).await.unwrap();
    let mut began = [0; 7];
    process.stdout.as_mut().unwrap().read_exact(&mut began).await.unwrap();
    assert_eq!(&began, b"started");
    process
}

#[tokio::test]
async fn commands_go_on_without_the_agent_to_their_end() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let waits = |name: &str| format!("until [ -e /tmp/go ]; do sleep 0.01; done; {name}");
    // More than a pipe or a terminal holds, to both streams.
    let much = "head -c 300000 /dev/zero | tr '\\0' a";
    let piped = waits(&format!("cat; {much}; {much} >&2; exec sleep 1000.1"));
    let piped = surviving(&node, &id, &piped, false).await;
    let terminal = surviving(&node, &id, &waits(&format!("{much}; exec sleep 1000.2")), true).await;
    // Who asked for this one lets go of it while the agent lives, and of that one with the agent.
    drop(piped);
    node.reopen();
    drop(terminal);
    node.exec(&id, "touch /tmp/go").await;
    for name in ["sleep 1000[.]1", "sleep 1000[.]2"] {
        let runs = format!("ps | grep -c '{name}' || true");
        let came = async { while node.exec(&id, &runs).await != "1" {} };
        tokio::time::timeout(LONG, came).await.unwrap_or_else(|_| panic!("{name}: it came to its end"));
    }
    // One more of that kind is ended, and not only let go of.
    let mut other = surviving(&node, &id, "exec sleep 1000.3", false).await;
    other.kill.take().unwrap().send(()).unwrap();
    let gone = async { while node.exec(&id, "ps | grep -c 'sleep 1000[.]3' || true").await != "0" {} };
    tokio::time::timeout(LONG, gone).await.expect("it was killed");
    assert!(other.exit.await.is_err(), "nobody is told of the end of what was killed");
    // They belong to their container.
    node.runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn images_are_in_use_as_long_as_containers_are_there_whoever_is_killed_meanwhile() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let running = node.run(&sandbox, "sleep 1000").await;
    let done = node.run(&sandbox, "true").await;
    node.finished(&done).await;
    let image = node.get(&running).await.image_id;
    // Killed after it took hold of the image and before it had a container of it.
    let store = images::ImageStore::open(images::Config::new(node.dir.path().join("images"))).unwrap();
    store.hold(&image, "half-made", node.config.data_dir.to_str().unwrap()).await.unwrap();
    store.hold(&image, "elsewhere", "/another/node").await.unwrap();
    let used = || async { store.uses().await.unwrap()[0].containers };
    assert_eq!(used().await, 4);
    node.reopen();
    assert_eq!(used().await, 3);
    store.release("elsewhere").await.unwrap();
    let refused = node.runtime.remove_image(&image, Removal::Unused).await;
    assert!(matches!(refused, Err(ImageError::InUse { containers: 2, .. })), "{refused:?}");
    node.runtime.remove_container(&done).await.unwrap();
    assert_eq!(used().await, 1);
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(used().await, 0);
    node.runtime.remove_image(&image, Removal::Unused).await.unwrap();
    assert!(node.runtime.image_uses().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_container_writes_over_its_image_is_counted() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let before = node.runtime.written(&id).await.unwrap();
    // Noise, which no file system makes smaller; some give out blocks only when it is synced.
    node.exec(&id, "dd if=/dev/urandom of=/noise bs=1000000 count=3 2>/dev/null; sync").await;
    let after = node.runtime.written(&id).await.unwrap();
    assert_eq!(after.inodes, before.inodes + 1);
    assert!(after.bytes >= before.bytes + 3_000_000, "{before:?} {after:?}");
    assert!(node.runtime.written(&ContainerId("none".into())).await.is_err());
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
}

/// Something to put in a runtime's place.
fn open_elsewhere(dir: &std::path::Path) -> std::sync::Arc<LocalRuntime> {
    let images = images::ImageStore::open(images::Config::new(dir.join("images"))).unwrap();
    let mut config = Config::new(dir.join("other"), dir.join("r2"));
    config.shim = Some(env!("CARGO_BIN_EXE_skiff-shim").into());
    config.cgroup_root = format!("skiff-rt-other-{}", std::process::id()).into();
    let runtime = LocalRuntime::open(config.clone(), images).unwrap();
    skiff_sys::cgroup::Hierarchy::open(&config.cgroup_mount)
        .unwrap()
        .group(&config.cgroup_root)
        .remove()
        .unwrap();
    runtime
}

#[tokio::test]
async fn a_dead_shim_is_noticed_and_cleared_away() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let done = node.run(&sandbox, "exit 3").await;
    node.finished(&done).await;
    let pid = node.get(&id).await.pid;
    let mut events = node.runtime.events();
    let before = SystemTime::now();
    kill(Pid::from_raw(shim_of(&sandbox)), Signal::SIGKILL).unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::SandboxStopped(sandbox.id.clone()));
    assert_eq!(events.recv().await.unwrap(), Event::ContainerExited(id.clone(), sandbox.id.clone()));
    let killed = node.get(&id).await;
    assert_eq!(told(&killed), (ContainerState::Exited, Some(137), Some("Error")));
    let finished = killed.finished_at.unwrap();
    assert!(before <= finished && finished <= SystemTime::now(), "{finished:?}");
    assert_eq!(node.get(&done).await.exit_code, Some(3));
    assert!(!node.runtime.list_sandboxes().await.unwrap()[0].ready);
    assert!(is_over(pid) && is_over(sandbox.pid), "it would run on beside its replacement");
    node.reopen();
    assert_eq!(node.get(&id).await, killed, "what was told once stays");
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

fn told(container: &Container) -> (ContainerState, Option<i32>, Option<&str>) {
    (container.state, container.exit_code, container.reason.as_deref())
}

/// Its parent may not have asked after it yet.
fn is_over(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn what_a_shim_left_that_died_while_nobody_looked_is_ended() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let unseen = node.run(&sandbox, "sleep 1000").await;
    let other = node.sandbox().await;
    let lives = node.run(&other, "sleep 1000").await;
    let (pid, unseen_pid) = (node.get(&id).await.pid, node.get(&unseen).await.pid);
    let (config, dir) = (node.config.clone(), node.dir.path().to_owned());
    drop(std::mem::replace(&mut node.runtime, open_elsewhere(&dir)));
    kill(Pid::from_raw(shim_of(&sandbox)), Signal::SIGKILL).unwrap();
    let socket = config.run_dir.join(&sandbox.id.0[..16]).join("s");
    assert!(socket.exists());
    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!is_over(pid));
    // This one ends when there is neither shim nor agent.
    kill(Pid::from_raw(unseen_pid as i32), Signal::SIGKILL).unwrap();
    while !is_over(unseen_pid) {
        tokio::task::yield_now().await;
    }
    let before = SystemTime::now();
    node.reopen();
    assert_eq!(told(&node.get(&id).await), (ContainerState::Exited, Some(137), Some("Error")));
    let unseen = node.get(&unseen).await;
    assert_eq!(told(&unseen), (ContainerState::Exited, Some(255), Some("Unknown")));
    assert!(unseen.started_at.unwrap() < before && unseen.finished_at.unwrap() >= before, "{unseen:?}");
    assert!(is_over(pid) && is_over(sandbox.pid));
    assert_eq!(node.get(&lives).await.state, ContainerState::Running);
    for id in [&sandbox.id, &other.id] {
        node.runtime.remove_sandbox(id).await.unwrap();
    }
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dead_pause_stops_the_sandbox() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let mut events = node.runtime.events();
    kill(Pid::from_raw(sandbox.pid as i32), Signal::SIGTERM).unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::SandboxStopped(sandbox.id.clone()));
    let sandboxes = node.runtime.list_sandboxes().await.unwrap();
    assert!(!sandboxes[0].ready && sandboxes[0].pid == 0);
    assert!(node.runtime.create_container(&sandbox.id, node.container_config("true")).await.is_err());
    assert!(fs::exists(sandbox.netns.unwrap()).unwrap());
    node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// `pause`'s parent.
fn shim_of(sandbox: &Sandbox) -> i32 {
    let status = fs::read_to_string(format!("/proc/{}/status", sandbox.pid)).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}
