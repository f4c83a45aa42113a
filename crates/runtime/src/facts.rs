//! What the kernel tells of processes: their namespaces, what they may do, what they can write.
//!
//! Read from `/proc` each time: nothing is kept, so nothing can be out of date.

mod devices;
mod ticks;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use skiff_sys::caps::Caps;

pub use self::devices::{Asker, DeviceFact, devices};
pub use self::ticks::{Stat, TICKS_PER_SECOND, since_boot, stat, ticks_now};

/// The files of `/proc/PID/ns`, in the order in which [`ProcessFact::namespaces`] has them.
pub const NAMESPACES: [&str; 8] = ["net", "pid", "ipc", "uts", "mnt", "user", "cgroup", "time"];

/// How much of a command line is told.
const COMMAND_CHARS_MAX: usize = 60;

/// The view of the kernel by which its settings and devices are changed. Control groups are not of it: of
/// them a container sees its own alone.
const SETTINGS: &str = "sysfs";

/// Mounts of these kinds are views of the kernel, not paths of the node.
const KERNEL_VIEWS: [&str; 12] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "devpts",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "nsfs",
    "devtmpfs",
];

/// A process and its namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFact {
    pub pid: u32,
    /// Inodes; 0 where the kernel has no such kind.
    pub namespaces: [u64; 8],
}

/// The processes that this PID namespace shows. Those that end meanwhile are left out.
pub fn processes() -> io::Result<Vec<ProcessFact>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| namespaces(pid).map(|namespaces| ProcessFact { pid, namespaces })).collect())
}

/// The namespaces of a process; nothing once it is gone.
pub fn namespaces(pid: u32) -> Option<[u64; 8]> {
    let mut path = format!("/proc/{pid}/ns/");
    let base = path.len();
    let mut inodes = [0; 8];
    for (inode, name) in inodes.iter_mut().zip(NAMESPACES) {
        path.truncate(base);
        path.push_str(name);
        match fs::metadata(&path) {
            Ok(found) => *inode = found.ino(),
            // A zombie has left most of its namespaces already, and is no member of any.
            Err(_) if name == "net" => return None,
            Err(_) => {}
        }
    }
    Some(inodes)
}

/// The command line, its words joined by spaces and cut; the name for those that have none.
pub fn command(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
    let line = match line.is_empty() {
        true => fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned(),
        false => line,
    };
    cut(&line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())
}

/// What is too long loses its end, but before that the directory of its program: the name is what one looks for.
fn cut(line: &str) -> String {
    if line.chars().nth(COMMAND_CHARS_MAX).is_none() {
        return line.to_owned();
    }
    let (program, rest) = line.split_at(line.find(' ').unwrap_or(line.len()));
    let line = match program.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => format!("…/{name}{rest}"),
        _ => line.to_owned(),
    };
    match line.char_indices().nth(COMMAND_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// The control groups of a process, as `/proc/PID/cgroup` lists them.
pub fn control_groups(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// What a process may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Privileges {
    pub effective_user: u32,
    pub effective_group: u32,
    pub supplementary_groups: Vec<u32>,
    /// Effective ones, without `CAP_`.
    pub capabilities: Vec<&'static str>,
    /// Those of them that a container which asks for nothing does not have.
    pub beyond_default: Vec<&'static str>,
    /// 0 none, 1 strict, 2 a filter.
    pub seccomp: u8,
    pub no_new_privileges: bool,
    /// Capabilities beyond the default and beyond its own, which a program with the set-user-ID bit of root gives.
    pub gainable: Vec<&'static str>,
    /// The effective user as its own user namespace has it, where that is another number.
    pub inside_user: Option<u32>,
    /// The effective group as its own user namespace has it, where that is another number.
    pub inside_group: Option<u32>,
}

/// Reads them off `/proc/PID/status`.
pub fn privileges(pid: u32) -> io::Result<Privileges> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // A zombie has no capabilities any more; its user would mislead.
    if text.contains("State:\tZ") {
        return Err(io::ErrorKind::NotFound.into());
    }
    let told = parse_status(&text);
    let map = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    Ok(Privileges {
        inside_user: inside(&map("uid_map"), told.effective_user),
        inside_group: inside(&map("gid_map"), told.effective_group),
        ..told
    })
}

