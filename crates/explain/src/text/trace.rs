//! `skiff trace` as text: each way under its verdict, place by place.

use super::{Paint, heading, missing, wrapped};
use crate::trace::{ComparedWay, Hop, Live, Sighting, TraceComparison, TraceExplanation, Verdict, Way};

/// All ways.
pub fn trace(told: &TraceExplanation, paint: Paint) -> String {
    let mut out = String::new();
    wrapped(&mut out, "from   ", &told.from);
    wrapped(&mut out, "to     ", &format!("{}, {}", told.to, told.protocol));
    for (index, way) in told.ways.iter().enumerate() {
        let title = match told.ways.len() {
            1 => "The way".to_owned(),
            many => format!("Way {} of {many}, chance {}", index + 1, percent(way.chance)),
        };
        heading(&mut out, paint, &title);
        one(&mut out, paint, way);
    }
    if let Some(live) = &told.live {
        heading(&mut out, paint, "A real connection");
        show(&mut out, paint, live);
    }
    missing(&mut out, paint, &told.missing);
    out
}

/// The ways to one pod side by side.
pub fn comparison(told: &TraceComparison, paint: Paint) -> String {
    let mut out = String::new();
    wrapped(&mut out, "to     ", &told.pod);
    wrapped(&mut out, "from   ", &told.from);
    out.push('\n');
    let mut table = vec![["WAY", "ADDRESS", "OPEN ON", "VERDICT", "LED TO", "SENDER SEEN"].map(String::from)];
    for row in &told.rows {
        for way in &row.trace.ways {
            let chance =
                if row.trace.ways.len() > 1 { format!(" ({})", percent(way.chance)) } else { String::new() };
            table.push([
                row.by.clone(),
                address(row),
                row.opens_on.clone(),
                format!("{}{chance}", word(way.verdict)),
                way.destination.clone().unwrap_or_default(),
                way.source_seen.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
    }
    let widths: Vec<usize> = (0..6)
        .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    for row in &table {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    for row in &told.rows {
        heading(&mut out, paint, &format!("{} {}", row.by, address(row)));
        for way in &row.trace.ways {
            wrapped(&mut out, "  ", &way.summary);
            let rules = way.hops.iter().filter(|hop| hop.kind == "filter" || hop.kind == "conntrack");
            rules.for_each(|hop| self::hop(&mut out, paint, hop, true));
        }
    }
    out
}

/// TCP goes without saying.
fn address(row: &ComparedWay) -> String {
    let protocol = if row.trace.protocol == "UDP" { "/udp" } else { "" };
    format!("{}{protocol}", row.address)
}

fn one(out: &mut String, paint: Paint, way: &Way) {
    let mark = match way.verdict {
        Verdict::Delivered => way.summary.clone(),
        _ => paint.warn(&way.summary),
    };
    wrapped(out, "  ", &mark);
    if let Some(advice) = &way.advice {
        wrapped(out, "  would pass with: ", advice);
    }
    let mut place = "";
    for hop in &way.hops {
        if hop.place != place {
            place = &hop.place;
            out.push_str(&format!("  {}\n", paint.bold(place)));
        }
        self::hop(out, paint, hop, false);
    }
    if let Some(verdict) = &way.answer_verdict {
        wrapped(out, "  ", verdict);
        let lost = way.answer_ends == Some(Verdict::Dropped);
        let last = way.answer.len().saturating_sub(1);
        for (index, hop) in way.answer.iter().enumerate() {
            let tells = matches!(hop.kind.as_str(), "conntrack" | "filter") || hop.seen.is_some();
            if tells || hop.doubtful || lost && index == last {
                self::hop(out, paint, hop, true);
            }
        }
    }
}

fn hop(out: &mut String, paint: Paint, hop: &Hop, placed: bool) {
    let what = match (&hop.chain, &hop.device) {
        (Some(chain), _) => chain.clone(),
        (None, Some(device)) if hop.kind != "route" => device.clone(),
        _ => hop.kind.clone(),
    };
    let place = if placed { format!(" on {}", hop.place) } else { String::new() };
    let doubt = if hop.doubtful {
        paint.warn(" ? not known: more is asked here than is known")
    } else {
        String::new()
    };
    let seen = match hop.seen {
        Some(true) => " [seen]".to_owned(),
        Some(false) => paint.warn(" [not seen]"),
        None => String::new(),
    };
    wrapped(out, &format!("    {what:18} "), &format!("{}{place}{doubt}{seen}", hop.text));
    if let Some(rule) = &hop.rule {
        let table = hop.table.as_deref().filter(|table| *table != "skiff");
        let table = table.map(|table| format!("table {table}: ")).unwrap_or_default();
        wrapped(out, &format!("    {:18} ", ""), &format!("{table}rule {rule}"));
    }
    if let Some(comment) = &hop.comment {
        wrapped(out, &format!("    {:18} ", ""), &format!("policy {comment}"));
    }
}

fn show(out: &mut String, paint: Paint, live: &Live) {
    wrapped(out, "  ", &format!("outcome: {}", live.outcome));
    for sighting in &live.seen {
        let Sighting { place, kind, device, chain, answer, packet, verdict, .. } = sighting;
        let what = device.as_ref().or(chain.as_ref()).unwrap_or(kind);
        let direction = if *answer { "<- " } else { "-> " };
        let verdict = verdict.as_ref().map(|verdict| format!(": {verdict}")).unwrap_or_default();
        let seen = match packet {
            Some(packet) => format!("seen, {packet}{verdict}"),
            None => paint.warn("not seen"),
        };
        wrapped(out, &format!("  {direction}{:30} ", format!("{place} {what}")), &seen);
    }
    for open in &live.unseen {
        wrapped(out, "  not shown: ", open);
    }
    for difference in &live.differences {
        wrapped(out, "  ", &paint.warn(&format!("FAULT of this program: {difference}")));
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "reaches it",
        Verdict::Refused => "refused",
        Verdict::Dropped => "dropped",
        Verdict::Unreachable => "unreachable",
        Verdict::Left => "leaves",
        Verdict::Unknown => "unknown",
    }
}

fn percent(chance: f64) -> String {
    format!("{:.0} %", chance * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Protocol;

    #[test]
    fn ways_are_told_place_by_place() {
        let hop = |place: &str, kind: &str, device: Option<&str>, text: &str| Hop {
            place: place.into(),
            kind: kind.into(),
            device: device.map(Into::into),
            text: text.into(),
            ..Hop::default()
        };
        let mut translated =
            hop("node n1", "filter", None, "destination 10.96.0.9:80 becomes 10.244.1.3:8080");
        translated.chain = Some("pick-1".into());
        translated.table = Some("skiff".into());
        translated.rule = Some("dnat to ip daddr map @endpoints".into());
        let way = Way {
            chance: 1.0,
            verdict: Verdict::Delivered,
            summary: "reaches pod default/web".into(),
            advice: None,
            receiver: Some("pod default/web".into()),
            destination: Some("10.244.1.3:8080".into()),
            source_seen: Some("10.244.1.2".into()),
            hops: vec![
                hop("pod default/client", "route", Some("eth0"), "default via 10.244.1.1 dev eth0"),
                hop("node n1", "device", Some("cbr0"), "comes in by cbr0"),
                translated,
            ],
            answer: Vec::new(),
            answer_ends: Some(Verdict::Delivered),
            answer_verdict: Some("the answer reaches pod default/client".into()),
        };
        let told =
            TraceExplanation::new("pod a".into(), "svc b".into(), Protocol::Tcp, vec![way], Vec::new());
        expect_test::expect![[r#"
            from   pod a
            to     svc b, TCP

            The way
              reaches pod default/web
              pod default/client
                route              default via 10.244.1.1 dev eth0
              node n1
                cbr0               comes in by cbr0
                pick-1             destination 10.96.0.9:80 becomes 10.244.1.3:8080
                                   rule dnat to ip daddr map @endpoints
              the answer reaches pod default/client
        "#]]
        .assert_eq(&trace(&told, Paint::Plain));
    }
}
