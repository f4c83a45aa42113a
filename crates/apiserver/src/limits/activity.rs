//! Whether a connection does anything: the requests on it, and since when there are none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;

/// One connection's state, shared by what reads its bytes and what serves its requests.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    cancelled_max: usize,
    /// Told when more requests were taken back than may be.
    flood: Notify,
}

struct State {
    active: usize,
    /// Active ones whose client may stop reading for as long as it likes.
    streams: usize,
    /// When the last request ended, or the connection began.
    idle_since: Instant,
    /// When the first bytes after that came.
    header_since: Option<Instant>,
    /// Requests taken back before their answer's end, less those that were not.
    cancelled: usize,
    /// When each answer that has an end, or of which more is ready, was last asked for more of it.
    answers: BTreeMap<u64, Instant>,
    next: u64,
    /// A request was answered before all of its body was read.
    unread: bool,
}

/// What to do with a connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    LookAgain(Instant),
    TooLong,
}

/// How long a request may take, and its client to read the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// It has an end.
    No,
    /// Without an end; what is ready has to be read.
    Watch,
    /// Without an end, and read when its client likes: logs, and what becomes a stream.
    Stream,
}

/// One request on the connection, until its answer's last byte is handed over.
pub(crate) struct Underway {
    activity: Activity,
    number: u64,
    lasts: Lasts,
    answered: bool,
}

impl Activity {
    pub(crate) fn new(limits: &Limits) -> Self {
        let state = State {
            active: 0,
            streams: 0,
            idle_since: Instant::now(),
            header_since: None,
            cancelled: 0,
            answers: BTreeMap::new(),
            next: 0,
            unread: false,
        };
        let shared =
            Shared { state: Mutex::new(state), cancelled_max: limits.cancelled_max, flood: Notify::new() };
        Self(Arc::new(shared))
    }

    /// Bytes of the client have come.
    pub(crate) fn heard(&self) {
        let mut state = self.0.state.lock();
        if state.active == 0 && state.header_since.is_none() {
            state.header_since = Some(Instant::now());
        }
    }

    /// A request's header is complete.
    pub(crate) fn begin(&self, lasts: Lasts) -> Underway {
        let mut state = self.0.state.lock();
        state.active += 1;
        state.streams += usize::from(lasts == Lasts::Stream);
        state.header_since = None;
        let number = state.next;
        state.next += 1;
        drop(state);
        Underway { activity: self.clone(), number, lasts, answered: false }
    }

    /// Whether a stream runs, whose client may stop reading for as long as it likes.
    pub(crate) fn has_streams(&self) -> bool {
        self.0.state.lock().streams > 0
    }

    /// The connection is a stream now, whatever was a request on it before.
    pub(crate) fn upgraded(&self) {
        self.0.state.lock().streams += 1;
    }

    /// Nobody reads the rest of a request's body.
    pub(crate) fn left_unread(&self) {
        self.0.state.lock().unread = true;
    }

    /// Whether the client may still be sending what nobody reads.
    pub(crate) fn has_unread(&self) -> bool {
        self.0.state.lock().unread
    }

    /// Resolves when the client takes back more requests than it may.
    pub(crate) async fn flooded(&self) {
        self.0.flood.notified().await;
    }

    /// `whole` says that bytes without a request are half a header, as on HTTP/1; on HTTP/2 they need not be.
    pub(crate) fn verdict(&self, limits: &Limits, whole: bool) -> Verdict {
        let state = self.0.state.lock();
        let now = Instant::now();
        if state.active > 0 {
            // Each answer by itself: on HTTP/2 nothing need be written for one that nobody reads.
            let oldest = state.answers.values().min();
            let stalled = oldest.is_some_and(|since| *since + limits.stall_timeout <= now);
            let look = now + limits.idle_timeout.min(limits.stall_timeout);
            return if stalled { Verdict::TooLong } else { Verdict::LookAgain(look) };
        }
        let until = until(state.idle_since, state.header_since.filter(|_| whole), limits);
        // Bytes may begin to come meanwhile, which then have less time than this connection has.
        let look = until.min(now + limits.header_timeout.min(limits.stall_timeout));
        if until <= now { Verdict::TooLong } else { Verdict::LookAgain(look) }
    }
}

fn until(idle_since: Instant, header_since: Option<Instant>, limits: &Limits) -> Instant {
    match header_since {
        Some(since) => since + limits.header_timeout,
        None => idle_since + limits.idle_timeout,
    }
}

