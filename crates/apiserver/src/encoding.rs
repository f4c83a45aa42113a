//! Large answers go compressed to clients who take them so.
//!
//! Only what the server itself has rendered, and so holds already ([`Rendered`]): what comes from a pod or an agent
//! is handed on as it comes, however long it says that it is. And only some at once ([`Packer`], which long answers
//! are indented by too), each of which keeps its request's place until its work is over: who takes requests back leaves no work behind that nobody
//! counts.

use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, VARY};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::http_body::{Response, full};
use crate::limits::guarded::InFlight;

/// Upstream's threshold, in bytes, and its level: what is smaller or packed tighter is not worth the time.
const THRESHOLD: u64 = 128 * 1024;
const LEVEL: u32 = 1;
/// How many answers are compressed at once; others wait, and are not begun if they are taken back meanwhile.
const AT_ONCE: usize = 2;
/// After so many bytes it is looked whether anybody still waits.
const STRETCH: usize = 256 * 1024;

/// Response extension: the body is the server's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rendered;

pub(crate) struct Packer {
    room: Arc<Semaphore>,
}

/// What is held for an answer's work until it is over, whoever still waits for it.
struct Held {
    _permit: OwnedSemaphorePermit,
    _in_flight: Option<InFlight>,
}

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

impl Default for Packer {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Packer {
    /// Compresses a large body of the server's own. `in_flight` is the place of the request that it answers.
    pub(crate) async fn compressed(&self, response: Response, in_flight: Option<InFlight>) -> Response {
        let known = response.body().size_hint().exact();
        if known.is_none_or(|size| size < THRESHOLD)
            || response.extensions().get::<Rendered>().is_none()
            || response.headers().contains_key(CONTENT_ENCODING)
        {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let Ok(whole) = body.collect().await else {
            return http::Response::from_parts(parts, full(Bytes::new()));
        };
        let whole = whole.to_bytes();
        let plain = whole.clone();
        let packed = self.aside(in_flight, move |is_wanted| gzip(&plain, is_wanted)).await;
        let Some(packed) = packed else {
            return http::Response::from_parts(parts, full(whole));
        };
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        http::Response::from_parts(parts, full(packed))
    }

    /// Works on an answer beside the threads that answer others, as soon as there is room for it. `work` is told
    /// whether somebody still waits.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        in_flight: Option<InFlight>,
        work: impl FnOnce(&dyn Fn() -> bool) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.room).acquire_owned().await.ok()?;
        let held = Held { _permit: permit, _in_flight: in_flight };
        let (answer, done) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let made = work(&|| !answer.is_closed());
            drop(held);
            // Whoever asked may be gone.
            let _ = answer.send(made);
        });
        done.await.ok().flatten()
    }
}

/// None where it was given up.
fn gzip(bytes: &[u8], is_wanted: &dyn Fn() -> bool) -> Option<Vec<u8>> {
    use std::io::Write as _;

    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(LEVEL));
    for stretch in bytes.chunks(STRETCH) {
        if !is_wanted() {
            return None;
        }
        encoder.write_all(stretch).ok()?;
    }
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: Bytes) -> Response {
        let mut response = http::Response::new(full(bytes));
        response.extensions_mut().insert(Rendered);
        response
    }

    #[tokio::test]
    async fn only_what_the_server_has_rendered_is_packed() {
        let large = Bytes::from(vec![b'x'; THRESHOLD as usize]);
        let packer = Packer::default();
        let is_packed =
            async |response| packer.compressed(response, None).await.headers().contains_key(CONTENT_ENCODING);
        assert!(is_packed(answer(large.clone())).await);
        assert!(!is_packed(answer(large.slice(1..))).await, "small");
        assert!(!is_packed(http::Response::new(full(large))).await, "another's");
    }

    #[tokio::test]
    async fn who_is_gone_leaves_no_work_behind() {
        let packer = Packer::default();
        let large = Bytes::from(vec![b'x'; 4 * STRETCH]);
        // All that may be at work are.
        let busy = Arc::clone(&packer.room).acquire_many_owned(AT_ONCE as u32).await.expect("it is open");
        let place = InFlight::default();
        let mut waiting: Vec<_> = (0..40)
            .map(|_| Box::pin(packer.compressed(answer(large.clone()), Some(place.clone()))))
            .collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one.as_mut()).is_pending());
        }
        assert_eq!(Arc::strong_count(&place), 41, "each has its place");
        waiting.truncate(1);
        assert_eq!(Arc::strong_count(&place), 2, "nothing was begun of the others");
        drop(busy);
        let packed = waiting.remove(0).await;
        assert!(packed.headers().contains_key(CONTENT_ENCODING));
        // One that has begun looks up now and then.
        let looks = std::cell::Cell::new(0);
        let given_up = gzip(&large, &|| {
            looks.set(looks.get() + 1);
            looks.get() < 3
        });
        assert_eq!((given_up, looks.get()), (None, 3));
    }

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
