//! How a pod's start went: when each phase began and ended, kept for the last pods, told as a waterfall.
//!
//! Server and agent keep a [`Starts`] each and mark the phases that they see; an answer joins the two. The
//! times are the wall clock's, since the processes share no other.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{API_VERSION, Metadata, Missing};

/// Upstream's objective for a pod's start, its image present.
pub const OBJECTIVE_MS: f64 = 5_000.0;

/// Pods that are kept; the oldest goes first.
const PODS_MAX: usize = 1_000;

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// A part of a pod's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// The request that created it, until it was durable and known.
    Write,
    /// Until the scheduler took it up.
    Queue,
    Decision,
    /// Until the API had taken the binding.
    Bind,
    /// Until the node's agent knew it.
    Seen,
    Volumes,
    Sandbox,
    Network,
    /// Looking for it on the node.
    Image,
    /// Until a registry had given all of it that was not there.
    Pull,
    /// Until its layers could be mounted.
    Unpack,
    Create,
    Start,
    /// Until it was ready.
    Ready,
    /// Until a watcher of the API heard that it is.
    Watched,
}

impl Phase {
    pub const ALL: [Phase; 15] = [
        Phase::Write,
        Phase::Queue,
        Phase::Decision,
        Phase::Bind,
        Phase::Seen,
        Phase::Volumes,
        Phase::Sandbox,
        Phase::Network,
        Phase::Image,
        Phase::Pull,
        Phase::Unpack,
        Phase::Create,
        Phase::Start,
        Phase::Ready,
        Phase::Watched,
    ];

    /// As text and as label of the histogram.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Write => "API write",
            Phase::Queue => "queue",
            Phase::Decision => "decision",
            Phase::Bind => "bind",
            Phase::Seen => "seen by agent",
            Phase::Volumes => "volumes",
            Phase::Sandbox => "sandbox",
            Phase::Network => "network",
            Phase::Image => "image",
            Phase::Pull => "image pull",
            Phase::Unpack => "image unpack",
            Phase::Create => "create",
            Phase::Start => "start",
            Phase::Ready => "first ready",
            Phase::Watched => "status seen",
        }
    }
}

/// Beginning and end of phases, in microseconds since 1970; 0 is unknown.
pub type Marks = [(u64, u64); Phase::ALL.len()];

/// The starts of the last pods, shared by who marks and who asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Starts(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    marks: HashMap<String, Marks>,
    order: VecDeque<String>,
    histograms: [Histogram; Phase::ALL.len()],
}

#[derive(Debug, Clone, Copy, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum_us: u64,
}

/// Now, as marks are written.
pub fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

impl Starts {
    /// Marks a phase of the pod of that UID. The first mark of a phase stays: a container that is started
    /// again is no part of the pod's start. A phase that several containers have is as long as all of them.
    pub fn mark(&self, uid: &str, phase: Phase, began: SystemTime, ended: SystemTime) {
        let (began, ended) = (micros(began), micros(ended));
        let mut kept = self.lock();
        let index = phase as usize;
        let per_container =
            matches!(phase, Phase::Image | Phase::Pull | Phase::Unpack | Phase::Create | Phase::Start);
        let marks = kept.of(uid);
        let over = marks[Phase::Ready as usize].1 != 0;
        let slot = &mut marks[index];
        if slot.1 != 0 {
            if per_container && !over {
                slot.1 = slot.1.max(ended);
            }
            return;
        }
        // What was begun before, and tried again since, has taken all that time.
        let began = if slot.0 != 0 { slot.0.min(began) } else { began };
        *slot = (began, ended.max(began));
        // A phase whose beginning is another process's end is a moment here, and no duration.
        if ended > began {
            kept.histograms[index].add(ended - began);
        }
    }

    /// A phase begins that ends later, by [`Starts::finish`].
    pub fn begin(&self, uid: &str, phase: Phase, at: SystemTime) {
        let mut kept = self.lock();
        let slot = &mut kept.of(uid)[phase as usize];
        if slot.0 == 0 {
            slot.0 = micros(at);
        }
    }

    /// Ends a phase whose beginning is known.
    pub fn finish(&self, uid: &str, phase: Phase, at: SystemTime) {
        let began = self.lock().marks.get(uid).map(|marks| marks[phase as usize].0).unwrap_or(0);
        if began != 0 {
            self.mark(uid, phase, UNIX_EPOCH + std::time::Duration::from_micros(began), at);
        }
    }

