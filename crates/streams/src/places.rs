//! How many connections a server has open, and whose they are.
//!
//! Whoever connects is a stranger until a credential was good on the connection. Strangers have a quarter of
//! the places and, where these are taken, of whoever has most of them the one goes first that has been silent
//! for longest: so no number of connections that show nothing keeps anybody out. Who is known has the rest, bounded by
//! source. Each node has places of its own, by the name that its certificate says, and who looks after the others
//! has a reserve that nobody else takes from: administrators at the API server, the API server at an agent.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub connections_max: usize,
    /// Of one address.
    pub per_source_max: usize,
    /// Of one node's name, beside those.
    pub per_node_max: usize,
    /// Of all who are privileged, beside those.
    pub privileged_max: usize,
}

/// Whose connection it is, by a credential that was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    Client,
    /// By its name.
    Node(&'a str),
    Privileged,
}

impl Bounds {
    fn strangers_max(self) -> usize {
        (self.connections_max / 4).max(1)
    }

    fn known_max(self) -> usize {
        self.connections_max.saturating_sub(self.strangers_max()).max(1)
    }
}

/// A server's open connections. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Places {
    bounds: Bounds,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// By when they were heard of last.
    strangers: BTreeMap<u64, (IpAddr, CancellationToken)>,
    strangers_of: HashMap<IpAddr, usize>,
    known: usize,
    known_of: HashMap<IpAddr, usize>,
    /// These take no place of others.
    nodes: HashMap<Arc<str>, usize>,
    privileged: usize,
}

/// The right to one open connection, given back when the last clone is dropped.
#[derive(Clone)]
pub struct Place(Arc<Held>);

struct Held {
    of: Places,
    source: IpAddr,
    ended: CancellationToken,
    standing: Mutex<Standing>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// By its number in [`Open::strangers`].
    Stranger(u64),
    Known,
    Node(Arc<str>),
    Privileged,
}

/// There is no place for one more of who is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Places {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, open: Arc::default() }
    }

    /// A place for a new connection, of nobody that is known. If it is one too many, another stranger's ends.
    pub fn enter(&self, source: IpAddr) -> Place {
        // One client, whichever way its address is written.
        let source = source.to_canonical();
        let mut open = self.open.lock();
        if open.strangers_of.get(&source).is_some_and(|own| *own >= self.bounds.per_source_max) {
            open.end_most_silent_of(source);
        } else if open.strangers.len() >= self.bounds.strangers_max()
            && let Some(most) = open.has_most()
        {
            open.end_most_silent_of(most);
        }
        let ended = CancellationToken::new();
        let number = open.put_last((source, ended.clone()));
        *open.strangers_of.entry(source).or_default() += 1;
        drop(open);
        let standing = Mutex::new(Standing::Stranger(number));
        Place(Arc::new(Held { of: self.clone(), source, ended, standing }))
    }

    pub fn total(&self) -> usize {
        let open = self.open.lock();
        open.strangers.len() + open.known + open.nodes.values().sum::<usize>() + open.privileged
    }
}

impl Open {
    fn place_for(&mut self, owner: Owner<'_>, source: IpAddr, bounds: Bounds) -> Result<Standing, Full> {
        match owner {
            Owner::Client => {
                let own = self.known_of.get(&source).copied().unwrap_or(0);
                if own >= bounds.per_source_max || self.known >= bounds.known_max() {
                    return Err(Full);
                }
                *self.known_of.entry(source).or_default() += 1;
                self.known += 1;
                Ok(Standing::Known)
            }
            Owner::Node(name) => {
                if self.nodes.get(name).is_some_and(|own| *own >= bounds.per_node_max) {
                    return Err(Full);
                }
                let name: Arc<str> = name.into();
                *self.nodes.entry(Arc::clone(&name)).or_default() += 1;
                Ok(Standing::Node(name))
            }
            Owner::Privileged if self.privileged >= bounds.privileged_max => Err(Full),
            Owner::Privileged => {
                self.privileged += 1;
                Ok(Standing::Privileged)
            }
        }
    }

    fn put_last(&mut self, stranger: (IpAddr, CancellationToken)) -> u64 {
        let number = self.next;
        self.next += 1;
        self.strangers.insert(number, stranger);
        number
    }

    /// The source of most strangers; of several the one of which one has been silent for longest.
    fn has_most(&self) -> Option<IpAddr> {
        let most = self.strangers_of.values().max()?;
        let has = |source: &IpAddr| self.strangers_of.get(source) == Some(most);
        self.strangers.values().map(|(source, _)| *source).find(has)
    }

    fn end_most_silent_of(&mut self, source: IpAddr) {
        let silent = self.strangers.iter().find(|(_, (of, _))| *of == source).map(|(number, _)| *number);
        if let Some(ended) = silent.and_then(|number| self.take_stranger(number)) {
            ended.cancel();
        }
    }

    fn take_stranger(&mut self, number: u64) -> Option<CancellationToken> {
        let (source, ended) = self.strangers.remove(&number)?;
        give_back(&mut self.strangers_of, source);
        Some(ended)
    }
}

fn give_back<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, of: K) {
    if let Some(own) = counts.get_mut(&of) {
        *own -= 1;
        if *own == 0 {
            counts.remove(&of);
        }
    }
}

