//! What the work queues of this process do: `workqueue_*`, as upstream's components have it.
//!
//! A queue is known from when its workers start until they are gone; queues of one name are counted together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::WorkQueue;

/// A queue as it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) depth: usize,
    pub(super) adds: u64,
    pub(super) retries: u64,
}

/// Upstream's bounds, in microseconds: powers of ten from 10 µs (it begins at 10 ns) to 10 s.
const BOUNDS_US: [u64; 7] = [10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// How long work on one key took.
#[derive(Debug, Default)]
pub(super) struct Times {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Times {
    pub(super) fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

struct Known {
    name: &'static str,
    counts: Box<dyn Fn() -> Counts + Send>,
    times: Weak<Times>,
}

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// Makes a queue known for as long as the answer lives.
pub(super) fn register<T>(name: &'static str, queue: &WorkQueue<T>) -> Arc<Times>
where
    T: Clone + Eq + Hash + Ord + Send + Sync + 'static,
{
    let times = Arc::new(Times::default());
    let weak = Arc::downgrade(&queue.0);
    let counts = Box::new(move || weak.upgrade().map(WorkQueue).map_or(Counts::default(), |q| q.counts()));
    let mut known = KNOWN.lock();
    known.retain(|known| known.times.strong_count() > 0);
    known.push(Known { name, counts, times: Arc::downgrade(&times) });
    times
}

#[derive(Default)]
struct Sum {
    counts: Counts,
    buckets: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

/// Appends the text of all queues that have workers.
pub fn write(out: &mut String) {
    let mut sums: BTreeMap<&'static str, Sum> = BTreeMap::new();
    for known in &*KNOWN.lock() {
        let Some(times) = known.times.upgrade() else { continue };
        let (sum, counts) = (sums.entry(known.name).or_default(), (known.counts)());
        sum.counts.depth += counts.depth;
        sum.counts.adds += counts.adds;
        sum.counts.retries += counts.retries;
        sum.sum_us += times.sum_us.load(Ordering::Relaxed);
        for (all, one) in sum.buckets.iter_mut().zip(&times.buckets) {
            *all += one.load(Ordering::Relaxed);
        }
    }
    render(out, &sums);
}

fn render(out: &mut String, sums: &BTreeMap<&'static str, Sum>) {
    let mut family = |name: &str, kind: &str, help: &str, value: fn(&Counts) -> u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (queue, sum) in sums {
            let _ = writeln!(out, "{name}{{name=\"{queue}\"}} {}", value(&sum.counts));
        }
    };
    family("workqueue_depth", "gauge", "Keys that wait.", |counts| counts.depth as u64);
    family("workqueue_adds_total", "counter", "Keys that were added.", |counts| counts.adds);
    family("workqueue_retries_total", "counter", "Keys that were added again after a failure.", |counts| {
        counts.retries
    });
    let name = "workqueue_work_duration_seconds";
    let _ = writeln!(out, "# HELP {name} How long work on one key took.\n# TYPE {name} histogram");
    for (queue, sum) in sums {
        let mut count = 0;
        for (bound, in_bucket) in BOUNDS_US.iter().zip(sum.buckets) {
            count += in_bucket;
            let bound = *bound as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{name=\"{queue}\",le=\"{bound}\"}} {count}");
        }
        count += sum.buckets[BOUNDS_US.len()];
        let seconds = sum.sum_us as f64 / 1e6;
        let _ = write!(
            out,
            "{name}_bucket{{name=\"{queue}\",le=\"+Inf\"}} {count}\n\
             {name}_sum{{name=\"{queue}\"}} {seconds}\n{name}_count{{name=\"{queue}\"}} {count}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_is_counted_while_it_has_workers() {
        let queue = WorkQueue::default();
        let times = register("counted-in-a-test", &queue);
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.retry("a");
        times.observe(Duration::from_micros(200));
        let text = || {
            let mut text = String::new();
            write(&mut text);
            text.lines()
                .filter(|line| line.contains("counted-in-a-test"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let lines = text();
        for line in [
            "workqueue_depth{name=\"counted-in-a-test\"} 1",
            "workqueue_adds_total{name=\"counted-in-a-test\"} 2",
            "workqueue_retries_total{name=\"counted-in-a-test\"} 1",
            "workqueue_work_duration_seconds_bucket{name=\"counted-in-a-test\",le=\"0.0001\"} 0",
            "workqueue_work_duration_seconds_bucket{name=\"counted-in-a-test\",le=\"0.001\"} 1",
            "workqueue_work_duration_seconds_count{name=\"counted-in-a-test\"} 1",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line} is not in {lines:#?}");
        }
        drop(times);
        assert_eq!(text(), Vec::<String>::new());
    }
}
