//! System call profiles: the default one, and those in OCI's JSON (also in the form with `includes` and
//! `excludes` that container engines ship).

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;
use skiff_sys::caps::Caps;
use skiff_sys::seccomp::{Action, Arch, Compare, Condition, Filter, Profile, Rule, is_known};

use crate::types::{Error, Seccomp};

const EPERM: u16 = nix::libc::EPERM as u16;
const ENOSYS: u16 = nix::libc::ENOSYS as u16;
/// Those of container engines have 15 KiB.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// `None`: nothing is filtered.
pub(crate) fn filter(wanted: &Seccomp, caps: Caps) -> Result<Option<Filter>, Error> {
    let profile = match wanted {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => default_profile(caps),
        Seccomp::Profile(path) => read(path, caps)?,
    };
    profile.compile().map(Some).map_err(|error| Error::Invalid(format!("invalid seccomp profile: {error}")))
}

/// What any program may call: it touches the caller's own things only, or the kernel checks permission.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
    getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
    gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
    ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
    lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek
    lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
    process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid
    setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
    waitpid write writev modify_ldt";

/// What a capability brings with it: its name and calls that are useless or dangerous without it.
const WITH_CAPABILITY: [(&str, &str); 13] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
         move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname \
         setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "ioperm iopl"),
    ("SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
];

/// Flags of clone(2) that make namespaces.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
const AF_VSOCK: u64 = 40;
/// The personalities of Linux itself: its own, 32 bits, old address layouts; and "only ask".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// In containerd's spirit: what is allowed depends on the capabilities that the container has.
pub(crate) fn default_profile(caps: Caps) -> Profile {
    let names = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let allow = |list: &str, conditions| Rule { names: names(list), action: Action::Allow, conditions };
    let when = |argument, compare, value| vec![Condition { argument, compare, value }];
    let mut rules = vec![allow(ALWAYS, vec![])];
    // Sockets of virtual machines reach the host past every network namespace.
    rules.push(allow("socket", when(0, Compare::NotEqual, AF_VSOCK)));
    rules.extend(PERSONALITIES.map(|value| allow("personality", when(0, Compare::Equal, value))));
    let admin = Caps::named("SYS_ADMIN").is_some_and(|cap| caps.contains(cap));
    if !admin {
        rules.push(allow("clone", when(0, Compare::Masked(NAMESPACE_FLAGS), 0)));
        // Its flags lie in memory, where no filter can look; C libraries then try clone.
        rules.push(Rule { names: names("clone3"), action: Action::Errno(ENOSYS), conditions: vec![] });
    }
    let held = |name| Caps::named(name).is_some_and(|cap| caps.contains(cap));
    rules.extend(WITH_CAPABILITY.iter().filter(|(name, _)| held(name)).map(|(_, list)| allow(list, vec![])));
    Profile { default: Action::Errno(EPERM), sub_archs: sub_archs(), rules }
}

