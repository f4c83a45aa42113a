//! Clock values between the runtime, the API and people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;

/// What time it is. Where a test has paused tokio's clock, this one stands still too.
pub(crate) fn now() -> SystemTime {
    #[cfg(test)]
    return tests::now();
    #[cfg(not(test))]
    SystemTime::now()
}

/// That much later, or so late that it never comes: an object may ask for more than a clock can show.
pub(crate) fn later(at: SystemTime, by: Duration) -> SystemTime {
    at.checked_add(by.min(NEVER)).unwrap_or(at)
}

/// Ten thousand years: the API writes no later date.
const NEVER: Duration = Duration::from_secs(10_000 * 366 * 24 * 3_600);

/// The API's time: whole seconds.
pub(crate) fn api_time(at: SystemTime) -> Time {
    Time(timestamp(at))
}

/// The clock's own form of the API's timestamps.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The API's time with six digits.
pub(crate) fn api_micro_time(at: SystemTime) -> MicroTime {
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    MicroTime(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The clock value of an API time.
pub(crate) fn system_time(at: &Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at.0.as_second()).unwrap_or(0))
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `1.5s`, `12ms`.
pub(crate) fn go_duration(duration: Duration) -> String {
    fn trimmed(value: f64) -> String {
        let text = format!("{value:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", trimmed(nanos as f64 / 1e3));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", trimmed(nanos as f64 / 1e6));
    }
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs() % 60);
    let seconds = trimmed(seconds as f64 + f64::from(duration.subsec_nanos()) / 1e9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time of day at tokio's moment.
    pub(super) fn now() -> SystemTime {
        use std::sync::LazyLock;
        use std::time::Instant;
        static BEGAN: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));
        let (wall, began) = *BEGAN;
        let at = tokio::time::Instant::now().into_std();
        wall + at.saturating_duration_since(began) - began.saturating_duration_since(at)
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let cases = [(10_000, "10s"), (80_000, "1m20s"), (300_000, "5m0s"), (1_500, "1.5s"), (12, "12ms")];
        for (millis, expected) in cases {
            assert_eq!(go_duration(Duration::from_millis(millis)), expected);
        }
        assert_eq!(go_duration(Duration::from_secs(3_601)), "1h0m1s");
    }

    #[test]
    fn what_never_comes_is_no_overflow() {
        let now = SystemTime::now();
        assert_eq!(later(now, Duration::from_secs(5)), now + Duration::from_secs(5));
        for seconds in [i64::MAX as u64, u64::MAX] {
            assert!(later(now, Duration::from_secs(seconds)) > now + Duration::from_secs(1 << 32));
        }
    }

    #[test]
    fn api_times_have_whole_seconds() {
        let at = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(system_time(&api_time(at)), UNIX_EPOCH + Duration::from_secs(1));
    }
}
