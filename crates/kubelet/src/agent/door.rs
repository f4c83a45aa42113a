//! Who may ask this node's server for what.
//!
//! The API server is known by its client certificate and may do all. Anybody else shows a certificate of
//! the cluster's authority or a bearer token, and the API server is asked: who is it (TokenReview), and
//! may they do this to the node's subresource (SubjectAccessReview). What it said holds for a few seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use skiff_client::Client;
use skiff_streams::places::Owner;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Refusal;
use crate::images::chain;

/// How long an answer of the API server is believed: a token that was taken back works no longer here.
const BELIEVED: Duration = Duration::from_secs(10);
/// The API server's own group. No request for a certificate is granted that names it, so that who bears the
/// API server's name alone is not the API server.
const MASTERS: &str = "system:masters";
/// Questions of a kind at once; more wait. Anybody can make this node ask, by tokens of their own invention, and
/// what it asks counts as the node's own requests, which are not to be refused because of them.
const REVIEWS_MAX: usize = 8;
/// How often it is said aloud that nobody can be asked.
const COMPLAINTS: Duration = Duration::from_secs(10);
/// More than this many callers are asked about anew, which bounds the memory that callers can take.
const REMEMBERED_MAX: usize = 1_024;

/// Whom a connection belongs to, by its TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    /// May do all.
    ApiServer,
    /// The subject of a client certificate of the cluster's authority.
    Certificate { name: String, groups: Vec<String> },
    /// Showed no certificate.
    Unknown,
}

impl Peer {
    /// The peer that shows `certificate` (DER), which the handshake has verified.
    pub(super) fn of(certificate: Option<&[u8]>, api_servers: &[String]) -> Self {
        let Some(certificate) = certificate else { return Self::Unknown };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Self::Unknown };
        let subject = parsed.subject();
        let text =
            |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
        let Some(name) = skiff_api::certificates::common_name(subject) else { return Self::Unknown };
        let groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
        if api_servers.contains(&name) && groups.iter().any(|group| group == MASTERS) {
            return Self::ApiServer;
        }
        Self::Certificate { name, groups }
    }
}

impl Peer {
    /// Whose connection it is. The API server and administrators have to get in for the node to be looked after.
    pub(super) fn owner(&self) -> Owner<'static> {
        match self {
            Self::ApiServer => Owner::Privileged,
            Self::Certificate { groups, .. } if groups.iter().any(|group| group == MASTERS) => {
                Owner::Privileged
            }
            Self::Certificate { .. } | Self::Unknown => Owner::Client,
        }
    }
}

/// What a request does to the node: a verb, and the subresources of which one must be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Act {
    verb: &'static str,
    subresources: &'static [&'static str],
}

