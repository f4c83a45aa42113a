//! What is kept between two questions for `/stats/summary`: a rate needs two looks, and files are not
//! counted again for each.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use skiff_runtime::usage::DiskUsage;
use tokio::time::Instant;

/// A rate over less says little.
const RATE_OVER_MIN: Duration = Duration::from_secs(1);
/// As upstream counts volumes.
const DISK_EVERY: Duration = Duration::from_secs(60);

/// Nothing is sampled while nobody asks.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    cpu: HashMap<String, Cpu>,
    disk: HashMap<String, (Instant, DiskUsage)>,
}

#[derive(Debug)]
struct Cpu {
    at: Instant,
    nanoseconds: u64,
    /// As it was then.
    rate: Option<u64>,
}

impl Samples {
    /// Nanoseconds of CPU time a second since the question before, given all that were used so far.
    /// Nothing at the first question.
    pub(super) fn cpu_rate(&mut self, key: &str, nanoseconds: u64, now: Instant) -> Option<u64> {
        let rate = match self.cpu.get(key) {
            Some(before) if now.saturating_duration_since(before.at) < RATE_OVER_MIN => return before.rate,
            // Less than before: the counter began anew.
            Some(before) => nanoseconds.checked_sub(before.nanoseconds).and_then(|used| {
                let passed = now.saturating_duration_since(before.at).as_nanos();
                u64::try_from(u128::from(used) * 1_000_000_000 / passed).ok()
            }),
            None => None,
        };
        self.cpu.insert(key.to_owned(), Cpu { at: now, nanoseconds, rate });
        rate
    }

    /// What was counted less than a minute ago.
    pub(super) fn counted(&self, key: &str, now: Instant) -> Option<DiskUsage> {
        let (at, usage) = self.disk.get(key)?;
        (now.saturating_duration_since(*at) < DISK_EVERY).then_some(*usage)
    }

    pub(super) fn count(&mut self, key: &str, usage: DiskUsage, now: Instant) {
        self.disk.insert(key.to_owned(), (now, usage));
    }

    /// Forgets what isn't there any more.
    pub(super) fn retain(&mut self, cpu: &HashSet<String>, now: Instant) {
        self.cpu.retain(|key, _| cpu.contains(key));
        self.disk.retain(|_, (at, _)| now.saturating_duration_since(*at) < DISK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_between_two_questions() {
        let (mut samples, start) = (Samples::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut ask = |nanoseconds: u64, ms: u64| samples.cpu_rate("c", nanoseconds, at(ms));
        assert_eq!(ask(5_000_000_000, 0), None, "one look is no rate");
        assert_eq!(ask(5_900_000_000, 900), None, "nor are two at once");
        assert_eq!(ask(6_000_000_000, 2_000), Some(500_000_000));
        assert_eq!(ask(6_900_000_000, 2_500), Some(500_000_000), "too soon: what was last");
        assert_eq!(ask(6_000_000_000, 4_000), Some(0));
        assert_eq!(ask(1_000, 6_000), None, "it began anew");
        assert_eq!(ask(2_000_001_000, 8_000), Some(1_000_000_000));
    }

    #[test]
    fn files_are_counted_once_a_minute_and_what_is_gone_is_forgotten() {
        let (mut samples, start) = (Samples::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let usage = DiskUsage { bytes: 7, inodes: 1 };
        assert_eq!(samples.counted("v", at(0)), None);
        samples.count("v", usage, at(0));
        assert_eq!(samples.counted("v", at(59)), Some(usage));
        assert_eq!(samples.counted("v", at(60)), None);
        samples.cpu_rate("c", 1, at(0));
        samples.cpu_rate("d", 1, at(0));
        samples.retain(&HashSet::from(["c".to_owned()]), at(60));
        assert_eq!((samples.cpu.len(), samples.disk.len()), (1, 0));
    }
}
