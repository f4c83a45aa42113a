//! Trying an attempt: a hostile container beside a victim.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use skiff_runtime::*;

use crate::attempts::{Attempt, Way};
use crate::node::{LONG, Node};
use crate::plan::Plan;

/// A node with a victim on it: a pod of its own that has a token and listens, and a listener of the node's.
pub(crate) struct Hostile {
    node: Node,
    program: PathBuf,
    name: String,
    _listener: UnixListener,
}

impl Hostile {
    pub(crate) async fn new(weakness: Weakness) -> Hostile {
        let node = Node::weak(weakness).await;
        let program = compile(node.dir.path());
        // Unique on the machine, as the directory is.
        let name = node.dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let hostile = Hostile { node, program, name, _listener: listener };
        let sandbox = hostile.node.sandbox().await;
        let log = hostile.node.dir.path().join("logs/victim.log");
        hostile
            .node
            .run_with(&sandbox, "", |config| {
                hostile.give_program(config, &["victim", &hostile.name]);
                config.log_path = Some(log.clone());
            })
            .await;
        wait_for("the victim listens", || {
            fs::read_to_string(&log).is_ok_and(|text| text.ends_with("ready\n"))
        })
        .await;
        hostile
    }

    /// Whether it succeeded, and what was said of it.
    pub(crate) async fn tries(&self, attempt: &Attempt, plan: &Plan) -> (bool, String) {
        let sandbox = self
            .node
            .sandbox_with(|config| {
                config.pid = plan.pid;
                config.network = plan.network;
                config.users = plan.users;
                config.cgroup_parent = format!("besteffort/{}", attempt.name);
            })
            .await;
        let answer = match attempt.way {
            Way::Program(args) => self.program(&sandbox, plan, args, |_| {}).await.unwrap(),
            Way::Against(what) => self.program(&sandbox, plan, &[what, &self.name], |_| {}).await.unwrap(),
            Way::Command(args) => self.command(&sandbox, plan, args).await,
            Way::DirectoryOfDescriptor => self.directories(&sandbox, plan).await,
            Way::LinkInVolume => self.link_in_volume(&sandbox, plan).await,
            Way::LinkForLog => self.link_for_log(&sandbox, plan).await,
            Way::NullInVolume => self.null_in_volume(&sandbox, plan).await,
            Way::VolumeAt(path) => self.volume_at(&sandbox, plan, path).await,
            Way::ConsoleInVolume => self.console_in_volume(&sandbox, plan).await,
            Way::AgainstAddress(what) => panic!("{}: {what} needs a network", attempt.name),
            Way::LinkForPart | Way::LinkForReadLog => panic!("{}: it is not the runtime's", attempt.name),
        };
        self.node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
        answer
    }

    fn give_program(&self, config: &mut ContainerConfig, args: &[&str]) {
        config.command = ["/attacker"].iter().chain(args).map(|word| (*word).to_owned()).collect();
        config.mounts.push(Mount {
            source: self.program.clone(),
            target: "/attacker".into(),
            read_only: true,
            ..Mount::default()
        });
    }

    /// Runs the program; an error is the runtime's, which did not start it.
    async fn program(
        &self,
        sandbox: &Sandbox,
        plan: &Plan,
        args: &[&str],
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<(bool, String), Error> {
        let mut config = self.node.container_config("");
        self.give_program(&mut config, args);
        config.security = plan.security.clone();
        config.tty = plan.tty;
        change(&mut config);
        let id = self.node.runtime.create_container(&sandbox.id, config).await?;
        let started = self.node.runtime.start_container(&id).await;
        let ended = match &started {
            Ok(()) => Some(self.node.finished(&id).await),
            Err(_) => None,
        };
        let said = self.node.logged();
        self.node.runtime.remove_container(&id).await?;
        let _ = fs::remove_file(self.node.log_path());
        started?;
        match ended.and_then(|container| container.exit_code) {
            Some(0) => Ok((true, said)),
            Some(1) => Ok((false, said)),
            // Neither way says that the attempt was made at all.
            other => panic!("{args:?} ended with {other:?}: {said}"),
        }
    }

    async fn command(&self, sandbox: &Sandbox, plan: &Plan, args: &[&str]) -> (bool, String) {
        let mut command = Vec::new();
        let id = self
            .node
            .run_with(sandbox, "sleep 1000", |config| {
                let script = config.command.clone();
                self.give_program(config, args);
                command = std::mem::replace(&mut config.command, script);
                config.security = plan.security.clone();
            })
            .await;
        let output = self.node.runtime.exec_sync(&id, &command, LONG).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(matches!(output.exit_code, 0 | 1), "{args:?} ended with {}: {said}", output.exit_code);
        (output.exit_code == 0, said)
    }

    async fn directories(&self, sandbox: &Sandbox, plan: &Plan) -> (bool, String) {
        let mut all = String::new();
        for number in crate::attempts::DESCRIPTORS {
            let directory = Some(format!("/proc/self/fd/{number}"));
            match self.program(sandbox, plan, &["directory"], |config| config.working_dir = directory).await {
                Ok((true, said)) => return (true, format!("descriptor {number}: {said}")),
                Ok((false, said)) => all.push_str(&said),
                Err(error) => all.push_str(&format!("{error}\n")),
            }
        }
        (false, all)
    }

    async fn link_in_volume(&self, sandbox: &Sandbox, plan: &Plan) -> (bool, String) {
        let dir = tempfile::tempdir_in(self.node.dir.path()).unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("outside")).unwrap();
        fs::create_dir(path("volume")).unwrap();
        fs::write(path("given"), "given").unwrap();
        symlink(path("outside"), path("volume/link")).unwrap();
        let bind = |name: &str, target: &str| Mount {
            source: path(name),
            target: target.into(),
            ..Mount::default()
        };
        let config = ContainerConfig {
            mounts: vec![bind("volume", "/volume"), bind("given", "/volume/link/made")],
            security: plan.security.clone(),
            ..self.node.container_config("true")
        };
        let made = self.node.runtime.create_container(&sandbox.id, config).await;
        (fs::exists(path("outside/made")).unwrap(), format!("{made:?}"))
    }

