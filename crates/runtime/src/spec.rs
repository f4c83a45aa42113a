//! A container worked out to the last detail: what the forked child of the shim needs, and nothing that it
//! would have to decide.
//!
//! [`spec`] is the pure function from what was asked for, the image and the sandbox to that.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skiff_sys::caps::Caps;
use skiff_sys::devices::{Allow, DEFAULT, Kind};

use crate::protocol::PidSpace;
use crate::types::{ContainerConfig, Error, Image, Mount, NamespaceMode, SandboxConfig, Weakness};

/// The name of the link in a container's directory that leads to it. Shims of earlier versions read it there too.
pub(crate) const FILE: &str = "spec.json";
/// What a shell, an image and a user take for granted (containerd's default).
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) group: Option<u32>,
    pub(crate) supplemental_groups: Vec<u32>,
    #[serde(default)]
    pub(crate) strict_groups: bool,
    pub(crate) tty: bool,
    pub(crate) caps: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: i32,
    pub(crate) rootfs: Rootfs,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<DeviceNode>,
    pub(crate) privileged: bool,
    /// `/proc` and `/sys` have neither masked nor read-only paths.
    pub(crate) unmasked: bool,
    /// The sandbox's `/dev/shm`.
    pub(crate) shm: PathBuf,
    pub(crate) pid: PidSpace,
    /// The sandbox has a user namespace of its own.
    #[serde(default)]
    pub(crate) own_users: bool,
    /// Joined from `pause`.
    pub(crate) join_net: bool,
    pub(crate) join_ipc: bool,
    pub(crate) join_uts: bool,
    /// Control groups, as files to write `0` to.
    pub(crate) join: Vec<PathBuf>,
    /// The compiled system call filter.
    pub(crate) seccomp: Option<PathBuf>,
    /// The profile that the kernel confines the program by.
    #[serde(default)]
    pub(crate) apparmor: Option<String>,
    #[serde(default)]
    pub(crate) weakness: Weakness,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    /// Lowest first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// A device node to make in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    pub(crate) path: PathBuf,
    /// On the node; the same path where this is empty.
    #[serde(default)]
    pub(crate) source: PathBuf,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What the runtime contributes: where things lie.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) layers: Vec<PathBuf>,
    /// The container's durable directory.
    pub(crate) dir: PathBuf,
    pub(crate) shm: PathBuf,
    pub(crate) join: Vec<PathBuf>,
    pub(crate) seccomp: Option<PathBuf>,
    pub(crate) apparmor: Option<String>,
    pub(crate) devices: Vec<DeviceNode>,
    pub(crate) weakness: Weakness,
}

pub(crate) fn spec(
    config: &ContainerConfig,
    sandbox: &SandboxConfig,
    image: &Image,
    hostname: &str,
    places: Places,
) -> Result<Spec, Error> {
    let security = &config.security;
    let pid = pid_space(sandbox);
    let mut mounts = config.mounts.clone();
    for mount in &mut mounts {
        mount.target = lexically_clean(&mount.target)?;
    }
    // What lies below comes later; the order of equals is the caller's.
    mounts.sort_by_key(|mount| mount.target.components().count());
    let image_user = image.user.as_deref().unwrap_or("");
    Ok(Spec {
        args: args(config, image)?,
        env: env(config, image, hostname),
        cwd: config
            .working_dir
            .as_ref()
            .or(image.working_dir.as_ref())
            .filter(|dir| !dir.is_empty())
            .map_or("/", |d| d)
            .to_owned(),
        user: security.user.as_deref().unwrap_or(image_user).to_owned(),
        group: security.group,
        supplemental_groups: security.supplemental_groups.clone(),
        strict_groups: security.strict_groups,
        tty: config.tty,
        caps: caps(config)?.0,
        no_new_privileges: security.no_new_privileges,
        oom_score_adj: config.resources.oom_score_adj,
        rootfs: Rootfs {
            layers: places.layers,
            upper: places.dir.join("upper"),
            work: places.dir.join("work"),
            target: places.dir.join("rootfs"),
            read_only: security.read_only_rootfs,
        },
        mounts,
        devices: places.devices,
        privileged: security.privileged,
        unmasked: security.privileged || security.unmasked_proc,
        shm: places.shm,
        pid,
        own_users: sandbox.users.is_some(),
        join_net: sandbox.network != NamespaceMode::Node,
        join_ipc: sandbox.ipc != NamespaceMode::Node,
        join_uts: sandbox.network != NamespaceMode::Node,
        join: places.join,
        seccomp: places.seccomp,
        apparmor: places.apparmor,
        weakness: places.weakness,
    })
}

pub(crate) fn pid_space(sandbox: &SandboxConfig) -> PidSpace {
    match sandbox.pid {
        NamespaceMode::Container => PidSpace::Own,
        NamespaceMode::Pod => PidSpace::Sandbox,
        NamespaceMode::Node => PidSpace::Node,
    }
}

