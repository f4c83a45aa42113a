//! The virtual machine's disks and kernel: a Debian root that is made once, a disk of what is to be tried,
//! which is made each time, and an initramfs that leads from the kernel to the root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::checks::Check;
use crate::build::{self, output, run};
use crate::setup;

/// Debian packages of the root beside the smallest set. `kmod` is what loads modules for the kernel.
const PACKAGES: &str = "apparmor,busybox-static,dbus,iproute2,kmod,libgcc-s1,nftables,procps,systemd-resolved,systemd-sysv,udev,wget";

/// What the initramfs needs to find the root; all else is loaded by the root, or by who needs it.
const BOOT_MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"];

const BUSYBOX: &str = "/bin/busybox";

/// Of the root's file system; it is sparse.
const ROOT_SIZE: &str = "4G";

const UNIT: &str = "[Unit]
Description=The checks
After=multi-user.target
[Service]
Type=exec
ExecStart=/bin/sh /work/run
WorkingDirectory=/root
[Install]
WantedBy=multi-user.target
";

/// What runs first where there is no systemd. It reaps what is handed to it, as every first process does.
const PLAIN_INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t securityfs none /sys/kernel/security
mount -o remount,rw /
mount /work
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
hostname debian
ip link set lo up
cd /root
sh /work/run &
while true; do wait; sleep 1; done
";

/// What a machine is booted from.
pub(super) struct Disks {
    /// Of the kernel, as `uname -r` says.
    pub(super) version: String,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) root: PathBuf,
    pub(super) work: PathBuf,
}

pub(super) fn make(
    dir: &Path,
    kernel: Option<&Path>,
    skiff: &Path,
    images: &[PathBuf],
    checks: &[&Check],
    keep: bool,
) -> anyhow::Result<Disks> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let package = match kernel {
        Some(package) => package.to_owned(),
        None => stock_kernel(&dir.join("debs"))?,
    };
    let tree = Tree::unpack(&package, dir)?;
    let root = root(dir, &tree)?;
    let initrd = initrd(dir, &tree)?;
    let work = work(dir, skiff, images, checks, keep)?;
    Ok(Disks {
        kernel: tree.dir.join(format!("boot/vmlinuz-{}", tree.version)),
        version: tree.version,
        initrd,
        root,
        work,
    })
}

/// The kernel that Debian installs by itself, as a package.
fn stock_kernel(dir: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("apt-cache knows no linux-image-amd64: run `apt-get update`")?;
    let present = || {
        let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        };
        entries.filter(ours).max()
    };
    if present().is_none() {
        run(Command::new("apt-get").args(["download", "-qq", package]).current_dir(dir))?;
    }
    present().with_context(|| format!("apt-get did not download {package}"))
}

/// A kernel's package, unpacked.
struct Tree {
    dir: PathBuf,
    version: String,
}

impl Tree {
    fn unpack(package: &Path, dir: &Path) -> anyhow::Result<Self> {
        let name = package.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let dir = dir.join("kernels").join(name);
        if !dir.exists() {
            let part = dir.with_extension("part");
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
            run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&part))?;
            fs::rename(&part, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let boot = fs::read_dir(dir.join("boot"))
            .with_context(|| format!("{} holds no kernel", package.display()))?;
        let names = boot.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let version = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).next();
        let version = version.with_context(|| format!("{} holds no kernel", package.display()))?;
        let tree = Self { dir, version };
        // What the package does when it is installed.
        let modules = tree.modules()?;
        if !modules.join("modules.dep").exists() {
            let base = modules.ancestors().nth(3).context("modules lie three directories deep")?;
            run(Command::new("depmod").arg("-b").arg(base).arg(&tree.version))?;
        }
        Ok(tree)
    }

    /// Newer packages have it below `usr`.
    fn modules(&self) -> anyhow::Result<PathBuf> {
        let places = ["lib/modules", "usr/lib/modules"].map(|place| self.dir.join(place).join(&self.version));
        let found = places.into_iter().find(|place| place.join("kernel").is_dir());
        found.with_context(|| format!("the kernel {} has no modules", self.version))
    }
}

