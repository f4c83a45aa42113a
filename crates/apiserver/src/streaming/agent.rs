//! The agent of a node: where it is, and requests to it.

use std::io;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use skiff_api::status::{GroupResource, StatusError};
use skiff_streams::client::DialError;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::http_body::{Request, Response, full};
use crate::render;
use crate::resources::find;
use crate::server::Inner;

/// Requests by one connection.
pub(crate) type Line = hyper::client::conn::http1::SendRequest<crate::http_body::Body>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried to get in, where an agent closes the connection before it knows who has come: whoever is in
/// the network of this server's node has its address too, and pushes by the number of theirs (`streams::places`).
const ATTEMPTS: usize = 3;
const DEFAULT_PORT: u16 = 10250;
/// After which who found no room at an agent may try again.
const RETRY_AFTER_S: i32 = 1;
/// What is read of an answer that refuses.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

pub(crate) struct Agent<'a> {
    server: &'a Inner,
    node: String,
    ip: String,
    port: u16,
}

/// The address of a Node's agent.
fn address(node: &Value) -> Option<(String, u16)> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    Some((internal["address"].as_str()?.to_owned(), port.unwrap_or(DEFAULT_PORT)))
}

fn dialing(cause: impl std::fmt::Display) -> StatusError {
    StatusError::new(500, "InternalError", format!("error dialing backend: {cause}"))
}

impl<'a> Agent<'a> {
    pub(crate) fn of(server: &'a Inner, node: &str) -> Result<Self, StatusError> {
        let nodes = find("", "nodes").expect("nodes are in the table");
        let object =
            server.caches.of(nodes).get(&nodes.key("", node)).ok_or_else(|| {
                StatusError::not_found(GroupResource { group: "", resource: "nodes" }, node)
            })?;
        let (ip, port) = address(&object.value(nodes)).ok_or_else(|| {
            StatusError::internal(format!("no preferred addresses found for node {node:?}"))
        })?;
        Ok(Self { server, node: node.to_owned(), ip, port })
    }

    /// A fresh connection; nothing has been asked by it yet. The agent must prove to be this node, whatever its address.
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, StatusError> {
        let tls = self.server.agents.tls.clone().ok_or_else(|| {
            StatusError::unavailable("this server was not told how to reach the nodes' agents")
        })?;
        let name = ServerName::try_from(self.node.clone())
            .map_err(|_| dialing(format!("{:?} is no name that a certificate could have", self.node)))?;
        let attempt = async || {
            let stream = TcpStream::connect((self.ip.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(tls.clone()).connect(name.clone(), stream).await
        };
        let connecting = async {
            for _ in 1..ATTEMPTS {
                match attempt().await {
                    Err(error) if is_cut(&error) => {}
                    outcome => return outcome,
                }
            }
            attempt().await
        };
        let (ip, port) = (&self.ip, self.port);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(dialing(format!("dial tcp {ip}:{port}: {error}"))),
            Err(_) => Err(dialing(format!("dial tcp {ip}:{port}: i/o timeout"))),
        }
    }

    /// A request for this path and query, without body.
    pub(crate) fn request(&self, path: &str) -> Result<http::Request<()>, StatusError> {
        http::Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, &self.node)
            .body(())
            .map_err(|error| StatusError::bad_request(error.to_string()))
    }

    /// Sends a request as it is; the answer's body streams.
    pub(crate) async fn send(
        &self,
        request: Request,
    ) -> Result<http::Response<hyper::body::Incoming>, StatusError> {
        self.send_by(&mut self.line().await?, request).await
    }

    /// A fresh connection, for one request after the other.
    pub(crate) async fn line(&self) -> Result<Line, StatusError> {
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(dialing)?;
        // It lives as long as an answer's body, what the connection is upgraded to, or the line.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "a connection to an agent ended");
            }
        });
        Ok(sender)
    }

    /// The same by a connection that is there; the body of the answer before has been read.
    pub(crate) async fn send_by(
        &self,
        line: &mut Line,
        mut request: Request,
    ) -> Result<http::Response<hyper::body::Incoming>, StatusError> {
        let host = HeaderValue::from_str(&self.node).map_err(dialing)?;
        request.headers_mut().insert(HOST, host);
        line.ready().await.map_err(dialing)?;
        line.send_request(request).await.map_err(dialing)
    }
}

/// The other side has closed the connection, and not by the protocol.
fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Hands a refusal of a stream on as it is: clients show its text.
pub(super) fn refusal(error: DialError) -> Result<Response, StatusError> {
    match error {
        DialError::Refused { status, headers, body } => Ok(plain(status, &headers, body)),
        other => Err(dialing(chain(&other))),
    }
}

fn plain(status: StatusCode, headers: &HeaderMap, body: bytes::Bytes) -> Response {
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    let content_type = headers.get(CONTENT_TYPE).cloned().unwrap_or(TEXT);
    render::with_type(status, content_type, full(body))
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What upstream makes of an agent's plain text when logs are refused.
pub(super) async fn failure(response: http::Response<hyper::body::Incoming>) -> StatusError {
    let status = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned());
    refused_with(status, &text.unwrap_or_default())
}

fn refused_with(status: StatusCode, text: &str) -> StatusError {
    match status.as_u16() {
        400 => StatusError::bad_request(text),
        404 => StatusError::new(404, "NotFound", text),
        429 => StatusError::too_many_requests(text, RETRY_AFTER_S),
        500 => StatusError::internal(text),
        code => StatusError::new(code, status.canonical_reason().unwrap_or("Unknown"), text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_agent_is_at_the_internal_address() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.100.0.2"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}},
        }});
        assert_eq!(address(&node), Some(("10.100.0.2".into(), 10251)));
        let bare = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.100.0.2"}]}});
        assert_eq!(address(&bare), Some(("10.100.0.2".into(), 10250)));
        assert_eq!(address(&json!({})), None);
    }

    #[test]
    fn refusals_keep_their_text() {
        let error = refused_with(StatusCode::BAD_REQUEST, "container \"c\" in pod \"p\" is waiting to start");
        assert_eq!((error.code(), error.reason()), (400, "BadRequest"));
        assert_eq!(error.message(), "container \"c\" in pod \"p\" is waiting to start");
        let full = refused_with(StatusCode::TOO_MANY_REQUESTS, "too many");
        assert_eq!((full.code(), full.reason(), full.message()), (429, "TooManyRequests", "too many"));
    }
}