/// What an ID is in a user namespace by its map (user_namespaces(7)): first inside, first outside, length. Nothing
/// where it is the same, or none there.
fn inside(map: &str, id: u32) -> Option<u32> {
    let found = map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (first, outside) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let length = numbers.next()?.ok()?;
        let at = id.checked_sub(outside).filter(|at| *at < length)?;
        first.checked_add(at)
    });
    found.filter(|own| *own != id)
}

fn parse_status(text: &str) -> Privileges {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_ascii_whitespace()
    };
    let number =
        |name: &str, at: usize| field(name).nth(at).and_then(|text| text.parse().ok()).unwrap_or(0u32);
    let caps = |name: &str| {
        let digits = field(name).next().and_then(|text| u64::from_str_radix(text, 16).ok());
        digits.unwrap_or(0)
    };
    let effective = caps("CapEff");
    let no_new_privileges = number("NoNewPrivs", 0) == 1;
    // The bounding set is what no program of its can get beyond.
    let bounding = if no_new_privileges { 0 } else { caps("CapBnd") };
    Privileges {
        // Real, effective, saved, file system.
        effective_user: number("Uid", 1),
        effective_group: number("Gid", 1),
        supplementary_groups: field("Groups").filter_map(|text| text.parse().ok()).collect(),
        capabilities: Caps(effective).names().collect(),
        beyond_default: Caps(effective).without(Caps::DEFAULT).names().collect(),
        seccomp: u8::try_from(number("Seccomp", 0)).unwrap_or(u8::MAX),
        no_new_privileges,
        gainable: Caps(bounding).without(Caps::DEFAULT).without(Caps(effective)).names().collect(),
        inside_user: None,
        inside_group: None,
    }
}

/// A mount of a mount namespace (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFact {
    device: String,
    /// The part of the file system that is mounted.
    root: PathBuf,
    pub target: PathBuf,
    pub writable: bool,
    kind: String,
}

/// The mounts of the mount namespace that a process is in.
pub fn mounts(pid: u32) -> io::Result<Vec<MountFact>> {
    // One that changed its root tells of what is below that alone; others in its namespace need not have.
    let changed = fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root != Path::new("/"));
    let text = match changed {
        true => skiff_sys::namespaces::mounts_of(Path::new(&format!("/proc/{pid}/ns/mnt")))?,
        false => fs::read_to_string(format!("/proc/{pid}/mountinfo"))?,
    };
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<MountFact> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let mut right = right.split(' ');
    let kind = right.next()?.to_owned();
    let of_file_system = right.nth(1).unwrap_or_default();
    let writes = |options: &str| options.split(',').any(|option| option == "rw");
    Some(MountFact {
        device: (*left.get(2)?).to_owned(),
        root: unescaped(left.get(3)?),
        target: unescaped(left.get(4)?),
        writable: writes(left.get(5)?) && writes(of_file_system),
        kind,
    })
}

/// Blanks and the like are written as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out))
}

/// The paths of the node that a container can write, as (inside, on the node).
///
/// `node` are the node's own mounts. What lies in a directory of `own` is the container's or its pod's, and
/// left out. Views of the kernel count only at or below one of `asked`, where somebody mounted them by wish.
/// `has` tells whether this kernel has a file at all.
pub fn writable_node_paths(
    container: &[MountFact],
    node: &[MountFact],
    own: &[PathBuf],
    asked: &[PathBuf],
    has: impl Fn(&Path) -> bool,
) -> Vec<(PathBuf, PathBuf)> {
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for mount in container.iter().filter(|mount| mount.writable) {
        let wished = asked.iter().any(|target| mount.target.starts_with(target));
        // Those are read-only in a container that has no privilege; where they are not, writing there sets
        // what the whole node runs by.
        let of_node = mount.kind == SETTINGS && mount.target.starts_with("/sys");
        if of_node && !wished {
            let place = mount.target.clone();
            if !found.iter().any(|(above, _)| place.starts_with(above)) {
                found.push((place.clone(), place));
            }
            continue;
        }
        // Of the processes' own view these two are the node's; a mount of each makes them read-only where a
        // container has no privilege.
        if mount.kind == "proc" && mount.target == Path::new("/proc") {
            let open = ["sys", "sysrq-trigger"].map(|name| mount.target.join(name)).into_iter();
            let covered =
                |place: &PathBuf| container.iter().any(|over| over.target == *place && !over.writable);
            let open = open.filter(|place| has(place) && !covered(place));
            found.extend(open.map(|place| (place.clone(), place)));
        }
        if KERNEL_VIEWS.contains(&mount.kind.as_str()) && !wished {
            continue;
        }
        let places: Vec<(usize, PathBuf)> = node
            .iter()
            .filter(|other| other.device == mount.device)
            .filter_map(|other| {
                let rest = mount.root.strip_prefix(&other.root).ok()?;
                Some((other.root.components().count(), join(&other.target, rest)))
            })
            .collect();
        if places.iter().any(|(_, place)| own.iter().any(|dir| place.starts_with(dir))) {
            continue;
        }
        // The mount that begins deepest says it best.
        let Some((_, place)) = places
            .into_iter()
            .min_by_key(|(depth, place)| (std::cmp::Reverse(*depth), place.components().count()))
        else {
            continue;
        };
        let covered = found.iter().any(|(target, above)| {
            let below = mount.target.strip_prefix(target).ok();
            below.is_some_and(|rest| join(above, rest) == place)
        });
        if !covered {
            found.push((mount.target.clone(), place));
        }
    }
    found
}

fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_keep_the_name_of_their_program() {
        assert_eq!(cut("/usr/bin/peer tcp 80"), "/usr/bin/peer tcp 80");
        let deep = format!("/{}/peer tcp 80", "d/".repeat(COMMAND_CHARS_MAX));
        assert_eq!(cut(&deep), "…/peer tcp 80");
        let long = format!("sh -c {}", "x".repeat(COMMAND_CHARS_MAX));
        assert_eq!(cut(&long), format!("sh -c {}…", "x".repeat(COMMAND_CHARS_MAX - 6)));
    }

    #[test]
    fn this_process_is_as_the_kernel_says() {
        let pid = std::process::id();
        let own = namespaces(pid).unwrap();
        for (inode, name) in own.iter().zip(NAMESPACES) {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert_eq!(link.to_str().unwrap(), format!("{name}:[{inode}]"));
        }
        assert!(processes().unwrap().contains(&ProcessFact { pid, namespaces: own }));
        assert_eq!(privileges(pid).unwrap().effective_user, nix::unistd::geteuid().as_raw());
        assert!(!command(pid).is_empty());
    }

    #[test]
    fn a_change_of_the_root_hides_no_mount() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        for name in ["hidden", "root"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let script =
            "mount -t tmpfs seen \"$0/hidden\" && mount --bind / \"$0/root\" && exec chroot \"$0/root\" cat";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // What it is given it says again, once it is there.
        stdin.write_all(b"there\n").unwrap();
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        assert_eq!(said, "there\n");
        let seen = |found: Vec<MountFact>| found.iter().any(|own| own.target == dir.path().join("hidden"));
        let below = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
        assert!(!seen(below.lines().filter_map(parse_mount).collect()), "{below}");
        assert!(seen(mounts(child.id()).unwrap()));
        assert!(!seen(mounts(std::process::id()).unwrap()), "this process stays where it is");
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_status_is_read() {
        let text = "Name:\tx\nState:\tS (sleeping)\nUid:\t1\t1000\t1\t1\nGid:\t2\t2000\t2\t2\nGroups:\t5 6 \n\
                    CapEff:\t00000000a80435fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let found = parse_status(text);
        assert_eq!((found.effective_user, found.effective_group), (1000, 2000));
        assert_eq!(found.supplementary_groups, [5, 6]);
        assert_eq!(found.beyond_default, ["NET_ADMIN"]);
        assert_eq!((found.seccomp, found.no_new_privileges), (2, true));
        // What it has not and may get: unless nothing that it executes gains anything.
        let bound = |no_new: u8| {
            let text =
                format!("CapEff:\t0000000000001000\nCapBnd:\t00000000a80c35fb\nNoNewPrivs:\t{no_new}\n");
            parse_status(&text).gainable
        };
        assert_eq!((bound(0), bound(1)), (vec!["SYS_PTRACE"], vec![]));
    }

    #[test]
    fn ids_are_those_of_the_user_namespace() {
        let identity = "         0          0 4294967295\n";
        assert_eq!(inside(identity, 1_000), None, "the same number");
        let mapped = "0 8454144 65536\n 70000 1000 1\n";
        for (id, expected) in [
            (8_454_144, Some(0)),
            (8_455_144, Some(1_000)),
            (8_519_679, Some(65_535)),
            (8_519_680, None),
            (8_454_143, None),
            (1_000, Some(70_000)),
        ] {
            assert_eq!(inside(mapped, id), expected, "{id}");
        }
        assert_eq!(inside("", 7), None);
        let own = privileges(std::process::id()).unwrap();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(own.inside_user, inside(&map, own.effective_user));
    }

    #[test]
    fn paths_of_the_node_are_told_from_the_pods_own() {
        let mounts =
            |lines: &[&str]| -> Vec<MountFact> { lines.iter().filter_map(|l| parse_mount(l)).collect() };
        let node = mounts(&[
            "1 0 8:1 / / rw - ext4 /dev/a rw",
            "2 1 8:2 /exports/d /data rw - ext4 /dev/b rw",
            "3 1 0:9 / /proc rw - proc proc rw",
        ]);
        let container = mounts(&[
            "10 0 0:50 / / rw - overlay overlay rw",
            "11 10 0:51 / /proc rw - proc proc rw",
            "18 11 0:51 /sys /proc/sys ro - proc proc rw",
            "19 11 0:51 /sysrq-trigger /proc/sysrq-trigger ro - proc proc rw",
            "12 10 8:1 /var/log /logs rw - ext4 /dev/a rw",
            "13 10 8:1 /etc /conf ro - ext4 /dev/a rw",
            "14 10 8:1 /var/lib/skiff/pods/u/vol /vol rw - ext4 /dev/a rw",
            "15 10 8:2 /exports/d/a\\040b /d rw - ext4 /dev/b rw",
            "16 10 8:1 / /node rw - ext4 /dev/a rw",
            "17 16 0:9 / /node/proc rw - proc proc rw",
        ]);
        let own = [PathBuf::from("/var/lib/skiff")];
        let found = writable_node_paths(&container, &node, &own, &["/node".into()], |_| true);
        let expected = [("/logs", "/var/log"), ("/d", "/data/a b"), ("/node", "/")];
        assert_eq!(found, expected.map(|(inside, there)| (inside.into(), there.into())));
    }

    #[test]
    fn the_kernels_settings_are_the_nodes_where_they_can_be_written() {
        let found = |how: &str, groups: &str, lacking: &str| {
            let lines = [
                format!("18 11 0:51 /sys /proc/sys {how} - proc proc rw"),
                format!("19 11 0:51 /sysrq-trigger /proc/sysrq-trigger {how} - proc proc rw"),
                "11 10 0:51 / /proc rw - proc proc rw".to_owned(),
                format!("12 10 0:52 / /sys {how} - sysfs sysfs rw"),
                format!("13 12 0:53 / /sys/fs/cgroup {groups} - cgroup2 cgroup rw"),
                "14 10 0:54 / /dev/mqueue rw - mqueue mqueue rw".to_owned(),
            ];
            let container: Vec<MountFact> = lines.iter().filter_map(|line| parse_mount(line)).collect();
            let has = |path: &Path| path != Path::new(lacking);
            let found = writable_node_paths(&container, &[], &[], &[], has);
            found.into_iter().map(|(_, place)| place.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("ro", "ro", ""), Vec::<String>::new(), "as any container has them");
        let all = ["/proc/sys", "/proc/sysrq-trigger", "/sys"];
        assert_eq!(found("rw", "ro", ""), all);
        assert_eq!(found("rw", "ro", "/proc/sysrq-trigger"), ["/proc/sys", "/sys"], "a kernel without it");
        assert_eq!(found("rw", "rw", ""), all, "which says it of all below");
        assert_eq!(found("ro", "rw", ""), Vec::<String>::new(), "its own control group is not the node's");
    }

    #[test]
    fn random_lines_of_the_kernel_are_read_or_passed_over() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let parts = [
            "36 35 98:0 ",
            "/a\\040b ",
            "\\7",
            "\\777",
            " - ",
            "rw",
            ",",
            "ext4 ",
            "Uid:\t",
            "CapEff:\t",
            "ffff",
            "é",
            "Groups:\t",
            "1 2 3",
            "\n",
            "NoNewPrivs:\t1",
            "4294967296",
            " ",
        ];
        for _ in 0..20_000 {
            let count = random.random_range(0..20);
            let text: String = (0..count).map(|_| parts[random.random_range(0..parts.len())]).collect();
            let said = parse_status(&text);
            assert!(said.beyond_default.len() <= said.capabilities.len(), "{text:?}");
            for line in text.lines() {
                let _ = parse_mount(line);
            }
        }
    }
}
