//! What a fake passes before and after whatever it does, and where it can be made to stop for ever: the
//! moment at which a test kills the agent.

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Default)]
enum State {
    #[default]
    Open,
    /// After so many more have passed.
    Shuts(u32),
    Shut,
}

#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    shut: Notify,
}

impl Gate {
    /// Nobody passes any more after so many.
    pub(crate) fn shut_after(&self, passages: u32) {
        *self.state.lock() = State::Shuts(passages);
    }

    pub(crate) fn open(&self) {
        *self.state.lock() = State::Open;
    }

    /// Waits until somebody stands before it.
    pub(crate) async fn is_shut(&self) {
        self.shut.notified().await;
    }

    pub(crate) async fn pass(&self) {
        let stays = {
            let mut state = self.state.lock();
            match *state {
                State::Open => false,
                State::Shuts(0) | State::Shut => {
                    *state = State::Shut;
                    self.shut.notify_one();
                    true
                }
                State::Shuts(left) => {
                    *state = State::Shuts(left - 1);
                    false
                }
            }
        };
        if stays {
            std::future::pending::<()>().await;
        }
    }
}
