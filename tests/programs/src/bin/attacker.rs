//! The hostile program: tries one way out of its container, named by its first argument.
//!
//! It exits with 0 where the way is open, with 1 and the kernel's reason where it is shut, and with 2 where
//! the attempt itself could not be made. It changes nothing of the machine: what concerns the whole machine
//! is opened for writing and never written. The runtime's own suite compiles it alone and static, since its
//! images have no C library; that is why it has no crates and makes system calls by number.

use std::ffi::{CStr, CString, c_long};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const SOCKET: i64 = 41;
    pub const BIND: i64 = 49;
    pub const PTRACE: i64 = 101;
    pub const CAPGET: i64 = 125;
    pub const MKNODAT: i64 = 259;
    pub const MOUNT: i64 = 165;
    pub const UMOUNT2: i64 = 166;
    pub const INIT_MODULE: i64 = 175;
    pub const KEYCTL: i64 = 250;
    pub const UNSHARE: i64 = 272;
    pub const NAME_TO_HANDLE_AT: i64 = 303;
    pub const OPEN_BY_HANDLE_AT: i64 = 304;
    pub const SETNS: i64 = 308;
    pub const GETSID: i64 = 124;
    pub const GETPPID: i64 = 110;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const SOCKET: i64 = 198;
    pub const BIND: i64 = 200;
    pub const PTRACE: i64 = 117;
    pub const CAPGET: i64 = 90;
    pub const MKNODAT: i64 = 33;
    pub const MOUNT: i64 = 40;
    pub const UMOUNT2: i64 = 39;
    pub const INIT_MODULE: i64 = 105;
    pub const KEYCTL: i64 = 219;
    pub const UNSHARE: i64 = 97;
    pub const NAME_TO_HANDLE_AT: i64 = 264;
    pub const OPEN_BY_HANDLE_AT: i64 = 265;
    pub const SETNS: i64 = 268;
    pub const GETSID: i64 = 156;
    pub const GETPPID: i64 = 173;
}

const AT_FDCWD: i64 = -100;
const CLONE_NEWNS: i64 = 0x0002_0000;
const CLONE_NEWCGROUP: i64 = 0x0200_0000;
const CLONE_NEWUSER: i64 = 0x1000_0000;
const MS_REMOUNT_BIND: i64 = 0x1020;
const ENOSYS: i32 = 38;
const CAP_SYS_MODULE: u32 = 16;

macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: every use passes the arguments that the call of this number takes, and pointers that
        // live until it returns.
        match unsafe { syscall(number::$number $(, $argument)*) } {
            -1 => Err(Error::last_os_error()),
            answer => Ok(answer),
        }
    };
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let tried = match args.as_slice() {
        ["victim", name] => return victim(name),
        ["listen", name] => return listen(name),
        ["mount"] => mount("tmpfs", "/tmp", 0, ""),
        ["remount", mounted, path] => remount(mounted, path),
        ["unmask", path] => unmask(path),
        ["unshare"] => call!(UNSHARE, CLONE_NEWNS).map(drop),
        ["unshare-user"] => call!(UNSHARE, CLONE_NEWUSER).map(drop),
        ["ptrace", name] => process_of(name).and_then(ptrace),
        ["raw-socket"] => call!(SOCKET, 2i64, 3i64, 1i64).map(drop),
        ["packet-socket"] => call!(SOCKET, 17i64, 3i64, 0i64).map(drop),
        ["claim-address", address] => claim_address(address),
        ["change-link"] => change_link(),
        ["open", path] => OpenOptions::new().write(true).open(path).map(drop),
        ["read", path] => read(Path::new(path)),
        ["emptied", path] => emptied(path),
        ["release-agent"] => release_agent(),
        ["make-group"] => make_group(),
        ["mknod"] => mknod("/tmp/device", 0o060_600, 8, 0),
        ["device"] => device(),
        ["module"] => module(),
        ["keyctl"] => keyctl(),
        ["handle"] => handle(),
        ["runtime-program"] => runtime_program(),
        ["runtime-memory"] => runtime_memory(),
        ["node-namespace"] => node_namespace(),
        ["descriptors"] => descriptors(),
        ["directory"] => directory(),
        ["tiocsti"] => tiocsti(),
        ["node-socket", name] => SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixStream::connect_addr(&address))
            .map(drop),
        ["pod-socket", name] => file_of(name, "run/victim.sock").and_then(UnixStream::connect).map(drop),
        ["pod-token", name] => file_of(name, "run/token").and_then(|path| read(&path)),
        _ => {
            println!("no such attempt: {args:?}");
            return ExitCode::from(2);
        }
    };
    match tried {
        Ok(()) => {
            println!("succeeded");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("blocked: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Says by ARP that another pod's address is here, sends it a word, and looks whether that comes back here. Where
/// it reaches the other pod, which does not listen, this one is told so.
fn claim_address(address: &str) -> io::Result<()> {
    const WORD: &[u8] = b"meant for the victim";
    const PACKET: i64 = 17;
    let victim: Ipv4Addr = address.parse().map_err(Error::other)?;
    let [a, b, c, _] = victim.octets();
    let of_link = |what: &str| fs::read_to_string(format!("/sys/class/net/eth0/{what}"));
    let mut own = [0; 6];
    for (byte, text) in own.iter_mut().zip(of_link("address")?.trim().split(':')) {
        *byte = u8::from_str_radix(text, 16).map_err(Error::other)?;
    }
    // Of all protocols; from struct sockaddr_ll its family, protocol and link.
    let socket = call!(SOCKET, PACKET, 3i64, 0x0300i64)?;
    // SAFETY: the kernel has just given this descriptor, and nobody else has it.
    let frames = unsafe { UnixDatagram::from_raw_fd(socket as i32) };
    let mut place = [0u8; 20];
    place[..2].copy_from_slice(&(PACKET as u16).to_ne_bytes());
    place[2..4].copy_from_slice(&[0, 3]);
    place[4..8]
        .copy_from_slice(&of_link("ifindex")?.trim().parse::<u32>().map_err(Error::other)?.to_ne_bytes());
    call!(BIND, socket, place.as_ptr(), 20i64)?;
    frames.set_read_timeout(Some(Duration::from_millis(100)))?;

    // The question who has the gateway, from the victim's address and here (RFC 826).
    let mut claim = vec![0xff; 6];
    claim.extend(own);
    claim.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    claim.extend(own);
    claim.extend([a, b, c, victim.octets()[3], 0, 0, 0, 0, 0, 0, a, b, c, 1]);
    let sender = UdpSocket::bind("0.0.0.0:0")?;
    sender.connect((victim, 9))?;
    sender.set_nonblocking(true)?;
    let mut frame = [0; 2048];
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        frames.send(&claim)?;
        match sender.send(WORD).and_then(|_| sender.recv(&mut [0; 1])) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(blocked("it reached the victim"));
            }
            _ => {}
        }
        while let Ok(length) = frames.recv(&mut frame) {
            if frame[..6] == own && frame[..length].ends_with(WORD) {
                return Ok(());
            }
        }
    }
    println!("neither the victim nor this has got it");
    std::process::exit(2)
}

fn blocked(reason: &str) -> Error {
    Error::other(reason.to_owned())
}

/// Another pod: has a token and listens on a socket until it is ended. Its arguments are how it is found.
fn victim(name: &str) -> ExitCode {
    let _ = fs::create_dir_all("/run");
    let made = fs::write("/run/token", name).and_then(|()| UnixListener::bind("/run/victim.sock"));
    match made {
        Ok(listener) => {
            println!("ready");
            listener.incoming().for_each(drop);
        }
        Err(error) => println!("{error}"),
    }
    ExitCode::from(2)
}

/// A listener of the network namespace that it is in, until it is ended.
fn listen(name: &str) -> ExitCode {
    match SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address)) {
        Ok(listener) => {
            println!("ready");
            listener.incoming().for_each(drop);
        }
        Err(error) => println!("{error}"),
    }
    ExitCode::from(2)
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

