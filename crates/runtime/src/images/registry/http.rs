//! Requests to one repository of a registry: signed in as it asks, redirected as it says.
//!
//! A registry may be anybody's. So no answer is taken but in pieces, by [`read`] up to a bound; and what lets
//! somebody in is shown to the registry alone, and to where it sends for a token, never to a host that a
//! redirect leads to.

use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response, StatusCode, Url};

use super::super::Config;
use super::challenge::Challenge;
use super::{token, words};
use crate::types::RegistryAuth;

const USER_AGENT: &str = concat!("skiff/", env!("CARGO_PKG_VERSION"));
const REDIRECTS_MAX: usize = 10;
/// Of an error's body; what comes after it is not waited for.
const ERROR_BYTES_MAX: u64 = 64 << 10;
const URL_CHARS_MAX: usize = 1024;

/// A repository where it is asked for: at its registry, or at a mirror of it.
pub(super) struct Remote {
    client: Client,
    origin: Url,
    repository: String,
    /// The registry that a mirror stands for.
    mirrored: Option<String>,
    credentials: Option<RegistryAuth>,
    /// What the registry took last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Remote {
    pub(super) fn new(
        config: &Config,
        origin: &str,
        repository: &str,
        mirrored: Option<String>,
        credentials: Option<RegistryAuth>,
    ) -> Result<Remote, String> {
        let parsed = Url::parse(origin).map_err(|error| words::undone(origin, &error.to_string()))?;
        Ok(Remote {
            client: client(config)?,
            origin: parsed,
            repository: repository.to_owned(),
            mirrored,
            credentials,
            authorization: Mutex::default(),
        })
    }

    /// Gets `path` of the repository (`manifests/latest`), which errors call `what`.
    pub(super) async fn get(&self, path: &str, accept: &str, what: &str) -> Result<Response, String> {
        let mut url = self.origin.clone();
        url.set_path(&format!("/v2/{}/{path}", self.repository));
        if let Some(registry) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        let tried = self.authorization.lock().clone();
        let mut answer = follow(&self.client, url.clone(), accept, tried.as_ref()).await?;
        // A host that a redirect led to is not the one to say who is let in here.
        if answer.status() == StatusCode::UNAUTHORIZED
            && is_same(answer.url(), &self.origin)
            && let Some(challenge) = Challenge::of(answer.headers())
        {
            let authorization =
                self.authorize(&challenge, tried).await?.ok_or_else(|| words::unauthorized(&shown(&url)))?;
            answer = follow(&self.client, url, accept, Some(&authorization)).await?;
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refused(answer, what).await)
    }

    /// What meets the challenge, unless nobody gives it.
    async fn authorize(
        &self,
        challenge: &Challenge,
        tried: Option<HeaderValue>,
    ) -> Result<Option<HeaderValue>, String> {
        let known = self.authorization.lock().clone();
        if known.is_some() && known != tried {
            // Another part of the same pull was asked before.
            return Ok(known);
        }
        let found = match (challenge, &self.credentials) {
            (Challenge::Bearer(bearer), credentials) => {
                let own = format!("repository:{}:pull", self.repository);
                token::ask(&self.client, bearer, &own, credentials.as_ref()).await?
            }
            (Challenge::Basic, Some(credentials)) => Some(basic(credentials)?),
            (Challenge::Basic, None) => None,
        };
        self.authorization.lock().clone_from(&found);
        Ok(found)
    }
}

/// Gets a URL, and what it redirects to. The authorization ends where the host does, for good.
pub(super) async fn follow(
    client: &Client,
    url: Url,
    accept: &str,
    authorization: Option<&HeaderValue>,
) -> Result<Response, String> {
    let mut authorization = authorization;
    let mut at = url;
    for _ in 0..=REDIRECTS_MAX {
        let mut request = client.get(at.clone()).header(ACCEPT, accept);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let answer = request.send().await.map_err(|error| words::unrequested(&shown(&at), error))?;
        let Some(next) = redirect(&answer) else { return Ok(answer) };
        authorization = authorization.filter(|_| is_same(&at, &next));
        at = next;
    }
    Err(words::undone(&shown(&at), "too many redirects"))
}

fn redirect(answer: &Response) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let mut next = answer.url().join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()?;
    // Nobody else's credentials are used either. Where there can be none, there are none.
    let _ = (next.set_username(""), next.set_password(None));
    Some(next)
}

/// The same host, port and scheme: TLS is not left with a password in hand.
fn is_same(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

async fn refused(mut answer: Response, what: &str) -> String {
    let (status, url) = (answer.status(), shown(answer.url()));
    // What came before an error tells enough of the refusal.
    let mut body = Vec::new();
    let _ = read(&mut answer, ERROR_BYTES_MAX, &mut body).await;
    words::refusal(status, &url, &body, what)
}

/// Reads a body, but no more than `max` bytes of it, and tells whether that was all.
pub(super) async fn read(answer: &mut Response, max: u64, into: &mut Vec<u8>) -> reqwest::Result<bool> {
    while let Some(chunk) = answer.chunk().await? {
        let room = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(into.len());
        into.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A URL as events may show it: where a redirect leads, the query may be a signature.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().chars().take(URL_CHARS_MAX).collect()
}

/// RFC 7617.
pub(super) fn basic(credentials: &RegistryAuth) -> Result<HeaderValue, String> {
    let RegistryAuth { username, password } = credentials;
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{username}:{password}"));
    secret(&format!("Basic {encoded}"))
        .ok_or_else(|| "failed to authorize: no header holds the password".into())
}

/// A header's value that is not shown.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn client(config: &Config) -> Result<Client, String> {
    // A second installation changes nothing: the binary has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut extra = Vec::new();
    for path in &config.ca_certificates {
        let data = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        extra.push(Certificate::from_pem(&data).map_err(|error| words::chain(&error))?);
    }
    // Without any root the HTTP library would panic rather than fail.
    if rustls_native_certs::load_native_certs().certs.is_empty() {
        return Err(
            "this machine has no trusted root certificates; install its ca-certificates package".into()
        );
    }
    Client::builder()
        .tls_certs_merge(extra)
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.read_timeout)
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .build()
        .map_err(|error| words::chain(&error))
}
