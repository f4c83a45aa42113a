//! System call filters: rules by name, compiled to classic BPF for every ABI the kernel accepts, and
//! installed in this thread.
//!
//! Reading a profile's file is not done here, only its meaning. Where several rules name one call, those
//! with conditions are asked first, in their order, and an unconditional one decides for the rest.

use std::collections::BTreeMap;
use std::io;

use crate::process::check;
use crate::syscalls::{Syscall, by_name};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Log,
    Trace(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// Equal after masking the argument.
    Masked(u64),
}

/// Of one argument of the call, 0 to 5, as an unsigned number of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    pub argument: u8,
    pub compare: Compare,
    pub value: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names no ABI knows are passed over: profiles list calls of kernels to come.
    pub names: Vec<String>,
    pub action: Action,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    X86_64,
    X86,
    Aarch64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub default: Action,
    /// ABIs beside the native one whose calls are filtered by the same rules. Calls of any other end the
    /// process.
    pub sub_archs: Vec<Arch>,
    pub rules: Vec<Rule>,
}

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    code: Vec<libc::sock_filter>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the profile compiles to {0} instructions, and the kernel takes 4096")]
    TooLong(usize),
    #[error("the conditions of {0} are too many for one rule")]
    TooManyConditions(String),
    #[error("an argument of a system call is numbered 0 to 5, not {0}")]
    Argument(u8),
    #[error("a stored filter has an odd length")]
    Stored,
}

impl Arch {
    pub const NATIVE: Arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };

    /// `AUDIT_ARCH_…` of linux/audit.h.
    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    fn number(self, call: &Syscall) -> Option<u32> {
        let number = match self {
            Arch::X86_64 => call.x86_64,
            Arch::X86 => call.x86,
            Arch::Aarch64 => call.aarch64,
        };
        u32::try_from(number).ok()
    }
}

/// Whether some kernel knows a system call by that name.
pub fn is_known(name: &str) -> bool {
    crate::syscalls::is_known(name)
}

impl Profile {
    pub fn compile(&self) -> Result<Filter, Error> {
        let mut archs = vec![Arch::NATIVE];
        archs.extend(self.sub_archs.iter().filter(|arch| **arch != Arch::NATIVE));
        let mut code = vec![load(ARCH)];
        for arch in archs {
            let section = self.section(arch)?;
            // A section may be longer than the 255 instructions a conditional jump can pass.
            code.push(jump(JUMP_EQUAL, arch.audit(), 1, 0));
            code.push(statement(JUMP, section.len() as u32));
            code.extend(section);
        }
        code.push(ret(Action::KillProcess));
        if code.len() > 4096 {
            return Err(Error::TooLong(code.len()));
        }
        Ok(Filter { code })
    }

    fn section(&self, arch: Arch) -> Result<Vec<libc::sock_filter>, Error> {
        let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in &self.rules {
            for call in rule.names.iter().filter_map(|name| by_name(name)) {
                calls
                    .entry(match arch.number(call) {
                        Some(number) => number,
                        None => continue,
                    })
                    .or_default()
                    .push(rule);
            }
        }
        let mut code = vec![load(NUMBER)];
        if arch == Arch::X86_64 {
            // The x32 ABI shares the architecture and sets this bit in the number.
            code.extend([
                jump(JUMP_GREATER_OR_EQUAL, 0x4000_0000, 0, 1),
                ret(Action::Errno(libc::ENOSYS as u16)),
            ]);
        }
        for (number, rules) in calls {
            let mut body = Vec::new();
            for rule in rules.iter().filter(|rule| !rule.conditions.is_empty()) {
                body.extend(conditional(rule)?);
            }
            let rest = rules.iter().find(|rule| rule.conditions.is_empty());
            body.push(ret(rest.map_or(self.default, |rule| rule.action)));
            let length =
                u8::try_from(body.len()).map_err(|_| Error::TooManyConditions(rules[0].names.join(", ")))?;
            code.push(jump(JUMP_EQUAL, number, 0, length));
            code.extend(body);
        }
        code.push(ret(self.default));
        Ok(code)
    }
}

