//! Port forwards: pairs of a data and an error stream, one pair a connection to the pod.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::HeaderValue;
use http::{HeaderMap, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::debug;

use crate::channel::Framing;
use crate::client::{self, DialError, Socket};
use crate::mux::{self, End, Mux};
use crate::session::{Reader, Writer};
use crate::spdy::{self, Connection, SpdyStream};
use crate::tunnel::Tunnel;
use crate::upgrade::{self, Asked, UpgradeError};
use crate::{Io, StreamError};

const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// What is spoken to agents: one forward a connection, whose ends are signalled.
const AGENT_PROTOCOL: &str = "v2.portforward.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// Connections that one client may have forwarded at once, and halves of pairs that may wait.
const FORWARDS_MAX: usize = 256;

/// How long an error text may come after the end of the data.
const ERROR_GRACE: Duration = Duration::from_secs(1);

/// One connection to forward to a port of the pod.
pub struct Forward {
    pub port: u16,
    pub data: Box<dyn Io>,
    /// Takes the text of what went wrong. Dropped without one, all is well.
    pub error: Writer,
}

/// The same, of who asked for it.
pub struct RemoteForward {
    pub data: Box<dyn Io>,
    /// What went wrong; empty at the end of a forward that did not.
    pub error: Reader,
}

/// A protocol agreed with a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Spdy { name: Option<&'static str> },
    WebSocket { accept: HeaderValue, name: Option<&'static str>, protocol: Protocol },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// SPDY/3.1 inside binary messages.
    Tunnel,
    Agent,
    /// Two channels for each port of the query, each beginning with the port.
    Channels {
        base64: bool,
    },
}

const WEBSOCKET_PROTOCOLS: [(&str, Protocol); 6] = [
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
    (AGENT_PROTOCOL, Protocol::Agent),
    ("v4.channel.k8s.io", Protocol::Channels { base64: false }),
    ("v4.base64.channel.k8s.io", Protocol::Channels { base64: true }),
    ("channel.k8s.io", Protocol::Channels { base64: false }),
    ("base64.channel.k8s.io", Protocol::Channels { base64: true }),
];

/// Agrees on a protocol with the client that sent these headers.
pub fn negotiate(headers: &HeaderMap) -> Result<Front, UpgradeError> {
    Ok(Front(match upgrade::asked(headers)? {
        Asked::Spdy { versions } => {
            let (name, ()) = upgrade::choose(&versions, &[(SPDY_PROTOCOL, ())], Some(()))?;
            Kind::Spdy { name }
        }
        Asked::WebSocket { accept, protocols } => {
            let unnamed = Some(Protocol::Channels { base64: false });
            let (name, protocol) = upgrade::choose(&protocols, &WEBSOCKET_PROTOCOLS, unnamed)?;
            Kind::WebSocket { accept, name, protocol }
        }
    }))
}

impl Front {
    /// The answer that upgrades the connection.
    pub fn response(&self) -> Response<()> {
        match &self.0 {
            Kind::Spdy { name } => upgrade::spdy_response(*name),
            Kind::WebSocket { accept, name, .. } => upgrade::websocket_response(accept, *name),
        }
    }

    /// Whether the ports stand in the request's query, and not in each stream's headers.
    pub fn needs_ports(&self) -> bool {
        matches!(self.0, Kind::WebSocket { protocol: Protocol::Agent | Protocol::Channels { .. }, .. })
    }
}

/// Serves forwards on an upgraded connection until the client closes it; `run` serves one of them, and is
/// dropped if the client gives it up. `ports` are those of the request's query, if any.
pub async fn serve<S, R, F>(io: S, front: &Front, ports: &[u16], run: R) -> Result<(), StreamError>
where
    S: Io,
    R: Fn(Forward) -> F,
    F: Future<Output = ()>,
{
    match &front.0 {
        Kind::Spdy { .. } => serve_spdy(io, run).await,
        Kind::WebSocket { protocol: Protocol::Tunnel, .. } => {
            serve_spdy(Tunnel::new(io, Role::Server).await, run).await
        }
        Kind::WebSocket { protocol: Protocol::Agent, .. } => {
            let mut mux = Mux::new(Framing { base64: false, closes: true }, End::Sent, true);
            let forwards = ports.first().map(|port| channels(&mut mux, *port, DATA, ERROR));
            serve_mux(io, mux, forwards.into_iter().collect(), run).await
        }
        Kind::WebSocket { protocol: Protocol::Channels { base64 }, .. } => {
            let mut mux = Mux::new(Framing { base64: *base64, closes: false }, End::Sent, false);
            let mut forwards = Vec::new();
            // Two channels a port, numbered in one byte whose last value is taken.
            for (pair, port) in (0..127_u8).zip(ports) {
                let (data, error) = (2 * pair, 2 * pair + 1);
                mux.first(data, Bytes::copy_from_slice(&port.to_le_bytes()));
                mux.first(error, Bytes::copy_from_slice(&port.to_le_bytes()));
                forwards.push(channels(&mut mux, *port, data, error));
            }
            serve_mux(io, mux, forwards, run).await
        }
    }
}

fn channels(mux: &mut Mux, port: u16, data: u8, error: u8) -> Forward {
    let data = tokio::io::join(mux.receive(data), mux.send(data));
    Forward { port, data: Box::new(data), error: Box::new(mux.send(error)) }
}

async fn serve_mux<S, R, F>(io: S, mux: Mux, forwards: Vec<Forward>, run: R) -> Result<(), StreamError>
where
    S: Io,
    R: Fn(Forward) -> F,
    F: Future<Output = ()>,
{
    let socket = mux::websocket(io, Role::Server).await;
    let running = async {
        let mut running: FuturesUnordered<F> = forwards.into_iter().map(run).collect();
        while running.next().await.is_some() {}
    };
    let (mut running, mut driver) = (pin!(running), pin!(mux.run(socket)));
    tokio::select! {
        () = &mut running => driver.await,
        ended = &mut driver => ended,
    }
}

async fn serve_spdy<S, R, F>(io: S, run: R) -> Result<(), StreamError>
where
    S: Io,
    R: Fn(Forward) -> F,
    F: Future<Output = ()>,
{
    let (connection, _opener, incoming) = Connection::new(io, spdy::Role::Server);
    // Only the client ends it.
    let (_close, closing) = oneshot::channel();
    let (mut running, mut driver) = (pin!(forward_all(incoming, run)), pin!(connection.run(closing)));
    tokio::select! {
        () = &mut running => Ok(()),
        ended = &mut driver => ended.map(|_| ()).map_err(StreamError::from),
    }
}

/// Pairs streams, and runs each pair until it ends or its data stream is reset.
async fn forward_all<R, F>(mut incoming: mpsc::Receiver<SpdyStream>, run: R)
where
    R: Fn(Forward) -> F,
    F: Future<Output = ()>,
{
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        // Both branches are cancel safe.
        tokio::select! {
            stream = incoming.recv() => {
                let Some(stream) = stream else { return };
                if running.len() + halves.len() >= FORWARDS_MAX {
                    debug!("too many forwards on one connection");
                    continue;
                }
                if let Some((forward, reset)) = pair(&mut halves, stream) {
                    let forwarding = run(forward);
                    running.push(async move {
                        tokio::select! {
                            () = forwarding => {}
                            () = reset => {}
                        }
                    });
                }
            }
            _ = running.next(), if !running.is_empty() => {}
        }
    }
}

