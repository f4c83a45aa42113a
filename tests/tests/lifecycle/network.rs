//! A network of a test's own, which clusters are started in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skiff_tests::{Background, Output, run, skiff_path, wait_until};

/// A network namespace, which ends with the value.
pub(crate) struct Network(Background);

impl Network {
    pub(crate) fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let network = Self(Background(command.spawn().expect("it starts")));
        let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        let path = format!("/proc/{}/ns/net", network.pid());
        wait_until("a namespace of its own", || std::fs::read_link(&path).is_ok_and(|other| other != own));
        network.run(&["ip", "link", "set", "lo", "up"]).ok();
        network
    }

    pub(crate) fn pid(&self) -> String {
        self.0.0.id().to_string()
    }

    /// A command inside, not started yet. Once started, its PID is the program's.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net", "--"]).arg(program).env_remove("KUBECONFIG");
        command
    }

    pub(crate) fn run(&self, command: &[&str]) -> Output {
        run(self.command(Path::new(command[0])).args(&command[1..]))
    }

    /// kubectl as the administrator of the cluster whose data these are.
    pub(crate) fn kubectl(&self, data_dir: &Path, args: &[&str]) -> Output {
        let program = PathBuf::from(std::env::var_os("KUBECTL").expect("KUBECTL"));
        let mut kubectl = self.command(&program);
        run(kubectl.args(args).env("KUBECONFIG", data_dir.join("kubeconfig")).env("HOME", data_dir))
    }

    pub(crate) fn skiff(&self, args: &[&str]) -> Output {
        run(self.command(&skiff_path()).args(args))
    }
}