fn mount(kind: &str, target: &str, flags: i64, options: &str) -> io::Result<()> {
    let (kind, target, options) = (c_string(kind), c_string(target), c_string(options));
    call!(MOUNT, c"x".as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr()).map(drop)
}

/// Makes a mount writable, and opens what is on it.
fn remount(mounted: &str, path: &str) -> io::Result<()> {
    let remounted = mount("", mounted, MS_REMOUNT_BIND, "");
    let opened = OpenOptions::new().write(true).open(path).map(drop);
    opened.map_err(|error| remounted.err().unwrap_or(error))
}

/// Takes away what lies over a file, and reads it.
fn unmask(path: &str) -> io::Result<()> {
    let unmounted = call!(UMOUNT2, c_string(path).as_ptr(), 0i64);
    read(Path::new(path)).map_err(|error| unmounted.err().unwrap_or(error))
}

/// Processes whose last arguments are a victim's.
fn process_of(name: &str) -> io::Result<i64> {
    let wanted = format!("\0victim\0{name}\0");
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.ends_with(wanted.as_bytes()) {
            return entry.file_name().to_string_lossy().parse().map_err(Error::other);
        }
    }
    Err(blocked("the other pod's process is not to be seen"))
}

fn file_of(name: &str, path: &str) -> io::Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root/{path}", process_of(name)?)))
}

fn read(path: &Path) -> io::Result<()> {
    match File::open(path)?.read(&mut [0; 64])? {
        0 => Err(blocked("there is nothing in it")),
        _ => Ok(()),
    }
}

/// Whether somebody else has emptied a file.
fn emptied(path: &str) -> io::Result<()> {
    match fs::metadata(path)?.len() {
        0 => Ok(()),
        _ => Err(blocked("it is as it was")),
    }
}

/// By PTRACE_SEIZE, which does not stop it.
fn ptrace(pid: i64) -> io::Result<()> {
    call!(PTRACE, 0x4206i64, pid, 0i64, 0i64).map(drop)
}

/// Takes a link of the pod's own to what it is already, which takes the right to change it.
fn change_link() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // struct ifreq: the name, then what is asked for or set.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    for action in [0x8913u64, 0x8914] {
        // SAFETY: SIOCGIFFLAGS and SIOCSIFFLAGS take a struct ifreq, which has 40 bytes.
        if unsafe { ioctl(socket.as_raw_fd(), action, request.as_mut_ptr()) } != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

/// In the node's control group namespace, if its parent, the shim, is to be seen, the hierarchy's root is there to be
/// mounted, and a program that the kernel runs is named in it.
fn release_agent() -> io::Result<()> {
    fs::create_dir_all("/tmp/groups")?;
    if let Ok(namespace) = File::open(format!("/proc/{}/ns/cgroup", call!(GETPPID)?)) {
        let _ = call!(SETNS, i64::from(namespace.as_raw_fd()), CLONE_NEWCGROUP);
    }
    mount("cgroup", "/tmp/groups", 0, "memory")?;
    OpenOptions::new().write(true).open("/tmp/groups/release_agent").map(drop)
}

/// A control group below the container's own, where limits of its own choice would hold.
fn make_group() -> io::Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    let version_1 = top.join("memory");
    let group = if version_1.exists() { version_1 } else { top.into() }.join("made");
    fs::create_dir(&group)?;
    fs::remove_dir(&group)
}

fn mknod(path: &str, mode: i64, major: i64, minor: i64) -> io::Result<()> {
    call!(MKNODAT, AT_FDCWD, c_string(path).as_ptr(), mode, major << 8 | minor).map(drop)
}

/// The kernel's log, which exists on every machine.
fn device() -> io::Result<()> {
    mknod("/tmp/kmsg", 0o020_600, 1, 11)?;
    OpenOptions::new().write(true).open("/tmp/kmsg").map(drop)
}