impl Filter {
    /// Filters this thread's calls, and those of the programs it executes, from now on. Needs
    /// CAP_SYS_ADMIN or no-new-privileges.
    pub fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog { len: self.code.len() as u16, filter: self.code.as_ptr().cast_mut() };
        let set = |flags: libc::c_ulong| {
            // SAFETY: the program's pointer and length are those of a live slice, which the kernel copies
            // and checks.
            check(unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
            })
        };
        // The flag spares the container the speculation barriers that nobody asked for; older kernels
        // don't know it.
        match set(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(0).map(drop),
            answer => answer.map(drop),
        }
    }

    /// As bytes, to be kept in a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = self.code.iter().map(|i| {
            u64::from(i.code) | u64::from(i.jt) << 16 | u64::from(i.jf) << 24 | u64::from(i.k) << 32
        });
        words.flat_map(u64::to_le_bytes).collect()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Filter, Error> {
        let (words, []) = bytes.as_chunks::<8>() else { return Err(Error::Stored) };
        let code = words.iter().map(|word| {
            let word = u64::from_le_bytes(*word);
            jump(word as u16, (word >> 32) as u32, (word >> 16) as u8, (word >> 24) as u8)
        });
        Ok(Filter { code: code.collect() })
    }
}

/// Tests all conditions and answers the action, or falls out at the end.
fn conditional(rule: &Rule) -> Result<Vec<libc::sock_filter>, Error> {
    let mut blocks = Vec::new();
    for condition in &rule.conditions {
        if condition.argument > 5 {
            return Err(Error::Argument(condition.argument));
        }
        blocks.push(test(condition));
    }
    let mut left: usize = blocks.iter().map(Vec::len).sum();
    let mut code = Vec::new();
    for block in blocks {
        let length = block.len();
        for (at, (operation, value, yes, no)) in block.into_iter().enumerate() {
            let distance = |to: To| -> Result<u8, Error> {
                let steps = match to {
                    To::Next => 0,
                    To::Holds => length - at - 1,
                    // Over the rest of the conditions and the action.
                    To::Fails => left - at,
                };
                u8::try_from(steps).map_err(|_| Error::TooManyConditions(rule.names.join(", ")))
            };
            code.push(jump(operation, value, distance(yes)?, distance(no)?));
        }
        left -= length;
    }
    code.push(ret(rule.action));
    Ok(code)
}

#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

/// The test of one condition: the argument's high word, then its low one.
fn test(condition: &Condition) -> Vec<(u16, u32, To, To)> {
    use To::{Fails, Holds, Next};
    let low_at = ARGUMENTS + 8 * u32::from(condition.argument);
    let (low_at, high_at) =
        if cfg!(target_endian = "little") { (low_at, low_at + 4) } else { (low_at + 4, low_at) };
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load = |at| (LOAD, at, Next, Next);
    let ordered = |operation, holds, fails| {
        vec![
            load(high_at),
            (JUMP_GREATER, high, holds, Next),
            (JUMP_EQUAL, high, Next, fails),
            load(low_at),
            (operation, low, holds, fails),
        ]
    };
    match condition.compare {
        Compare::Equal => {
            vec![load(high_at), (JUMP_EQUAL, high, Next, Fails), load(low_at), (JUMP_EQUAL, low, Next, Fails)]
        }
        Compare::NotEqual => {
            vec![load(high_at), (JUMP_EQUAL, high, Next, Holds), load(low_at), (JUMP_EQUAL, low, Fails, Next)]
        }
        Compare::Masked(mask) => vec![
            load(high_at),
            (BIT_AND, (mask >> 32) as u32, Next, Next),
            (JUMP_EQUAL, high, Next, Fails),
            load(low_at),
            (BIT_AND, mask as u32, Next, Next),
            (JUMP_EQUAL, low, Next, Fails),
        ],
        Compare::GreaterOrEqual => ordered(JUMP_GREATER_OR_EQUAL, Holds, Fails),
        Compare::Greater => ordered(JUMP_GREATER, Holds, Fails),
        Compare::Less => ordered(JUMP_GREATER_OR_EQUAL, Fails, Holds),
        Compare::LessOrEqual => ordered(JUMP_GREATER, Fails, Holds),
    }
}

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const BIT_AND: u16 = 0x54;
const RETURN: u16 = 0x06;

fn load(at: u32) -> libc::sock_filter {
    statement(LOAD, at)
}

