//! The wall clock as objects show it.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;

/// Where certificates and tokens have the time from. Tests bring a clock of their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// `read` gives Unix seconds.
    pub fn new(read: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn now(&self) -> i64 {
        (self.0)()
    }
}

impl Default for Clock {
    /// The system's.
    fn default() -> Self {
        Self::new(now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The first and the last second that can be written: those of the years with four digits, but for the last day,
/// which is over somewhere (jiff).
const WRITABLE: RangeInclusive<i64> = -62_135_596_800..=253_402_207_200;

/// The time that many seconds later, or the last that can be written.
pub(crate) fn later(now: i64, seconds: i64) -> i64 {
    now.saturating_add(seconds).clamp(*WRITABLE.start(), *WRITABLE.end())
}

/// `2006-01-02T15:04:05Z`. A time that can't be written so is told as the nearest that can: whatever is written
/// can be read.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let writable = seconds.clamp(*WRITABLE.start(), *WRITABLE.end());
    Timestamp::from_second(writable).map(|t| t.to_string()).unwrap_or_default()
}

pub(crate) fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_can_be_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (i64::MAX, "9999-12-30T22:00:00Z"),
            (i64::MIN, "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
            assert!(parse(text).is_some(), "{text}");
        }
        assert_eq!(later(5, 7), 12);
        assert_eq!(rfc3339(later(now(), i64::MAX)), "9999-12-30T22:00:00Z");
    }
}