    /// As [`Starts::mark`], from the end of another phase; nothing where that is not known.
    pub fn mark_since(&self, uid: &str, phase: Phase, since: Phase, ended: SystemTime) {
        let began = self.lock().marks.get(uid).map(|marks| marks[since as usize].1).unwrap_or(0);
        if began != 0 {
            self.mark(uid, phase, UNIX_EPOCH + std::time::Duration::from_micros(began), ended);
        }
    }

    /// Whether that phase of the pod is marked.
    pub fn has(&self, uid: &str, phase: Phase) -> bool {
        self.lock().marks.get(uid).is_some_and(|marks| marks[phase as usize].1 != 0)
    }

    pub fn get(&self, uid: &str) -> Option<Marks> {
        self.lock().marks.get(uid).copied()
    }

    /// The histograms in Prometheus' text format.
    pub fn prometheus(&self) -> String {
        const NAME: &str = "skiff_pod_start_phase_seconds";
        let histograms = self.lock().histograms;
        let mut text =
            format!("# HELP {NAME} How long phases of pods' starts took.\n# TYPE {NAME} histogram\n");
        for (phase, histogram) in Phase::ALL.iter().zip(histograms).filter(|(_, own)| own.count > 0) {
            let label = phase.name().to_lowercase().replace(' ', "_");
            for (bound, count) in BUCKETS.iter().zip(histogram.counts) {
                let _ = writeln!(text, "{NAME}_bucket{{phase=\"{label}\",le=\"{bound}\"}} {count}");
            }
            let Histogram { count, sum_us, .. } = histogram;
            let _ = writeln!(text, "{NAME}_bucket{{phase=\"{label}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{NAME}_sum{{phase=\"{label}\"}} {}", sum_us as f64 / 1e6);
            let _ = writeln!(text, "{NAME}_count{{phase=\"{label}\"}} {count}");
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn of(&mut self, uid: &str) -> &mut Marks {
        if !self.marks.contains_key(uid) {
            self.order.push_back(uid.to_owned());
            while self.order.len() > PODS_MAX {
                if let Some(oldest) = self.order.pop_front() {
                    self.marks.remove(&oldest);
                }
            }
        }
        self.marks.entry(uid.to_owned()).or_default()
    }
}

impl Histogram {
    fn add(&mut self, micros: u64) {
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(micros);
        let seconds = micros as f64 / 1e6;
        // Prometheus' buckets are cumulative.
        for (bound, count) in BUCKETS.iter().zip(&mut self.counts) {
            *count += u64::from(seconds <= *bound);
        }
    }
}

/// What `explain start` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartExplanation {
    /// The kind of this answer.
    pub kind: String,
    /// The group and version of this answer.
    pub api_version: String,
    /// Name, namespace and UID of the pod.
    pub metadata: Metadata,
    /// The node that the pod is on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The steps of the start, in their order.
    pub phases: Vec<PhaseTime>,
    /// From the first beginning to the last end that is known; to now where the start is not over.
    pub total_ms: f64,
    /// How long a start may take by upstream's objective, in milliseconds.
    pub objective_ms: f64,
    /// The pod was ready within the objective; absent while that is open, or where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meets_objective: Option<bool>,
    /// Absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<bool>,
    /// What is left out of the answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// How long one step of a start took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTime {
    /// The step.
    pub phase: Phase,
    /// The step's name.
    pub name: String,
    /// After the beginning of the first phase.
    pub began_ms: f64,
    /// Until now, where it is not over.
    pub took_ms: f64,
    /// Whether no other step took longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slowest: bool,
    /// It is not over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
}

/// What is known beside the marks.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The time, as [`micros`] has it; nothing of a pod that has ended or is ending, whose start will not go on.
    pub now: Option<u64>,
    /// Whether the node has told its part, or has none yet. What it didn't tell may well be over.
    pub node_told: bool,
}

