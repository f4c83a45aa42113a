//! Puts in a packet's way, in the network that it runs in, what this project does not judge:
//!
//! - `hinder xdp DEVICE`: a program at the device that drops what comes in, until the standard input ends
//! - `hinder tcx DEVICE`: the same at the place of `tcx`. Exit 3 where the kernel has none
//! - `hinder cgroup`: a program that looks at what sockets of its own cgroup send, and lets it pass; as long, too
//! - `hinder xtables ADDRESS`: a rule of the packet filter before nftables, in its table `filter`, that drops what
//!   is forwarded to the address, and nothing else; it stays. Exit 3 where the kernel has no such tables
//! - `hinder xtables none`: takes it away again

use std::ffi::CString;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["xdp", device] => at_device(device, &XDP),
        ["tcx", device] => at_device(device, &TCX),
        ["cgroup"] => at_cgroup(),
        ["xtables", "none"] => xtables(None),
        ["xtables", address] => match address.parse() {
            Ok(address) => xtables(Some(address)),
            Err(_) => Err((64, format!("{address:?} is no address"))),
        },
        _ => Err((64, "usage: see the source".to_owned())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprintln!("hinder: {message}");
            ExitCode::from(code)
        }
    }
}

type Outcome = Result<(), (u8, String)>;

fn failed(what: &str) -> (u8, String) {
    (1, format!("{what}: {}", std::io::Error::last_os_error()))
}

/// BPF_PROG_LOAD's part of `union bpf_attr`, as much as is needed.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    expected: u32,
}

/// BPF_LINK_CREATE's.
#[repr(C)]
#[derive(Default)]
struct Attach {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
    more: [u64; 4],
}

/// A program, and where it is attached.
struct Hindrance {
    kind: u32,
    attach: u32,
    expected: u32,
    flags: u32,
    verdict: u32,
}

/// Generic: in the kernel's common code, which every device has.
const XDP: Hindrance = Hindrance { kind: 6, attach: 37, expected: 0, flags: 1 << 1, verdict: 1 };
const TCX: Hindrance = Hindrance { kind: 3, attach: 46, expected: 0, flags: 0, verdict: 2 };
/// What is sent (BPF_CGROUP_INET_EGRESS) passes.
const CGROUP: Hindrance = Hindrance { kind: 8, attach: 1, expected: 1, flags: 0, verdict: 1 };

fn at_device(device: &str, how: &Hindrance) -> Outcome {
    let name = CString::new(device).map_err(|_| (64, "a name has no zero byte".to_owned()))?;
    // SAFETY: the name is a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(failed(device));
    }
    attach(index, how)
}

/// In the hierarchy of version 2, alone or beside version 1.
fn at_cgroup() -> Outcome {
    let own = std::fs::read_to_string("/proc/self/cgroup").map_err(|_| failed("no cgroups"))?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let dirs = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let mount = dirs.into_iter().find(|dir| dir.join("cgroup.controllers").exists());
    let (Some(path), Some(mount)) = (path, mount) else { return Err((3, "no cgroups of version 2".into())) };
    let dir = std::fs::File::open(mount.join(path)).map_err(|_| failed("no such cgroup"))?;
    attach(std::os::fd::AsRawFd::as_raw_fd(&dir) as u32, &CGROUP)
}

fn attach(target: u32, how: &Hindrance) -> Outcome {
    // r0 = the verdict; exit
    let code: [u64; 2] = [0xb7 | u64::from(how.verdict) << 32, 0x95];
    let mut load = Load {
        kind: how.kind,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected: how.expected,
        ..Load::default()
    };
    let program = bpf(5, &mut load).ok_or_else(|| failed("the program can't be loaded"))?;
    let mut attach = Attach { program, target, kind: how.attach, flags: how.flags, ..Attach::default() };
    bpf(28, &mut attach).ok_or_else(|| (3, failed("the program can't be attached").1))?;
    println!("attached");
    // With this process it goes.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map_err(|_| failed("no standard input"))?;
    Ok(())
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> Option<u32> {
    // SAFETY: the attributes are laid out as the command's, with their own size, and what they point to lives on.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    u32::try_from(result).ok()
}

const GET_INFO: i32 = 64;
const REPLACE: i32 = 64;
const ACCEPT: i32 = -2;
const DROP: i32 = -1;
/// An entry and the standard target; the entry at the end.
const RULE: u32 = 112 + 40;
const LAST: u32 = 112 + 64;

/// Replaces the rules of the table `filter` (linux/netfilter_ipv4/ip_tables.h).
fn xtables(address: Option<Ipv4Addr>) -> Outcome {
    // SAFETY: socket takes no pointers.
    let socket =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if socket < 0 {
        return Err(failed("no socket"));
    }
    let mut info = [0u8; 84];
    info[..6].copy_from_slice(b"filter");
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer has `length` bytes.
    let asked = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_IP, GET_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if asked != 0 {
        return Err((3, failed("there is no such table").1));
    }
    let before = u32::from_ne_bytes([info[76], info[77], info[78], info[79]]);
    let mut entries = rule(None, ACCEPT);
    let forward = entries.len() as u32;
    if address.is_some() {
        entries.extend(rule(address, DROP));
    }
    let policy = entries.len() as u32;
    entries.extend(rule(None, ACCEPT));
    let output = entries.len() as u32;
    entries.extend(rule(None, ACCEPT));
    entries.extend(last());
    let mut counters = vec![0u8; before as usize * 16];
    let mut table = vec![0u8; 32];
    table[..6].copy_from_slice(b"filter");
    let count = if address.is_some() { 5 } else { 4 };
    // Input, forward and output.
    let numbers = [0b01110, count, entries.len() as u32];
    let (first, policies) = ([0, 0, forward, output, 0], [0, 0, policy, output, 0]);
    for number in numbers.iter().chain(&first).chain(&policies).chain(&[before]) {
        table.extend(number.to_ne_bytes());
    }
    table.extend((counters.as_mut_ptr() as u64).to_ne_bytes());
    table.extend(entries);
    // SAFETY: the table is as long as it is said to be, and the counters live until the call returns.
    let set = unsafe {
        libc::setsockopt(
            socket,
            libc::IPPROTO_IP,
            REPLACE,
            table.as_ptr().cast(),
            table.len() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(failed("the table can't be replaced")) }
}

fn rule(address: Option<Ipv4Addr>, verdict: i32) -> Vec<u8> {
    let mut bytes = vec![0u8; RULE as usize];
    if let Some(address) = address {
        bytes[4..8].copy_from_slice(&address.octets());
        bytes[12..16].copy_from_slice(&[255; 4]);
    }
    bytes[88..90].copy_from_slice(&112u16.to_ne_bytes());
    bytes[90..92].copy_from_slice(&(RULE as u16).to_ne_bytes());
    bytes[112..114].copy_from_slice(&40u16.to_ne_bytes());
    bytes[144..148].copy_from_slice(&verdict.to_ne_bytes());
    bytes
}

fn last() -> Vec<u8> {
    let mut bytes = vec![0u8; LAST as usize];
    bytes[88..90].copy_from_slice(&112u16.to_ne_bytes());
    bytes[90..92].copy_from_slice(&(LAST as u16).to_ne_bytes());
    bytes[112..114].copy_from_slice(&64u16.to_ne_bytes());
    bytes[114..119].copy_from_slice(b"ERROR");
    bytes[144..149].copy_from_slice(b"ERROR");
    bytes
}