/// Rubbish is never loaded: who may load modules hears that it is none (ENOEXEC), others EPERM. A kernel
/// without modules can't judge; there the capability it would have asked for does, over the whole machine.
fn module() -> io::Result<()> {
    let rubbish = [0u8; 64];
    match call!(INIT_MODULE, rubbish.as_ptr(), rubbish.len(), c"".as_ptr()) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(1) => Err(error),
        Err(error) if error.raw_os_error() == Some(ENOSYS) => {
            match (has_capability(CAP_SYS_MODULE)?, has_users_of_its_own()?) {
                (true, false) => Ok(()),
                (true, true) => Err(blocked("CAP_SYS_MODULE ends with the user namespace")),
                (false, _) => Err(blocked("no CAP_SYS_MODULE")),
            }
        }
        Err(_) => Ok(()),
    }
}

/// The first user namespace shows all IDs as they are.
fn has_users_of_its_own() -> io::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().ne(["0", "0", "4294967295"]))
}

fn has_capability(number: u32) -> io::Result<bool> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut sets = [0u32; 6];
    call!(CAPGET, header.as_ptr(), sets.as_mut_ptr())?;
    Ok(sets[0] & 1 << number != 0)
}

/// Asks for the keys of the user, which are the same in all containers. A kernel without keys was reached.
fn keyctl() -> io::Result<()> {
    match call!(KEYCTL, 0i64, -4i64, 1i64) {
        Err(error) if error.raw_os_error() != Some(ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file by its number instead of its name: the numbers of the node's files can be guessed.
fn handle() -> io::Result<()> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0i32;
    let path: &CStr = c"/dev/shm";
    call!(NAME_TO_HANDLE_AT, AT_FDCWD, path.as_ptr(), &raw mut handle, &raw mut mount, 0i64)?;
    let directory = File::open("/dev/shm")?;
    call!(OPEN_BY_HANDLE_AT, i64::from(directory.as_raw_fd()), &raw const handle, 0i64).map(drop)
}

/// Whether the program of the process that made this one could be written, once nobody runs it: its mode is
/// set to what it is, which takes a mount that can be written and changes nothing.
fn runtime_program() -> io::Result<()> {
    let program = format!("/proc/{}/exe", call!(GETPPID)?);
    let mode = fs::metadata(&program)?.permissions().mode();
    fs::set_permissions(&program, fs::Permissions::from_mode(mode))
}

fn runtime_memory() -> io::Result<()> {
    OpenOptions::new().write(true).open(format!("/proc/{}/mem", call!(GETPPID)?)).map(drop)
}

/// Goes where the shim is: the node's files.
fn node_namespace() -> io::Result<()> {
    let namespace = File::open(format!("/proc/{}/ns/mnt", call!(GETPPID)?))?;
    call!(SETNS, i64::from(namespace.as_raw_fd()), CLONE_NEWNS).map(drop)
}

/// Anything beyond the standard streams.
fn descriptors() -> io::Result<()> {
    for number in 3..1024 {
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            // Reading it takes no descriptor of one's own, so each is somebody else's.
            println!("{number} is {}", target.display());
            return Ok(());
        }
    }
    Err(blocked("none is left open"))
}

/// Whether the working directory lies below this root.
fn directory() -> io::Result<()> {
    let identity = |path: &str| fs::metadata(path).map(|data| (data.dev(), data.ino()));
    let root = identity("/")?;
    let mut up = ".".to_owned();
    for _ in 0..64 {
        if identity(&up)? == root {
            return Err(blocked("the way up ends at the root"));
        }
        up.push_str("/..");
    }
    Ok(())
}

/// Types into a terminal, if there is one: without one of its own, that would be the node's.
fn tiocsti() -> io::Result<()> {
    if call!(GETSID, 0i64)? == 0 {
        return Ok(());
    }
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    // SAFETY: TIOCSTI reads one byte.
    match unsafe { ioctl(terminal.as_raw_fd(), 0x5412, c"x".as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
