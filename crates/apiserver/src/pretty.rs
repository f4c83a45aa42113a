//! JSON for eyes: who asks for it, or looks like somebody who reads it, gets it indented.
//!
//! As upstream: objects are indented for browsers, curl and Wget, unless `pretty` says otherwise; the version and
//! the list of paths always; streams and documents of OpenAPI and OpenID never.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http_body_util::BodyExt;

use crate::encoding::Packer;
use crate::http_body::{Response, full};
use crate::limits::guarded::InFlight;
use crate::request::Query;

/// What is longer than this is indented beside the threads that answer others.
const LONG: usize = 128 * 1024;
/// What clients call themselves that show an answer as it comes.
const READERS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// Whether the request wants it, by its query, the type that it takes, or the client's name.
pub(crate) fn is_asked(query: &Query, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accepted = text(ACCEPT);
    // Most say nothing of it.
    let of_type =
        accepted.contains("pretty") && accepted.split([',', ';']).any(|part| part.trim() == "pretty=1");
    of_type
        || match query.given("pretty") {
            Some(given) => matches!(given, "1" | "t" | "T" | "TRUE" | "true" | "True"),
            None => READERS.iter().any(|reader| text(USER_AGENT).starts_with(reader)),
        }
}

/// Paths whose answer is always indented.
pub(crate) fn is_page(path: &str) -> bool {
    matches!(path.trim_end_matches('/'), "" | "/version")
}

/// Whether what answers a path that is no resource is an object, such as discovery's.
pub(crate) fn is_object(path: &str) -> bool {
    !["/openapi/", "/openid/", "/.well-known/"].iter().any(|document| path.starts_with(document))
}

/// The same answer with its JSON indented; one that is none stays as it is.
pub(crate) async fn indented(response: Response, packer: &Packer, in_flight: Option<InFlight>) -> Response {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let json = kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    if !json || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Bodies of answers that are no streams can't fail.
    let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    parts.headers.remove(CONTENT_LENGTH);
    let text = match whole.len() {
        0..LONG => indent(&whole).into(),
        _ => {
            let plain = whole.clone();
            packer.aside(in_flight, move |_| Some(Bytes::from(indent(&plain)))).await.unwrap_or(whole)
        }
    };
    http::Response::from_parts(parts, full(text))
}

/// JSON text with each member on a line of its own, by two spaces a level, and nothing else changed.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 3 / 2);
    let mut depth = 0;
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => {
                let (text, behind) = rest.split_at(string_length(rest));
                out.push(b'"');
                out.extend_from_slice(text);
                rest = behind;
            }
            b'{' | b'[' => {
                out.push(byte);
                rest = rest.trim_ascii_start();
                match rest.split_first() {
                    Some((end @ (b'}' | b']'), behind)) => {
                        out.push(*end);
                        rest = behind;
                    }
                    _ => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            space if space.is_ascii_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

fn line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', 2 * depth));
}

/// How long a string is behind its first quote, its last one included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => return at,
            b'\\' => at += 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn indenting_changes_nothing_but_space() {
        let value = json!({
            "a": {}, "b": [], "c": [1, -2.5e3, "x", null, true, [[]], {"d": {"e": [{}]}}],
            "quotes \" and \\": "{[:,]} \\\" \\", "f": "\u{e4}\n",
        });
        let pretty = serde_json::to_string_pretty(&value).expect("text");
        for text in [value.to_string(), pretty.clone(), format!("{value}\n")] {
            assert_eq!(String::from_utf8(indent(text.as_bytes())).expect("text"), pretty);
        }
        // Numbers stay as they were written.
        assert_eq!(indent(br#"{"a":1.50}"#), b"{\n  \"a\": 1.50\n}");
        for broken in [&b"{\"a"[..], b"}]", b"\"\\", b"", b"[[["] {
            let _: Result<Value, _> = serde_json::from_slice(&indent(broken));
        }
    }

    #[test]
    fn readers_get_it_unless_they_say_otherwise() {
        let asked = |query: &str, name, value: &str| {
            let headers = HeaderMap::from_iter([(name, value.parse().expect("a value"))]);
            is_asked(&Query::parse(Some(query)), &headers)
        };
        for agent in ["curl/8.5.0", "Wget/1.21", "Mozilla/5.0 (X11; Linux x86_64)"] {
            assert!(asked("", USER_AGENT, agent), "{agent}");
            assert!(!asked("pretty=false", USER_AGENT, agent), "{agent}");
            assert!(!asked("pretty=yes", USER_AGENT, agent), "{agent}: what is no boolean is false");
        }
        assert!(!asked("", USER_AGENT, "kubectl/v1.36.0"));
        assert!(asked("pretty=true", USER_AGENT, "kubectl/v1.36.0"));
        assert!(asked("pretty=1", USER_AGENT, ""));
        assert!(!asked("pretty=", USER_AGENT, ""));
        assert!(asked("", ACCEPT, "application/json; pretty=1"));
        assert!(!asked("", ACCEPT, "application/json;pretty=0"));
    }
}
