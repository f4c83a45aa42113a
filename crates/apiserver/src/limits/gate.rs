//! Requests in flight, bounded, and shared fairly between users.
//!
//! A user may have at most four times as many requests in flight as there is room left ([`super::shares`]). So one
//! alone gets four fifths of the room, two get four ninths each, and there is always room for who comes next.
//! Service accounts of one namespace are one user, and leave room to people. Requests whose bodies have not come
//! leave room to others of the same user.
//! The platform's own components and nodes have room of their own; administrators are never refused, since
//! somebody must be able to look what is wrong.

use std::net::IpAddr;
use std::sync::Arc;

use skiff_api::status::StatusError;

use super::Limits;
use super::shares::{Kin, Party, Shares, Taken};
use crate::auth::Identity;

/// Seconds after which a refused client may try again.
pub(super) const RETRY_AFTER_S: i32 = 1;

pub(crate) struct Gate {
    users: [Arc<Shares>; 2],
    system: [Arc<Shares>; 2],
    exempt: [Arc<Shares>; 2],
}

/// What a request does, as the gate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ReadOnly = 0,
    Mutating = 1,
}

/// One request's place, given back when dropped.
pub(crate) struct Slot(Taken);

impl Slot {
    /// The request's body has come, or nobody waits for it any more.
    pub(crate) fn body_is_read(&self) {
        self.0.finished();
    }
}

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Self {
        let lanes = || [Shares::new(limits.readonly_inflight_max), Shares::new(limits.mutating_inflight_max)];
        Self { users: lanes(), system: lanes(), exempt: [Shares::new(usize::MAX), Shares::new(usize::MAX)] }
    }

    /// Lets a request in, or says to come back. `source` tells apart those who are nobody; `unfinished` says that
    /// the request's body has still to come.
    pub(crate) fn enter(
        &self,
        kind: Kind,
        who: &Identity,
        source: Option<IpAddr>,
        unfinished: bool,
    ) -> Result<Slot, StatusError> {
        let party = Party::of(who, source);
        let lanes = match party.kin {
            Kin::Person | Kin::Accounts | Kin::Nobody => &self.users,
            Kin::Node | Kin::Component => &self.system,
            Kin::Administrator | Kin::Own => &self.exempt,
        };
        lanes[kind as usize].take(party, usize::MAX, unfinished).map(Slot).ok_or_else(|| {
            StatusError::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_S)
        })
    }

    /// How many requests of a kind are in flight.
    pub(crate) fn inflight(&self, kind: Kind) -> usize {
        [&self.users, &self.system, &self.exempt].map(|lanes| lanes[kind as usize].total()).iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many requests each of these gets in flight when all ask for as many as they can, in turn.
    fn shares(gate: &Gate, users: &[&Identity]) -> Vec<usize> {
        let source = Some("10.0.0.1".parse().expect("an address"));
        let mut slots = Vec::new();
        let mut counts = vec![0; users.len()];
        loop {
            let before = slots.len();
            for (n, user) in users.iter().enumerate() {
                if let Ok(slot) = gate.enter(Kind::ReadOnly, user, source, false) {
                    slots.push(slot);
                    counts[n] += 1;
                }
            }
            if slots.len() == before || slots.len() > 1000 {
                return counts;
            }
        }
    }

    #[test]
    fn users_get_equal_shares_and_leave_room_for_the_next() {
        let gate = Gate::new(&Limits::default());
        let [a, b, c] = ["a", "b", "c"].map(|name| Identity::new(name, &[]));
        assert_eq!(shares(&gate, &[&a]), [320]);
        assert_eq!(shares(&gate, &[&a, &b]), [178, 178]);
        assert_eq!(shares(&gate, &[&a, &b, &c]), [124, 123, 123]);
        assert_eq!(gate.inflight(Kind::ReadOnly), 0, "all places were given back");
    }

    #[test]
    fn who_floods_takes_nothing_from_others_nodes_and_administrators() {
        let gate = Gate::new(&Limits::default());
        let source: IpAddr = "10.0.0.1".parse().expect("an address");
        let flood = Identity::new("flood", &[]);
        let held: Vec<Slot> =
            std::iter::from_fn(|| gate.enter(Kind::Mutating, &flood, Some(source), false).ok())
                .take(1000)
                .collect();
        assert_eq!(held.len(), 160);
        let refused = gate.enter(Kind::Mutating, &flood, Some(source), false).err().expect("refused");
        assert_eq!((refused.code(), refused.message()), (429, "Too many requests, please try again later."));
        for other in [
            Identity::new("other", &[]),
            Identity::anonymous(),
            Identity::new("system:node:n", &["system:nodes"]),
            Identity::new("admin", &["system:masters"]),
        ] {
            assert!(gate.enter(Kind::Mutating, &other, Some(source), true).is_ok(), "{}", other.user);
        }
        assert!(gate.enter(Kind::ReadOnly, &flood, Some(source), false).is_ok(), "reading is counted apart");
        assert!(
            gate.enter(Kind::Mutating, &flood, None, false).is_ok(),
            "callers in this process are not refused"
        );
    }

    /// A namespace's administrator makes as many accounts as they like, each of which takes what it can.
    #[test]
    fn accounts_of_one_namespace_lock_nobody_out() {
        let gate = Gate::new(&Limits::default());
        let source: IpAddr = "10.0.0.1".parse().expect("an address");
        for kind in [Kind::Mutating, Kind::ReadOnly] {
            let mut held = Vec::new();
            for n in 0..120 {
                let account = Identity::account("t1", &format!("a{n}"));
                let own = || gate.enter(kind, &account, Some(source), true).ok();
                held.extend(std::iter::from_fn(own).take(1000));
            }
            for other in [Identity::new("jane", &[]), Identity::account("t2", "a"), Identity::anonymous()] {
                let slots: Vec<_> =
                    (0..4).map_while(|_| gate.enter(kind, &other, Some(source), true).ok()).collect();
                assert_eq!(slots.len(), 4, "{}", other.user);
            }
        }
    }

    #[test]
    fn nobodies_are_told_apart_by_where_they_come_from() {
        let gate = Gate::new(&Limits { readonly_inflight_max: 2, ..Limits::default() });
        let enter = |ip: &str| gate.enter(Kind::ReadOnly, &Identity::anonymous(), ip.parse().ok(), false);
        let _one = enter("10.0.0.1").expect("room");
        let _two = enter("10.0.0.2").expect("room");
        assert!(enter("10.0.0.3").is_err());
    }
}
