//! A process that idles gives back the memory that a burst of work took.

use std::time::Duration;

use tracing::debug;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// Less growth than this is left alone: the next request would take it again.
const GROWTH: u64 = 2 << 20;

/// What the last looks have seen, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// After memory was given back the last time.
    after: u64,
    /// At the last look.
    last: u64,
}

/// Whether it is time to give memory back: there is more than the last time, and it grows no more, since
/// giving back under load would only be undone.
fn is_due(seen: Seen, now: u64) -> bool {
    now > seen.after + GROWTH && now < seen.last + GROWTH
}

/// Never ends by itself.
pub(crate) async fn look_after() {
    let mut seen = Seen { after: 0, last: 0 };
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(now) = skiff_sys::memory::held() else { continue };
        if is_due(seen, now) {
            // It holds the allocator's locks for a moment, and is no task's work.
            let after = tokio::task::spawn_blocking(|| {
                skiff_sys::memory::give_back();
                skiff_sys::memory::held()
            });
            let Ok(Ok(after)) = after.await else { continue };
            debug!(before = now, after, "gave memory back");
            seen = Seen { after, last: after };
        } else {
            seen.last = now;
            seen.after = seen.after.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn memory_is_given_back_when_a_burst_is_over() {
        let due =
            |after: u64, last: u64, now: u64| is_due(Seen { after: after * MB, last: last * MB }, now * MB);
        assert!(!due(20, 20, 20), "nothing has grown");
        assert!(!due(20, 20, 60), "it still grows");
        assert!(due(20, 60, 60), "the burst is over");
        assert!(due(20, 60, 40), "and some of it was given back already");
        assert!(!due(20, 60, 21), "all of it was");
    }
}