    async fn null_in_volume(&self, sandbox: &Sandbox, plan: &Plan) -> (bool, String) {
        let dir = tempfile::tempdir_in(self.node.dir.path()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/proc/interrupts", dir.path().join("null")).unwrap();
        let volume = Mount { source: dir.path().into(), target: "/dev".into(), ..Mount::default() };
        let args = ["read", "/proc/interrupts"];
        self.program(sandbox, plan, &args, |config| config.mounts.push(volume)).await.unwrap()
    }

    /// Either the runtime refuses, or the program reads what the volume says.
    async fn volume_at(&self, sandbox: &Sandbox, plan: &Plan, path: &str) -> (bool, String) {
        let dir = tempfile::tempdir_in(self.node.dir.path()).unwrap();
        let volumes = ["links", "forged"].map(|name| dir.path().join(name));
        for volume in [dir.path(), &volumes[0], &volumes[1]] {
            fs::create_dir_all(volume).unwrap();
            fs::set_permissions(volume, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("/", volumes[0].join("link")).unwrap();
        fs::write(volumes[1].join("forged"), "forged").unwrap();
        let [links, forged] = volumes;
        let mounts = [
            Mount { source: links, target: "/volume".into(), ..Mount::default() },
            Mount { source: forged, target: path.into(), ..Mount::default() },
        ];
        match self
            .program(sandbox, plan, &["read", "/proc/tty/forged"], |config| config.mounts.extend(mounts))
            .await
        {
            Ok(answer) => answer,
            Err(error) => {
                let said = error.to_string();
                assert!(
                    said.ends_with("\"/proc/tty\" cannot be mounted because it is inside /proc"),
                    "{said}"
                );
                (false, said)
            }
        }
    }

    /// The file lies at the same path on the node and in the container, which could not write it itself.
    async fn console_in_volume(&self, sandbox: &Sandbox, plan: &Plan) -> (bool, String) {
        let dir = tempfile::tempdir_in(self.node.dir.path()).unwrap();
        let [volume, outside] = ["volume", "outside"].map(|name| dir.path().join(name));
        let file = outside.join("file");
        for made in [&volume, &outside] {
            fs::create_dir(made).unwrap();
        }
        fs::write(&file, "kept").unwrap();
        symlink(&file, volume.join("console")).unwrap();
        let mounts = [
            Mount { source: volume, target: "/dev".into(), ..Mount::default() },
            Mount { source: outside.clone(), target: outside, ..Mount::default() },
        ];
        let tried = self
            .program(sandbox, plan, &["directory"], |config| {
                config.tty = true;
                config.mounts.extend(mounts);
            })
            .await;
        let said = match tried {
            Ok((_, said)) => said,
            Err(error) => error.to_string(),
        };
        (fs::read_to_string(&file).unwrap() != "kept", said)
    }

    /// The pod was given the directory of its log, moves the log away and puts a link in its place before
    /// the log is rotated.
    async fn link_for_log(&self, sandbox: &Sandbox, plan: &Plan) -> (bool, String) {
        let dir = tempfile::tempdir_in(self.node.dir.path()).unwrap();
        let (logs, outside) = (dir.path().join("logs"), dir.path().join("outside"));
        fs::create_dir(&logs).unwrap();
        fs::write(&outside, "").unwrap();
        // It talks once it reads from here.
        let fifo = logs.join("go");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&logs, &fifo] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let config = ContainerConfig {
            log_path: Some(logs.join("0.log")),
            security: plan.security.clone(),
            mounts: vec![Mount { source: logs.clone(), target: "/logs".into(), ..Mount::default() }],
            ..self.node.container_config("cat /logs/go; echo escaped")
        };
        let id = self.node.runtime.create_container(&sandbox.id, config).await.unwrap();
        // The runtime keeps logs from all but root; this pod was given more.
        fs::set_permissions(&logs, fs::Permissions::from_mode(0o777)).unwrap();
        self.node.runtime.start_container(&id).await.unwrap();
        let replace = format!("mv /logs/0.log /logs/old.log && ln -s {} /logs/0.log", outside.display());
        self.node.exec(&id, &replace).await;
        let reopened = self.node.runtime.reopen_log(&id).await;
        let go = tokio::task::spawn_blocking(move || fs::File::options().write(true).open(fifo).map(drop));
        tokio::time::timeout(LONG, go).await.expect("it reads").unwrap().unwrap();
        self.node.finished(&id).await;
        let written = fs::read_to_string(&outside).unwrap();
        (written.contains("escaped"), format!("{reopened:?} {written:?}"))
    }
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect(what);
}

/// The hostile program, static.
fn compile(dir: &Path) -> PathBuf {
    let program = dir.join("attacker");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/programs/src/bin/attacker.rs");
    let mut rustc = Command::new(option_env!("RUSTC").unwrap_or("rustc"));
    rustc.current_dir(env!("CARGO_MANIFEST_DIR"));
    rustc.args(["--edition=2024", "-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-o"]);
    let status = rustc.arg(&program).arg(source).status().expect("rustc can be started");
    assert!(status.success(), "the hostile program does not compile");
    program
}
