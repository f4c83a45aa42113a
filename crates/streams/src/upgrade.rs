//! The HTTP side: which protocol a request asks to be upgraded to, and the answer that agrees.

use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) const SPDY: &str = "SPDY/3.1";
pub(crate) const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SUBPROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// How long a SPDY client may take to open the streams it has asked for.
pub const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request cannot be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// 400: it asks for no upgrade that is known here.
    #[error("Upgrade request required")]
    Required,
    #[error("the WebSocket handshake lacks its key")]
    NoKey,
    /// 403: it asks for an upgrade, to protocols that are not served.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {client:?}, server accepts {server:?}"
    )]
    Protocol { client: Vec<String>, server: Vec<&'static str> },
}

impl UpgradeError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Required | Self::NoKey => StatusCode::BAD_REQUEST,
            Self::Protocol { .. } => StatusCode::FORBIDDEN,
        }
    }
}

/// What a request wants to be upgraded to, before its protocol is agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    WebSocket { accept: HeaderValue, protocols: Vec<String> },
    Spdy { versions: Vec<String> },
}

/// Whether the request asks for any upgrade, so that it is one of a stream and not a plain one.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    words(headers, &CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade"))
        && headers.contains_key(UPGRADE)
}

pub(crate) fn asked(headers: &HeaderMap) -> Result<Asked, UpgradeError> {
    if !is_upgrade(headers) {
        return Err(UpgradeError::Required);
    }
    let to = words(headers, &UPGRADE);
    if to.iter().any(|word| word.eq_ignore_ascii_case("websocket")) {
        let key = headers.get(KEY).ok_or(UpgradeError::NoKey)?;
        let accept =
            HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 can stand in a header");
        return Ok(Asked::WebSocket { accept, protocols: words(headers, &SUBPROTOCOL) });
    }
    if to.iter().any(|word| word.eq_ignore_ascii_case(SPDY)) {
        return Ok(Asked::Spdy { versions: words(headers, &STREAM_VERSION) });
    }
    Err(UpgradeError::Required)
}

/// The words of a header that may be repeated and hold several, separated by commas.
fn words(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The first protocol of the client's that the server has; `unnamed` if the client names none.
pub(crate) fn choose<P: Copy>(
    client: &[String],
    server: &[(&'static str, P)],
    unnamed: Option<P>,
) -> Result<(Option<&'static str>, P), UpgradeError> {
    if client.is_empty()
        && let Some(protocol) = unnamed
    {
        return Ok((None, protocol));
    }
    client
        .iter()
        .find_map(|wanted| server.iter().find(|(name, _)| name == wanted))
        .map(|(name, protocol)| (Some(*name), *protocol))
        .ok_or_else(|| UpgradeError::Protocol {
            client: client.to_vec(),
            server: server.iter().map(|(name, _)| *name).collect(),
        })
}

pub(crate) fn websocket_response(accept: &HeaderValue, protocol: Option<&'static str>) -> Response<()> {
    let mut response = switching("websocket");
    response.headers_mut().insert(ACCEPT, accept.clone());
    if let Some(protocol) = protocol {
        response.headers_mut().insert(SUBPROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

pub(crate) fn spdy_response(version: Option<&'static str>) -> Response<()> {
    let mut response = switching(SPDY);
    if let Some(version) = version {
        response.headers_mut().insert(STREAM_VERSION, HeaderValue::from_static(version));
    }
    response
}

fn switching(to: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(to));
    response
}