/// Joins what several processes marked.
pub fn explain(metadata: Metadata, node: &str, parts: &[Marks], standing: Standing) -> StartExplanation {
    let marks = joined(parts);
    let of = |phase: Phase| marks[phase as usize];
    // Who heard that it is ready knows it, whatever the node says.
    let finished = match (of(Phase::Ready).1 != 0 || of(Phase::Watched).1 != 0, standing.node_told) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    let now = standing.now.filter(|_| finished == Some(false));
    let running = now.map(|now| (now, running(&marks))).into_iter().flat_map(|(now, phases)| {
        phases.into_iter().map(move |(phase, began)| (phase, began, now.max(began), true))
    });
    let over = Phase::ALL.into_iter().zip(marks).filter(|(_, (_, ended))| *ended != 0);
    let over = over.map(|(phase, (began, ended))| (phase, began, ended, false));
    let known: Vec<(Phase, u64, u64, bool)> = over.chain(running).collect();
    let origin = known.iter().map(|(_, began, ..)| *began).min().unwrap_or(0);
    let end = known.iter().map(|(_, _, ended, _)| *ended).max().unwrap_or(0);
    let end = if known.is_empty() { end } else { now.map_or(end, |now| now.max(end)) };
    let ms = |micros: u64| micros as f64 / 1_000.0;
    let mut phases: Vec<PhaseTime> = known
        .into_iter()
        .map(|(phase, began, ended, running)| PhaseTime {
            phase,
            name: phase.name().into(),
            began_ms: ms(began - origin),
            took_ms: ms(ended.saturating_sub(began)),
            slowest: false,
            running,
        })
        .collect();
    phases.sort_by(|a, b| a.began_ms.total_cmp(&b.began_ms).then(a.phase.cmp(&b.phase)));
    let longest = phases.iter().map(|phase| phase.took_ms).fold(0.0, f64::max);
    // Of a part of the phases nobody knows which was the slowest.
    let slowest = phases.iter_mut().find(|phase| phase.took_ms >= longest).filter(|_| standing.node_told);
    if let Some(slowest) = slowest {
        slowest.slowest = true;
    }
    let total_ms = ms(end.saturating_sub(origin));
    let meets_objective = match finished {
        Some(true) => Some(total_ms <= OBJECTIVE_MS),
        Some(false) if total_ms > OBJECTIVE_MS => Some(false),
        _ => None,
    };
    StartExplanation {
        kind: "StartExplanation".into(),
        api_version: API_VERSION.into(),
        metadata,
        node: node.into(),
        phases,
        total_ms,
        objective_ms: OBJECTIVE_MS,
        meets_objective,
        finished,
        missing: Vec::new(),
    }
}

/// The marks of all, each phase as the first of them that knows it.
fn joined(parts: &[Marks]) -> Marks {
    let mut marks = Marks::default();
    for part in parts {
        for (own, other) in marks.iter_mut().zip(part) {
            if own.1 == 0 && (other.1 != 0 || own.0 == 0) {
                *own = *other;
            }
        }
    }
    // From the server's last mark to the agent's first.
    let (bound, first) = (marks[Phase::Bind as usize].1, &mut marks[Phase::Seen as usize]);
    if first.1 != 0 && bound != 0 {
        *first = (bound.min(first.1), first.1);
    }
    let (ready, watched) = (marks[Phase::Ready as usize].1, &mut marks[Phase::Watched as usize]);
    if watched.1 != 0 && ready != 0 {
        *watched = (ready.min(watched.1), watched.1);
    }
    marks
}