enum Half {
    Data(SpdyStream),
    Error(SpdyStream),
}

/// The forward that the stream completes, with the future of its reset; or `None`, and it waits.
fn pair(
    halves: &mut HashMap<String, Half>,
    stream: SpdyStream,
) -> Option<(Forward, impl Future<Output = ()> + use<>)> {
    let is_data = match stream.headers.get("streamtype") {
        Some("data") => true,
        Some("error") => false,
        // Dropped, and so ended.
        _ => return None,
    };
    // Old clients number no requests: they open the error stream, and right after it the data stream.
    let request = stream.headers.get("requestid").map(str::to_owned).unwrap_or_else(|| {
        let error_stream = if is_data { stream.id.saturating_sub(2) } else { stream.id };
        error_stream.to_string()
    });
    let (data, error) = match (halves.remove(&request), is_data) {
        (Some(Half::Error(error)), true) => (stream, error),
        (Some(Half::Data(data)), false) => (data, stream),
        (_, true) => {
            halves.insert(request, Half::Data(stream));
            return None;
        }
        (_, false) => {
            halves.insert(request, Half::Error(stream));
            return None;
        }
    };
    let port = data.headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0)?;
    let reset = data.reset;
    let forward = Forward { port, data: Box::new(data.io), error: Box::new(error.io) };
    let was_reset = async move {
        // An error here means that the connection is done with the stream, not that it was reset.
        if reset.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Some((forward, was_reset))
}

