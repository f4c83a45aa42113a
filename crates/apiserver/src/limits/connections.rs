//! How many connections are open, in all and from each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Open connections by where they come from. Cheap to clone; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// The right to one open connection, given back when dropped.
pub(crate) struct Place {
    of: Connections,
    source: IpAddr,
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Server,
    Source,
}

impl Connections {
    pub(crate) fn enter(&self, source: IpAddr, max: usize, per_source_max: usize) -> Result<Place, Full> {
        // One client, whichever way its address is written.
        let source = source.to_canonical();
        let mut open = self.0.lock();
        if open.total >= max {
            return Err(Full::Server);
        }
        let own = open.by_source.entry(source).or_default();
        if *own >= per_source_max {
            return Err(Full::Source);
        }
        *own += 1;
        open.total += 1;
        Ok(Place { of: self.clone(), source })
    }

    pub(crate) fn total(&self) -> usize {
        self.0.lock().total
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.0.lock();
        open.total -= 1;
        if let Some(own) = open.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_has_its_share_leaves_the_rest_to_others() {
        let connections = Connections::default();
        let enter = |ip: &str| connections.enter(ip.parse().expect("an address"), 3, 2);
        let first = enter("10.0.0.1").expect("room");
        let _second = enter("::ffff:10.0.0.1").expect("room");
        assert_eq!(enter("10.0.0.1").err(), Some(Full::Source));
        let _other = enter("10.0.0.2").expect("room");
        assert_eq!(enter("10.0.0.3").err(), Some(Full::Server));
        drop(first);
        assert_eq!(connections.total(), 2);
        let _again = enter("10.0.0.1").expect("room");
    }
}