/// The phases that have begun and are not over, of a pod that is not ready.
fn running(marks: &Marks) -> Vec<(Phase, u64)> {
    let of = |phase: Phase| marks[phase as usize];
    let begun = Phase::ALL.into_iter().filter(|phase| of(*phase).0 != 0 && of(*phase).1 == 0);
    let mut all: Vec<(Phase, u64)> = begun.map(|phase| (phase, of(phase).0)).collect();
    // Those that begin where another ends have no mark of their own.
    for (phase, before, after) in
        [(Phase::Decision, Phase::Queue, Phase::Bind), (Phase::Ready, Phase::Start, Phase::Ready)]
    {
        if of(before).1 != 0 && of(phase) == (0, 0) && of(after).1 == 0 {
            all.push((phase, of(before).1));
        }
    }
    all
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_oldest_pods_are_forgotten() {
        let starts = Starts::default();
        for pod in 0..PODS_MAX + 10 {
            starts.mark(&pod.to_string(), Phase::Write, at(0), at(1));
        }
        assert!(starts.get("9").is_none() && starts.get("10").is_some());
        let kept = starts.lock();
        assert_eq!((kept.marks.len(), kept.order.len()), (PODS_MAX, PODS_MAX));
        // What is kept of all of them: marks, UIDs (twice), and the tables around them.
        assert!(PODS_MAX * (size_of::<Marks>() + 2 * (36 + size_of::<String>())) * 2 < 1 << 20);
    }

    #[test]
    fn histograms_are_cumulative() {
        let starts = Starts::default();
        starts.mark("a", Phase::Bind, at(0), at(3));
        starts.mark("b", Phase::Bind, at(0), at(700));
        let text = starts.prometheus();
        for line in [
            "skiff_pod_start_phase_seconds_bucket{phase=\"bind\",le=\"0.002\"} 0",
            "skiff_pod_start_phase_seconds_bucket{phase=\"bind\",le=\"0.005\"} 1",
            "skiff_pod_start_phase_seconds_bucket{phase=\"bind\",le=\"1\"} 2",
            "skiff_pod_start_phase_seconds_bucket{phase=\"bind\",le=\"+Inf\"} 2",
            "skiff_pod_start_phase_seconds_sum{phase=\"bind\"} 0.703",
            "skiff_pod_start_phase_seconds_count{phase=\"bind\"} 2",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}\n{text}");
        }
        assert!(!text.contains("queue"));
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
        assert!(
            ended.phases.iter().all(|phase| !phase.running),
            "the start of what has ended does not go on"
        );
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
            let told =
                waterfall(parts).phases.into_iter().find(|own| own.phase == phase).expect("it is told");
            (told.began_ms, told.took_ms)
        };
        let write = took(Phase::Write, 0, 1);
        assert_eq!(
            phase(&[write, took(Phase::Ready, 5, 6), took(Phase::Watched, 9, 9)], Phase::Watched),
            (6.0, 3.0)
        );
        // Who hears of it before its writer knows that it is written took no time.
        assert_eq!(
            phase(&[write, took(Phase::Bind, 2, 8), took(Phase::Seen, 7, 7)], Phase::Seen),
            (7.0, 0.0)
        );
        assert_eq!(
            phase(&[write, took(Phase::Ready, 5, 8), took(Phase::Watched, 7, 7)], Phase::Watched),
            (7.0, 0.0)
        );
        // Without the writer's mark it is a moment.
        assert_eq!(phase(&[write, took(Phase::Seen, 7, 7)], Phase::Seen), (7.0, 0.0));
        assert_eq!(phase(&[write, took(Phase::Watched, 7, 7)], Phase::Watched), (7.0, 0.0));
    }

    #[test]
    fn the_first_mark_of_a_phase_stays_but_for_what_each_container_has() {
        let starts = Starts::default();
        for (phase, ends) in [
            (Phase::Network, 2),
            (Phase::Image, 9),
            (Phase::Pull, 9),
            (Phase::Unpack, 9),
            (Phase::Create, 9),
            (Phase::Start, 9),
        ] {
            starts.mark("u", phase, at(1), at(2));
            starts.mark("u", phase, at(8), at(9));
            starts.mark("u", phase, at(3), at(4));
            let (began, ended) = starts.get("u").unwrap()[phase as usize];
            assert_eq!((began, ended), (micros(at(1)), micros(at(ends))), "{phase:?}");
        }
        // Whose end is before its beginning, by clocks that were set, has no length.
        starts.mark("v", Phase::Bind, at(5), at(3));
        assert_eq!(starts.get("v").unwrap()[Phase::Bind as usize], (micros(at(5)), micros(at(5))));
        starts.mark("w", Phase::Bind, at(5), at(5));
        assert!(!starts.prometheus().contains("phase=\"bind\""), "a moment is no duration");
    }

    #[test]
    fn a_phase_ends_only_if_its_beginning_is_known() {
        let starts = Starts::default();
        starts.finish("u", Phase::Queue, at(9));
        starts.mark_since("u", Phase::Decision, Phase::Queue, at(9));
        assert_eq!(starts.get("u"), None);
        starts.begin("u", Phase::Queue, at(2));
        starts.begin("u", Phase::Queue, at(5));
        assert!(!starts.has("u", Phase::Queue), "it is not over");
        starts.mark_since("u", Phase::Decision, Phase::Queue, at(9));
        assert!(!starts.has("u", Phase::Decision));
        starts.finish("u", Phase::Queue, at(6));
        assert!(starts.has("u", Phase::Queue) && !starts.has("other", Phase::Queue));
        assert_eq!(starts.get("u").unwrap()[Phase::Queue as usize], (micros(at(2)), micros(at(6))));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let starts = Starts::default();
        starts.mark("a", Phase::Bind, at(0), at(5));
        let text = starts.prometheus();
        assert!(text.contains("le=\"0.002\"} 0") && text.contains("le=\"0.005\"} 1"), "{text}");
        assert!(text.starts_with("# HELP skiff_pod_start_phase_seconds "), "{text}");
    }
}
