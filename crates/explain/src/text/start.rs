//! `explain start` as text: a waterfall.

use std::fmt::Write as _;

use super::{Paint, missing};
use crate::start::StartExplanation;

/// Columns of the bars.
const BAR: usize = 50;

/// One line a phase.
pub fn start(told: &StartExplanation, paint: Paint) -> String {
    let mut out = String::new();
    let name = format!("{}/{}", told.metadata.namespace, told.metadata.name);
    let on = if told.node.is_empty() { String::new() } else { format!(" on {}", told.node) };
    let verdict = match (told.finished, told.meets_objective) {
        (false, _) => "not ready yet",
        (true, true) => "meets the objective",
        (true, false) => "misses the objective",
    };
    let (total, objective) = (told.total_ms, told.objective_ms / 1_000.0);
    let _ = writeln!(out, "Pod {name}{on}: {total:.1} ms, {verdict} of {objective} s\n");
    let _ = writeln!(out, "{:<14} {:>10} {:>10}", "PHASE", "BEGAN ms", "TOOK ms");
    for phase in &told.phases {
        let column = |ms: f64| {
            let share = if told.total_ms > 0.0 { ms / told.total_ms } else { 0.0 };
            ((share * BAR as f64).round() as usize).min(BAR)
        };
        let from = column(phase.began_ms).min(BAR - 1);
        let until = column(phase.began_ms + phase.took_ms).max(from + 1);
        let bar = format!("{}{}", " ".repeat(from), "█".repeat(until - from));
        let mark = if phase.slowest { " ← slowest" } else { "" };
        let line =
            format!("{:<14} {:>10.1} {:>10.1}  {bar}{mark}", phase.name, phase.began_ms, phase.took_ms);
        let _ = match phase.slowest {
            true => writeln!(out, "{}", paint.warn(&line)),
            false => writeln!(out, "{line}"),
        };
    }
    missing(&mut out, paint, &told.missing);
    out
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::Metadata;
    use crate::start::{Phase, Starts, explain};
    use crate::text::COLUMNS;

    #[test]
    fn a_waterfall_fits_the_width() {
        let starts = Starts::default();
        let at = |ms| UNIX_EPOCH + Duration::from_secs(9) + Duration::from_millis(ms);
        starts.mark("u", Phase::Write, at(0), at(1));
        starts.mark("u", Phase::Start, at(1), at(9));
        starts.mark("u", Phase::Ready, at(9), at(10));
        let metadata = Metadata { name: "p".into(), namespace: "d".into(), uid: "u".into() };
        let text = start(&explain(metadata, "n", &[starts.get("u").unwrap()]), Paint::Plain);
        assert!(text.starts_with("Pod d/p on n: 10.0 ms, meets the objective of 5 s\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("start") && line.ends_with("← slowest")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }
}
