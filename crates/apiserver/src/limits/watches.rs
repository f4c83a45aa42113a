//! Watches, bounded by user. None of them holds what others wait for, but each has its place in memory for as long
//! as it is open, and a connection may carry hundreds.
//!
//! Who is told apart, and who is exempt, is as for requests in flight ([`super::gate`]).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use skiff_api::status::StatusError;

use super::gate::{Kin, RETRY_AFTER_S, counted_as};
use crate::auth::Identity;
use crate::http_body::Response;

#[derive(Clone)]
pub(crate) struct Watches {
    per_user_max: usize,
    open: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// One watch, open until this is dropped.
pub(crate) struct Open {
    watches: Watches,
    user: Arc<str>,
}

impl Watches {
    pub(crate) fn new(per_user_max: usize) -> Self {
        Self { per_user_max, open: Arc::default() }
    }

    /// `None` for who may have as many as they like.
    pub(crate) fn open(&self, who: &Identity, source: Option<IpAddr>) -> Result<Option<Open>, StatusError> {
        if Kin::of(who, source) != Kin::User {
            return Ok(None);
        }
        let user = counted_as(who, source);
        let mut open = self.open.lock();
        let own = open.get(&user).copied().unwrap_or(0);
        if own >= self.per_user_max {
            const WHY: &str = "Too many watches of one user, please try again later.";
            return Err(StatusError::too_many_requests(WHY, RETRY_AFTER_S));
        }
        open.insert(Arc::clone(&user), own + 1);
        drop(open);
        Ok(Some(Open { watches: self.clone(), user }))
    }
}

impl Open {
    /// The watch is open as long as its answer is sent.
    pub(crate) fn until_answered(self, answer: Response) -> Response {
        answer.map(|body| {
            let held = body.map_frame(move |frame| {
                let _open = &self;
                frame
            });
            held.boxed_unsync()
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.watches.open.lock();
        if let Some(own) = open.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_so_many_watches_and_the_platform_as_many_as_it_likes() {
        let watches = Watches::new(2);
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
        for exempt in [
            Identity::new("admin", &["system:masters"]),
            Identity::new("system:node:n", &["system:nodes"]),
            Identity::new("system:kube-scheduler", &[]),
        ] {
            let open: Vec<_> = (0..9).map(|_| watches.open(&exempt, at(1))).collect();
            assert!(open.iter().all(|open| matches!(open, Ok(None))), "{}", exempt.user);
        }
        assert!(matches!(watches.open(&jane, None), Ok(None)), "callers in this process");
        drop((again, two));
        assert!(watches.open.lock().is_empty(), "nothing is kept of who watches nothing");
    }

    #[test]
    fn nobodies_are_told_apart_by_where_they_come_from() {
        let watches = Watches::new(1);
        let open = |last: u8| watches.open(&Identity::anonymous(), Some(IpAddr::from([10, 0, 0, last])));
        let _one = open(1).expect("room");
        let _two = open(2).expect("room");
        assert!(open(1).is_err());
    }
}
