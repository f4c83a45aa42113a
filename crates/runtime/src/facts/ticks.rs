//! When a process was started, and its state: `/proc/PID/stat`, which counts in ticks since the boot.

use std::fs;
use std::time::Duration;

/// USER_HZ: what the kernel counts in for programs, the same on every architecture that Linux runs on.
pub const TICKS_PER_SECOND: u64 = 100;

/// Of proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z` and so on.
    pub state: char,
    pub parent: u32,
    /// With the PID it names a process for good.
    pub start_ticks: u64,
}

/// Of a process; nothing once it is gone.
pub fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field may hold blanks and brackets, and ends with the last bracket; then come the third, the
/// state, the fourth, the parent, and so on up to the 22nd, the start.
fn parse(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { state, parent, start_ticks: fields.nth(17)?.parse().ok()? })
}

/// How long the machine has run; zero where `/proc` does not say it.
pub fn since_boot() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// What the start of a process that begins now would be.
pub fn ticks_now() -> u64 {
    (since_boot().as_secs_f64() * TICKS_PER_SECOND as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1234 8192 3 184467";
        assert_eq!(parse(text), Some(Stat { state: 'S', parent: 1, start_ticks: 1234 }));
        for cut in ["", "7 (a)", "7 (a) S 1 7", "7 (a) S 1 7 7 0 -1 4 1 0 0 0 1 5 0 0 20 0 1 0 x"] {
            assert_eq!(parse(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn this_process_was_started_after_the_boot_and_before_now() {
        let own = stat(std::process::id()).unwrap();
        assert!(own.start_ticks > 0 && own.start_ticks <= ticks_now(), "{own:?}");
        assert!("RSD".contains(own.state), "{own:?}");
        assert_eq!(stat(0), None);
    }
}
