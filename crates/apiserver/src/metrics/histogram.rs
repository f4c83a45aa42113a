//! Times, counted in buckets.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upstream's upper bounds of `apiserver_request_duration_seconds`, in milliseconds.
const BOUNDS_MS: [u64; 23] = [
    5, 25, 50, 100, 200, 400, 600, 800, 1_000, 1_250, 1_500, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000,
    10_000, 15_000, 20_000, 30_000, 45_000, 60_000,
];

/// How many times were within each bound and not within the one before.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MS.partition_point(|bound| bound * 1_000 < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The lines of `name`, each with these labels. Nothing, if nothing was observed.
    pub(crate) fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut count = 0;
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        if counts.iter().all(|count| *count == 0) {
            return;
        }
        for (bound, in_bucket) in BOUNDS_MS.iter().zip(counts) {
            count += in_bucket;
            let bound = *bound as f64 / 1e3;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        count += counts[BOUNDS_MS.len()];
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = write!(
            out,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n\
             {name}_count{{{labels}}} {count}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_that_is_not_longer() {
        let times = Histogram::default();
        for ms in [1, 5, 6, 70_000] {
            times.observe(Duration::from_millis(ms));
        }
        let mut text = String::new();
        times.write(&mut text, "t", "a=\"b\"");
        let line = |start: &str| text.lines().find(|l| l.starts_with(start)).map(str::to_owned);
        assert_eq!(
            line("t_bucket{a=\"b\",le=\"0.005\"}").as_deref(),
            Some("t_bucket{a=\"b\",le=\"0.005\"} 2")
        );
        assert_eq!(line("t_bucket{a=\"b\",le=\"60\"}").as_deref(), Some("t_bucket{a=\"b\",le=\"60\"} 3"));
        assert_eq!(line("t_bucket{a=\"b\",le=\"+Inf\"}").as_deref(), Some("t_bucket{a=\"b\",le=\"+Inf\"} 4"));
        assert_eq!(line("t_sum").as_deref(), Some("t_sum{a=\"b\"} 70.012"));
        assert_eq!(line("t_count").as_deref(), Some("t_count{a=\"b\"} 4"));
    }
}
