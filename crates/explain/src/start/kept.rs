//! What is kept of pods' starts, by the server and by each agent: the marks of the last pods, and histograms.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Marks, Phase, micros};

/// Pods that are kept; the oldest goes first.
const PODS_MAX: usize = 1_000;

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The starts of the last pods, shared by who marks and who asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Starts(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// On the heap, as the table has room for up to four times its entries; and of each pod only what is
    /// marked, as neither the server nor an agent sees all phases.
    marks: HashMap<Arc<str>, Box<[Mark]>>,
    order: VecDeque<Arc<str>>,
    /// How many have left it at its front, so that a pod keeps its number: that, and its place. It may overflow.
    forgotten: u32,
    /// Numbers of pods that are gone, the one that went last at the end, each with `NAMESPACE/NAME` and, after a
    /// blank, the node that it was on. By number and in one text, as there may be as many as there are marks.
    gone: VecDeque<(u32, Box<str>)>,
    histograms: [Histogram; Phase::ALL.len()],
}

/// A pod that is gone, and may still be asked about by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub uid: String,
    /// Empty where it was on none.
    pub node: String,
}

/// Beginning and end of one phase, as in [`Marks`].
#[derive(Debug, Clone, Copy)]
struct Mark {
    phase: Phase,
    times: (u64, u64),
    /// How long it was worked on in between, in microseconds. Of what several containers have, or one that is
    /// tried again, the time between two does not count. From [`u32::MAX`] on, 71 minutes, all of it counts.
    worked: u32,
}

impl Mark {
    /// As it is told: from its beginning on, for as long as it took.
    fn told(&self) -> (u64, u64) {
        let (began, ended) = self.times;
        if ended == 0 || self.worked == u32::MAX {
            return self.times;
        }
        (began, ended.min(began + u64::from(self.worked)))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum_us: u64,
}

impl Starts {
    /// Marks a phase of the pod of that UID. The first mark of a phase stays: a container that is started
    /// again is no part of the pod's start. A phase that several containers have, or several tries until the
    /// pod is ready, is as long as all of them together, without what was between.
    pub fn mark(&self, uid: &str, phase: Phase, began: SystemTime, ended: SystemTime) {
        let (began, ended) = (micros(began), micros(ended));
        let mut kept = self.lock();
        let index = phase as usize;
        let several = matches!(
            phase,
            Phase::Image | Phase::Pull | Phase::Unpack | Phase::Create | Phase::Start | Phase::BackOff
        );
        let over = kept.times(uid, Phase::Ready).1 != 0;
        let mark = kept.mark(uid, phase);
        let slot = &mut mark.times;
        if slot.1 != 0 {
            if several && !over {
                // Those of two containers at once are not counted twice.
                let more = ended.saturating_sub(began.max(slot.1.min(ended)).max(slot.0));
                mark.worked = mark.worked.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
                slot.1 = slot.1.max(ended);
            }
            return;
        }
        // What was begun before, and tried again since, has taken all that time.
        let began = if slot.0 != 0 { slot.0.min(began) } else { began };
        *slot = (began, ended.max(began));
        mark.worked = u32::try_from(ended.saturating_sub(began)).unwrap_or(u32::MAX);
        // A phase whose beginning is another process's end is a moment here, and no duration.
        if ended > began {
            kept.histograms[index].add(ended - began);
        }
    }

    /// A phase begins that ends later, by [`Starts::finish`].
    pub fn begin(&self, uid: &str, phase: Phase, at: SystemTime) {
        let mut kept = self.lock();
        let mark = kept.mark(uid, phase);
        if mark.times.0 == 0 {
            mark.times.0 = micros(at);
        }
    }

    /// Ends a phase whose beginning is known.
    pub fn finish(&self, uid: &str, phase: Phase, at: SystemTime) {
        let began = self.lock().times(uid, phase).0;
        if began != 0 {
            self.mark(uid, phase, UNIX_EPOCH + std::time::Duration::from_micros(began), at);
        }
    }

    /// As [`Starts::mark`], from the end of another phase; nothing where that is not known.
    pub fn mark_since(&self, uid: &str, phase: Phase, since: Phase, ended: SystemTime) {
        let began = self.lock().times(uid, since).1;
        if began != 0 {
            self.mark(uid, phase, UNIX_EPOCH + std::time::Duration::from_micros(began), ended);
        }
    }

    /// Whether that phase of the pod is marked.
    pub fn has(&self, uid: &str, phase: Phase) -> bool {
        self.lock().times(uid, phase).1 != 0
    }

    pub fn get(&self, uid: &str) -> Option<Marks> {
        let kept = self.lock();
        let mut all = Marks::default();
        for mark in kept.marks.get(uid)? {
            all[mark.phase as usize] = mark.told();
        }
        Some(all)
    }

    /// A pod is gone from the API. Its marks stay as long as those of others, to be found by its name.
    pub fn gone(&self, uid: &str, namespace: &str, name: &str, node: &str) {
        let mut kept = self.lock();
        // Of many that go most have come lately.
        let Some(place) = kept.order.iter().rposition(|own| **own == *uid) else { return };
        let number = kept.forgotten.wrapping_add(u32::try_from(place).unwrap_or(u32::MAX));
        if kept.gone.iter().any(|(own, _)| *own == number) {
            return;
        }
        if kept.gone.len() >= PODS_MAX {
            let (forgotten, there) = (kept.forgotten, kept.order.len());
            kept.gone.retain(|(own, _)| place_of(*own, forgotten) < there);
        }
        kept.gone.push_back((number, format!("{namespace}/{name} {node}").into_boxed_str()));
    }

