//! Watches, bounded by user. None of them holds what others wait for, but each has its place in memory for as long
//! as it is open, and a connection may carry hundreds.
//!
//! Who is told apart is as for requests in flight ([`super::shares`]). Who has a node's certificate has that node's
//! bound; components and administrators have none.

use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use skiff_api::status::StatusError;

use super::Limits;
use super::gate::RETRY_AFTER_S;
use super::shares::{Kin, Party, Shares, Taken};
use crate::auth::Identity;
use crate::http_body::Response;

#[derive(Clone)]
pub(crate) struct Watches {
    per_user_max: usize,
    per_namespace_max: usize,
    per_node_max: usize,
    open: Arc<Shares>,
}

/// One watch, open until this is dropped.
pub(crate) struct Open(Taken);

impl Watches {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            per_user_max: limits.watches_per_user_max,
            per_namespace_max: limits.watches_per_namespace_max,
            per_node_max: limits.watches_per_node_max,
            open: Shares::new(usize::MAX),
        }
    }

    /// `None` for who may have as many as they like.
    pub(crate) fn open(&self, who: &Identity, source: Option<IpAddr>) -> Result<Option<Open>, StatusError> {
        let party = Party::of(who, source);
        let (own_max, whose) = match party.kin {
            Kin::Person | Kin::Nobody => (self.per_user_max, "user"),
            Kin::Accounts => (self.per_namespace_max, "namespace's accounts"),
            Kin::Node => (self.per_node_max, "node"),
            Kin::Component | Kin::Administrator | Kin::Own => return Ok(None),
        };
        self.open.take(party, own_max, false).map(|taken| Some(Open(taken))).ok_or_else(|| {
            let why = format!("Too many watches of one {whose}, please try again later.");
            StatusError::too_many_requests(why, RETRY_AFTER_S)
        })
    }
}

impl Open {
    /// The watch is open as long as its answer is sent.
    pub(crate) fn until_answered(self, answer: Response) -> Response {
        answer.map(|body| {
            let held = body.map_frame(move |frame| {
                let _open = &self.0;
                frame
            });
            held.boxed_unsync()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> Limits = || Limits {
        watches_per_user_max: 2,
        watches_per_namespace_max: 3,
        watches_per_node_max: 4,
        ..Limits::default()
    };

    #[test]
    fn each_user_has_so_many_watches_and_the_platform_as_many_as_it_likes() {
        let watches = Watches::new(&LIMITS());
        let at = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let [jane, john] = ["jane", "john"].map(|name| Identity::new(name, &[]));
        let one = watches.open(&jane, at(1)).expect("room");
        let two = watches.open(&jane, at(1)).expect("room");
        let refused = watches.open(&jane, at(2)).err().expect("refused, from wherever");
        assert_eq!(
            (refused.code(), refused.reason(), refused.message()),
            (429, "TooManyRequests", "Too many watches of one user, please try again later.")
        );
        assert!(watches.open(&john, at(1)).is_ok(), "another has room of their own");
        drop(one);
        let again = watches.open(&jane, at(1)).expect("a place was given back");
        assert!(again.is_some() && watches.open(&jane, at(1)).is_err());
        for exempt in
            [Identity::new("admin", &["system:masters"]), Identity::new("system:kube-scheduler", &[])]
        {
            let open: Vec<_> = (0..9).map(|_| watches.open(&exempt, at(1))).collect();
            assert!(open.iter().all(|open| matches!(open, Ok(None))), "{}", exempt.user);
        }
        assert!(matches!(watches.open(&jane, None), Ok(None)), "callers in this process");
        drop((again, two));
        assert!(watches.open.remembers_nobody(), "nothing is kept of who watches nothing");
    }

    #[test]
    fn nobodies_are_told_apart_by_where_they_come_from() {
        let watches = Watches::new(&Limits { watches_per_user_max: 1, ..LIMITS() });
        let open = |last: u8| watches.open(&Identity::anonymous(), Some(IpAddr::from([10, 0, 0, last])));
        let _one = open(1).expect("room");
        let _two = open(2).expect("room");
        assert!(open(1).is_err());
    }

    #[test]
    fn accounts_are_counted_by_namespace_and_nodes_by_name() {
        let watches = Watches::new(&LIMITS());
        let open = |who: &Identity| watches.open(who, Some(IpAddr::from([10, 0, 0, 1])));
        let held: Vec<_> =
            (0..9).map_while(|n| open(&Identity::account("t1", &format!("a{n}"))).ok()).collect();
        assert_eq!(held.len(), 3);
        let refused = open(&Identity::account("t1", "another")).err().expect("refused");
        assert_eq!(
            (refused.code(), refused.message()),
            (429, "Too many watches of one namespace's accounts, please try again later.")
        );
        assert!(open(&Identity::account("t2", "a")).is_ok());
        let node = |name: &str| Identity::new(&format!("system:node:{name}"), &["system:nodes"]);
        let held: Vec<_> = (0..9).map_while(|_| open(&node("n1")).ok()).collect();
        assert_eq!(held.len(), 4);
        assert!(open(&node("n1")).is_err() && open(&node("n2")).is_ok());
    }
}
