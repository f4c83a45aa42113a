//! What the kernel knows of this process: `process_*`, as every Prometheus client has it.

use std::fmt::Write as _;
use std::fs;

use super::head;

/// Of `/proc/self/stat`: user and system time, start, in ticks of [`TICKS`]; memory in bytes and pages.
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// USER_HZ, which is 100 on every architecture that Linux still runs on.
const TICKS: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// Fields 14, 15, 22, 23 and 24 of proc_pid_stat(5); the name before them may have blanks and brackets.
fn parse(stat: &str) -> Option<Stat> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: number(14)? + number(15)?,
        start_ticks: number(22)?,
        virtual_bytes: number(23)?,
        resident_pages: number(24)?,
    })
}

/// When the machine was started, in Unix seconds.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub(crate) fn write(out: &mut String) {
    let mut say = |name: &str, kind: &str, help: &str, value: f64| {
        head(out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    };
    let stat = fs::read_to_string("/proc/self/stat").ok();
    if let Some(stat) = stat.as_deref().and_then(parse) {
        let cpu = stat.cpu_ticks as f64 / TICKS;
        say("process_cpu_seconds_total", "counter", "User and system time spent, in seconds.", cpu);
        let resident = (stat.resident_pages * PAGE_BYTES) as f64;
        say("process_resident_memory_bytes", "gauge", "Resident memory.", resident);
        let size = stat.virtual_bytes as f64;
        say("process_virtual_memory_bytes", "gauge", "Virtual memory.", size);
        if let Some(boot) = boot_time() {
            let start = boot as f64 + stat.start_ticks as f64 / TICKS;
            say("process_start_time_seconds", "gauge", "When the process started, in Unix seconds.", start);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory itself.
        let count = open.count().saturating_sub(1) as f64;
        say("process_open_fds", "gauge", "Open file descriptors.", count);
    }
    if let Some(max) = max_fds() {
        say("process_max_fds", "gauge", "File descriptors that may be open.", max as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1234 8192 3 184467";
        let parsed = parse(stat).expect("a line");
        let fields = (parsed.cpu_ticks, parsed.start_ticks, parsed.virtual_bytes, parsed.resident_pages);
        assert_eq!(fields, (200, 1234, 8192, 3));
    }

    #[test]
    fn this_process_is_known() {
        let mut text = String::new();
        write(&mut text);
        let value = |name: &str| -> Option<f64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        assert!(value("process_resident_memory_bytes ").is_some_and(|bytes| bytes > 1e6), "{text}");
        let start = value("process_start_time_seconds ").expect("a start");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert!((now.as_secs_f64() - start).abs() < 86_400.0, "{start}");
    }
}
