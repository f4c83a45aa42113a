//! Values that at most one object may hold (cluster IPs, node ports, nodes' pod ranges), and who holds them.
//!
//! What stored objects hold is read off the caches ([`Derived`]), so it is as true as they are: a value is
//! free from the moment its object's deletion can be seen. What a write is about to store is [`Taken`] from
//! before it is committed until the caches show the outcome. Holders are told apart by UID: another object
//! of the same name is another holder, and so is each of several creations of one name.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cache::Caches;
use crate::derived::{Derive, Derived};
use crate::object::Object;
use crate::resources::{Resource, node_spans, service_ip, service_node_ports};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    ClusterIp(Ipv4Addr),
    NodePort(u16),
    /// First and last address of a node's pod range.
    PodRange(u32, u32),
}

impl Claim {
    /// Whether one object can't have the one while another has the other.
    fn excludes(self, other: Self) -> bool {
        match (self, other) {
            (Self::PodRange(first, last), Self::PodRange(theirs, their_last)) => {
                first <= their_last && theirs <= last
            }
            (one, other) => one == other,
        }
    }
}

/// What an object of this kind holds.
pub(crate) fn of(kind: &Resource, object: &serde_json::Value) -> Vec<Claim> {
    match (kind.group, kind.plural) {
        ("", "services") => {
            let ports = service_node_ports(object).into_iter().map(Claim::NodePort);
            service_ip(object).map(Claim::ClusterIp).into_iter().chain(ports).collect()
        }
        ("", "nodes") => {
            node_spans(object).into_iter().map(|(first, last)| Claim::PodRange(first, last)).collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) struct Claims {
    stored: Derived<Stored>,
    pending: Arc<Mutex<Pending>>,
}

/// Whose a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    uid: Arc<str>,
    key: Arc<str>,
}

/// By whom a value is about to be stored, in how many writes.
type Pending = HashMap<Claim, (Holder, usize)>;

/// The stored objects that hold a value: one, but for what earlier servers let through.
#[derive(Default)]
struct Stored(HashMap<Claim, Vec<Holder>>);

/// Why a value is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    ByAnother,
    /// By another object of the same name: it was made, or is just being made.
    ByNamesake,
}

impl Derive for Stored {
    const STORAGES: &'static [&'static str] = &["services", "nodes"];

    fn change(&mut self, kind: &'static Resource, old: Option<&Object>, new: Option<&Object>) {
        if let Some(object) = old {
            for claim in of(kind, &object.value(kind)) {
                let Some(holders) = self.0.get_mut(&claim) else { continue };
                if let Some(at) = holders.iter().position(|holder| *holder.uid == *object.uid) {
                    holders.swap_remove(at);
                }
                if holders.is_empty() {
                    self.0.remove(&claim);
                }
            }
        }
        if let Some(object) = new {
            for claim in of(kind, &object.value(kind)) {
                let holder = Holder { uid: (*object.uid).into(), key: Arc::clone(&object.key) };
                self.0.entry(claim).or_default().push(holder);
            }
        }
    }
}

impl Stored {
    /// Another than the object with this UID that holds the value, or one that excludes it.
    fn other(&self, claim: Claim, uid: &str) -> Option<&Holder> {
        let other = |holders: &'_ Vec<Holder>| holders.iter().position(|holder| *holder.uid != *uid);
        let holders = match claim {
            // Nodes are few, and seldom get a range.
            Claim::PodRange(..) => self
                .0
                .iter()
                .find(|(held, holders)| claim.excludes(**held) && other(holders).is_some())
                .map(|(_, holders)| holders)?,
            _ => self.0.get(&claim)?,
        };
        other(holders).map(|at| &holders[at])
    }
}

/// The same among what is about to be stored.
fn other_pending<'a>(pending: &'a Pending, claim: Claim, uid: &str) -> Option<&'a Holder> {
    let holder = match claim {
        Claim::PodRange(..) => pending
            .iter()
            .find(|(held, (holder, _))| claim.excludes(**held) && *holder.uid != *uid)
            .map(|(_, (holder, _))| holder),
        _ => pending.get(&claim).map(|(holder, _)| holder),
    };
    holder.filter(|holder| *holder.uid != *uid)
}

