//! Where a bearer token is in a request: in `Authorization`, or in the subprotocols of a WebSocket.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

/// Browsers can't set headers of a WebSocket's request, so they offer the token as a subprotocol.
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The token, if one is shown. Other schemes than `Bearer` are as if nothing were shown, as upstream.
pub(crate) fn token(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        // What is no text is a token, and no good one.
        let text = value.to_str().unwrap_or("Bearer ?").trim();
        let mut parts = text.splitn(3, ' ');
        let scheme = parts.next().unwrap_or_default();
        return parts
            .next()
            .filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
            .map(Cow::Borrowed);
    }
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .find_map(|offered| offered.trim().strip_prefix(SUBPROTOCOL))
        .map(|encoded| {
            let decoded =
                URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            Cow::Owned(decoded.unwrap_or_default())
        })
}

/// Takes tokens out of what a WebSocket offers, before the request goes on to somebody else.
pub(crate) fn hide(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let offered: Vec<_> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for list in offered {
        // What is no text holds no token that `token` would find, and no protocol that anybody knows.
        let Ok(list) = list.to_str() else { continue };
        let others = list.split(',').map(str::trim).filter(|one| !one.starts_with(SUBPROTOCOL));
        let others = others.collect::<Vec<_>>().join(", ");
        if let Some(value) = others.parse().ok().filter(|_| !others.is_empty()) {
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_shows_no_token() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer abc".parse().expect("a value"));
        let lists = [
            "chat, base64url.bearer.authorization.k8s.io.YWJj,v5",
            "base64url.bearer.authorization.k8s.io.YWJj",
        ];
        for list in lists {
            headers.append("sec-websocket-protocol", list.parse().expect("a value"));
        }
        hide(&mut headers);
        let left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("?"))).collect();
        assert_eq!(left, [("sec-websocket-protocol", "chat, v5")]);
    }

    fn check(name: &'static str, value: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a value"));
        assert_eq!(token(&headers).as_deref(), expected, "{value}");
    }

    #[test]
    fn a_token_is_what_follows_bearer() {
        check("authorization", "Bearer abc", Some("abc"));
        check("authorization", "bearer abc", Some("abc"));
        check("authorization", "Bearer abc def", Some("abc"));
        check("authorization", "Bearer  abc", None);
        check("authorization", "Bearer", None);
        check("authorization", "Basic abc", None);
        check("authorization", "", None);
    }

    #[test]
    fn a_websocket_brings_it_as_a_subprotocol() {
        let name = "sec-websocket-protocol";
        check(name, "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj", Some("abc"));
        check(name, "v5.channel.k8s.io", None);
        check(name, "base64url.bearer.authorization.k8s.io.%%%", Some(""));
    }
}
