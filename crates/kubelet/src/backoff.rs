//! Waiting longer after each failure: 10 s doubling to 5 min, forgotten after 10 quiet minutes.
//!
//! The rules are those of upstream's crash and image back-off: the first failure costs nothing, the
//! second waits 10 s after the event that it follows.

use std::time::{Duration, SystemTime};

const INITIAL: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(300);
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How long something that keeps failing has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) delay: Duration,
    updated: SystemTime,
}

impl Backoff {
    /// The back-off after one more failure at `event`, given the one before it.
    pub(crate) fn next(previous: Option<Self>, event: SystemTime) -> Self {
        match previous {
            Some(previous) if !previous.expired(event) => {
                Self { delay: (previous.delay * 2).min(MAX), updated: event }
            }
            _ => Self { delay: INITIAL, updated: event },
        }
    }

    /// When the wait that follows `event` ends; none if the back-off is forgotten by then.
    pub(crate) fn until(self, event: SystemTime) -> Option<SystemTime> {
        (!self.expired(event)).then(|| event + self.delay)
    }

    fn expired(self, at: SystemTime) -> bool {
        at.duration_since(self.updated).unwrap_or_default() > FORGET_AFTER
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_forgets_after_ten() {
        let mut at = UNIX_EPOCH;
        let mut backoff = None;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(backoff, at);
            delays.push(next.delay.as_secs());
            at += next.delay;
            backoff = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let last = backoff.expect("one was made");
        let quiet = at + Duration::from_secs(601);
        assert_eq!(last.until(quiet), None);
        let nearly = last.updated + Duration::from_secs(600);
        assert_eq!(last.until(nearly), Some(nearly + MAX));
        assert_eq!(Backoff::next(Some(last), nearly).delay, MAX);
        assert_eq!(Backoff::next(Some(last), quiet).delay, INITIAL);
    }
}
