//! Large answers go compressed to clients who take them so.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, VARY};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::http_body::{Response, full};

/// Upstream's threshold, in bytes, and its level: what is smaller or packed tighter is not worth the time.
const THRESHOLD: u64 = 128 * 1024;
const LEVEL: u32 = 1;

/// Whether `gzip` is among the codings of `Accept-Encoding`; of several, the first counts, as for upstream.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let refused = parts
            .filter_map(|part| part.strip_prefix("q="))
            .any(|quality| quality.trim().parse::<f32>().is_ok_and(|quality| quality == 0.0));
        named && !refused
    })
}

/// Compresses a body that is known whole and large.
pub(crate) async fn compressed(response: Response) -> Response {
    let known = response.body().size_hint().exact();
    if known.is_none_or(|size| size < THRESHOLD) || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(whole) = body.collect().await else {
        return http::Response::from_parts(parts, full(Bytes::new()));
    };
    let whole = whole.to_bytes();
    let plain = whole.clone();
    // Milliseconds of work, which other requests need not wait behind.
    let packed = tokio::task::spawn_blocking(move || gzip(&plain)).await.ok().and_then(Result::ok);
    let Some(packed) = packed else { return http::Response::from_parts(parts, full(whole)) };
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    http::Response::from_parts(parts, full(packed))
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;

    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(LEVEL));
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_if_it_is_named_and_not_refused() {
        let takes = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, text.parse().expect("a value"));
            takes_gzip(&headers)
        };
        assert!(takes("gzip"));
        assert!(takes("br, gzip;q=0.5"));
        assert!(takes("*"));
        assert!(!takes("br"));
        assert!(!takes("gzip;q=0"));
        assert!(!takes("gzip; q=0.0, br"));
        assert!(!takes_gzip(&HeaderMap::new()));
        let mut twice = HeaderMap::new();
        for coding in ["br", "gzip"] {
            twice.append(ACCEPT_ENCODING, HeaderValue::from_static(coding));
        }
        assert!(!takes_gzip(&twice));
    }
}
