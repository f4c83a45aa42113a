//! How many logs are followed at once: each has a file open for as long as its client likes, and is looked at again
//! and again. So one container's have a bound, and all together have one by what this process may have open.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use skiff_runtime::ContainerId;

use super::Refusal;
use crate::config::ServingBounds;

pub(super) struct Followed {
    total_max: usize,
    of_a_container_max: usize,
    open: Arc<Mutex<HashMap<ContainerId, usize>>>,
}

/// One log that is followed, until this is dropped.
#[derive(Debug)]
pub(super) struct Follow {
    open: Arc<Mutex<HashMap<ContainerId, usize>>>,
    id: ContainerId,
}

impl Followed {
    pub(super) fn new(bounds: ServingBounds) -> Self {
        let (total_max, of_a_container_max) =
            (bounds.followed_logs_max, bounds.followed_logs_of_a_container_max);
        Self { total_max, of_a_container_max, open: Arc::default() }
    }

    pub(super) fn begin(&self, id: &ContainerId) -> Result<Follow, Refusal> {
        let full = |why: &str| {
            let message = format!("too many {why} are followed already, please try again later");
            Refusal(StatusCode::TOO_MANY_REQUESTS, message)
        };
        let mut open = self.open.lock();
        let own = open.get(id).copied().unwrap_or(0);
        if own >= self.of_a_container_max {
            return Err(full("logs of this container"));
        }
        if open.values().sum::<usize>() >= self.total_max {
            return Err(full("logs of this node"));
        }
        open.insert(id.clone(), own + 1);
        drop(open);
        Ok(Follow { open: Arc::clone(&self.open), id: id.clone() })
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(own) = open.get_mut(&self.id) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_logs_have_a_bound_and_all_together_another() {
        let bounds = ServingBounds {
            followed_logs_max: 5,
            followed_logs_of_a_container_max: 2,
            ..ServingBounds::of_descriptors(1_024)
        };
        let followed = Followed::new(bounds);
        let begin = |id: &str| followed.begin(&ContainerId(id.into()));
        let mut held: Vec<Follow> = (0..9).map_while(|_| begin("a").ok()).collect();
        assert_eq!(held.len(), 2);
        let Err(Refusal(status, why)) = begin("a") else { panic!("one too many") };
        assert_eq!(status, 429);
        assert_eq!(why, "too many logs of this container are followed already, please try again later");
        held.extend(["b", "b", "c"].map(|id| begin(id).expect("room")));
        let Err(Refusal(status, why)) = begin("d") else { panic!("one too many") };
        assert_eq!(status, 429);
        assert_eq!(why, "too many logs of this node are followed already, please try again later");
        held.remove(0);
        held.push(begin("d").expect("one was given back"));
        drop(held);
        assert!(followed.open.lock().is_empty());
    }
}
