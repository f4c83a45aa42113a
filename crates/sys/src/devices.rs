//! Which device nodes a cgroup's processes may use: as an eBPF program (cgroup v2) or as the lines of
//! `devices.allow` (v1).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::process::check;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    All,
    Block,
    Char,
}

/// One permission. `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Allow {
    pub const EVERYTHING: Allow =
        Allow { kind: Kind::All, major: None, minor: None, read: true, write: true, mknod: true };

    const fn make_any(kind: Kind) -> Allow {
        Allow { kind, major: None, minor: None, read: false, write: false, mknod: true }
    }

    pub const fn char(major: u32, minor: Option<u32>) -> Allow {
        Allow { kind: Kind::Char, major: Some(major), minor, read: true, write: true, mknod: true }
    }
}

/// What every container may do: make any node (the making harms nobody), and use null, zero, full, random,
/// urandom, tty, console, ptmx and the slaves of devpts. The list is the OCI runtime specification's.
pub const DEFAULT: [Allow; 10] = [
    Allow::make_any(Kind::Char),
    Allow::make_any(Kind::Block),
    Allow::char(1, Some(3)),
    Allow::char(1, Some(5)),
    Allow::char(1, Some(7)),
    Allow::char(1, Some(8)),
    Allow::char(1, Some(9)),
    Allow::char(5, Some(0)),
    Allow::char(5, Some(2)),
    Allow::char(136, None),
];

/// As `devices.allow` takes it: `c 1:3 rwm`.
impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::All => 'a',
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (given, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            f.write_str(if given { letter } else { "" })?;
        }
        Ok(())
    }
}

/// Allows the processes of the v2 cgroup that `cgroup` is open on those devices and no others.
pub fn restrict(cgroup: BorrowedFd<'_>, allow: &[Allow]) -> io::Result<()> {
    let program = load(&compile(allow))?;
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        program_fd: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attr` is laid out as the BPF_PROG_ATTACH member of union bpf_attr; its size goes with it.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attr, size_of::<AttachAttr>())
    })?;
    Ok(())
}

/// One eBPF instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_U32: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

// Registers: r1 is the context at first and scratch later.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

/// Each permission is a block of tests that jumps to the next one at the first mismatch; the end denies.
/// The context is `struct bpf_cgroup_dev_ctx`: access << 16 | kind, major, minor.
fn compile(allow: &[Allow]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_U32, KIND, SCRATCH, 0, 0),
        op(LOAD_U32, MAJOR, SCRATCH, 4, 0),
        op(LOAD_U32, MINOR, SCRATCH, 8, 0),
        op(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
    ];
    for rule in allow {
        let mut tests = Vec::new();
        match rule.kind {
            Kind::All => {}
            Kind::Block => tests.push(op(JUMP_UNEQUAL, KIND, 0, 0, 1)),
            Kind::Char => tests.push(op(JUMP_UNEQUAL, KIND, 0, 0, 2)),
        }
        let access = i32::from(rule.mknod) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2;
        if access != 7 {
            tests.push(op(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
            tests.push(op(AND, SCRATCH, 0, 0, access));
            tests.push(op(JUMP_UNEQUAL_REGISTER, SCRATCH, ACCESS, 0, 0));
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            tests.extend(number.map(|number| op(JUMP_UNEQUAL, register, 0, 0, number as i32)));
        }
        tests.extend([op(MOVE, ANSWER, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
        let end = tests.len();
        for (at, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER) {
                test.offset = (end - at - 1) as i16;
            }
        }
        code.extend(tests);
    }
    code.extend([op(MOVE, ANSWER, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of the BPF_PROG_LOAD member of `union bpf_attr`; the kernel takes the rest as zero.
#[repr(C)]
struct LoadAttr {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    program_fd: u32,
    kind: u32,
    flags: u32,
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: code and licence live until the call returns; the kernel verifies the program before it takes
    // it. The answer is a descriptor nobody owns yet.
    unsafe {
        let size = size_of::<LoadAttr>();
        let fd = check(libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_version_1() {
        let lines: Vec<String> = DEFAULT.iter().map(Allow::to_string).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[2], "c 1:3 rwm");
        assert_eq!(lines[9], "c 136:* rwm");
        assert_eq!(Allow::EVERYTHING.to_string(), "a *:* rwm");
    }

    /// Runs the program as the kernel would.
    fn allows(code: &[Instruction], access: u32, kind: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 16];
        let mut at = 0usize;
        loop {
            let i = code[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let mut jump = false;
            match i.code {
                LOAD_U32 => registers[to] = u64::from(context[i.offset as usize / 4]),
                AND => registers[to] &= i.immediate as u64,
                SHIFT_RIGHT => registers[to] >>= i.immediate,
                MOVE => registers[to] = i.immediate as u64,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP_UNEQUAL => jump = registers[to] != i.immediate as u64,
                JUMP_UNEQUAL_REGISTER => jump = registers[to] != registers[from],
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
            at += 1 + if jump { i.offset as usize } else { 0 };
        }
    }

    #[test]
    fn the_program_allows_what_the_list_names() {
        const MKNOD: u32 = 1;
        const READ: u32 = 2;
        const WRITE: u32 = 4;
        let code = compile(&DEFAULT);
        assert!(allows(&code, READ | WRITE, 2, 1, 3));
        assert!(allows(&code, READ, 2, 136, 77));
        assert!(allows(&code, MKNOD, 1, 8, 0));
        assert!(!allows(&code, READ, 1, 8, 0));
        assert!(!allows(&code, MKNOD | READ, 1, 8, 0));
        assert!(!allows(&code, READ, 2, 1, 1));
        assert!(!allows(&code, WRITE, 2, 10, 200));
        assert!(allows(&compile(&[Allow::EVERYTHING]), READ, 1, 8, 0));
    }
}