/// A Debian of the suite that this machine has, with the kernel's modules, as a disk.
fn root(dir: &Path, tree: &Tree) -> anyhow::Result<PathBuf> {
    let disk = dir.join(format!("root-{}.img", tree.version));
    if disk.exists() {
        return Ok(disk);
    }
    let base = debian(dir)?;
    let modules = base.join("usr/lib/modules");
    if modules.exists() {
        fs::remove_dir_all(&modules).context("cannot remove the modules of another kernel")?;
    }
    fs::create_dir_all(&modules).context("cannot make a place for modules")?;
    run(Command::new("cp").arg("-a").arg(tree.modules()?).arg(&modules))?;
    equip(&base)?;
    filesystem(&base, &disk, ROOT_SIZE)?;
    Ok(disk)
}

/// Made once; the directory is there when it is whole.
fn debian(dir: &Path) -> anyhow::Result<PathBuf> {
    let base = dir.join("debian");
    if base.exists() {
        return Ok(base);
    }
    let part = dir.join("debian.part");
    if part.exists() {
        fs::remove_dir_all(&part).context("cannot remove what an interrupted run left")?;
    }
    let suite = setup::suite()?;
    let include = format!("--include={PACKAGES}");
    run(Command::new("debootstrap").args(["--variant=minbase", &include, &suite]).arg(&part))?;
    fs::rename(&part, &base).with_context(|| format!("cannot create {}", base.display()))?;
    Ok(base)
}

/// Gives the root what makes it run the checks.
fn equip(root: &Path) -> anyhow::Result<()> {
    let write = |path: &str, text: &str| {
        fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))
    };
    write("etc/hostname", "debian\n")?;
    write("etc/fstab", "/dev/vda / ext4 rw 0 0\n/dev/vdb /work ext4 ro 0 0\n")?;
    fs::create_dir_all(root.join("work")).context("cannot make a mount point")?;
    write("etc/systemd/system/checks.service", UNIT)?;
    run(Command::new("chroot").arg(root).args(["systemctl", "enable", "--quiet", "checks.service"]))?;
    let first = root.join("usr/sbin/plain-init");
    write("usr/sbin/plain-init", PLAIN_INIT)?;
    fs::set_permissions(&first, fs::Permissions::from_mode(0o755)).context("cannot make it a program")
}

fn filesystem(tree: &Path, disk: &Path, size: &str) -> anyhow::Result<()> {
    let part = disk.with_extension("part");
    let _ = fs::remove_file(&part);
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(&part).arg(size))?;
    fs::rename(&part, disk).with_context(|| format!("cannot create {}", disk.display()))
}

/// All that may differ between two runs.
fn work(
    dir: &Path,
    skiff: &Path,
    images: &[PathBuf],
    checks: &[&Check],
    keep: bool,
) -> anyhow::Result<PathBuf> {
    let tree = dir.join("work");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("cannot remove what the last run was given")?;
    }
    for place in ["images", "manifests", "checks", "bin"] {
        fs::create_dir_all(tree.join(place)).context("cannot make a directory")?;
    }
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, &to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
    };
    copy(skiff, tree.join("bin/skiff"))?;
    copy(&setup::clients().kubectl_1_35, tree.join("bin/kubectl"))?;
    for image in images {
        copy(image, tree.join("images").join(image.file_name().unwrap_or_default()))?;
    }
    let manifests = build::root().join("tests/manifests");
    for entry in fs::read_dir(&manifests).context("cannot read the manifests")?.flatten() {
        copy(&entry.path(), tree.join("manifests").join(entry.file_name()))?;
    }
    fs::write(tree.join("prelude"), super::checks::PRELUDE).context("cannot write")?;
    for (number, check) in checks.iter().enumerate() {
        fs::write(tree.join(format!("checks/{number:02} {}", check.name)), check.script)
            .context("cannot write")?;
    }
    fs::write(tree.join("run"), super::checks::RUN).context("cannot write")?;
    if keep {
        fs::write(tree.join("keep"), "").context("cannot write")?;
    }
    let disk = dir.join("work.img");
    filesystem(&tree, &disk, "512M")?;
    Ok(disk)
}