    /// The pod of that name that went last, if its start is kept.
    pub fn find_gone(&self, namespace: &str, name: &str) -> Option<Gone> {
        let kept = self.lock();
        let full = format!("{namespace}/{name}");
        kept.gone.iter().rev().find_map(|(number, text)| {
            let (own, node) = text.split_once(' ')?;
            let uid = kept.order.get(place_of(*number, kept.forgotten)).filter(|_| own == full)?;
            Some(Gone { uid: uid.to_string(), node: node.to_owned() })
        })
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
    fn times(&self, uid: &str, phase: Phase) -> (u64, u64) {
        let marks = self.marks.get(uid).map(AsRef::as_ref).unwrap_or_default();
        marks.iter().find(|mark| mark.phase == phase).map_or((0, 0), |mark| mark.times)
    }

    /// A phase of a pod, to be marked.
    fn mark(&mut self, uid: &str, phase: Phase) -> &mut Mark {
        if !self.marks.contains_key(uid) {
            // Before the new one comes, so that the table never holds one more than it is for.
            while self.order.len() >= PODS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.marks.remove(&oldest);
                self.forgotten = self.forgotten.wrapping_add(1);
            }
            let uid: Arc<str> = uid.into();
            self.order.push_back(uid.clone());
            self.marks.insert(uid, Box::default());
        }
        let marks = self.marks.get_mut(uid).expect("it is there, or was put there");
        let index = marks.iter().position(|mark| mark.phase == phase).unwrap_or_else(|| {
            let mut more = std::mem::take(marks).into_vec();
            more.reserve_exact(1);
            more.push(Mark { phase, times: (0, 0), worked: 0 });
            *marks = more.into_boxed_slice();
            marks.len() - 1
        });
        &mut marks[index]
    }
}

/// Where a pod of that number is in the order; beyond its end if it is forgotten.
fn place_of(number: u32, forgotten: u32) -> usize {
    usize::try_from(number.wrapping_sub(forgotten)).unwrap_or(usize::MAX)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(ms)
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
    }

    #[test]
    fn numbers_of_pods_may_overflow() {
        let starts = Starts::default();
        starts.lock().forgotten = u32::MAX - 1;
        for pod in 0..PODS_MAX + 5 {
            let uid = format!("u{pod}");
            starts.mark(&uid, Phase::Write, at(0), at(1));
            starts.gone(&uid, "n", &uid, "one");
        }
        assert_eq!(starts.lock().forgotten, 3);
        let found = |name: &str| starts.find_gone("n", name).map(|own| own.uid);
        assert_eq!(
            (found("u4"), found("u5").as_deref(), found("u7").as_deref()),
            (None, Some("u5"), Some("u7"))
        );
    }

    #[test]
    fn a_pod_that_is_gone_is_found_by_its_name_while_its_marks_are_kept() {
        let starts = Starts::default();
        starts.gone("unknown", "n", "p", "one");
        assert_eq!(starts.find_gone("n", "p"), None, "nothing is known of its start");
        for uid in ["a", "b"] {
            starts.mark(uid, Phase::Write, at(0), at(1));
            assert_eq!(starts.find_gone("n", "q"), None);
        }
        starts.gone("a", "n", "p", "one");
        starts.gone("b", "n", "p", "");
        starts.gone("a", "n", "p", "one");
        // Of two by one name the one that went last.
        let found = starts.find_gone("n", "p").unwrap();
        assert_eq!((&*found.uid, &*found.node), ("b", ""));
        assert_eq!(starts.find_gone("n", "q").map(|own| own.uid), None);
        for pod in 0..PODS_MAX - 1 {
            starts.mark(&pod.to_string(), Phase::Write, at(0), at(1));
        }
        assert_eq!(starts.find_gone("n", "p").map(|own| own.uid), Some("b".into()));
        starts.mark("last", Phase::Write, at(0), at(1));
        assert_eq!(starts.find_gone("n", "p"), None, "its marks are forgotten");
        starts.gone("last", "n", "p", "two");
        assert_eq!(starts.find_gone("n", "p").unwrap().node, "two");
        for pod in 0..3 * PODS_MAX {
            let uid = format!("later-{pod}");
            starts.mark(&uid, Phase::Write, at(0), at(1));
            starts.gone(&uid, "n", &uid, "");
        }
        assert!(starts.lock().gone.len() <= PODS_MAX, "those without marks are forgotten as well");
        assert!(starts.find_gone("n", "later-2999").is_some() && starts.find_gone("n", "p").is_none());
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

    #[test]
    fn the_first_mark_of_a_phase_stays_but_for_what_each_container_has() {
        let starts = Starts::default();
        for (phase, ends) in [
            (Phase::Network, 2),
            (Phase::Image, 4),
            (Phase::Pull, 4),
            (Phase::Unpack, 4),
            (Phase::Create, 4),
            (Phase::Start, 4),
        ] {
            starts.mark("u", phase, at(1), at(2));
            // Seven seconds later it is tried again; what was between is no part of it.
            starts.mark("u", phase, at(7_008), at(7_010));
            // A part of which is the other's too.
            starts.mark("u", phase, at(7_003), at(7_009));
            let (began, ended) = starts.get("u").unwrap()[phase as usize];
            assert_eq!((began, ended), (micros(at(1)), micros(at(ends))), "{phase:?}");
        }
        // The next phase begins where the last of them ended.
        starts.mark_since("u", Phase::Ready, Phase::Start, at(7_012));
        let ready = starts.get("u").unwrap()[Phase::Ready as usize];
        assert_eq!(ready, (micros(at(7_010)), micros(at(7_012))));
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
