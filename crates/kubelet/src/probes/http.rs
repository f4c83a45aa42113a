//! Asking by HTTP as upstream's prober does: redirects are followed while they stay on the host that was
//! asked, and one that leads elsewhere counts as success with a warning, since a node must not be sent to
//! addresses of a pod's choice.
//!
//! What Go's client does with a redirect is done here too: which codes are one, what becomes of the headers,
//! and after how many requests it gives up. HTTP/1.1 only.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERER, TRAILER,
    TRANSFER_ENCODING, USER_AGENT,
};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{Failure, Success, plain, port};

/// A body is read so far, as upstream reads it.
const BODY_BYTES_MAX: usize = 10 * 1_024;
/// One after the other; a redirect more is an error.
const REQUESTS_MAX: usize = 10;

/// Where is asked: a URL, with its host and port as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    url: Url,
    authority: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.url.scheme(), self.authority, self.target())
    }
}

impl Place {
    fn of(container: &Container, action: &HTTPGetAction, ip: IpAddr) -> Result<Self, String> {
        let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let host = action.host.as_deref().filter(|host| !host.is_empty());
        let host = host.map_or_else(|| ip.to_string(), str::to_owned);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let authority = format!("{host}:{}", port(container, &action.port)?);
        let path = action.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let text = format!("{scheme}://{authority}{slash}{path}");
        let url = Url::parse(&text).map_err(|error| format!("Get \"{text}\": {error}"))?;
        Ok(Self { url, authority })
    }

    /// Where a `Location` leads from here.
    fn join(&self, location: &str) -> Result<Self, url::ParseError> {
        let url = self.url.join(location)?;
        let authority = if names_host(location) {
            let host = url.host_str().unwrap_or_default();
            url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
        } else {
            self.authority.clone()
        };
        Ok(Self { url, authority })
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    fn target(&self) -> &str {
        &self.url[url::Position::BeforePath..url::Position::AfterQuery]
    }
}

fn is_absolute(location: &str) -> bool {
    !matches!(Url::parse(location), Err(url::ParseError::RelativeUrlWithoutBase))
}

fn names_host(location: &str) -> bool {
    location.starts_with("//") || is_absolute(location)
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Done(Result<Success, String>),
    /// The host's name of the first request goes along where only a path was told.
    Ask {
        place: Place,
        keeps_host: bool,
    },
}

/// Judges the answer of the last of so many requests.
fn next(place: &Place, answer: Answer, requests: usize) -> Next {
    let ends = |warning: String| {
        Next::Done(Ok(Success::Warned(format!("Probe terminated redirects, Response body: {warning}"))))
    };
    match answer.status {
        200..=299 => return Next::Done(Ok(Success::Plain)),
        301 | 302 | 303 | 307 | 308 => {}
        300..=399 => return ends(answer.body),
        code => return Next::Done(Err(format!("HTTP probe failed with statuscode: {code}"))),
    }
    let Some(location) = answer.location.filter(|location| !location.is_empty()) else {
        return ends(answer.body);
    };
    match place.join(&location) {
        Err(error) => Next::Done(Err(format!(
            "Get \"{place}\": failed to parse Location header \"{location}\": {error}"
        ))),
        // All places so far are on one host, so that the last stands for the first.
        Ok(to) if to.host() != place.host() => ends(answer.body),
        Ok(_) if requests >= REQUESTS_MAX => {
            Next::Done(Err(format!("Get \"{location}\": stopped after {REQUESTS_MAX} redirects")))
        }
        Ok(to) if !matches!(to.url.scheme(), "http" | "https") => {
            Next::Done(Err(format!("Get \"{to}\": unsupported protocol scheme \"{}\"", to.url.scheme())))
        }
        Ok(place) => Next::Ask { place, keeps_host: !is_absolute(&location) },
    }
}

/// Asks once, as often as redirects make it, all of it within the time.
pub(super) async fn get(
    container: &Container,
    action: &HTTPGetAction,
    ip: IpAddr,
    timeout: Duration,
) -> Result<Success, Failure> {
    let deadline = Instant::now() + timeout;
    let mut place = Place::of(container, action, ip).map_err(Failure::Unknown)?;
    // Go's client looks at them when it sends: a failure like any other.
    let failed = |place: &Place, why| Failure::Failed(format!("Get \"{place}\": {why}"));
    let mut headers = headers(action).map_err(|why| failed(&place, why))?;
    let mut host = headers.remove(HOST).filter(|host| !host.is_empty());
    let mut requests = 0;
    loop {
        requests += 1;
        let answer = timeout_at(deadline, ask(&place, &headers, host.as_ref()))
            .await
            .unwrap_or_else(|_| {
                Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())
            })
            .map_err(|why| failed(&place, why))?;
        match next(&place, answer, requests) {
            Next::Done(verdict) => return verdict.map_err(Failure::Failed),
            Next::Ask { place: to, keeps_host } => {
                if !keeps_host {
                    host = None;
                }
                refer(&mut headers, action, &place, &to);
                place = to;
            }
        }
    }
}

/// The headers of every request, less the host's: the pod's own, and upstream's where it names none.
fn headers(action: &HTTPGetAction) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for given in action.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(given.name.as_bytes())
            .map_err(|_| format!("net/http: invalid header field name \"{}\"", given.name))?;
        let value = HeaderValue::from_str(&given.value)
            .map_err(|_| format!("net/http: invalid header field value for \"{}\"", given.name))?;
        // What frames a request is not for a pod to say.
        if ![CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&name) {
            headers.append(name, value);
        }
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("kube-probe/1.36"));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    // Set to nothing, these are not to be sent.
    for name in [USER_AGENT, ACCEPT] {
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(name);
        }
    }
    headers.append(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// Says whence a redirect comes, unless the pod says so itself or it would tell a secret place to a plain one.
fn refer(headers: &mut HeaderMap, action: &HTTPGetAction, from: &Place, to: &Place) {
    let given =
        action.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case("referer"));
    if given {
        return;
    }
    headers.remove(REFERER);
    if (from.url.scheme(), to.url.scheme()) != ("https", "http")
        && let Ok(value) = HeaderValue::from_str(&from.to_string())
    {
        headers.insert(REFERER, value);
    }
}

async fn ask(place: &Place, headers: &HeaderMap, host: Option<&HeaderValue>) -> Result<Answer, String> {
    let name = place.host().trim_start_matches('[').trim_end_matches(']');
    let number = place.url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((name, number))
        .await
        .map_err(|error| format!("dial tcp {name}:{number}: {}", plain(&error)))?;
    let mut request = http::Request::get(place.target());
    let as_written = || HeaderValue::from_str(&place.authority).map_err(|error| error.to_string());
    let host = host.map_or_else(as_written, |host| Ok(host.clone()))?;
    if let Some(all) = request.headers_mut() {
        all.insert(HOST, host);
        all.extend(headers.clone());
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    if place.url.scheme() == "https" {
        let stream = crate::tls::connect_unverified(stream, name).await.map_err(|error| plain(&error))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // It ends when `sender` and the answer are dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    let location = response.headers().get(LOCATION);
    let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // Read on, so that the server sees its answer taken. What is too long is not waited for.
    let body = read(response.into_body()).await;
    Ok(Answer { status, location, body })
}

/// As much of a body as is kept.
async fn read(mut body: hyper::body::Incoming) -> String {
    let mut read = Vec::new();
    while read.len() < BODY_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
        }
    }
    read.truncate(BODY_BYTES_MAX);
    String::from_utf8_lossy(&read).into_owned()
}

#[cfg(test)]
mod tests;