/// As upstream's kubelet maps its paths, except that a stream is always `create`: by WebSocket it would be
/// a mere `get`.
fn act(method: &Method, path: &str) -> Act {
    let mut parts = path.trim_matches('/').split('/');
    let first = parts.next().unwrap_or_default();
    let subresources: &[&str] = match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "skiff" if parts.next() == Some("logs") => &["log"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    };
    let verb = match *method {
        _ if matches!(first, "exec" | "attach" | "run" | "portForward" | "cri") => "create",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    Act { verb, subresources }
}

/// Answers that hold for a while.
struct Remembered<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock();
        known.get(key).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if known.len() < REMEMBERED_MAX {
            known.insert(key, (Instant::now(), value));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Caller {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

impl From<UserInfo> for Caller {
    fn from(user: UserInfo) -> Self {
        Self {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default().into_iter().collect(),
        }
    }
}

/// The door of one node.
pub(super) struct Door {
    client: Client,
    node: String,
    callers: Remembered<String, Option<Caller>>,
    verdicts: Remembered<(Caller, Act), bool>,
    /// Apart, so that who shows a certificate doesn't wait for what others' tokens come to.
    asks_who: Semaphore,
    asks_whether: Semaphore,
    complained: Mutex<Option<Instant>>,
}

impl Door {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self {
            client,
            node,
            callers: Remembered::new(),
            verdicts: Remembered::new(),
            asks_who: Semaphore::new(REVIEWS_MAX),
            asks_whether: Semaphore::new(REVIEWS_MAX),
            complained: Mutex::default(),
        }
    }

    /// Lets the request pass or says why not, in upstream's words.
    pub(super) async fn admit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
    ) -> Result<(), Refusal> {
        let unauthorized = || Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".into());
        let caller = match (peer, bearer(headers)) {
            (Peer::ApiServer, _) => return Ok(()),
            (Peer::Certificate { name, groups }, _) => Caller {
                name: name.clone(),
                uid: String::new(),
                groups: groups.iter().cloned().chain(["system:authenticated".into()]).collect(),
                extra: Vec::new(),
            },
            (Peer::Unknown, Some(token)) => self.who(token).await.ok_or_else(unauthorized)?,
            (Peer::Unknown, None) => return Err(unauthorized()),
        };
        let act = act(method, path);
        let describe = |what: &str| {
            let subresources = act.subresources.join(" ");
            format!(
                "{what} (user={}, verb={}, resource=nodes, subresource(s)=[{subresources}])",
                caller.name, act.verb
            )
        };
        match self.may(&caller, &act).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal(StatusCode::FORBIDDEN, describe("Forbidden"))),
            Err(error) => {
                self.complain(&error, "cannot ask whether a caller of this node is allowed");
                Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, describe("Authorization error")))
            }
        }
    }

    async fn who(&self, token: &str) -> Option<Caller> {
        if let Some(known) = self.callers.get(&token.to_owned()) {
            return known;
        }
        let _turn = self.asks_who.acquire().await.ok()?;
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            status: None,
        };
        let status = match self.client.create(&review).await {
            Ok(answer) => answer.status.clone().unwrap_or_default(),
            Err(error) => {
                self.complain(&chain(&error), "cannot ask whose a token is");
                return None;
            }
        };
        if let Some(error) = status.error.filter(|error| !error.is_empty()) {
            debug!(error, "a token was refused");
        }
        let caller =
            status.authenticated.unwrap_or(false).then(|| Caller::from(status.user.unwrap_or_default()));
        self.callers.put(token.to_owned(), caller.clone());
        caller
    }

    async fn may(&self, caller: &Caller, act: &Act) -> Result<bool, String> {
        let key = (caller.clone(), act.clone());
        if let Some(known) = self.verdicts.get(&key) {
            return Ok(known);
        }
        let _turn = self.asks_whether.acquire().await.map_err(|error| chain(&error))?;
        let mut allowed = false;
        for subresource in act.subresources {
            let review = self.question(caller, act.verb, subresource);
            let answer = self.client.create(&review).await.map_err(|error| chain(&error))?;
            if answer.status.as_ref().is_some_and(|status| status.allowed) {
                allowed = true;
                break;
            }
        }
        self.verdicts.put(key, allowed);
        Ok(allowed)
    }

    /// Says it now and then: whoever connects can make it happen as often as they like.
    fn complain(&self, error: &str, what: &str) {
        let mut complained = self.complained.lock();
        if complained.is_some_and(|at| at.elapsed() < COMPLAINTS) {
            return debug!(error, "{what}");
        }
        *complained = Some(Instant::now());
        warn!(error, "{what}");
    }

    fn question(&self, caller: &Caller, verb: &str, subresource: &str) -> SubjectAccessReview {
        SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                uid: Some(caller.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(caller.groups.clone()),
                extra: Some(caller.extra.iter().cloned().collect()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            status: None,
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use http::{Request, Response};
    use skiff_client::{Body, Transport};

    use super::*;

    /// An API server that takes its time, for ever.
    struct Silent(Arc<AtomicUsize>);

    #[async_trait::async_trait]
    impl Transport for Silent {
        async fn send(&self, _: Request<Body>) -> Result<Response<Body>, skiff_client::Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn invented_tokens_take_a_few_of_the_nodes_own_requests_and_hold_up_nobody_else() {
        let asked = Arc::new(AtomicUsize::new(0));
        let door = Door::new(Client::new(Silent(asked.clone())), "node".into());
        let headers: Vec<HeaderMap> = (0..500)
            .map(|each| {
                let value = format!("Bearer invented{each}").parse().expect("a header");
                HeaderMap::from_iter([(AUTHORIZATION, value)])
            })
            .collect();
        let strangers =
            headers.iter().map(|headers| door.admit(&Peer::Unknown, headers, &Method::GET, "/pods"));
        let mut strangers = std::pin::pin!(join_all(strangers));
        assert!((&mut strangers).now_or_never().is_none());
        assert_eq!(asked.load(Ordering::Relaxed), REVIEWS_MAX);
        let none = HeaderMap::new();
        let api = door.admit(&Peer::ApiServer, &none, &Method::GET, "/containerLogs/n/p/c");
        assert!(matches!(api.now_or_never(), Some(Ok(()))), "it is asked about nothing");
        let peer = Peer::Certificate { name: "admin".into(), groups: Vec::new() };
        assert!(door.admit(&peer, &none, &Method::GET, "/pods").now_or_never().is_none());
        assert_eq!(asked.load(Ordering::Relaxed), REVIEWS_MAX + 1, "its question is on its way");
    }

    #[test]
    fn paths_are_acts_on_the_node() {
        let check = |method: Method, path: &str, verb: &str, subresources: &[&str]| {
            let found = act(&method, path);
            assert_eq!((found.verb, found.subresources), (verb, subresources), "{method} {path}");
        };
        check(Method::GET, "/stats/summary", "get", &["stats"]);
        check(Method::GET, "/metrics", "get", &["metrics"]);
        check(Method::GET, "/logs/", "get", &["log"]);
        check(Method::GET, "/skiff/logs", "get", &["log"]);
        check(Method::GET, "/skiff/status", "get", &["proxy"]);
        check(Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(Method::GET, "/healthz", "get", &["healthz", "proxy"]);
        check(Method::GET, "/containerLogs/n/p/c", "get", &["proxy"]);
        check(Method::GET, "/statsx", "get", &["proxy"]);
        check(Method::GET, "/exec/n/p/c", "create", &["proxy"]);
        check(Method::POST, "/portForward/n/p", "create", &["proxy"]);
        check(Method::DELETE, "/skiff/images", "delete", &["proxy"]);
        check(Method::POST, "/skiff/images?save=a", "create", &["proxy"]);
        check(Method::POST, "/skiff/explain/probe", "create", &["proxy"]);
    }

    #[test]
    fn tokens_are_bearers() {
        let check = |value: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(bearer(&headers), expected, "{value}");
        };
        check("Bearer a.b", Some("a.b"));
        check("bearer  a ", Some("a"));
        check("Bearer ", None);
        check("Basic YTpi", None);
        check("Bearer", None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_for_a_while_and_memory_is_bounded() {
        let known = Remembered::new();
        known.put(0, true);
        assert_eq!(known.get(&0), Some(true));
        tokio::time::advance(BELIEVED).await;
        assert_eq!(known.get(&0), None);
        for each in 1..=2 * REMEMBERED_MAX {
            known.put(each, true);
        }
        assert_eq!(known.0.lock().len(), REMEMBERED_MAX);
        tokio::time::advance(BELIEVED).await;
        known.put(0, false);
        assert_eq!((known.get(&0), known.0.lock().len()), (Some(false), 1));
    }
}
