//! From a forked child to a container's program, first half: everything up to the word to start.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, chdir, execve, setgroups, setresgid, setresuid, setsid};
use skiff_sys::caps::{self, Caps};
use skiff_sys::mount::open_without_links;
use skiff_sys::process::{dup_onto, reset_signals, set_dumpable, set_keep_caps, set_no_new_privs};
use skiff_sys::seccomp::Filter;
use skiff_sys::tty;

use super::overlay::Users;
use super::root::open_path;
use super::rootfs::Kept;
use super::terminal::Terminal;
use super::users::{self, Identity, Wanted};
use super::{Go, Note, failed, join_cgroups, join_namespaces, masks, rootfs, set_oom_score_adj, warn};
use crate::files::read_json;
use crate::protocol::{Failure, receive, send};
use crate::spec::{FILE, Spec};

const FILES_MAX: u64 = 1 << 20;
/// Of `/etc/passwd` and `/etc/group` each.
const USERS_BYTES_MAX: u64 = 4 << 20;
/// containerd's and runc's words around what went wrong in a container's start.
const START: &str = "failed to create containerd task: failed to create shim task: OCI runtime create failed: \
                     runc create failed: unable to start container process: error during container init: ";

/// A container on its way, with all that only the node's root can lay hold of.
pub(crate) struct Prepared {
    spec: Spec,
    filter: Option<Filter>,
    parts: rootfs::Parts,
}

/// The first act of a container's first process, with the node's rights. `users` is the sandbox's own user
/// namespace, if it has one.
pub(crate) fn prepare(
    dir: &Path,
    users: Option<Users<'_>>,
    socket: &UnixStream,
) -> Result<Prepared, Failure> {
    let prepare = || {
        let (spec, filter) = load(dir)?;
        set_dumpable(false).map_err(Failure::doing("protect the set-up from tracing"))?;
        set_oom_score_adj(spec.oom_score_adj, socket)?;
        raise_files_limit().map_or(Ok(()), |warning| warn(socket, warning))?;
        join_cgroups(&spec.join)?;
        let parts = rootfs::gather(&spec, users)?;
        Ok(Prepared { spec, filter, parts })
    };
    prepare().map_err(in_words)
}

/// The second act: becomes the container's program. `pause` is a handle on the process whose namespaces it
/// joins.
pub(crate) fn create(
    prepared: Prepared,
    pause: BorrowedFd<'_>,
    socket: &UnixStream,
) -> Result<Infallible, Failure> {
    start(prepared, pause, socket).map_err(in_words)
}

fn in_words(failure: Failure) -> Failure {
    Failure { message: format!("{START}{}", failure.message), ..failure }
}

fn start(prepared: Prepared, pause: BorrowedFd<'_>, socket: &UnixStream) -> Result<Infallible, Failure> {
    let Prepared { spec, filter, parts } = prepared;
    let mut join = CloneFlags::empty();
    join.set(CloneFlags::CLONE_NEWNET, spec.join_net);
    join.set(CloneFlags::CLONE_NEWIPC, spec.join_ipc);
    join.set(CloneFlags::CLONE_NEWUTS, spec.join_uts);
    join_namespaces(pause, join)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .map_err(failed("make the container's namespaces"))?;
    let Kept { null, terminal } = rootfs::enter(&spec, parts)?;
    let setup = Setup::new(&spec)?;
    masks::seal(&spec, null)?;
    session(terminal, socket)?;
    if !spec.tty {
        send(socket, &Note::Ready, &[]).map_err(Failure::doing("answer the shim"))?;
    }
    match receive::<Go>(socket) {
        Ok(Some(_)) => {}
        // The shim is gone or gave the container up.
        _ => skiff_sys::process::exit_now(0),
    }
    setup.become_program(&spec.args, &spec, filter)
}