fn ret(action: Action) -> libc::sock_filter {
    let value = match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trace(message) => libc::SECCOMP_RET_TRACE | u32::from(message),
    };
    statement(RETURN, value)
}

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// To `jt` instructions after the next where the comparison holds, else to `jf` after it.
fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn run(filter: &Filter, arch: Arch, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = vec![number, arch.audit(), 0, 0];
        data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
        let (mut at, mut value) = (0, 0);
        loop {
            let i = filter.code[at];
            at += 1;
            let mut branch = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => value = data[i.k as usize / 4],
                BIT_AND => value &= i.k,
                JUMP => at += i.k as usize,
                JUMP_EQUAL => branch(value == i.k),
                JUMP_GREATER => branch(value > i.k),
                JUMP_GREATER_OR_EQUAL => branch(value >= i.k),
                RETURN => return i.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn native(name: &str) -> u32 {
        Arch::NATIVE.number(by_name(name).unwrap()).unwrap()
    }

    fn rule(name: &str, action: Action, conditions: &[(u8, Compare, u64)]) -> Rule {
        let condition = |(argument, compare, value): &(u8, Compare, u64)| Condition {
            argument: *argument,
            compare: *compare,
            value: *value,
        };
        Rule { names: vec![name.to_owned()], action, conditions: conditions.iter().map(condition).collect() }
    }

    fn filter(rules: Vec<Rule>) -> Filter {
        Profile { default: Action::Errno(1), sub_archs: vec![Arch::X86], rules }.compile().unwrap()
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn names_decide_and_the_rest_gets_the_default() {
        let filter = filter(vec![
            rule("read", Action::Allow, &[]),
            rule("clone3", Action::Errno(38), &[]),
            rule("of_a_kernel_to_come", Action::Allow, &[]),
        ]);
        assert_eq!(run(&filter, Arch::NATIVE, native("read"), [0; 6]), ALLOW);
        assert_eq!(run(&filter, Arch::NATIVE, native("clone3"), [0; 6]), libc::SECCOMP_RET_ERRNO | 38);
        assert_eq!(run(&filter, Arch::NATIVE, native("mount"), [0; 6]), EPERM);
        assert_eq!(run(&filter, Arch::X86, 3, [0; 6]), ALLOW);
        assert_eq!(run(&filter, Arch::X86, 0, [0; 6]), EPERM);
        let foreign = if Arch::NATIVE == Arch::Aarch64 { Arch::X86_64 } else { Arch::Aarch64 };
        assert_eq!(run(&filter, foreign, 63, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn every_comparison_at_its_edges() {
        const V: u64 = 0x1_0000_0005;
        let around = [0, 4, 5, 6, V - 1, V, V + 1, 0x2_0000_0000, u64::MAX];
        type Meaning = fn(u64) -> bool;
        let cases: [(Compare, Meaning); 7] = [
            (Compare::Equal, |a| a == V),
            (Compare::NotEqual, |a| a != V),
            (Compare::Less, |a| a < V),
            (Compare::LessOrEqual, |a| a <= V),
            (Compare::Greater, |a| a > V),
            (Compare::GreaterOrEqual, |a| a >= V),
            (Compare::Masked(0x1_0000_000f), |a| a & 0x1_0000_000f == V),
        ];
        for (compare, meaning) in cases {
            let filter = filter(vec![rule("socket", Action::Allow, &[(2, compare, V)])]);
            for argument in around {
                let answer = run(&filter, Arch::NATIVE, native("socket"), [0, 0, argument, 0, 0, 0]);
                assert_eq!(answer == ALLOW, meaning(argument), "{compare:?} {argument:#x}");
            }
        }
    }

    #[test]
    fn conditions_are_joined_by_and_and_rules_by_or() {
        let filter = filter(vec![
            rule("personality", Action::Allow, &[(0, Compare::Equal, 8)]),
            rule("personality", Action::Errno(7), &[(0, Compare::Greater, 9), (1, Compare::NotEqual, 0)]),
            rule("personality", Action::Log, &[]),
        ]);
        let ask = |a, b| run(&filter, Arch::NATIVE, native("personality"), [a, b, 0, 0, 0, 0]);
        assert_eq!(ask(8, 0), ALLOW);
        assert_eq!(ask(10, 1), libc::SECCOMP_RET_ERRNO | 7);
        assert_eq!(ask(10, 0), libc::SECCOMP_RET_LOG);
        assert_eq!(ask(9, 1), libc::SECCOMP_RET_LOG);
    }

    #[test]
    fn a_stored_filter_reads_back() {
        let filter = filter(vec![rule("read", Action::Allow, &[(1, Compare::Less, 3)])]);
        assert_eq!(Filter::from_bytes(&filter.to_bytes()).unwrap(), filter);
        assert!(Filter::from_bytes(&[1, 2, 3]).is_err());
    }

    #[test]
    fn the_kernel_takes_it() {
        let allow_all = Profile {
            default: Action::Allow,
            sub_archs: vec![],
            rules: vec![rule("getpriority", Action::Errno(95), &[])],
        };
        let thread = std::thread::spawn(move || {
            allow_all.compile().unwrap().install().unwrap();
            // SAFETY: asks for a number.
            let answer = unsafe { libc::syscall(libc::SYS_getpriority, 0, 0) };
            (answer, io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(thread.join().unwrap(), (-1, Some(95)));
    }
}
