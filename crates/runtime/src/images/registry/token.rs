//! A token for a repository, asked for where its registry says.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>. That place is a stranger's as well: of its
//! answers no word is shown, since they may come from wherever this machine can reach and the registry can't.

use reqwest::header::HeaderValue;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

use super::challenge::Bearer;
use super::{http, words};
use crate::types::RegistryAuth;

const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// Both names are in use; whoever sends both means the same.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// The `Authorization` that the registry will take; nothing if these credentials (or none) get none. Where
/// the challenge names no scope, it is `own`.
pub(super) async fn ask(
    client: &Client,
    bearer: &Bearer,
    own: &str,
    credentials: Option<&RegistryAuth>,
) -> Result<Option<HeaderValue>, String> {
    let url = url(bearer, own).map_err(failed)?;
    let shown = http::shown(&url);
    let basic = credentials.map(http::basic).transpose()?;
    let mut answer = http::follow(client, url, "application/json", basic.as_ref()).await.map_err(failed)?;
    match answer.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
        StatusCode::OK => {}
        other => {
            return Err(failed(format!("unexpected status from GET request to {shown}: {}", other.as_u16())));
        }
    }
    let mut body = Vec::new();
    let whole = http::read(&mut answer, TOKEN_BYTES_MAX, &mut body).await;
    if !whole.map_err(|error| failed(words::unrequested(&shown, error)))? {
        return Err(failed(format!("the answer of {shown} has more than {TOKEN_BYTES_MAX} bytes")));
    }
    let token = token(&body).ok_or_else(|| failed(format!("no token in the answer of {shown}")))?;
    Ok(Some(token))
}

fn url(bearer: &Bearer, own: &str) -> Result<Url, String> {
    let realm = words::shortened(&bearer.realm);
    let mut url = Url::parse(&bearer.realm)
        .map_err(|error| format!("the registry sends for a token to \"{realm}\": {error}"))?;
    // A stranger's name and password don't go beside ours.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_fragment(None);
    let mut query = url.query_pairs_mut();
    let scopes = bearer.scopes.iter().map(String::as_str);
    for scope in scopes.chain(bearer.scopes.is_empty().then_some(own)) {
        query.append_pair("scope", scope);
    }
    if let Some(service) = &bearer.service {
        query.append_pair("service", service);
    }
    drop(query);
    Ok(url)
}

fn token(body: &[u8]) -> Option<HeaderValue> {
    let Answer { token, access_token } = serde_json::from_slice(body).ok()?;
    let token = [token, access_token].into_iter().flatten().find(|token| !token.is_empty())?;
    http::secret(&format!("Bearer {token}"))
}

fn failed(reason: String) -> String {
    format!("failed to authorize: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_of_two_names_and_fits_a_header() {
        for (body, want) in [
            (r#"{"token": "a", "expires_in": 300}"#, Some("Bearer a")),
            (r#"{"access_token": "b"}"#, Some("Bearer b")),
            (r#"{"token": "", "access_token": "b"}"#, Some("Bearer b")),
            (r#"{"token": null, "access_token": "b"}"#, Some("Bearer b")),
            (r#"{"token": "a", "access_token": "b"}"#, Some("Bearer a")),
            (r#"{"token": "a\r\nX: y"}"#, None),
            (r#"{"token": 1}"#, None),
            (r#"{"token": ""}"#, None),
            ("{}", None),
            ("", None),
            ("\"a\"", None),
        ] {
            assert_eq!(token(body.as_bytes()).as_ref().and_then(|value| value.to_str().ok()), want, "{body}");
        }
    }

    #[test]
    fn the_place_is_asked_for_the_scopes_it_named() {
        let asked = |realm: &str, scopes: &[&str]| {
            let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
            url(&Bearer { realm: realm.into(), service: Some("s&x".into()), scopes }, "repository:a:pull")
                .map(String::from)
        };
        assert_eq!(
            asked("https://a/t", &[]).unwrap(),
            "https://a/t?scope=repository%3Aa%3Apull&service=s%26x"
        );
        assert_eq!(
            asked("https://u:p@a/t?k=v#f", &["x", "y"]).unwrap(),
            "https://a/t?k=v&scope=x&scope=y&service=s%26x"
        );
        for realm in ["/token", "no url", ""] {
            assert!(asked(realm, &[]).unwrap_err().contains("sends for a token"), "{realm}");
        }
    }
}
