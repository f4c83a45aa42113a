//! What a registry refuses and what a request dies of, in containerd's words, with the registry's own behind.

use std::error::Error;
use std::fmt::Write as _;

use reqwest::StatusCode;
use serde::Deserialize;

/// So much is shown of what a stranger says.
const SAID_CHARS_MAX: usize = 300;
const DENIED: &str = "pull access denied, repository does not exist or may require authorization";

/// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>
#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    code: String,
    #[serde(default)]
    message: String,
}

/// The answer to a request for `what`, when it is anything but that.
pub(super) fn refusal(status: StatusCode, url: &str, body: &[u8], what: &str) -> String {
    if status == StatusCode::UNAUTHORIZED {
        return unauthorized(url);
    }
    if status.is_client_error()
        && let Ok(Envelope { errors }) = serde_json::from_slice(body)
        && let Some(first) = errors.first()
    {
        let said = |error: &Said| match error.message.as_str() {
            "" => error.code.clone(),
            message => message.to_owned(),
        };
        let said = shortened(&errors.iter().map(said).collect::<Vec<_>>().join("; "));
        return match first.code.as_str() {
            "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NOT_FOUND" | "BLOB_UNKNOWN" => {
                format!("{what}: not found (the registry says: {said})")
            }
            "DENIED" | "UNAUTHORIZED" => format!("{DENIED}: {said}"),
            "TOOMANYREQUESTS" => format!("unexpected status 429 Too Many Requests: {said}"),
            _ => said,
        };
    }
    match status {
        StatusCode::NOT_FOUND => format!("{what}: not found"),
        _ => {
            let said = shortened(&String::from_utf8_lossy(body));
            format!("unexpected status from GET request to {url}: {}: {said}", status.as_u16())
        }
    }
}

pub(super) fn unauthorized(url: &str) -> String {
    format!("{DENIED}: {url} answers 401 Unauthorized")
}

pub(super) fn unrequested(url: &str, error: reqwest::Error) -> String {
    let error = error.without_url();
    // The outer layers only say that it is about this URL and a connection.
    let mut said = Vec::new();
    let mut inner = error.source();
    while let Some(reason) = inner {
        said.push(reason.to_string());
        inner = reason.source();
    }
    said.retain(|reason| !reason.starts_with("client error"));
    let said = if said.is_empty() { error.to_string() } else { said.join(": ") };
    undone(url, &said)
}

pub(super) fn undone(url: &str, said: &str) -> String {
    format!("failed to do request: Get \"{url}\": {said}")
}

/// An error with all its causes; a cause that the text before already tells is left out.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}

pub(super) fn shortened(said: &str) -> String {
    said.chars().take(SAID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_containerds() {
        let error = |code: &str, message: &str| {
            format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#)
        };
        let long = error("DENIED", &"x".repeat(1000));
        for (status, body, want) in [
            (
                401,
                "{}",
                "pull access denied, repository does not exist or may require authorization: http://h/m answers 401 Unauthorized",
            ),
            (404, "", "h/a:v1: not found"),
            (404, &error("MANIFEST_UNKNOWN", "gone"), "h/a:v1: not found (the registry says: gone)"),
            (
                403,
                &error("DENIED", "no"),
                "pull access denied, repository does not exist or may require authorization: no",
            ),
            (
                403,
                &error("DENIED", ""),
                "pull access denied, repository does not exist or may require authorization: DENIED",
            ),
            (403, &long, &format!("{DENIED}: {}", "x".repeat(300))),
            (429, &error("TOOMANYREQUESTS", "slowly"), "unexpected status 429 Too Many Requests: slowly"),
            (400, &error("ODD", "as it is"), "as it is"),
            (
                400,
                r#"{"errors":[]}"#,
                "unexpected status from GET request to http://h/m: 400: {\"errors\":[]}",
            ),
            (
                500,
                &error("DENIED", "no"),
                &format!("unexpected status from GET request to http://h/m: 500: {}", error("DENIED", "no")),
            ),
            (302, "", "unexpected status from GET request to http://h/m: 302: "),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal(status, "http://h/m", body.as_bytes(), "h/a:v1"), want);
        }
    }
}
