//! Figures, their spread, and the bars that they are to hold.

use std::time::Duration;

use serde_json::{Value, json};

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// A measured figure.
pub(crate) struct Figure {
    name: String,
    text: String,
    bars: Vec<(String, bool)>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), bars: Vec::new() }
    }

    /// Notes a bar for `value`, which is said in `unit`.
    pub(crate) fn bar(mut self, value: f64, bar: Bar, unit: &str) -> Self {
        let (text, met) = match bar {
            Bar::AtMost(most) => (format!("≤ {most} {unit}"), value <= most),
            Bar::AtLeast(least) => (format!("≥ {least} {unit}"), value >= least),
        };
        self.bars.push((text, met));
        self
    }

    /// Median, 99th percentile and maximum of times, with bars in milliseconds for the first two.
    pub(crate) fn times(name: &str, mut times: Vec<Duration>, p50: Option<f64>, p99: Option<f64>) -> Self {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        let text = format!(
            "p50 {:.2} ms, p99 {:.2} ms, {:.2} to {:.2} ms ({} samples)",
            at(0.5),
            at(0.99),
            at(0.0),
            at(1.0),
            times.len()
        );
        let mut figure = Self::new(name, text);
        for (share, bar, unit) in [(0.5, p50, "ms (p50)"), (0.99, p99, "ms (p99)")] {
            if let Some(bar) = bar {
                figure = figure.bar(at(share), Bar::AtMost(bar), unit);
            }
        }
        figure
    }

    /// How often something happened in a second, in several runs: the median and the spread.
    pub(crate) fn rate(name: &str, runs: &[f64], least: f64) -> Self {
        let mut runs = runs.to_vec();
        runs.sort_by(f64::total_cmp);
        let median = runs[runs.len() / 2];
        let text = format!(
            "{median:.0} per s ({:.0} to {:.0} in {} runs)",
            runs[0],
            runs[runs.len() - 1],
            runs.len()
        );
        Self::new(name, text).bar(median, Bar::AtLeast(least), "per s")
    }

    pub(crate) fn note(mut self, text: &str) -> Self {
        self.text = format!("{}; {text}", self.text);
        self
    }

    pub(crate) fn line(&self) -> String {
        let bars: Vec<String> = self
            .bars
            .iter()
            .map(|(bar, met)| format!("{bar}: {}", if *met { "met" } else { "MISSED" }))
            .collect();
        format!("{:<55} {}  [{}]", self.name, self.text, bars.join(", "))
    }

    pub(crate) fn json(&self) -> Value {
        let bars: Vec<Value> = self.bars.iter().map(|(bar, met)| json!({"bar": bar, "met": met})).collect();
        json!({"name": self.name, "value": self.text, "bars": bars})
    }
}
