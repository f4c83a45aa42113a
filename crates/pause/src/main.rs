//! `pause` holds the namespaces of a sandbox and does nothing else.
//!
//! It sleeps until a signal comes: SIGTERM and SIGINT end it, SIGCHLD lets it reap what the sandbox's
//! containers left behind when they share its PID namespace (it is PID 1 there). All three are blocked and
//! taken synchronously; the kernel never discards a *blocked* signal, not even for a PID 1 without
//! handlers (`sig_ignored` in kernel/signal.c), so no handler and no signal trampoline is needed.
//!
//! No standard library, no allocation, no stack to speak of: what it costs is one page or two a sandbox.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

// The kernel enters with an aligned stack; `run` never returns and reads no arguments.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {run}", "ud2", run = sym run);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "bl {run}", "udf #0", run = sym run);

extern "C" fn run() -> ! {
    let wanted: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let wanted = &raw const wanted as usize;
    // SAFETY: `wanted` outlives every call that reads it; the other pointers are null, which both calls
    // take as "not wanted".
    unsafe {
        syscall(nr::RT_SIGPROCMASK, SIG_BLOCK, wanted, 0, 8);
        loop {
            let signal = syscall(nr::RT_SIGTIMEDWAIT, wanted, 0, 0, 8);
            if signal == SIGTERM as isize || signal == SIGINT as isize {
                syscall(nr::EXIT_GROUP, 0, 0, 0, 0);
            }
            while syscall(nr::WAIT4, ANY_CHILD, 0, WNOHANG, 0) > 0 {}
        }
    }
}

/// # Safety
/// The arguments must be what the system call `nr` asks for.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer;
    // SAFETY: the x86-64 convention: arguments in these registers, rcx and r11 clobbered.
    unsafe {
        asm!("syscall", inlateout("rax") nr => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// # Safety
/// The arguments must be what the system call `nr` asks for.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let answer;
    // SAFETY: the AArch64 convention: number in x8, arguments from x0, nothing else clobbered.
    unsafe {
        asm!("svc #0", in("x8") nr, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d,
             options(nostack));
    }
    answer
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