impl Claims {
    pub(crate) fn new(caches: &Arc<Caches>) -> Self {
        Self { stored: Derived::new(Arc::clone(caches)), pending: Arc::default() }
    }

    /// Values that more than one stored object holds.
    pub(crate) fn shared(&self) -> Vec<Claim> {
        let several = |holders: &[Holder]| holders.iter().any(|holder| holder.uid != holders[0].uid);
        self.stored.with(|stored| {
            stored.0.iter().filter(|(_, holders)| several(holders)).map(|(claim, _)| *claim).collect()
        })
    }

    /// Begins a write of the object with this UID and key.
    pub(crate) fn attempt(&self, uid: &str, key: &str) -> Taken {
        let holder = Holder { uid: uid.into(), key: key.into() };
        Taken { by: Some((holder, Arc::clone(&self.pending))), claims: Vec::new() }
    }

    /// Takes a value, unless another object has it, or is about to.
    pub(crate) fn take(&self, taken: &mut Taken, claim: Claim) -> Result<(), Held> {
        self.first_free(taken, std::iter::once(claim)).map(drop)
    }

    /// Takes the first free one of `candidates`.
    pub(crate) fn take_any(
        &self,
        taken: &mut Taken,
        candidates: impl Iterator<Item = Claim>,
    ) -> Option<Claim> {
        self.first_free(taken, candidates).ok()
    }

    fn first_free(&self, taken: &mut Taken, candidates: impl Iterator<Item = Claim>) -> Result<Claim, Held> {
        let Some((holder, _)) = &taken.by else { return Err(Held::ByAnother) };
        // Held while the caches are asked: who is done with a write has left `pending` only after the
        // caches showed its outcome.
        let mut pending = self.pending.lock();
        let mut held = Held::ByAnother;
        let free = self.stored.with(|stored| {
            for claim in candidates {
                let other = other_pending(&pending, claim, &holder.uid);
                match other.or_else(|| stored.other(claim, &holder.uid)) {
                    None => return Ok(claim),
                    Some(other) if other.key == holder.key => held = Held::ByNamesake,
                    Some(_) => held = Held::ByAnother,
                }
            }
            Err(held)
        })?;
        pending.entry(free).or_insert_with(|| (holder.clone(), 0)).1 += 1;
        taken.claims.push(free);
        Ok(free)
    }
}

/// What one write is about to store. Dropped when the caches show that it is stored, or it is known that it
/// never will be.
#[derive(Default)]
pub(crate) struct Taken {
    by: Option<(Holder, Arc<Mutex<Pending>>)>,
    claims: Vec<Claim>,
}

impl Taken {
    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some((_, pending)) = self.by.as_ref().filter(|_| !self.claims.is_empty()) else { return };
        let mut pending = pending.lock();
        for claim in &self.claims {
            if let Some((_, times)) = pending.get_mut(claim) {
                *times -= 1;
                if *times == 0 {
                    pending.remove(claim);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_exclude_each_other_when_they_share_an_address() {
        let range = |first, last| Claim::PodRange(first, last);
        assert!(range(1, 9).excludes(range(9, 12)) && range(1, 9).excludes(range(3, 4)));
        assert!(!range(1, 9).excludes(range(10, 12)));
        assert!(Claim::NodePort(5).excludes(Claim::NodePort(5)));
        assert!(!Claim::NodePort(5).excludes(Claim::NodePort(6)));
    }

    #[test]
    fn a_value_is_free_for_whoever_alone_has_it() {
        let holder = |uid: &str| Holder { uid: uid.into(), key: "/services/default/s".into() };
        let claim = Claim::NodePort(30777);
        let stored = |holders: &[&str]| {
            Stored([(claim, holders.iter().map(|uid| holder(uid)).collect())].into_iter().collect())
        };
        assert_eq!(stored(&["a"]).other(claim, "a"), None);
        assert_eq!(stored(&["a"]).other(claim, "b"), Some(&holder("a")));
        assert_eq!(stored(&["a", "b"]).other(claim, "a"), Some(&holder("b")));
        let pending: Pending = [(claim, (holder("a"), 1))].into_iter().collect();
        assert_eq!(other_pending(&pending, claim, "a"), None);
        assert_eq!(other_pending(&pending, claim, "b"), Some(&holder("a")));
    }
}
