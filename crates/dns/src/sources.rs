//! A bound on what all clients have at once, and on what each of them has: whoever comes first doesn't take it
//! all. A pod is a client of its own, by its address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Cheap to clone; clones count together.
#[derive(Clone)]
pub(crate) struct Sources {
    max: usize,
    per_source_max: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// Given back when dropped.
pub(crate) struct Place {
    of: Sources,
    source: IpAddr,
}

impl Sources {
    pub(crate) fn new(max: usize, per_source_max: usize) -> Self {
        Self { max, per_source_max, held: Arc::default() }
    }

    pub(crate) fn enter(&self, source: IpAddr) -> Option<Place> {
        let source = source.to_canonical();
        let mut held = self.held.lock();
        let own = held.by_source.get(&source).copied().unwrap_or(0);
        if held.total >= self.max || own >= self.per_source_max {
            return None;
        }
        held.total += 1;
        held.by_source.insert(source, own + 1);
        Some(Place { of: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        held.total -= 1;
        if let Some(own) = held.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                held.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_share_and_gives_it_back() {
        let sources = Sources::new(3, 2);
        let enter = |last: u8| sources.enter(IpAddr::from([10, 0, 0, last]));
        let first = enter(1).expect("room");
        let _second = sources.enter("::ffff:10.0.0.1".parse().expect("an address")).expect("room");
        assert!(enter(1).is_none(), "it has its share");
        let _other = enter(2).expect("room");
        assert!(enter(3).is_none(), "there is no more");
        drop(first);
        assert!(enter(1).is_some());
        assert_eq!(sources.held.lock().by_source.len(), 2, "who has nothing is not remembered");
    }
}
