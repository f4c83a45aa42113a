//! Logs, commands, forwarded ports and what is proxied: requests that last for as long as their client likes, and of
//! which each has a connection to an agent or a pod for itself.
//!
//! So their number is what this server and the agents have descriptors for: it is bounded for each user, and of all
//! together nobody has more than four times what is left. Administrators have places of their own.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use skiff_api::status::StatusError;

use super::Limits;
use super::gate::RETRY_AFTER_S;
use super::shares::{Kin, Party, Shares, Taken};
use crate::auth::Identity;
use crate::http_body::{Body, BoxError, Response};

pub(crate) struct Lasting {
    per_user_max: usize,
    per_namespace_max: usize,
    users: Arc<Shares>,
    administrators: Arc<Shares>,
}

/// One such request's place, until its last clone is dropped. Travels as a request extension to where a connection
/// is upgraded, which lasts longer than the answer.
#[derive(Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "it is held, and given back when dropped")] Arc<Taken>);

impl Lasting {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            per_user_max: limits.lasting_per_user_max,
            per_namespace_max: limits.lasting_per_namespace_max,
            users: Shares::new(limits.lasting_max),
            administrators: Shares::new((limits.lasting_max / 4).max(1)),
        }
    }

    /// `None` for callers in this process.
    pub(crate) fn begin(&self, who: &Identity, source: Option<IpAddr>) -> Result<Option<Place>, StatusError> {
        let party = Party::of(who, source);
        let taken = match party.kin {
            Kin::Own => return Ok(None),
            Kin::Administrator => self.administrators.take(party, usize::MAX, false),
            Kin::Accounts => self.users.take(party, self.per_namespace_max, false),
            Kin::Person | Kin::Nobody | Kin::Node | Kin::Component => {
                self.users.take(party, self.per_user_max, false)
            }
        };
        taken.map(|taken| Some(Place(Arc::new(taken)))).ok_or_else(|| {
            const WHY: &str = "Too many logs, commands, forwarded ports and proxied requests at once, please try \
                               again later.";
            StatusError::too_many_requests(WHY, RETRY_AFTER_S)
        })
    }
}

impl Place {
    /// It is held for as long as the answer is sent.
    pub(crate) fn until_answered(self, answer: Response) -> Response {
        answer.map(|body| Held { body, _place: self }.boxed_unsync())
    }
}

/// An answer's body as it is, with its request's place.
struct Held {
    body: Body,
    _place: Place,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasting(max: usize) -> Lasting {
        Lasting::new(&Limits {
            lasting_max: max,
            lasting_per_user_max: 3,
            lasting_per_namespace_max: 5,
            ..Limits::default()
        })
    }

    /// As many as each gets.
    fn all(lasting: &Lasting, who: &Identity) -> Vec<Place> {
        let source = Some(IpAddr::from([10, 0, 0, 1]));
        (0..1000).map_while(|_| lasting.begin(who, source).ok().flatten()).collect()
    }

    #[test]
    fn each_user_has_so_many_and_the_accounts_of_a_namespace_together() {
        let lasting = lasting(1000);
        let [jane, john] = ["jane", "john"].map(|name| Identity::new(name, &[]));
        let held = all(&lasting, &jane);
        assert_eq!(held.len(), 3);
        let refused = lasting.begin(&jane, Some(IpAddr::from([10, 0, 0, 2]))).err().expect("refused");
        assert_eq!((refused.code(), refused.reason()), (429, "TooManyRequests"));
        assert_eq!(all(&lasting, &john).len(), 3, "another has places of their own");
        let accounts: Vec<Place> =
            (0..9).flat_map(|n| all(&lasting, &Identity::account("t1", &format!("a{n}")))).collect();
        assert_eq!(accounts.len(), 5);
        assert!(matches!(lasting.begin(&jane, None), Ok(None)), "callers in this process");
        drop((held, accounts));
        assert!(lasting.users.remembers_nobody());
    }

    #[test]
    fn all_together_have_so_many_and_administrators_beside_them() {
        let lasting = lasting(20);
        let held: Vec<Place> =
            (0..50).flat_map(|n| all(&lasting, &Identity::new(&format!("u{n}"), &[]))).collect();
        assert_eq!(held.len(), 20);
        let admin = |name: &str| Identity::new(name, &["system:masters"]);
        let own = all(&lasting, &admin("admin"));
        assert_eq!(own.len(), 4);
        assert_eq!(all(&lasting, &admin("another")).len(), 1);
    }
}