impl Underway {
    /// The client takes more of the answer; `more` says whether some of what is ready is left.
    pub(crate) fn progressed(&mut self, more: bool) {
        let clocked = match self.lasts {
            Lasts::No => true,
            Lasts::Watch => more,
            Lasts::Stream => return,
        };
        let answers = &mut self.activity.0.state.lock().answers;
        match clocked {
            true => drop(answers.insert(self.number, Instant::now())),
            false => drop(answers.remove(&self.number)),
        }
    }

    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut state = self.activity.0.state.lock();
        state.answers.remove(&self.number);
        state.active -= 1;
        state.streams -= usize::from(self.lasts == Lasts::Stream);
        // To end a watch is no abuse: it has no other end.
        if self.answered || self.lasts != Lasts::No {
            state.cancelled = state.cancelled.saturating_sub(1);
        } else {
            state.cancelled += 1;
            if state.cancelled > self.activity.0.cancelled_max {
                self.activity.0.flood.notify_one();
            }
        }
        if state.active == 0 {
            state.idle_since = Instant::now();
        }
    }
}

/// Wait that long for what a connection still has to say once it was told to end.
pub(crate) const PARTING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> Limits = || Limits {
        header_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(90),
        ..Limits::default()
    };

    #[tokio::test(start_paused = true)]
    async fn idleness_and_half_a_header_have_bounds_of_their_own() {
        let activity = Activity::new(&LIMITS());
        let verdict = || activity.verdict(&LIMITS(), true);
        let later = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        assert!(matches!(verdict(), Verdict::LookAgain(_)));
        later(89).await;
        assert!(matches!(verdict(), Verdict::LookAgain(_)));
        later(1).await;
        assert_eq!(verdict(), Verdict::TooLong, "nothing was said for 90 s");

        drop(activity.begin(Lasts::No));
        activity.heard();
        later(29).await;
        activity.heard();
        assert!(matches!(verdict(), Verdict::LookAgain(_)));
        later(1).await;
        assert_eq!(verdict(), Verdict::TooLong, "30 s after a header's first byte");
        assert!(matches!(activity.verdict(&LIMITS(), false), Verdict::LookAgain(_)));

        let watch = activity.begin(Lasts::Watch);
        later(3600).await;
        assert!(matches!(verdict(), Verdict::LookAgain(_)), "a request runs");
        drop(watch);
        assert!(matches!(verdict(), Verdict::LookAgain(_)), "it ended just now");
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_is_clocked_from_when_more_of_it_was_taken() {
        let limits = Limits { stall_timeout: Duration::from_secs(60), ..LIMITS() };
        let activity = Activity::new(&limits);
        let verdict = || activity.verdict(&limits, false);
        let later = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let (mut unread, mut read) = (activity.begin(Lasts::No), activity.begin(Lasts::No));
        let mut watch = activity.begin(Lasts::Watch);
        later(3600).await;
        assert!(matches!(verdict(), Verdict::LookAgain(_)), "they are not answered yet");
        for answer in [&mut unread, &mut read, &mut watch] {
            answer.progressed(false);
        }
        later(59).await;
        read.progressed(false);
        assert!(matches!(verdict(), Verdict::LookAgain(_)));
        later(1).await;
        assert_eq!(verdict(), Verdict::TooLong, "one of them, whatever becomes of the other");
        drop(unread);
        assert!(matches!(verdict(), Verdict::LookAgain(_)));
        drop(read);
        later(3600).await;
        assert!(matches!(verdict(), Verdict::LookAgain(_)), "a watch may stay silent");
        let mut stream = activity.begin(Lasts::Stream);
        stream.progressed(true);
        watch.progressed(true);
        later(59).await;
        watch.progressed(true);
        later(59).await;
        assert!(matches!(verdict(), Verdict::LookAgain(_)));
        later(1).await;
        assert_eq!(verdict(), Verdict::TooLong, "events are ready that nobody takes");
        watch.progressed(false);
        later(3600).await;
        assert!(matches!(verdict(), Verdict::LookAgain(_)), "all were taken, and a stream may wait");
    }

    #[test]
    fn requests_taken_back_are_forgiven_by_those_that_are_not() {
        use futures_util::FutureExt;

        let activity = Activity::new(&Limits { cancelled_max: 3, ..Limits::default() });
        let flooded = || activity.flooded().now_or_never().is_some();
        for _ in 0..3 {
            drop(activity.begin(Lasts::No));
        }
        activity.begin(Lasts::No).answered();
        drop(activity.begin(Lasts::No));
        assert!(!flooded(), "three, with one forgiven");
        drop(activity.begin(Lasts::No));
        assert!(flooded());
    }
}
