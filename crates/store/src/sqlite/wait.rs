//! Waiting for a request or for a moment, on a thread that is nobody's runtime.

use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use tokio::sync::mpsc;
use tokio::time::Instant;

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<T> {
    Request(T),
    /// The moment.
    Nothing,
    /// All senders have gone.
    End,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The queue's next; `until` bounds the wait. What has queued comes before the moment.
pub(super) fn hear<T>(queue: &mut mpsc::Receiver<T>, until: Option<Instant>) -> Heard<T> {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match queue.poll_recv(&mut context) {
            Poll::Ready(Some(request)) => return Heard::Request(request),
            Poll::Ready(None) => return Heard::End,
            Poll::Pending => {}
        }
        // Whoever wakes this thread for another reason only has it look again.
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return Heard::Nothing,
            Some(left) => thread::park_timeout(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_queued_comes_first_then_the_moment_then_the_end() {
        let (sender, mut queue) = mpsc::channel(4);
        sender.try_send(1).unwrap();
        let now = Some(Instant::now());
        assert_eq!(hear(&mut queue, now), Heard::Request(1));
        assert_eq!(hear(&mut queue, now), Heard::Nothing);
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(hear(&mut queue, Some(soon)), Heard::Nothing);
        assert!(Instant::now() >= soon);
        let other = thread::spawn(move || sender.blocking_send(2).unwrap());
        assert_eq!(hear(&mut queue, None), Heard::Request(2), "whoever sends wakes it");
        other.join().unwrap();
        assert_eq!(hear(&mut queue, None), Heard::End);
    }
}
