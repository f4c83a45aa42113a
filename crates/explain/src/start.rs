//! How a pod's start went: when each phase began and ended, kept for the last pods, told as a waterfall.
//!
//! Server and agent keep a [`Starts`] each and mark the phases that they see; an answer joins the two. The
//! times are the wall clock's, since the processes share no other.

mod kept;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{API_VERSION, Metadata, Missing};

pub use kept::{Gone, Starts};

/// Upstream's objective for a pod's start, its image present.
pub const OBJECTIVE_MS: f64 = 5_000.0;

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
    /// Between a container's end and the next try, as it failed.
    BackOff,
    /// Until it was ready.
    Ready,
    /// Until a watcher of the API heard that it is.
    Watched,
}

impl Phase {
    pub const ALL: [Phase; 16] = [
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
        Phase::BackOff,
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
            Phase::BackOff => "back-off",
            Phase::Ready => "first ready",
            Phase::Watched => "status seen",
        }
    }
}

/// Beginning and end of phases, in microseconds since 1970; 0 is unknown.
pub type Marks = [(u64, u64); Phase::ALL.len()];

/// Now, as marks are written.
pub fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
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
    /// The pod is gone, and this is how its start went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<String>,
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
        past: None,
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
mod tests;
