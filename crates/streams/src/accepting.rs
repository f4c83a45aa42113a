//! What to do when a listener gives no connection: wait a little, and say so now and then.
//!
//! Where descriptors are used up, a listener fails again and again until some are closed. To try at once keeps the
//! processor busy for nothing, and a line each time fills the disk.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_WAIT: Duration = Duration::from_millis(5);
const WAIT_MAX: Duration = Duration::from_secs(1);
const SAID_EVERY: Duration = Duration::from_secs(1);

/// How a listener has failed lately.
#[derive(Debug, Default)]
pub struct Failures {
    wait: Duration,
    said: Option<Instant>,
    unsaid: u64,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub wait: Duration,
    /// To be said now, of so many failures.
    pub say: Option<u64>,
}

impl Failures {
    /// It has failed once more.
    pub fn failed(&mut self, error: &std::io::Error) -> Next {
        if error.kind() == std::io::ErrorKind::ConnectionAborted {
            // That client has gone, which says nothing of the next one.
            return Next { wait: Duration::ZERO, say: None };
        }
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, WAIT_MAX);
        self.unsaid += 1;
        let due = self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY);
        let say = due.then(|| {
            self.said = Some(Instant::now());
            std::mem::take(&mut self.unsaid)
        });
        Next { wait: self.wait, say }
    }

    /// A connection came.
    pub fn over(&mut self) {
        self.wait = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_fails_waits_longer_each_time_and_says_so_once_a_second() {
        let full = io::Error::from_raw_os_error(24);
        let mut failures = Failures::default();
        let (mut waits, mut said) = (Vec::new(), Vec::new());
        for _ in 0..12 {
            let next = failures.failed(&full);
            waits.push(next.wait.as_millis());
            said.extend(next.say);
            tokio::time::advance(next.wait).await;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
        assert_eq!(said, [1, 8, 1, 1, 1], "the first, then all of a second in one");
        failures.over();
        // A storm of single failures is told of no more often.
        let mut said = 0;
        for _ in 0..1_000 {
            said += usize::from(failures.failed(&full).say.is_some());
            failures.over();
            tokio::time::advance(Duration::from_millis(2)).await;
        }
        assert!(said <= 3, "{said}");
    }

    #[test]
    fn a_client_that_has_gone_is_no_failure() {
        let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
        let next = Failures::default().failed(&gone);
        assert_eq!(next, Next { wait: Duration::ZERO, say: None });
    }
}