/// Loads what leads to the root, and goes there.
fn initrd(dir: &Path, tree: &Tree) -> anyhow::Result<PathBuf> {
    let place = dir.join("initrd");
    if place.exists() {
        fs::remove_dir_all(&place).context("cannot remove the last initramfs")?;
    }
    for inner in ["bin", "dev", "proc", "sys", "root", "modules"] {
        fs::create_dir_all(place.join(inner)).context("cannot make a directory")?;
    }
    fs::copy(BUSYBOX, place.join("bin/busybox"))
        .context("cannot read /bin/busybox: run `cargo xtask setup`")?;
    let modules = tree.modules()?;
    let list =
        |name: &str| fs::read_to_string(modules.join(name)).with_context(|| format!("cannot read {name}"));
    let (index, builtin) = (list("modules.dep")?, list("modules.builtin")?);
    let mut load = String::new();
    for (number, path) in load_order(&index, &builtin, &BOOT_MODULES)?.iter().enumerate() {
        let name = format!("{number:02}.ko");
        unpacked(&modules.join(path), &place.join("modules").join(&name))?;
        load += &format!("insmod /modules/{name}\n");
    }
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev\n{load}\
         n=0; until [ -b /dev/vda ] && [ -b /dev/vdb ]; do sleep 0.1; n=$((n+1)); [ $n -lt 600 ] || exit 1; done\n\
         mount -t ext4 /dev/vda /root || exit 1\n\
         init=/sbin/init; for word in $(cat /proc/cmdline); do case $word in init=*) init=${{word#init=}};; esac; done\n\
         umount /sys /proc; mount --move /dev /root/dev\nexec switch_root /root \"$init\"\n"
    );
    let path = place.join("init");
    fs::write(&path, init).context("cannot write the initramfs")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("cannot make it a program")?;
    let archive = dir.join("initrd.img");
    let pack = format!("find . | {BUSYBOX} cpio -o -H newc > \"$1\"");
    run(Command::new("sh").args(["-ec", &pack, "sh"]).arg(&archive).current_dir(&place))?;
    Ok(archive)
}

/// The files of these modules and of all that they need, each after what it needs itself. `modules_dep` is as
/// depmod(8) writes it; what the kernel has built in, one a line, needs no loading.
fn load_order(modules_dep: &str, builtin: &str, wanted: &[&str]) -> anyhow::Result<Vec<String>> {
    let index: BTreeMap<&str, Vec<&str>> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    fn add<'a>(file: &'a str, index: &BTreeMap<&'a str, Vec<&'a str>>, order: &mut Vec<String>) {
        if order.iter().any(|present| present == file) {
            return;
        }
        index.get(file).into_iter().flatten().for_each(|needed| add(needed, index, order));
        order.push(file.to_owned());
    }
    let mut order = Vec::new();
    for name in wanted {
        if builtin.lines().any(|file| module_name(file) == *name) {
            continue;
        }
        let Some(file) = index.keys().find(|file| module_name(file) == *name) else {
            bail!("the kernel has no module {name}");
        };
        add(file, &index, &mut order);
    }
    Ok(order)
}

/// `virtio_pci` of `kernel/drivers/virtio/virtio-pci.ko.xz`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

fn unpacked(module: &Path, to: &Path) -> anyhow::Result<()> {
    if module.extension().is_some_and(|own| own == "xz") {
        return run(Command::new("sh").args(["-ec", "xz -dc \"$1\" > \"$2\"", "sh"]).arg(module).arg(to));
    }
    fs::copy(module, to).map(drop).with_context(|| format!("cannot copy {}", module.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_after_what_it_needs() {
        let index = "kernel/a/ext4.ko.xz: kernel/a/jbd2.ko.xz kernel/a/crc16.ko.xz\n\
                     kernel/a/jbd2.ko.xz: kernel/a/crc16.ko.xz\nkernel/a/crc16.ko.xz:\nkernel/b/virtio-pci.ko:\n";
        let order =
            load_order(index, "kernel/c/crc32c_generic.ko\n", &["crc32c_generic", "ext4", "virtio_pci"])
                .expect("all are there");
        let expected =
            ["kernel/a/crc16.ko.xz", "kernel/a/jbd2.ko.xz", "kernel/a/ext4.ko.xz", "kernel/b/virtio-pci.ko"];
        assert_eq!(order, expected);
        let error = load_order(index, "", &["nvme"]).expect_err("it is not there");
        assert_eq!(error.to_string(), "the kernel has no module nvme");
    }
}