impl Place {
    /// A credential was good: the connection is no stranger's any more, but its owner's.
    pub fn known(&self, owner: Owner<'_>) -> Result<(), Full> {
        let held = &*self.0;
        let mut standing = held.standing.lock();
        let Standing::Stranger(number) = *standing else { return Ok(()) };
        let mut open = held.of.open.lock();
        let is = open.place_for(owner, held.source, held.of.bounds)?;
        // One that was ended this very moment ends all the same.
        open.take_stranger(number);
        *standing = is;
        Ok(())
    }

    /// Something came over the connection.
    pub fn heard(&self) {
        let held = &*self.0;
        let mut standing = held.standing.lock();
        let Standing::Stranger(number) = &mut *standing else { return };
        let mut open = held.of.open.lock();
        if let Some(own) = open.strangers.remove(number) {
            *number = open.put_last(own);
        }
    }

    /// Resolves when somebody else needs the place more.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.of.open.lock();
        match &*self.standing.lock() {
            Standing::Stranger(number) => drop(open.take_stranger(*number)),
            Standing::Privileged => open.privileged -= 1,
            Standing::Node(name) => give_back(&mut open.nodes, Arc::clone(name)),
            Standing::Known => {
                open.known -= 1;
                give_back(&mut open.known_of, self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections_max: usize, per_source_max: usize) -> Places {
        Places::new(Bounds { connections_max, per_source_max, per_node_max: 4, privileged_max: 5 })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_ended(place: &Place) -> bool {
        place.0.ended.is_cancelled()
    }

    #[test]
    fn of_strangers_the_most_silent_of_who_has_most_goes_first() {
        let places = places(16, 16);
        let lone = places.enter(ip(1));
        let many: Vec<Place> = (0..3).map(|_| places.enter(ip(2))).collect();
        let more: Vec<Place> = (0..2).map(|_| places.enter(ip(2))).collect();
        assert_eq!(many.iter().map(is_ended).collect::<Vec<_>>(), [true, true, false]);
        let other = places.enter(ip(3));
        assert!(is_ended(&many[2]) && !is_ended(&lone) && !is_ended(&other));
        assert_eq!(places.total(), 4);
        drop((lone, many, more, other));
        assert_eq!(places.total(), 0);
        let open = places.open.lock();
        assert!(open.strangers_of.is_empty() && open.known_of.is_empty(), "nobody is remembered");
    }

    /// Who takes long over a handshake goes on with it, whatever number of others says nothing meanwhile.
    #[test]
    fn who_speaks_stays_and_who_is_silent_goes() {
        let places = places(400, 3);
        let own: Vec<Place> = (0..3).map(|_| places.enter(ip(1))).collect();
        let silent: Vec<Place> = (0..20)
            .map(|_| {
                own[0].heard();
                places.enter(ip(1))
            })
            .collect();
        assert_eq!(own.iter().map(is_ended).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(silent.iter().filter(|place| !is_ended(place)).count(), 2);
        own[1].heard();
        assert_eq!(places.total(), 3, "who was ended stays so");
        own[0].known(Owner::Client).expect("has room");
        own[0].heard();
        drop(own);
        drop(silent);
        assert_eq!(places.total(), 0);
    }

    #[test]
    fn one_source_of_strangers_has_its_share_of_them() {
        let places = places(400, 2);
        let own: Vec<Place> = (0..3).map(|_| places.enter("::ffff:10.0.0.1".parse().expect("one"))).collect();
        assert_eq!(own.iter().map(is_ended).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_ended(&places.enter(ip(2))));
    }

    #[test]
    fn who_is_known_is_not_ended_and_nodes_and_administrators_get_in() {
        let places = places(8, 3);
        let enter = |source: u8, owner: Owner<'_>| {
            let place = places.enter(ip(source));
            place.known(owner).map(|()| place)
        };
        let users: Vec<Place> = (0..3).map_while(|_| enter(1, Owner::Client).ok()).collect();
        assert_eq!(enter(1, Owner::Client).err(), Some(Full), "the source has its share");
        let others: Vec<Place> = (0..3).map_while(|_| enter(2, Owner::Client).ok()).collect();
        assert_eq!((users.len(), others.len()), (3, 3));
        assert_eq!(enter(3, Owner::Client).err(), Some(Full), "there is room for strangers only");
        let nodes: Vec<Place> = (0..20).map_while(|_| enter(1, Owner::Node("n1")).ok()).collect();
        assert_eq!(nodes.len(), 4);
        let admins: Vec<Place> = (0..20).map_while(|_| enter(1, Owner::Privileged).ok()).collect();
        assert_eq!(admins.len(), 5, "whatever nodes have");
        let other_node = enter(1, Owner::Node("n2")).expect("each has its own");
        let strangers: Vec<Place> = (0..9).map(|_| places.enter(ip(9))).collect();
        assert_eq!(strangers.iter().filter(|place| !is_ended(place)).count(), 2);
        let known = || users.iter().chain(&others).chain(&nodes).chain(&admins).chain([&other_node]);
        assert!(known().all(|place| !is_ended(place)));
        assert_eq!(users[0].known(Owner::Privileged), Ok(()), "once is enough");
        drop(users);
        assert!(enter(1, Owner::Client).is_ok());
        drop(nodes);
        assert!(enter(1, Owner::Node("n1")).is_ok());
        drop((others, admins, other_node, strangers));
        assert_eq!(places.total(), 0);
        assert!(places.open.lock().nodes.is_empty(), "nobody is remembered");
    }
}
