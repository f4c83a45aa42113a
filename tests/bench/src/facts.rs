//! What keeping the facts of explanations takes in memory: `skiff-bench-facts` prints the bytes, in a server, in
//! the agent of one node, and in both, as JSON.
//!
//! The types that server and agent keep the facts in are fed as those feed them, and this program's allocator
//! counts what it hands out. So nothing else is in the figure that a process has in memory: no history of
//! watches, no pages of the program.

#![allow(unsafe_code, reason = "an allocator that counts has no other way to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skiff_explain::start::{Phase, Starts};
use skiff_explain::waits::{Wait, Waits};

/// So many are kept; the last ones are weighed after as many others have come and gone.
const KEPT: u64 = 1_000;
const PODS: u64 = 5 * KEPT;
/// As many as a node takes.
const ON_NODE: u64 = 110;

/// What an allocation takes beside its bytes: the C library's header, and the rounding to 16.
fn taken(layout: Layout) -> isize {
    ((layout.size() + 8).next_multiple_of(16)).max(32).cast_signed()
}

thread_local! {
    /// Bytes that this thread was handed out and has not given back. Others' are none of the figure.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing, as the
// thread's counter is made at compile time and is dropped by nobody.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + taken(layout));
        // SAFETY: the caller holds to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - taken(layout));
        // SAFETY: the caller holds to the contract of `dealloc`, and `alloc` was the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this thread holds more when `make` is over, and what it made.
fn weighed<T>(make: impl FnOnce() -> T) -> (isize, T) {
    let before = HELD.get();
    let made = make();
    (HELD.get() - before, made)
}

fn uid(pod: u64) -> String {
    format!("{pod:08x}-0000-4000-8000-{pod:012x}")
}

fn at(pod: u64, ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + pod) + Duration::from_millis(ms)
}

/// What the server and its scheduler mark of each pod; each is gone in the end, and kept under its name as well.
fn server() -> Starts {
    let starts = Starts::default();
    for pod in 0..PODS {
        let uid = uid(pod);
        starts.mark(&uid, Phase::Write, at(pod, 0), at(pod, 2));
        starts.begin(&uid, Phase::Queue, at(pod, 2));
        starts.finish(&uid, Phase::Queue, at(pod, 3));
        starts.mark_since(&uid, Phase::Decision, Phase::Queue, at(pod, 4));
        starts.mark(&uid, Phase::Bind, at(pod, 4), at(pod, 6));
        starts.mark(&uid, Phase::Watched, at(pod, 40), at(pod, 41));
        starts.gone(&uid, "default", &format!("web-7d9c8b5f64-{pod:05}"), "skiff-worker-1");
    }
    starts
}

/// What the agent marks of pods that all ran on its node, and what as many as it takes wait for.
fn agent() -> (Starts, Waits) {
    let seen_to_started = &Phase::ALL[Phase::Seen as usize..=Phase::Start as usize];
    let (starts, waits) = (Starts::default(), Waits::default());
    for pod in 0..PODS {
        let uid = uid(pod);
        for phase in seen_to_started {
            starts.mark(&uid, *phase, at(pod, 6), at(pod, 20));
        }
        starts.mark_since(&uid, Phase::Ready, Phase::Start, at(pod, 39));
        let wait = |what: &str, error: &str| Wait {
            what: what.into(),
            container: Some("main".into()),
            reason: "ImagePullBackOff".into(),
            since: None,
            last_error: Some(error.into()),
            next_try: Some("2026-01-01T00:00:00Z".into()),
        };
        // An error as registries write them, then the probe, which has failed too.
        let error = "failed to resolve image: no such manifest; ".repeat(10);
        waits.publish(&uid, vec![wait("image", &error)], "2026-01-01T00:00:00Z");
        waits.publish(&uid, vec![wait("probe", ""), wait("image", &error)], "2026-01-01T00:00:00Z");
        waits.probes_again(&uid, "main", Some(&error), "2026-01-01T00:00:00Z".into());
        if let Some(gone) = pod.checked_sub(ON_NODE) {
            waits.forget(&self::uid(gone));
        }
    }
    (starts, waits)
}

/// Bytes in the server, and in the agent.
fn kept() -> (isize, isize) {
    let (server, starts) = weighed(server);
    let (agent, kept) = weighed(agent);
    for known in [&starts, &kept.0] {
        assert!(known.get(&uid(PODS - KEPT)).is_some() && known.get(&uid(PODS - KEPT - 1)).is_none());
    }
    assert_eq!(kept.1.of(&uid(PODS - ON_NODE)).len(), 2, "a pod of the node waits");
    (server, agent)
}

fn main() {
    let (server, agent) = kept();
    let both = server + agent;
    println!(
        "{{\"pods\": {KEPT}, \"waiting\": {ON_NODE}, \"server\": {server}, \"agent\": {agent}, \"both\": {both}}}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_the_last_thousand_pods_take_a_megabyte_at_most() {
        let (server, agent) = kept();
        // Of each pod two times of five phases, and of ten.
        let least = |phases: isize| isize::try_from(KEPT).unwrap() * phases * 16;
        assert!(server > least(5) && agent > least(10), "it was not counted: {server} and {agent}");
        assert!(server + agent <= 1_000_000, "{server} bytes in the server and {agent} in the agent");
        assert_eq!(kept(), (server, agent), "the same facts weigh the same");
    }

    #[test]
    fn what_is_given_back_is_not_counted() {
        let (held, _) = weighed(|| drop(vec![0u8; 5_000]));
        assert_eq!(held, 0);
        let (held, bytes) = weighed(|| vec![0u8; 5_000]);
        assert_eq!((held, bytes.len()), (5_008, 5_000));
    }
}