/// A forward that an agent has agreed to.
pub struct Dialed(Socket);

/// Asks for one forward on a fresh connection to the agent. The request names the port in its query.
pub async fn dial<S: Io>(io: S, request: Request<()>) -> Result<Dialed, DialError> {
    client::upgrade(io, request, AGENT_PROTOCOL).await.map(Dialed)
}

impl Dialed {
    /// Joins a client's forward to the agent's, until it has ended.
    pub async fn relay(self, forward: Forward) {
        relay_over(self.0, forward).await;
    }
}

async fn relay_over<S: Io>(io: S, forward: Forward) {
    let mut mux = Mux::new(Framing { base64: false, closes: true }, End::Peer, true);
    let data = tokio::io::join(mux.receive(DATA), mux.send(DATA));
    let remote = RemoteForward { data: Box::new(data), error: Box::new(mux.receive(ERROR)) };
    let socket = mux::websocket(io, Role::Client).await;
    let (mut relaying, mut driver) = (pin!(relay(forward, remote)), pin!(mux.run(socket)));
    tokio::select! {
        () = &mut relaying => {}
        ended = &mut driver => {
            if let Err(error) = ended {
                debug!(%error, "a forward's connection ended");
            }
            // Its pipes have ended, so that this ends too.
            relaying.await;
        }
    }
}

/// Joins a forward's data to a connection to the port. Ends when the port's side has ended: clients wait
/// for that before they close theirs. The client's end is passed on.
pub async fn join<S: Io>(data: Box<dyn Io>, port: S) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(data);
    let (mut from_port, mut to_port) = tokio::io::split(port);
    let sending = async {
        // A port that takes no more may still answer.
        let _ = tokio::io::copy(&mut from_client, &mut to_port).await;
        let _ = to_port.shutdown().await;
        std::future::pending::<()>().await
    };
    let receiving = async {
        tokio::io::copy(&mut from_port, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        received = receiving => received,
        () = sending => Ok(()),
    }
}

/// Joins a client's forward to a remote one, and passes its error text on.
pub async fn relay(forward: Forward, remote: RemoteForward) {
    let Forward { port: _, data, mut error } = forward;
    let mut remote_error = remote.error;
    let errors = async {
        let _ = tokio::io::copy(&mut remote_error, &mut error).await;
    };
    let (mut errors, mut data) = (pin!(errors), pin!(join(data, remote.data)));
    tokio::select! {
        // What went wrong is told by the error stream alone.
        _ = &mut data => {
            let _ = tokio::time::timeout(ERROR_GRACE, errors).await;
        }
        () = &mut errors => {
            let _ = data.await;
        }
    }
}

#[cfg(test)]
mod tests;