/// The container's specification and its system call filter.
pub(super) fn load(dir: &Path) -> Result<(Spec, Option<Filter>), Failure> {
    let path = dir.join(FILE);
    let spec: Spec = read_json(&path)
        .and_then(|spec| spec.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
        .map_err(Failure::doing(format_args!("read {}", path.display())))?;
    if spec.weakness.leaks_descriptors {
        let root = nix::fcntl::open("/", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
        let _stays_open = root.map_err(failed("open the node's root"))?.into_raw_fd();
    }
    let filter = match &spec.seccomp {
        None => None,
        Some(path) => {
            let bytes = fs::read(path).map_err(Failure::doing(format_args!("read {}", path.display())))?;
            Some(Filter::from_bytes(&bytes).map_err(|error| Failure::new(128, error.to_string()))?)
        }
    };
    Ok((spec, filter))
}

/// A session of its own, which the terminal belongs to if there is one; its master goes to the shim with
/// [`Note::Ready`].
pub(super) fn session(terminal: Option<Terminal>, socket: &UnixStream) -> Result<(), Failure> {
    setsid().map_err(failed("lead a session"))?;
    let Some(Terminal { master, slave }) = terminal else { return Ok(()) };
    tty::make_controlling(slave.as_fd()).map_err(Failure::doing("take the terminal"))?;
    for stream in 0..=2 {
        dup_onto(slave.as_fd(), stream).map_err(Failure::doing("connect the terminal"))?;
    }
    send(socket, &Note::Ready, &[master.as_fd()]).map_err(Failure::doing("answer the shim"))
}

/// A file of the container's, which may have put anything in its place: only a plain file is read, and no more of
/// it than there are users anywhere. A pipe would be waited for, and a device has no end.
fn read_users(path: &Path) -> io::Result<String> {
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(USERS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// What is found out inside the container before its program runs.
pub(super) struct Setup {
    identity: Identity,
}

impl Setup {
    pub(super) fn new(spec: &Spec) -> Result<Setup, Failure> {
        let read = |path: &str| read_users(Path::new(path)).unwrap_or_default();
        let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
        let wanted = Wanted {
            user: &spec.user,
            gid: spec.group,
            supplemental: &spec.supplemental_groups,
            strict: spec.strict_groups,
        };
        let identity = users::resolve(&wanted, &passwd, &group)?;
        if !Path::new(&spec.cwd).exists() {
            fs::create_dir_all(&spec.cwd).map_err(Failure::doing(format_args!("make {}", spec.cwd)))?;
        }
        Ok(Setup { identity })
    }

    /// Sheds all that the program may not have and executes it.
    pub(super) fn become_program(
        self,
        args: &[String],
        spec: &Spec,
        filter: Option<Filter>,
    ) -> Result<Infallible, Failure> {
        let mut env = spec.env.clone();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", self.identity.home));
        }
        let strings = |list: &[String]| -> Result<Vec<CString>, Failure> {
            let c_string = |s: &String| {
                CString::new(s.as_str()).map_err(|_| Failure::new(128, format!("{s:?} contains a zero byte")))
            };
            list.iter().map(c_string).collect()
        };
        let (arguments, environment) = (strings(args)?, strings(&env)?);

        reset_signals().map_err(Failure::doing("reset signals"))?;
        let held = caps::permitted().map_err(Failure::doing("ask for capabilities"))?;
        let keep = Caps(spec.caps & held.0);
        caps::limit_bounding(keep).map_err(Failure::doing("limit capabilities"))?;
        let groups: Vec<Gid> = self.identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        setgroups(&groups).map_err(failed("set groups"))?;
        let (uid, gid) = (Uid::from_raw(self.identity.uid), Gid::from_raw(self.identity.gid));
        set_keep_caps(true).map_err(Failure::doing("keep capabilities"))?;
        setresgid(gid, gid, gid).map_err(failed("change group"))?;
        setresuid(uid, uid, uid).map_err(failed("change user"))?;
        set_keep_caps(false).map_err(Failure::doing("keep capabilities"))?;
        // The user's own rights decide what it can enter and execute.
        let usual = if uid.is_root() { keep } else { Caps::NONE };
        let set = |effective, permitted| {
            caps::set(effective, permitted).map_err(Failure::doing("set capabilities"))
        };
        set(usual, held)?;
        let program = find(&args[0], &env)?;
        let entered = chdir(spec.cwd.as_str());
        set(held, held)?;
        if entered.is_err() {
            // A directory of root's that the container was told to start in all the same, as runc does.
            let entered = chdir(spec.cwd.as_str());
            entered.map_err(failed(format_args!("change to the working directory {}", spec.cwd)))?;
        }
        let path = CString::new(program.as_os_str().as_encoded_bytes())
            .map_err(|_| Failure::new(128, format!("{program:?} contains a zero byte")))?;
        if let Some(profile) = &spec.apparmor {
            confine(profile).map_err(Failure::doing(format_args!("apply the AppArmor profile {profile}")))?;
        }
        // A filter takes either a capability or no-new-privileges: without the latter it comes before the
        // capabilities go, and its profile has to allow capset.
        match &filter {
            Some(filter) if !spec.no_new_privileges => install(filter)?,
            _ => {}
        }
        set(keep, keep)?;
        if spec.no_new_privileges {
            set_no_new_privs().map_err(Failure::doing("renounce privileges"))?;
            filter.iter().try_for_each(install)?;
        }
        let error = execve(&path, &arguments, &environment).unwrap_err();
        let code = if error == nix::Error::ENOENT { 127 } else { 126 };
        Err(Failure::new(code, format!("exec {}: {}", program.display(), words(error))))
    }
}

/// From the next program on. What is written here must reach the kernel and nobody else: neither a link nor
/// another file system may be in its way (CVE-2025-52881).
fn confine(profile: &str) -> io::Result<()> {
    let root = open_path(Path::new("/"))?;
    let own = format!("/proc/{}/attr", std::process::id());
    // Kernels before 5.8 have it where all security modules share one file.
    let open = |name: &str| open_without_links(root.as_fd(), &Path::new(&own).join(name), libc::O_WRONLY);
    let file = open("apparmor/exec").or_else(|_| open("exec"))?;
    if fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc is not a procfs"));
    }
    File::from(file).write_all(format!("exec {profile}").as_bytes())
}

fn install(filter: &Filter) -> Result<(), Failure> {
    filter.install().map_err(Failure::doing("install the system call filter"))
}

/// The file that a command's name means, by the rules and in the words of Go's `exec.LookPath`, which
/// every user of a container runtime has learnt.
fn find(name: &str, env: &[String]) -> Result<PathBuf, Failure> {
    let complaint = |code, reason: &str| Failure::new(code, format!("exec: {name:?}: {reason}"));
    let executable = |path: &Path| -> Result<(), nix::Error> {
        let kind = nix::sys::stat::stat(path)?;
        if kind.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR {
            return Err(nix::Error::EISDIR);
        }
        nix::unistd::eaccess(path, nix::unistd::AccessFlags::X_OK)
    };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(nix::Error::EISDIR) => Err(complaint(126, "is a directory")),
            Err(nix::Error::EACCES) => Err(complaint(126, "permission denied")),
            Err(error) => Err(complaint(127, &format!("stat {name}: {}", words(error)))),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    let mut denied = false;
    for dir in path.split(':') {
        let file = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match executable(&file) {
            Ok(()) => return Ok(file),
            Err(error) => denied |= error == nix::Error::EACCES,
        }
    }
    if denied && !name.is_empty() {
        return Err(complaint(126, "permission denied"));
    }
    Err(complaint(127, "executable file not found in $PATH"))
}

/// As Go prints an errno: not capitalised.
fn words(error: nix::Error) -> String {
    error.desc().to_lowercase()
}

/// Programs expect more open files than a login shell gets; as many as may be, or a warning.
pub(super) fn raise_files_limit() -> Option<String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX).err()?;
    let most = hard.min(FILES_MAX);
    let _ = setrlimit(Resource::RLIMIT_NOFILE, most, hard);
    Some(format!("the limit of open files is {most}, not {FILES_MAX}, without CAP_SYS_RESOURCE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_looked_up_in_the_containers_path() {
        let env = ["PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find("sh", &env).unwrap(), Path::new("/bin/sh"));
        let fail = |name: &str| {
            let failure = find(name, &env).unwrap_err();
            format!("{} {}", failure.code, failure.message)
        };
        assert_eq!(fail("nope"), "127 exec: \"nope\": executable file not found in $PATH");
        assert_eq!(
            fail("/proc/nope"),
            "127 exec: \"/proc/nope\": stat /proc/nope: no such file or directory"
        );
        assert_eq!(fail("/etc"), "126 exec: \"/etc\": is a directory");
        assert_eq!(fail("/etc/passwd"), "126 exec: \"/etc/passwd\": permission denied");
    }
}
