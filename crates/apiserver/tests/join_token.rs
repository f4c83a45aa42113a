//! The join token that a server makes as it starts: how long it is good, and when it goes from the disk.

mod api;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use api::Api;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_apiserver::pki::Pki;
use skiff_apiserver::{Clock, Config};

const DAY_S: i64 = 86_400;
const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// A directory of keys and a clock, with one server after the other.
struct Site {
    dir: tempfile::TempDir,
    time: Arc<AtomicI64>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, time: Arc::new(AtomicI64::new(1_800_000_000)) }
    }

    fn clock(&self) -> Clock {
        let time = Arc::clone(&self.time);
        Clock::new(move || time.load(Ordering::SeqCst))
    }

    fn pki(&self) -> Pki {
        Pki::open_by(self.dir.path(), self.clock()).expect("an authority")
    }

    /// A server with nothing in its store.
    async fn server(&self) -> Api {
        let pki = Some(Arc::new(self.pki()));
        Api::with(Config { pki, clock: self.clock(), ..Config::default() }).await
    }

    /// The file, waited for to be gone.
    async fn gone(&self) {
        let (path, deadline) = (self.dir.path().join("join-token"), Instant::now() + Duration::from_secs(60));
        while path.exists() {
            assert!(Instant::now() < deadline, "the join token is left on the disk");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let known = std::fs::read_to_string(self.dir.path().join("nodes.json")).expect("it is there");
        let known: Value = serde_json::from_str(&known).expect("JSON");
        assert_eq!(known["join"], Value::Null);
    }

    fn is_there(&self) -> bool {
        Path::new(&self.dir.path().join("join-token")).exists()
    }
}

/// What agents show of it.
fn shown(token: &str) -> &str {
    token.split_once('.').expect("a pin and a token").1
}

async fn code(api: &Api, token: &str) -> StatusCode {
    api.with_token(shown(token), Method::POST, REVIEW, json!({})).await.0
}

/// A minute goes by for all who wait, but not on the clock.
async fn a_minute() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_join_token_ends_after_a_day_and_goes_from_the_disk() {
    let site = Site::new();
    let token = site.pki().make_join_token().expect("it is written");
    let api = site.server().await;
    assert_eq!(code(&api, &token).await, StatusCode::CREATED);
    site.time.fetch_add(DAY_S - 1, Ordering::SeqCst);
    a_minute().await;
    assert_eq!(code(&api, &token).await, StatusCode::CREATED);
    assert!(site.is_there());
    // Started again meanwhile: it ends when it would have.
    assert_eq!(site.pki().make_join_token().expect("it is there"), token);
    site.time.fetch_add(1, Ordering::SeqCst);
    assert_eq!(code(&api, &token).await, StatusCode::UNAUTHORIZED);
    a_minute().await;
    site.gone().await;
    // The next start makes another.
    let next = site.pki().make_join_token().expect("it is written");
    assert_ne!(next, token);
    let again = site.server().await;
    assert_eq!(code(&again, &next).await, StatusCode::CREATED);
    assert_eq!(code(&again, &token).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_join_token_that_was_deleted_stays_gone() {
    let site = Site::new();
    let token = site.pki().make_join_token().expect("it is written");
    let api = site.server().await;
    assert_eq!(code(&api, &token).await, StatusCode::CREATED);
    let id = shown(&token).split_once('.').expect("two parts").0;
    api.ok(Method::DELETE, &format!("{SECRETS}/bootstrap-token-{id}"), Value::Null).await;
    assert_eq!(code(&api, &token).await, StatusCode::UNAUTHORIZED);
    // The server was killed before it could look, and is started again.
    assert!(site.is_there());
    let again = site.server().await;
    assert_eq!(code(&again, &token).await, StatusCode::UNAUTHORIZED);
    site.gone().await;
}
