//! Figures and their spread.

use std::time::Duration;

/// A measured figure.
pub(crate) struct Figure {
    pub(crate) name: String,
    value: String,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    /// Median, 99th percentile and maximum of times.
    pub(crate) fn times(name: &str, mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        let value = format!(
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} runs)",
            at(0.5),
            at(0.99),
            at(1.0),
            times.len()
        );
        Self::new(name, value)
    }

    /// How often something happened in a time.
    pub(crate) fn rate(name: &str, count: usize, took: Duration) -> Self {
        Self::new(
            name,
            format!(
                "{:.0} per s ({count} in {:.2} s)",
                count as f64 / took.as_secs_f64(),
                took.as_secs_f64()
            ),
        )
    }

    pub(crate) fn text(&self) -> &str {
        &self.value
    }
}
