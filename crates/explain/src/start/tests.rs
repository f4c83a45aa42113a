//! What marks of several processes are told as.

use std::time::Duration;

use super::*;

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(ms)
}

#[test]
fn marks_of_server_and_agent_make_one_waterfall() {
    let (server, agent) = (Starts::default(), Starts::default());
    server.mark("u", Phase::Write, at(0), at(2));
    server.begin("u", Phase::Queue, at(2));
    server.finish("u", Phase::Queue, at(3));
    server.mark_since("u", Phase::Decision, Phase::Queue, at(4));
    server.mark("u", Phase::Bind, at(4), at(6));
    agent.mark("u", Phase::Seen, at(8), at(8));
    agent.mark("u", Phase::Start, at(10), at(14));
    agent.mark("u", Phase::Start, at(14), at(19));
    agent.mark("u", Phase::Ready, at(19), at(20));
    agent.mark("u", Phase::Start, at(90), at(99));
    let told = waterfall(&[server.get("u").unwrap(), agent.get("u").unwrap()]);
    let lines: Vec<String> = told
        .phases
        .iter()
        .map(|phase| {
            let mark = if phase.slowest { " slowest" } else { "" };
            format!("{} {}+{}{mark}", phase.name, phase.began_ms, phase.took_ms)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "API write 0+2",
            "queue 2+1",
            "decision 3+1",
            "bind 4+2",
            "seen by agent 6+2",
            "start 10+9 slowest",
            "first ready 19+1"
        ]
    );
    assert_eq!((told.finished, told.meets_objective, told.total_ms), (Some(true), Some(true), 20.0));
}

fn waterfall(parts: &[Marks]) -> StartExplanation {
    explain(Metadata::default(), "n", parts, Standing { now: None, node_told: true })
}

fn standing(now: u64, node_told: bool) -> Standing {
    Standing { now: Some(micros(at(now))), node_told }
}

#[test]
fn what_is_not_over_is_told_until_now() {
    let starts = Starts::default();
    starts.mark("u", Phase::Sandbox, at(2), at(12));
    starts.begin("u", Phase::Image, at(20));
    starts.begin("u", Phase::Image, at(90_000));
    let marks = starts.get("u").expect("it was marked");
    let write = took(Phase::Write, 0, 2);
    let told = explain(Metadata::default(), "n", &[write, marks], standing(150_000, true));
    let image = told.phases.last().expect("phases");
    assert_eq!((image.phase, image.running, image.slowest), (Phase::Image, true, true));
    assert_eq!((image.began_ms, image.took_ms, told.total_ms), (20.0, 149_980.0, 150_000.0));
    assert_eq!((told.finished, told.meets_objective), (Some(false), Some(false)));
    // Pulled at last: the phase has taken all the tries.
    starts.mark("u", Phase::Image, at(151_000), at(152_000));
    let marks = starts.get("u").expect("it was marked");
    assert_eq!(marks[Phase::Image as usize], (micros(at(20)), micros(at(152_000))));
}

#[test]
fn what_begins_where_another_ends_is_told_as_running_too() {
    let running = |part: Marks| -> Vec<(Phase, f64)> {
        let told = explain(Metadata::default(), "n", &[part], standing(1_000, true));
        let running = told.phases.into_iter().filter(|phase| phase.running);
        running.map(|phase| (phase.phase, phase.took_ms)).collect()
    };
    assert_eq!(running(took(Phase::Start, 100, 200)), [(Phase::Ready, 800.0)]);
    assert_eq!(running(took(Phase::Queue, 1, 2)), [(Phase::Decision, 998.0)]);
    assert_eq!(running(took(Phase::Ready, 1, 2)), []);
    let ended = waterfall(&[took(Phase::Start, 100, 200)]);
    assert!(ended.phases.iter().all(|phase| !phase.running), "the start of what has ended does not go on");
}

#[test]
fn of_a_node_that_is_silent_nothing_is_said() {
    let written = took(Phase::Write, 0, 2);
    let told = explain(Metadata::default(), "n", &[written], standing(90_000, false));
    assert_eq!((told.finished, told.meets_objective, told.total_ms), (None, None, 2.0));
    assert!(told.phases.iter().all(|phase| !phase.slowest && !phase.running));
    // But who saw that the pod is ready knows it.
    let seen = [written, took(Phase::Watched, 20, 20)];
    let told = explain(Metadata::default(), "n", &seen, standing(90_000, false));
    assert_eq!((told.finished, told.meets_objective, told.total_ms), (Some(true), Some(true), 20.0));
    assert!(told.phases.iter().all(|phase| !phase.slowest));
}

/// A phase that took from one millisecond to another.
fn took(phase: Phase, from: u64, to: u64) -> Marks {
    let starts = Starts::default();
    starts.mark("u", phase, at(from), at(to));
    starts.get("u").expect("it was marked")
}

#[test]
fn the_objective_is_met_by_what_is_ready_within_five_seconds() {
    for (ready, meets) in [(4_999, true), (5_000, true), (5_001, false)] {
        let told = waterfall(&[took(Phase::Write, 0, 2), took(Phase::Ready, 10, ready)]);
        assert_eq!(told.finished, Some(true));
        assert_eq!((told.meets_objective, told.total_ms), (Some(meets), ready as f64), "{ready} ms");
    }
    let unfinished = waterfall(&[took(Phase::Write, 0, 2)]);
    assert_eq!((unfinished.finished, unfinished.meets_objective), (Some(false), None));
    let nothing = waterfall(&[]);
    assert_eq!((nothing.total_ms, nothing.phases.len(), nothing.finished), (0.0, 0, Some(false)));
}

#[test]
fn of_a_phase_that_several_know_the_first_of_them_is_told() {
    let told = waterfall(&[took(Phase::Bind, 0, 4), took(Phase::Bind, 1, 9)]);
    assert_eq!((told.phases[0].took_ms, told.phases[0].slowest), (4.0, true));
}

#[test]
fn what_is_seen_begins_where_it_was_written() {
    let phase = |parts: &[Marks], phase: Phase| {
        let told = waterfall(parts).phases.into_iter().find(|own| own.phase == phase).expect("it is told");
        (told.began_ms, told.took_ms)
    };
    let write = took(Phase::Write, 0, 1);
    assert_eq!(
        phase(&[write, took(Phase::Ready, 5, 6), took(Phase::Watched, 9, 9)], Phase::Watched),
        (6.0, 3.0)
    );
    // Who hears of it before its writer knows that it is written took no time.
    assert_eq!(phase(&[write, took(Phase::Bind, 2, 8), took(Phase::Seen, 7, 7)], Phase::Seen), (7.0, 0.0));
    assert_eq!(
        phase(&[write, took(Phase::Ready, 5, 8), took(Phase::Watched, 7, 7)], Phase::Watched),
        (7.0, 0.0)
    );
    // Without the writer's mark it is a moment.
    assert_eq!(phase(&[write, took(Phase::Seen, 7, 7)], Phase::Seen), (7.0, 0.0));
    assert_eq!(phase(&[write, took(Phase::Watched, 7, 7)], Phase::Watched), (7.0, 0.0));
}
