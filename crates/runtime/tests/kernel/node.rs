//! A runtime of its own for one test, with an image made of the machine's busybox, cleaned up whatever
//! happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skiff_runtime::images::build::{Builder, Layer};
use skiff_runtime::images::{self, ImageStore};
use skiff_runtime::*;
use skiff_sys::cgroup::Hierarchy;

/// Long enough for a busy machine, and the end of a hung test.
pub(crate) const LONG: Duration = Duration::from_secs(90);
pub(crate) const IMAGE: &str = "box";
pub(crate) const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n";
pub(crate) const GROUP: &str = "root:x:0:\nlogs:x:4:web\nweb:x:34:\n";

/// Whether the machine has one hierarchy of control groups, of version 2.
pub(crate) fn is_version_2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap()
}

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Node {
    pub(crate) runtime: Arc<LocalRuntime>,
    pub(crate) config: Config,
    pub(crate) dir: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn new() -> Node {
        Node::with_cgroups("/sys/fs/cgroup").await
    }

    pub(crate) async fn with_cgroups(mount: &str) -> Node {
        Node::with(|config| config.cgroup_mount = mount.into()).await
    }

    /// Without some of the runtime's guards, to show that a test would notice.
    pub(crate) async fn weak(weakness: Weakness) -> Node {
        Node::with(|config| config.weakness = weakness).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Node {
        let dir = tempfile::Builder::new().prefix("skiff-rt-").tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut config = Config::new(dir.path().join("data"), dir.path().join("run"));
        config.shim = Some(env!("CARGO_BIN_EXE_skiff-shim").into());
        change(&mut config);
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        config.cgroup_root = format!("skiff-rt-{test}-{}-{number}", std::process::id()).into();
        let runtime = open(&config, dir.path());
        let archive = dir.path().join("box.tar");
        fs::write(&archive, archive_of_busybox()).unwrap();
        runtime.load_image(&archive).await.unwrap();
        Node { runtime, config, dir }
    }

    /// Forgets all and opens the directories anew, as a restarted agent does.
    pub(crate) fn reopen(&mut self) {
        self.runtime = open(&self.config, self.dir.path());
    }

    pub(crate) async fn sandbox(&self) -> Sandbox {
        self.sandbox_with(|_| {}).await
    }

    pub(crate) async fn sandbox_with(&self, change: impl FnOnce(&mut SandboxConfig)) -> Sandbox {
        let mut config = SandboxConfig {
            hostname: "podname".into(),
            pid: NamespaceMode::Container,
            cgroup_parent: "burstable/pod1".into(),
            ..SandboxConfig::default()
        };
        change(&mut config);
        self.runtime.run_sandbox(config).await.unwrap()
    }

    pub(crate) fn container_config(&self, script: &str) -> ContainerConfig {
        let labels = BTreeMap::from([("who".to_owned(), "test".to_owned())]);
        ContainerConfig {
            labels,
            name: "main".into(),
            image: IMAGE.into(),
            command: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: Some(self.log_path()),
            ..ContainerConfig::default()
        }
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("logs/main.log")
    }

    /// Creates and starts.
    pub(crate) async fn run(&self, sandbox: &Sandbox, script: &str) -> ContainerId {
        self.run_with(sandbox, script, |_| {}).await
    }

    pub(crate) async fn run_with(
        &self,
        sandbox: &Sandbox,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerId {
        let mut config = self.container_config(script);
        change(&mut config);
        let id = self.runtime.create_container(&sandbox.id, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    pub(crate) async fn get(&self, id: &ContainerId) -> Container {
        let all = self.runtime.list_containers().await.unwrap();
        all.into_iter().find(|container| container.id == *id).unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn finished(&self, id: &ContainerId) -> Container {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                let container = self.get(id).await;
                if matches!(container.state, ContainerState::Exited | ContainerState::Unknown) {
                    return container;
                }
                let _ = events.recv().await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("the container ends")
    }

    /// What a command in the container prints, if it succeeds.
    pub(crate) async fn exec(&self, id: &ContainerId, script: &str) -> String {
        let command = ["sh", "-c", script].map(String::from);
        let output = self.runtime.exec_sync(id, &command, LONG).await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.exit_code, &*error), (0, ""), "{script}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The text a container logged, without times and tags.
    pub(crate) fn logged(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n").collect()
    }

    /// Runs a container to its end and answers what it printed.
    pub(crate) async fn output(&self, sandbox: &Sandbox, script: &str) -> String {
        self.output_with(sandbox, script, |_| {}).await
    }

    pub(crate) async fn output_with(
        &self,
        sandbox: &Sandbox,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> String {
        let id = self.run_with(sandbox, script, change).await;
        self.finished(&id).await;
        let text = self.logged();
        self.runtime.remove_container(&id).await.unwrap();
        fs::remove_file(self.log_path()).unwrap();
        text.trim_end().to_owned()
    }

    /// Everything of this node that the kernel or the disk still has.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let root = self.dir.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(root)).map(|line| format!("mount {line}")));
        for kind in ["data/sandboxes", "data/containers", "run"] {
            let entries = fs::read_dir(self.dir.path().join(kind)).unwrap();
            left.extend(entries.map(|entry| format!("{}", entry.unwrap().path().display())));
        }
        for controller in fs::read_dir(&self.config.cgroup_mount).unwrap().flatten() {
            let top = controller.path().join(&self.config.cgroup_root);
            let entries = fs::read_dir(top).into_iter().flatten().flatten();
            let dirs = entries.filter(|entry| entry.path().is_dir());
            left.extend(dirs.map(|entry| format!("{}", entry.path().display())));
        }
        left
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let sandboxes = fs::read_dir(self.config.data_dir.join("sandboxes")).into_iter().flatten().flatten();
        for sandbox in sandboxes {
            end_shim(&sandbox.file_name().to_string_lossy());
        }
        let Ok(hierarchy) = Hierarchy::open(&self.config.cgroup_mount) else { return };
        let group = hierarchy.group(&self.config.cgroup_root);
        group.kill();
        let _ = group.remove();
        for run in fs::read_dir(&self.config.run_dir).into_iter().flatten().flatten() {
            for name in ["netns", "shm", "specs"] {
                let path = run.path().join(name);
                let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

/// The shim of a sandbox that a failed test left.
fn end_shim(sandbox: &str) {
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if command == format!("skiff-shim\0{sandbox}\0") {
            let pid = process.file_name().to_string_lossy().parse().unwrap();
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn open(config: &Config, dir: &Path) -> Arc<LocalRuntime> {
    let images = ImageStore::open(images::Config::new(dir.join("images"))).unwrap();
    LocalRuntime::open(config.clone(), images).unwrap()
}

/// `/bin/busybox` and links for its applets.
fn archive_of_busybox() -> Vec<u8> {
    let busybox =
        fs::read("/bin/busybox").expect("the tests need /bin/busybox, of Debian's package busybox-static");
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    let mut layer = Layer::new()
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .file("etc/passwd", 0o644, PASSWD.as_bytes())
        .file("etc/group", 0o644, GROUP.as_bytes())
        .file("etc/plain", 0o644, b"no program\n")
        .symlink("escape", "/../../../../etc")
        .file("bin/busybox", 0o755, &busybox);
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    Builder::new("box").layer(layer).cmd(["sh"]).env("PATH=/bin").oci()
}
