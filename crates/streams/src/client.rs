//! Asking a node agent for streams: an HTTP/1.1 request that is upgraded to a WebSocket.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::Io;

/// How long the other side may take to agree.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// A connection that has become a WebSocket.
pub type Socket = TokioIo<Upgraded>;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It answered, but with something else than an upgrade.
    #[error("the upgrade was refused with {status}")]
    Refused { status: StatusCode, headers: Box<HeaderMap>, body: Bytes },
    #[error("cannot talk HTTP to the node agent")]
    Http(#[source] hyper::Error),
    #[error("the node agent's answer is no WebSocket handshake of {protocol}")]
    Handshake { protocol: &'static str },
    #[error("the node agent did not answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
}

/// Sends the request, made a WebSocket's, on a fresh connection. The request has its path, its query and
/// its `Host`.
pub(crate) async fn upgrade<S: Io>(
    io: S,
    request: Request<()>,
    protocol: &'static str,
) -> Result<Socket, DialError> {
    let exchange = exchange(io, request, protocol);
    tokio::time::timeout(HANDSHAKE_TIMEOUT, exchange).await.map_err(|_| DialError::Timeout)?
}

async fn exchange<S: Io>(io: S, request: Request<()>, protocol: &'static str) -> Result<Socket, DialError> {
    let key = generate_key();
    let mut request = request.map(|()| Empty::<Bytes>::new());
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    headers.insert("sec-websocket-key", HeaderValue::from_str(&key).expect("base64 can stand in a header"));

    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(DialError::Http)?;
    let driver = async {
        // Its failure is told by the request too.
        let _ = connection.with_upgrades().await;
        std::future::pending::<()>().await
    };
    let answer = async {
        let response = sender.send_request(request).await.map_err(DialError::Http)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = response.into_parts();
            // A refusal too long to be read is still one.
            let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(DialError::Refused { status: parts.status, headers: Box::new(parts.headers), body });
        }
        let accept = derive_accept_key(key.as_bytes());
        let says = |name: &str, value: &str| {
            response.headers().get(name).is_some_and(|header| header.as_bytes() == value.as_bytes())
        };
        if !says("sec-websocket-accept", &accept) || !says("sec-websocket-protocol", protocol) {
            return Err(DialError::Handshake { protocol });
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(DialError::Http)
    };
    // The driver never ends; it moves the bytes that the answer waits for.
    tokio::select! {
        answer = answer => answer,
        () = driver => unreachable!("the driver never ends"),
    }
}