fn sub_archs() -> Vec<Arch> {
    if Arch::NATIVE == Arch::X86_64 { vec![Arch::X86] } else { Vec::new() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<JsonArch>,
    #[serde(default)]
    syscalls: Vec<JsonRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArch {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<JsonCondition>>,
    #[serde(default)]
    includes: JsonWhen,
    #[serde(default)]
    excludes: JsonWhen,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonCondition {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct JsonWhen {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// The messages are containerd's.
fn read(path: &Path, caps: Caps) -> Result<Profile, Error> {
    let text = read_bounded(path).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(number) => nix::Error::from_raw(number).desc().to_lowercase(),
            None => error.to_string(),
        };
        Error::Invalid(format!("cannot load seccomp profile {path:?}: open {}: {why}", path.display()))
    })?;
    let profile = parse(&text, caps);
    profile.map_err(|error| Error::Invalid(format!("decoding seccomp profile failed {path:?}: {error}")))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO would keep whoever opens it waiting.
    let file = fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(PROFILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > PROFILE_BYTES_MAX {
        return Err(io::Error::other(format!("more than {PROFILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn parse(text: &[u8], caps: Caps) -> Result<Profile, String> {
    let json: Json = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut archs = json.architectures;
    for entry in json.arch_map {
        if arch(&entry.architecture) == Some(Arch::NATIVE) {
            archs.extend(entry.sub_architectures.unwrap_or_default());
        }
    }
    let mut rules = Vec::new();
    for rule in json.syscalls.into_iter().filter(|rule| applies(rule, caps)) {
        let names: Vec<String> = rule.names.into_iter().chain(rule.name).collect();
        // Passed over, a call that is misspelt would stay allowed where all that is not named is.
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            return Err(format!("unknown system call {unknown:?}"));
        }
        let conditions = rule.args.unwrap_or_default().iter().map(condition).collect::<Result<_, _>>()?;
        rules.push(Rule { names, action: action(&rule.action, rule.errno_ret)?, conditions });
    }
    Ok(Profile {
        default: action(&json.default_action, json.default_errno_ret)?,
        sub_archs: archs.iter().filter_map(|name| arch(name)).filter(|arch| *arch != Arch::NATIVE).collect(),
        rules,
    })
}

fn applies(rule: &JsonRule, caps: Caps) -> bool {
    let held = |name: &String| Caps::named(name).is_some_and(|cap| caps.contains(cap));
    let native = |name: &String| match Arch::NATIVE {
        Arch::Aarch64 => name == "arm64",
        Arch::X86_64 | Arch::X86 => name == "amd64",
    };
    let (include, exclude) = (&rule.includes, &rule.excludes);
    let new_enough = |when: &JsonWhen| when.min_kernel.as_deref().is_none_or(kernel_is_at_least);
    include.caps.iter().all(held)
        && !exclude.caps.iter().any(held)
        && (include.arches.is_empty() || include.arches.iter().any(native))
        && !exclude.arches.iter().any(native)
        && new_enough(include)
        && !(exclude.min_kernel.is_some() && new_enough(exclude))
}

fn kernel_is_at_least(wanted: &str) -> bool {
    let version = |text: &str| {
        let mut parts = text.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(release.trim()) >= version(wanted)
}

fn arch(name: &str) -> Option<Arch> {
    match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X86" => Some(Arch::X86),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        _ => None,
    }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(EPERM)),
        // It is for an agent that nobody here is.
        "SCMP_ACT_NOTIFY" => return Err("SCMP_ACT_NOTIFY is not supported".to_owned()),
        other => return Err(format!("string {other} is not a valid action for seccomp")),
    })
}

fn condition(json: &JsonCondition) -> Result<Condition, String> {
    let (compare, value) = match &*json.op {
        "SCMP_CMP_NE" => (Compare::NotEqual, json.value),
        "SCMP_CMP_LT" => (Compare::Less, json.value),
        "SCMP_CMP_LE" => (Compare::LessOrEqual, json.value),
        "SCMP_CMP_EQ" => (Compare::Equal, json.value),
        "SCMP_CMP_GE" => (Compare::GreaterOrEqual, json.value),
        "SCMP_CMP_GT" => (Compare::Greater, json.value),
        // The first value is the mask.
        "SCMP_CMP_MASKED_EQ" => (Compare::Masked(json.value), json.value_two),
        other => return Err(format!("string {other} is not a valid operator for seccomp")),
    };
    Ok(Condition { argument: json.index, compare, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        let names = |caps: Caps| -> Vec<String> {
            let rules = default_profile(caps).rules;
            rules
                .into_iter()
                .filter(|r| r.action == Action::Allow && r.conditions.is_empty())
                .flat_map(|r| r.names)
                .collect()
        };
        let has = |caps, name: &str| names(caps).iter().any(|known| known == name);
        assert!(has(Caps::DEFAULT, "chroot") && !has(Caps::NONE, "chroot"));
        assert!(!has(Caps::DEFAULT, "mount") && has(Caps(u64::MAX), "mount"));
        assert!(!has(Caps::DEFAULT, "clone3") && has(Caps(u64::MAX), "clone3"));
        default_profile(Caps(u64::MAX)).compile().unwrap();
        for rule in default_profile(Caps(u64::MAX)).rules {
            rule.names.iter().for_each(|name| assert!(is_known(name), "{name}"));
        }
    }

    #[test]
    fn an_oci_profile_is_read() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}],
            "syscalls":[
              {"names":["read"],"action":"SCMP_ACT_ALLOW"},
              {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":7,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}],
               "excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["write"],"action":"SCMP_ACT_KILL","includes":{"minKernel":"99.0"}}]}"#;
        let profile = parse(text, Caps::DEFAULT).unwrap();
        assert_eq!(profile.default, Action::Errno(38));
        let names: Vec<&str> = profile.rules.iter().map(|rule| &*rule.names[0]).collect();
        assert_eq!(names, ["read", "clone"]);
        assert_eq!(profile.rules[1].conditions[0].compare, Compare::Masked(7));
    }

    #[test]
    fn what_a_profile_must_not_say() {
        let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
        let table = [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY is not supported"),
            (r#"{"defaultAction":"ALLOW"}"#.to_owned(), "string ALLOW is not a valid action for seccomp"),
            ("{}".to_owned(), "missing field `defaultAction`"),
            (rule(r#"{"names":["read"],"action":"X"}"#), "string X is not a valid action for seccomp"),
            (
                rule(
                    r#"{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_IS"}]}"#,
                ),
                "string SCMP_CMP_IS is not a valid operator for seccomp",
            ),
            (rule(r#"{"names":["read"]}"#), "missing field `action`"),
            (
                rule(r#"{"names":["read","keyctll"],"action":"SCMP_ACT_ERRNO"}"#),
                "unknown system call \"keyctll\"",
            ),
        ];
        for (text, expected) in table {
            let error = parse(text.as_bytes(), Caps::NONE).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        // The argument's number is judged when it is compiled.
        let seventh =
            r#"{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#;
        assert!(parse(rule(seventh).as_bytes(), Caps::NONE).unwrap().compile().is_err());
        // Those of other architectures are no mistake.
        parse(rule(r#"{"names":["s390_sthyi","mseal"],"action":"SCMP_ACT_LOG"}"#).as_bytes(), Caps::NONE)
            .unwrap();
    }

    #[test]
    fn files_that_are_no_profiles() {
        let dir = tempfile::tempdir().unwrap();
        let said = |name: &str| read(&dir.path().join(name), Caps::NONE).unwrap_err().to_string();
        let path = dir.path().join("none");
        assert_eq!(
            said("none"),
            format!(
                "cannot load seccomp profile {path:?}: open {}: no such file or directory",
                path.display()
            )
        );
        assert!(said("").contains("not a regular file"), "{}", said(""));
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600))
            .unwrap();
        assert!(said("fifo").contains("not a regular file"));
        fs::write(dir.path().join("large"), vec![b' '; (1 << 20) + 1]).unwrap();
        assert!(said("large").contains("more than 1048576 bytes"));
        fs::write(dir.path().join("broken"), "{").unwrap();
        assert!(said("broken").starts_with("decoding seccomp profile failed"));
    }

    #[test]
    fn spoiled_profiles_are_refused_or_compiled() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let good = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86"],
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[{"names":["clone","read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8","arches":["amd64"]},
              "args":[{"index":5,"value":2114060288,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}],"excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"name":"mount","action":"SCMP_ACT_TRACE","errnoRet":65535}]}"#;
        let mut compiled = 0;
        for _ in 0..5_000 {
            let mut text = good.to_vec();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..text.len());
                match random.random_range(0..4) {
                    0 => text.truncate(at.max(1)),
                    1 => text[at] = random.random(),
                    2 => text.insert(at, b"0123456789-,:\"{}[]"[random.random_range(0..18)]),
                    _ => drop(text.remove(at)),
                }
                if text.is_empty() {
                    break;
                }
            }
            if let Ok(profile) = parse(&text, Caps::DEFAULT) {
                compiled += usize::from(profile.compile().is_ok());
            }
        }
        assert!(compiled > 500, "{compiled}");
    }
}
