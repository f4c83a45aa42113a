//! Requests in flight, bounded, and shared fairly between users.
//!
//! A user may have at most [`SHARE`] times as many requests in flight as there is room left. So one alone
//! gets four fifths of the room, two get four ninths each, and there is always room for who comes next.
//! The platform's own components and nodes have room of their own; administrators are never refused, since
//! somebody must be able to look what is wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use skiff_api::status::StatusError;

use super::Limits;
use crate::auth::Identity;

const SHARE: usize = 4;
/// Seconds after which a refused client may try again.
pub(super) const RETRY_AFTER_S: i32 = 1;

pub(crate) struct Gate {
    users: [Lane; 2],
    system: [Lane; 2],
    exempt: [Lane; 2],
}

/// What a request does, as the gate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ReadOnly = 0,
    Mutating = 1,
}

/// Whose bounds are somebody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kin {
    User,
    /// Nodes and the platform's own components.
    System,
    /// Administrators, and callers in this process.
    Exempt,
}

impl Kin {
    pub(super) fn of(who: &Identity, source: Option<IpAddr>) -> Self {
        if source.is_none() || who.in_group("system:masters") {
            Self::Exempt
        } else if who.in_group("system:nodes") || who.user.starts_with("system:kube-") {
            Self::System
        } else {
            Self::User
        }
    }
}

/// The name that what somebody takes is counted under: nobodies are told apart by where they come from.
pub(super) fn counted_as(who: &Identity, source: Option<IpAddr>) -> Arc<str> {
    match source {
        Some(source) if who.in_group("system:unauthenticated") => source.to_canonical().to_string().into(),
        _ => Arc::clone(&who.user),
    }
}

struct Lane {
    max: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_user: HashMap<Arc<str>, usize>,
}

/// One request's place, given back when dropped.
pub(crate) struct Slot {
    counts: Arc<Mutex<Counts>>,
    user: Arc<str>,
}

/// Whether one more request of who has `own` in flight is let in.
fn admits(max: usize, total: usize, own: usize) -> bool {
    own < SHARE.saturating_mul(max.saturating_sub(total))
}

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Self {
        let lane = |max| Lane { max, counts: Arc::default() };
        let lanes = || [lane(limits.readonly_inflight_max), lane(limits.mutating_inflight_max)];
        Self { users: lanes(), system: lanes(), exempt: [lane(usize::MAX), lane(usize::MAX)] }
    }

    /// Lets a request in, or says to come back. `source` tells apart those who are nobody.
    pub(crate) fn enter(
        &self,
        kind: Kind,
        who: &Identity,
        source: Option<IpAddr>,
    ) -> Result<Slot, StatusError> {
        let lanes = match Kin::of(who, source) {
            Kin::User => &self.users,
            Kin::System => &self.system,
            Kin::Exempt => &self.exempt,
        };
        let user = counted_as(who, source);
        let lane = &lanes[kind as usize];
        let mut counts = lane.counts.lock();
        let own = counts.by_user.get(&user).copied().unwrap_or(0);
        if !admits(lane.max, counts.total, own) {
            const WHY: &str = "Too many requests, please try again later.";
            return Err(StatusError::too_many_requests(WHY, RETRY_AFTER_S));
        }
        counts.total += 1;
        *counts.by_user.entry(Arc::clone(&user)).or_default() += 1;
        drop(counts);
        Ok(Slot { counts: Arc::clone(&lane.counts), user })
    }

    /// How many requests of a kind are in flight.
    pub(crate) fn inflight(&self, kind: Kind) -> usize {
        [&self.users, &self.system, &self.exempt]
            .map(|lanes| lanes[kind as usize].counts.lock().total)
            .iter()
            .sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.total -= 1;
        if let Some(own) = counts.by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                counts.by_user.remove(&self.user);
            }
        }
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
                if let Ok(slot) = gate.enter(Kind::ReadOnly, user, source) {
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
            std::iter::from_fn(|| gate.enter(Kind::Mutating, &flood, Some(source)).ok()).take(1000).collect();
        assert_eq!(held.len(), 160);
        let refused = gate.enter(Kind::Mutating, &flood, Some(source)).err().expect("refused");
        assert_eq!((refused.code(), refused.message()), (429, "Too many requests, please try again later."));
        for other in [
            Identity::new("other", &[]),
            Identity::anonymous(),
            Identity::new("system:node:n", &["system:nodes"]),
            Identity::new("admin", &["system:masters"]),
        ] {
            assert!(gate.enter(Kind::Mutating, &other, Some(source)).is_ok(), "{}", other.user);
        }
        assert!(gate.enter(Kind::ReadOnly, &flood, Some(source)).is_ok(), "reading is counted apart");
        assert!(gate.enter(Kind::Mutating, &flood, None).is_ok(), "callers in this process are not refused");
    }

    #[test]
    fn nobodies_are_told_apart_by_where_they_come_from() {
        let gate = Gate::new(&Limits { readonly_inflight_max: 2, ..Limits::default() });
        let enter = |ip: &str| gate.enter(Kind::ReadOnly, &Identity::anonymous(), ip.parse().ok());
        let _one = enter("10.0.0.1").expect("room");
        let _two = enter("10.0.0.2").expect("room");
        assert!(enter("10.0.0.3").is_err());
    }
}
