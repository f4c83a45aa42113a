//! Who shares what with whom: so many places of a kind, and how many of them each party holds.
//!
//! Users are free to make, as far as they are service accounts: whoever has a namespace has as many as they like. So
//! all accounts of a namespace are one party. And parties of that kind, with those who are nobody, leave a quarter
//! of the places to people.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::auth::Identity;

/// A party may hold at most so many times as many places as there is room left.
const SHARE: usize = 4;
/// The same of places of requests whose bodies have not come yet.
const UNFINISHED_SHARE: usize = SHARE / 2;

/// Whose bounds are somebody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kin {
    Person,
    /// All service accounts of one namespace.
    Accounts,
    /// All of one address who have shown no credential.
    Nobody,
    Node,
    /// A part of the platform.
    Component,
    Administrator,
    /// Callers in this process.
    Own,
}

/// Who is counted as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Party {
    pub(super) kin: Kin,
    name: Arc<str>,
}

impl Party {
    pub(super) fn of(who: &Identity, source: Option<IpAddr>) -> Self {
        let own = |kin| Self { kin, name: Arc::clone(&who.user) };
        let Some(source) = source else { return own(Kin::Own) };
        if who.in_group("system:masters") {
            own(Kin::Administrator)
        } else if who.in_group("system:nodes") {
            own(Kin::Node)
        } else if who.user.starts_with("system:kube-") {
            own(Kin::Component)
        } else if who.in_group("system:unauthenticated") {
            // They are told apart by where they come from.
            Self { kin: Kin::Nobody, name: source.to_canonical().to_string().into() }
        } else if let Some(namespace) = namespace_of(&who.user) {
            Self { kin: Kin::Accounts, name: format!("system:serviceaccounts:{namespace}").into() }
        } else {
            own(Kin::Person)
        }
    }

    fn is_of_the_crowd(&self) -> bool {
        matches!(self.kin, Kin::Accounts | Kin::Nobody)
    }
}

/// The namespace of a service account.
fn namespace_of(user: &str) -> Option<&str> {
    user.strip_prefix("system:serviceaccount:")?.split(':').next()
}

/// Places of a kind.
pub(super) struct Shares {
    max: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    crowd: usize,
    by_party: HashMap<Arc<str>, Own>,
}

#[derive(Default, Clone, Copy)]
struct Own {
    held: usize,
    unfinished: usize,
}

/// One place, given back when dropped.
pub(super) struct Taken {
    of: Arc<Shares>,
    party: Party,
    unfinished: AtomicBool,
}

impl Shares {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, counts: Mutex::default() })
    }

    /// A place, if the party has its share of them not yet, nor `own_max`. `unfinished` says that more is to come
    /// before anything is done there.
    pub(super) fn take(self: &Arc<Self>, party: Party, own_max: usize, unfinished: bool) -> Option<Taken> {
        let mut counts = self.counts.lock();
        let own = counts.by_party.get(&party.name).copied().unwrap_or_default();
        let room = self.room(&counts, party.is_of_the_crowd());
        let fits = own.held < own_max.min(room.saturating_mul(SHARE));
        if !fits || (unfinished && own.unfinished >= room.saturating_mul(UNFINISHED_SHARE)) {
            return None;
        }
        counts.total += 1;
        counts.crowd += usize::from(party.is_of_the_crowd());
        let own = counts.by_party.entry(Arc::clone(&party.name)).or_default();
        own.held += 1;
        own.unfinished += usize::from(unfinished);
        drop(counts);
        Some(Taken { of: Arc::clone(self), party, unfinished: unfinished.into() })
    }

    fn room(&self, counts: &Counts, is_of_the_crowd: bool) -> usize {
        let room = self.max.saturating_sub(counts.total);
        let of_the_crowd = (self.max - self.max / 4).saturating_sub(counts.crowd);
        if is_of_the_crowd { room.min(of_the_crowd) } else { room }
    }

    pub(super) fn total(&self) -> usize {
        self.counts.lock().total
    }

    #[cfg(test)]
    pub(super) fn remembers_nobody(&self) -> bool {
        let counts = self.counts.lock();
        counts.by_party.is_empty() && (counts.total, counts.crowd) == (0, 0)
    }
}

