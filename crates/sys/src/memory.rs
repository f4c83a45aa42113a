//! Memory of this process: how much it holds, and giving back to the kernel what it no longer uses.

use std::io;

/// Bytes of this process that no file backs and that are in memory.
pub fn held() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (Some(_), Some(Ok(resident)), Some(Ok(of_files))) = (fields.next(), fields.next(), fields.next())
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/self/statm is not as proc(5) says"));
    };
    // SAFETY: asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(resident.saturating_sub(of_files) * u64::try_from(page).unwrap_or(4096))
}

/// Has the allocator give back all pages that it holds for nobody: freed pieces of many tasks keep the heap
/// large for as long as a piece behind them lives. Takes about a millisecond for each 10 MB.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition; other threads' allocations wait for it.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_freed_between_what_lives_is_given_back() {
        const PIECES: usize = 40_000;
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|n| vec![n as u8; 2_000]).collect();
        let last = vec![1_u8; 2_000];
        let full = held().expect("readable");
        drop(pieces);
        give_back();
        let after = held().expect("readable");
        assert!(full - after > 60_000_000, "{full} {after}");
        assert_eq!(last[0], 1);
    }
}
