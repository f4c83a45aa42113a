//! Tokens of service accounts that pods' projected volumes hold: asked for with the pod's name and UID, so
//! that they end with the pod, and asked for anew well before they expire.
//!
//! A token lives in this process's memory and in the pod's volume, a tmpfs; nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection, Volume};
use parking_lot::Mutex;
use skiff_client::Client;
use tracing::warn;

use crate::images::chain;
use crate::time::system_time;

/// What the API defaults to.
const SECONDS_DEFAULT: i64 = 3_600;
/// No token is older than this, however long it could be used, as upstream has it.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// So many percent of a token's life are left when it is replaced.
const LEFT_PERCENT: u64 = 20;
/// Pods that started together don't ask together.
const JITTER_MAX_MS: u64 = 10_000;
/// After a replacement could not be had; the old token still holds then.
const RETRY: Duration = Duration::from_secs(30);

/// What a projected volume asks for: tokens of one pod that are alike are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Wanted {
    /// Empty: the API server's own.
    pub(crate) audience: String,
    pub(crate) seconds: i64,
}

impl From<&ServiceAccountTokenProjection> for Wanted {
    fn from(source: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(SECONDS_DEFAULT),
        }
    }
}

/// What the pod's volumes ask for; empty for most that are not given the API's own volume.
pub(crate) fn wanted(pod: &Pod) -> BTreeSet<Wanted> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.flat_map(of_volume).collect()
}

/// What one volume asks for.
pub(crate) fn of_volume(volume: &Volume) -> impl Iterator<Item = Wanted> + '_ {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref()).map(Wanted::from)
}

/// The tokens of one pod, as far as they are there.
pub(crate) type Values = BTreeMap<Wanted, Arc<str>>;

#[derive(Clone)]
struct Token {
    value: Arc<str>,
    refresh_at: SystemTime,
    expires_at: SystemTime,
}

/// The tokens of the node's pods.
pub(crate) struct Tokens {
    client: Client,
    by_pod: Mutex<HashMap<String, BTreeMap<Wanted, Token>>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, by_pod: Mutex::default() }
    }

    /// What there is for the pod, and when the first of it should be replaced.
    pub(crate) fn of(&self, uid: &str) -> (Values, Option<SystemTime>) {
        let by_pod = self.by_pod.lock();
        let Some(tokens) = by_pod.get(uid) else { return Default::default() };
        let values = tokens.iter().map(|(wanted, token)| (wanted.clone(), token.value.clone())).collect();
        (values, tokens.values().map(|token| token.refresh_at).min())
    }

    /// Asks for what is missing or due. An error says why a token that the pod can't do without is not
    /// there; while an old one holds, a failure is only logged.
    pub(crate) async fn fetch(&self, pod: &Pod) -> Result<(), String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        for wanted in wanted(pod) {
            let now = crate::time::now();
            let held = self.by_pod.lock().get(uid).and_then(|tokens| tokens.get(&wanted)).cloned();
            if held.as_ref().is_some_and(|token| token.refresh_at > now) {
                continue;
            }
            let token = match (self.request(pod, &wanted).await, held) {
                (Ok(token), _) => token,
                (Err(error), Some(old)) if old.expires_at > now => {
                    warn!(uid, error, "cannot replace a pod's token yet");
                    let refresh_at = (now + RETRY).min(old.expires_at);
                    Token { refresh_at, ..old }
                }
                (Err(error), _) => return Err(format!("failed to fetch token: {error}")),
            };
            self.by_pod.lock().entry(uid.to_owned()).or_default().insert(wanted, token);
        }
        Ok(())
    }

    /// The pod is gone.
    pub(crate) fn release(&self, uid: &str) {
        self.by_pod.lock().remove(uid);
    }

    async fn request(&self, pod: &Pod, wanted: &Wanted) -> Result<Token, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
        let answer = self
            .client
            .create_subresource::<ServiceAccount>(namespace, account, "token", &question(pod, wanted))
            .await
            .map_err(|error| chain(&error))?;
        let answer: TokenRequest = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        let status = answer.status.unwrap_or_default();
        let value = status.token.filter(|token| !token.is_empty());
        let value = value.ok_or("the API server's answer holds no token")?;
        let expiry = status.expiration_timestamp.ok_or("the API server's answer says no expiry")?;
        let seconds = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(wanted.seconds);
        let expires_at = system_time(&expiry);
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let jitter = Duration::from_millis(jitter_ms(pod));
        Ok(Token { value: value.into(), refresh_at: refresh_at(expires_at, life, jitter), expires_at })
    }
}

fn question(pod: &Pod, wanted: &Wanted) -> TokenRequest {
    let audience = Some(&wanted.audience).filter(|audience| !audience.is_empty());
    TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience.clone()]),
            expiration_seconds: Some(wanted.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    }
}

/// When a token is replaced: with a fifth of its life left, or a day old, and a little before that.
fn refresh_at(expires_at: SystemTime, life: Duration, jitter: Duration) -> SystemTime {
    let left = Duration::from_secs(life.as_secs().saturating_mul(LEFT_PERCENT) / 100);
    let by_life = expires_at.checked_sub(left);
    let by_age = expires_at.checked_sub(life).map(|issued| issued + AGE_MAX);
    let first = by_life.into_iter().chain(by_age).min().unwrap_or(expires_at);
    first.checked_sub(jitter).unwrap_or(first)
}

/// Spread over pods, and the same for one pod at each look.
fn jitter_ms(pod: &Pod) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    pod.metadata.uid.hash(&mut hasher);
    hasher.finish() % JITTER_MAX_MS
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_replaced_with_a_fifth_of_its_life_left_or_after_a_day() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |life: u64, jitter: u64, expected: u64| {
            let issued = 1_000_000;
            let due = refresh_at(at(issued + life), Duration::from_secs(life), Duration::from_secs(jitter));
            assert_eq!(due, at(issued + expected), "{life} s, {jitter} s");
        };
        check(600, 0, 480);
        check(3_607, 10, 2_876);
        check(86_400, 0, 69_120);
        check(30 * 86_400, 5, 86_395);
    }

    #[test]
    fn tokens_that_are_alike_are_one() {
        let token = |audience: &str| json!({"serviceAccountToken": {"path": "t", "audience": audience}});
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
            {"name": "a", "projected": {"sources": [token("x"), {"configMap": {"name": "m"}}]}},
            {"name": "b", "projected": {"sources": [token("x"), token("")]}},
            {"name": "c", "emptyDir": {}},
        ]}}))
        .expect("a pod");
        let audiences: Vec<String> = wanted(&pod).into_iter().map(|each| each.audience).collect();
        assert_eq!(audiences, ["", "x"]);
    }
}