impl Taken {
    /// What was to come has come.
    pub(super) fn finished(&self) {
        if self.unfinished.swap(false, Ordering::Relaxed)
            && let Some(own) = self.of.counts.lock().by_party.get_mut(&self.party.name)
        {
            own.unfinished -= 1;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.finished();
        let mut counts = self.of.counts.lock();
        counts.total -= 1;
        counts.crowd -= usize::from(self.party.is_of_the_crowd());
        if let Some(own) = counts.by_party.get_mut(&self.party.name) {
            own.held -= 1;
            if own.held == 0 {
                counts.by_party.remove(&self.party.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(user: &str, groups: &[&str]) -> Party {
        Party::of(&Identity::new(user, groups), Some(IpAddr::from([10, 0, 0, 1])))
    }

    fn account(namespace: &str, name: usize) -> Party {
        let groups = ["system:serviceaccounts", "system:authenticated"];
        party(&format!("system:serviceaccount:{namespace}:a{name}"), &groups)
    }

    /// As many as there are to get.
    fn all(shares: &Arc<Shares>, mut party: impl FnMut(usize) -> Party, unfinished: bool) -> Vec<Taken> {
        (0..1_000).map_while(|n| shares.take(party(n), usize::MAX, unfinished)).collect()
    }

    #[test]
    fn who_is_one_party() {
        assert_eq!(account("t1", 1), account("t1", 2));
        assert_ne!(account("t1", 1), account("t2", 1));
        let check =
            |user: &str, groups: &[&str], kin: Kin| assert_eq!(party(user, groups).kin, kin, "{user}");
        check("jane", &[], Kin::Person);
        check("system:serviceaccount:t1:a", &[], Kin::Accounts);
        check("system:anonymous", &["system:unauthenticated"], Kin::Nobody);
        check("system:node:n", &["system:nodes"], Kin::Node);
        check("system:node:n", &[], Kin::Person);
        check("system:kube-proxy", &[], Kin::Component);
        check("admin", &["system:masters"], Kin::Administrator);
        assert_eq!(Party::of(&Identity::new("jane", &[]), None).kin, Kin::Own);
    }

    #[test]
    fn however_many_accounts_a_namespace_has_it_has_one_share() {
        let shares = Shares::new(200);
        let first = all(&shares, |n| account("t1", n), false);
        assert_eq!(first.len(), 120, "four fifths of the three quarters");
        let jane = all(&shares, |_| party("jane", &[]), false);
        assert!(jane.len() >= 60, "{}", jane.len());
        assert!(shares.take(account("t2", 0), usize::MAX, false).is_some(), "another namespace finds some");
        drop((first, jane));
        assert!(shares.remembers_nobody());
    }

    #[test]
    fn namespaces_and_nobodies_leave_room_to_people() {
        let shares = Shares::new(200);
        let nobody = |n: u8| {
            let source = Some(IpAddr::from([10, 1, 0, n]));
            Party::of(&Identity::new("system:anonymous", &["system:unauthenticated"]), source)
        };
        let mut crowd = Vec::new();
        for n in 0..200 {
            crowd.extend(all(&shares, |_| account(&format!("t{n}"), n), false));
            crowd.extend(all(&shares, |_| nobody(n as u8), false));
        }
        assert_eq!(crowd.len(), 150, "all that is not kept");
        assert!(shares.take(account("t1", 0), usize::MAX, false).is_none());
        assert_eq!(all(&shares, |_| party("jane", &[]), false).len(), 40, "four fifths of what is kept");
    }

    #[test]
    fn what_is_unfinished_leaves_room_to_its_own_party() {
        let shares = Shares::new(200);
        let unfinished = all(&shares, |_| party("jane", &[]), true);
        assert_eq!(unfinished.len(), 134, "two thirds");
        let whole = all(&shares, |_| party("jane", &[]), false);
        assert_eq!(unfinished.len() + whole.len(), 160);
        assert!(shares.take(party("jane", &[]), usize::MAX, true).is_none());
        drop(whole);
        unfinished.iter().for_each(Taken::finished);
        assert!(shares.take(party("jane", &[]), usize::MAX, true).is_some());
        drop(unfinished);
        assert!(shares.remembers_nobody());
    }
}
