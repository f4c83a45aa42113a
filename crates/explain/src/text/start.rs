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
    let (total, objective) = (told.total_ms, told.objective_ms / 1_000.0);
    let verdict = match (told.finished, told.meets_objective) {
        (Some(true), Some(false)) => format!("misses the objective of {objective} s"),
        (Some(true), _) => format!("meets the objective of {objective} s"),
        (Some(false), Some(_)) => format!("not ready yet, past the objective of {objective} s"),
        (Some(false), None) => format!("not ready yet; the objective is {objective} s"),
        (None, _) => "and whether it is ready is not known".to_owned(),
    };
    let _ = writeln!(out, "Pod {name}{on}: {total:.1} ms, {verdict}\n");
    if let Some(past) = &told.past {
        let _ = writeln!(out, "PAST: {past}\n");
    }
    let _ = writeln!(out, "{:<14} {:>10} {:>10}", "PHASE", "BEGAN ms", "TOOK ms");
    for phase in &told.phases {
        let column = |ms: f64| {
            let share = if told.total_ms > 0.0 { ms / told.total_ms } else { 0.0 };
            ((share * BAR as f64).round() as usize).min(BAR)
        };
        let from = column(phase.began_ms).min(BAR - 1);
        let until = column(phase.began_ms + phase.took_ms).max(from + 1);
        let bar = format!("{}{}", " ".repeat(from), "█".repeat(until - from));
        let mark = match (phase.running, phase.slowest) {
            (true, _) => " ← not over",
            (false, true) => " ← slowest",
            (false, false) => "",
        };
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
    use crate::start::{Phase, Standing, Starts, explain, micros};
    use crate::text::COLUMNS;

    #[test]
    fn a_waterfall_fits_the_width() {
        let starts = Starts::default();
        let at = |ms| UNIX_EPOCH + Duration::from_secs(9) + Duration::from_millis(ms);
        starts.mark("u", Phase::Write, at(0), at(1));
        starts.mark("u", Phase::Start, at(1), at(9));
        starts.mark("u", Phase::Ready, at(9), at(10));
        let metadata = Metadata { name: "p".into(), namespace: "d".into(), uid: "u".into() };
        let told = |starts: &Starts, standing| {
            start(&explain(metadata.clone(), "n", &[starts.get("u").unwrap()], standing), Paint::Plain)
        };
        let text = told(&starts, Standing { now: None, node_told: true });
        assert!(text.starts_with("Pod d/p on n: 10.0 ms, meets the objective of 5 s\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("start") && line.ends_with("← slowest")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        // One whose image does not come, and one of a node that is silent.
        let starts = Starts::default();
        starts.mark("u", Phase::Write, at(0), at(1));
        starts.begin("u", Phase::Image, at(1));
        let now = Some(micros(at(9_000)));
        let text = told(&starts, Standing { now, node_told: true });
        assert!(text.starts_with("Pod d/p on n: 9000.0 ms, not ready yet, past the objective of 5 s\n"));
        let image = text.lines().find(|line| line.starts_with("image")).expect("it is told");
        assert!(image.contains(" 8999.0 ") && image.ends_with("█ ← not over"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        let text = told(&starts, Standing { now, node_told: false });
        assert!(text.starts_with("Pod d/p on n: 1.0 ms, and whether it is ready is not known\n"), "{text}");
        assert!(!text.contains("slowest"), "{text}");
    }
}