/// Beyond the bounding set of the runtime itself nothing can be given.
pub(crate) fn caps(config: &ContainerConfig) -> Result<Caps, Error> {
    let all = Caps(u64::MAX);
    let security = &config.security;
    if security.privileged {
        return Ok(all);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let sum = |names: &[String]| {
        names.iter().filter(|name| !is_all(name)).try_fold(Caps::NONE, |sum, name| {
            let cap =
                Caps::named(name).ok_or_else(|| Error::Invalid(format!("unknown capability {name:?}")))?;
            Ok::<_, Error>(sum.with(cap))
        })
    };
    let (add, drop) = (sum(&security.capabilities_add)?, sum(&security.capabilities_drop)?);
    let mut set = if security.capabilities_add.iter().any(is_all) { all } else { Caps::DEFAULT };
    if security.capabilities_drop.iter().any(is_all) {
        // "ALL but these": what is added by name outlives a dropped ALL.
        set = Caps::NONE;
    }
    Ok(set.with(add).without(drop))
}

pub(crate) fn device_rules(config: &ContainerConfig, devices: &[DeviceNode]) -> Vec<Allow> {
    if config.security.privileged {
        return vec![Allow::EVERYTHING];
    }
    let mut rules = DEFAULT.to_vec();
    rules.extend(devices.iter().zip(&config.devices).map(|(node, asked)| {
        let may = |letter| asked.permissions.is_empty() || asked.permissions.contains(letter);
        Allow {
            kind: if node.block { Kind::Block } else { Kind::Char },
            major: Some(node.major),
            minor: Some(node.minor),
            read: may('r'),
            write: may('w'),
            mknod: may('m'),
        }
    }));
    rules
}

fn args(config: &ContainerConfig, image: &Image) -> Result<Vec<String>, Error> {
    let mut args = config.command.clone();
    if args.is_empty() {
        args.clone_from(&image.entrypoint);
        args.extend_from_slice(if config.args.is_empty() { &image.cmd } else { &config.args });
    } else {
        args.extend_from_slice(&config.args);
    }
    if args.is_empty() {
        return Err(Error::Invalid("no command specified".to_owned()));
    }
    Ok(args)
}

/// Each name once, at its first place, with its last value.
fn env(config: &ContainerConfig, image: &Image, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    let own = config.env.iter().map(|(name, value)| format!("{name}={value}"));
    for entry in image.env.iter().cloned().chain(own) {
        let name = entry.split_once('=').map_or(&*entry, |(name, _)| name);
        match env.iter_mut().find(|known| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
        {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    }
    env
}

/// Absolute, without `.` and `..`, which are taken by the words and not by the file system.
fn lexically_clean(path: &Path) -> Result<PathBuf, Error> {
    use std::path::Component;
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(Error::Invalid(format!("{} cannot be a mount's target", path.display())));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            id: "sha256:0".into(),
            tags: vec![],
            digests: vec![],
            size_bytes: 0,
            user: None,
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: vec!["PATH=/bin".into(), "A=1".into()],
            working_dir: None,
            stop_signal: None,
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn command_and_args_over_the_images_own() {
        let with = |command: &[&str], arguments: &[&str]| {
            let config = ContainerConfig {
                command: strings(command),
                args: strings(arguments),
                ..ContainerConfig::default()
            };
            args(&config, &image()).unwrap().join(" ")
        };
        assert_eq!(with(&[], &[]), "/entry serve");
        assert_eq!(with(&[], &["x"]), "/entry x");
        assert_eq!(with(&["sh"], &[]), "sh");
        assert_eq!(with(&["sh"], &["-c"]), "sh -c");
        let empty = Image { entrypoint: vec![], cmd: vec![], ..image() };
        assert!(args(&ContainerConfig::default(), &empty).is_err());
    }

    #[test]
    fn a_later_value_of_a_variable_wins() {
        let own = vec![("A".into(), "2".into()), ("AB".into(), "3".into()), ("A".into(), "4=5".into())];
        let config = ContainerConfig { env: own, tty: true, ..ContainerConfig::default() };
        assert_eq!(
            env(&config, &image(), "pod"),
            ["PATH=/bin", "HOSTNAME=pod", "TERM=xterm", "A=4=5", "AB=3"]
        );
    }

    #[test]
    fn capabilities_added_and_dropped() {
        let with = |add: &[&str], drop: &[&str]| {
            let mut config = ContainerConfig::default();
            config.security.capabilities_add = strings(add);
            config.security.capabilities_drop = strings(drop);
            caps(&config).map(|caps| caps.0).unwrap_or(0xbad)
        };
        assert_eq!(with(&[], &[]), Caps::DEFAULT.0);
        assert_eq!(with(&["NET_ADMIN"], &["ALL"]), 1 << 12);
        assert_eq!(with(&["CAP_NET_ADMIN"], &["NET_RAW"]), (Caps::DEFAULT.0 | 1 << 12) & !(1 << 13));
        assert_eq!(with(&["ALL"], &["CHOWN"]), !1);
        assert_eq!(with(&["all"], &[]), u64::MAX);
        assert_eq!(with(&["NO_SUCH"], &[]), 0xbad);
    }

    #[test]
    fn mount_targets_are_absolute_and_clean() {
        let clean = |path: &str| {
            lexically_clean(Path::new(path)).map(|p| p.display().to_string()).unwrap_or_default()
        };
        assert_eq!(clean("a/../../b/./c/"), "/b/c");
        assert_eq!(clean("/.."), "");
    }
}
