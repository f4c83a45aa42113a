//! Continue tokens, in upstream's format: where the next page of a list begins, and of which state it is.
//!
//! A client can write one itself. So a key in it is relative to the range that the request lists, and one that
//! would lead out of it is refused.

use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};
use serde::{Deserialize, Serialize};
use skiff_api::status::StatusError;

/// As Go's `RawURLEncoding`, which does not mind bits that belong to no byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

const VERSION: &str = "meta.k8s.io/v1";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The snapshot's; negative for the present state.
    pub(crate) revision: i64,
    /// The first key of the page, within the listed range.
    pub(crate) start: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    /// Goes on behind this key of the range.
    pub(crate) fn after(revision: u64, key: &str) -> Self {
        Self { revision: i64::try_from(revision).unwrap_or(i64::MAX), start: format!("{key}\0") }
    }

    /// The same place in the present state.
    pub(crate) fn of_now(self) -> Self {
        Self { revision: -1, ..self }
    }

    pub(crate) fn encode(&self) -> String {
        let wire = Wire { v: VERSION.into(), rv: self.revision, start: self.start.clone() };
        BASE64.encode(serde_json::to_vec(&wire).expect("a token can be written to memory"))
    }

    pub(crate) fn decode(text: &str) -> Result<Self, StatusError> {
        let bad = |why: &str| {
            StatusError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let json = BASE64.decode(text).map_err(|error| bad(&illegal(text, &error)))?;
        let wire: Wire = serde_json::from_slice(&json).map_err(|error| bad(&error.to_string()))?;
        if wire.v != VERSION {
            return Err(bad(&format!("server does not recognize this encoded version {}", wire.v)));
        }
        if wire.rv == 0 {
            return Err(bad(&format!("incorrect encoded start resourceVersion (version {VERSION})")));
        }
        if wire.start.is_empty() {
            return Err(bad(&format!("encoded start key empty (version {VERSION})")));
        }
        match within(&wire.start) {
            Some(start) => Ok(Self { revision: wire.rv, start: start.to_owned() }),
            None => Err(bad(&wire.start)),
        }
    }
}

/// What Go says of it.
fn illegal(text: &str, error: &DecodeError) -> String {
    let at = match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => *at,
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len().saturating_sub(1),
    };
    format!("illegal base64 data at input byte {at}")
}

/// The key without the slash that it may begin with, if it is a path in its shortest form: nothing in it leads
/// upwards.
fn within(key: &str) -> Option<&str> {
    let key = key.strip_prefix('/').unwrap_or(key);
    let plain = key.is_empty() || key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_trip() {
        let token = Token::after(7, "ns/name");
        assert_eq!(Token::decode(&token.encode()), Ok(Token { revision: 7, start: "ns/name\0".into() }));
        assert_eq!(token.of_now().revision, -1);
    }

    #[test]
    fn what_is_no_token_is_refused_in_upstreams_words() {
        let refused = |text: &str| {
            let error = Token::decode(text).expect_err(text);
            assert_eq!(error.code(), 400);
            let words = error.message().strip_prefix("invalid continue token: continue key is not valid: ");
            words.unwrap_or_else(|| panic!("{}", error.message())).to_owned()
        };
        let wire = |v: &str, rv: i64, start: &str| {
            BASE64.encode(serde_json::json!({"v": v, "rv": rv, "start": start}).to_string())
        };
        assert_eq!(refused("%%%"), "illegal base64 data at input byte 0");
        assert_eq!(refused("e30="), "illegal base64 data at input byte 3");
        assert_eq!(refused("e30xx"), "illegal base64 data at input byte 4");
        assert_eq!(refused("e30"), "server does not recognize this encoded version ");
        assert_eq!(refused(&wire("v9", 1, "a")), "server does not recognize this encoded version v9");
        let version = "(version meta.k8s.io/v1)";
        let no_revision = format!("incorrect encoded start resourceVersion {version}");
        assert_eq!(refused(&wire(VERSION, 0, "a")), no_revision);
        assert_eq!(refused(&wire(VERSION, 1, "")), format!("encoded start key empty {version}"));
        for start in ["../../secrets/x", "a/../b", "..", "./a", "a//b", "//a", "a/", "/..", "a/."] {
            assert_eq!(refused(&wire(VERSION, 1, start)), start);
        }
        for (start, kept) in [("/", ""), ("/a/b", "a/b"), ("a", "a"), ("..a/b..", "..a/b..")] {
            let token = Token::decode(&wire(VERSION, -1, start));
            assert_eq!(token, Ok(Token { revision: -1, start: kept.into() }));
        }
    }
}
