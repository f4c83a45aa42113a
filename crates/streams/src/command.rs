//! Remote commands (exec and attach): serving them over every protocol, and asking an agent for them.

use std::collections::HashMap;
use std::pin::pin;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Request, Response};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::channel::{ERROR, Protocol, RESIZE, STDERR, STDIN, STDOUT};
use crate::client::{self, DialError, Socket};
use crate::mux::{self, End, Mux};
use crate::session::{Exit, Remote, Resizes, Session, Wants};
use crate::spdy::{self, Connection, SpdyStream};
use crate::upgrade::{self, Asked, STREAMS_TIMEOUT, UpgradeError};
use crate::{Io, StreamError};

/// Versions of the SPDY protocol, the newest first. From 3 on sizes are sent, from 4 on a Status.
const SPDY_VERSIONS: [(&str, u8); 4] =
    [("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];

/// A protocol agreed with a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    WebSocket { accept: HeaderValue, name: Option<&'static str>, protocol: Protocol },
    Spdy { name: Option<&'static str>, version: u8 },
}

/// Agrees on a protocol with the client that sent these headers.
pub fn negotiate(headers: &HeaderMap) -> Result<Front, UpgradeError> {
    Ok(Front(match upgrade::asked(headers)? {
        Asked::WebSocket { accept, protocols } => {
            let served = Protocol::ALL.map(|protocol| (protocol.name(), protocol));
            let (name, protocol) = upgrade::choose(&protocols, &served, Some(Protocol::V1))?;
            Kind::WebSocket { accept, name, protocol }
        }
        Asked::Spdy { versions } => {
            let (name, version) = upgrade::choose(&versions, &SPDY_VERSIONS, Some(1))?;
            Kind::Spdy { name, version }
        }
    }))
}

impl Front {
    /// The answer that upgrades the connection.
    pub fn response(&self) -> Response<()> {
        match &self.0 {
            Kind::WebSocket { accept, name, .. } => upgrade::websocket_response(accept, *name),
            Kind::Spdy { name, .. } => upgrade::spdy_response(*name),
        }
    }
}

/// Serves one command on an upgraded connection. `run` gets the session, drops its writers when the
/// command has ended, and then sends its [`Exit`]: without that, clients take it for a success.
///
/// If the client goes away, `run` is dropped, and this returns [`StreamError::Closed`].
pub async fn serve<S, R, F>(io: S, front: &Front, wants: Wants, run: R) -> Result<(), StreamError>
where
    S: Io,
    R: FnOnce(Session) -> F,
    F: Future<Output = ()>,
{
    match &front.0 {
        Kind::WebSocket { protocol, .. } => serve_websocket(io, *protocol, wants, run).await,
        Kind::Spdy { version, .. } => serve_spdy(io, *version, wants, run).await,
    }
}

async fn serve_websocket<S, R, F>(io: S, protocol: Protocol, wants: Wants, run: R) -> Result<(), StreamError>
where
    S: Io,
    R: FnOnce(Session) -> F,
    F: Future<Output = ()>,
{
    let mut mux = Mux::new(protocol.framing(), End::Sent, false);
    // Clients take the first, empty message for the sign that the connection stands.
    let first = match wants {
        Wants { stdout: true, .. } => STDOUT,
        Wants { stderr: true, tty: false, .. } => STDERR,
        _ => ERROR,
    };
    mux.first(first, Bytes::new());
    let session = Session {
        stdin: wants.stdin.then(|| Box::new(mux.receive(STDIN)) as _),
        stdout: wants.stdout.then(|| Box::new(mux.send(STDOUT)) as _),
        stderr: wants.has_stderr().then(|| Box::new(mux.send(STDERR)) as _),
        resize: wants.tty.then(|| Resizes::new(Box::new(mux.receive(RESIZE)))),
        exit: Exit { pipe: Box::new(mux.send_last(ERROR)), json: protocol.has_status() },
    };
    let socket = mux::websocket(io, Role::Server).await;
    let (mut running, mut driver) = (pin!(run(session)), pin!(mux.run(socket)));
    tokio::select! {
        () = &mut running => driver.await,
        ended = &mut driver => ended,
    }
}

async fn serve_spdy<S, R, F>(io: S, version: u8, wants: Wants, run: R) -> Result<(), StreamError>
where
    S: Io,
    R: FnOnce(Session) -> F,
    F: Future<Output = ()>,
{
    let (connection, _opener, incoming) = Connection::new(io, spdy::Role::Server);
    let (close, closing) = oneshot::channel();
    let running = async {
        let session = open_session(incoming, version, wants).await?;
        run(session).await;
        Ok::<(), StreamError>(())
    };
    let (mut running, mut driver) = (pin!(running), pin!(connection.run(closing)));
    tokio::select! {
        ran = &mut running => {
            drop(close);
            driver.await?;
            ran
        }
        ended = &mut driver => {
            ended?;
            Err(StreamError::Closed)
        }
    }
}

/// Waits until the client has opened all streams of its command.
async fn open_session(
    mut incoming: mpsc::Receiver<SpdyStream>,
    version: u8,
    wants: Wants,
) -> Result<Session, StreamError> {
    let has_resize = wants.tty && version >= 3;
    let expected: Vec<&str> = [
        ("error", true),
        ("stdin", wants.stdin),
        ("stdout", wants.stdout),
        ("stderr", wants.has_stderr()),
        ("resize", has_resize),
    ]
    .into_iter()
    .filter_map(|(name, is_expected)| is_expected.then_some(name))
    .collect();

    let mut streams: HashMap<String, DuplexStream> = HashMap::new();
    let missing = |streams: &HashMap<String, DuplexStream>| -> Vec<&str> {
        expected.iter().copied().filter(|name| !streams.contains_key(*name)).collect()
    };
    let opening = async {
        while !missing(&streams).is_empty() {
            let stream = incoming.recv().await.ok_or(StreamError::Closed)?;
            let name = stream.headers.get("streamtype").unwrap_or_default().to_owned();
            // What was not asked for ends at once.
            if expected.contains(&&*name) {
                streams.insert(name, stream.io);
            }
        }
        Ok::<(), StreamError>(())
    };
    match tokio::time::timeout(STREAMS_TIMEOUT, opening).await {
        Ok(opened) => opened?,
        Err(_) => return Err(StreamError::StreamsTimeout { missing: missing(&streams).join(", ") }),
    }
    let mut take = |name: &str| streams.remove(name);
    let error = take("error").ok_or(StreamError::Closed)?;
    Ok(Session {
        stdin: take("stdin").map(|io| Box::new(io) as _),
        stdout: take("stdout").map(|io| Box::new(io) as _),
        stderr: take("stderr").map(|io| Box::new(io) as _),
        resize: take("resize").map(|io| Resizes::new(Box::new(io))),
        exit: Exit { pipe: Box::new(error), json: version >= 4 },
    })
}

/// A command that an agent has agreed to run.
pub struct Dialed(Socket);

/// Asks for a command on a fresh connection to the agent. The request says which, in its path and query;
/// its method is GET.
pub async fn dial<S: Io>(io: S, request: Request<()>) -> Result<Dialed, DialError> {
    client::upgrade(io, request, Protocol::V5.name()).await.map(Dialed)
}

impl Dialed {
    /// Lets `with` talk to the command. When it returns, the connection is closed.
    pub async fn run<T, R, F>(self, wants: Wants, with: R) -> T
    where
        R: FnOnce(Remote) -> F,
        F: Future<Output = T>,
    {
        run_remote(self.0, wants, with).await
    }
}

async fn run_remote<S, T, R, F>(io: S, wants: Wants, with: R) -> T
where
    S: Io,
    R: FnOnce(Remote) -> F,
    F: Future<Output = T>,
{
    let mut mux = Mux::new(Protocol::V5.framing(), End::Peer, true);
    let remote = Remote {
        stdin: wants.stdin.then(|| Box::new(mux.send(STDIN)) as _),
        stdout: wants.stdout.then(|| Box::new(mux.receive(STDOUT)) as _),
        stderr: wants.has_stderr().then(|| Box::new(mux.receive(STDERR)) as _),
        resize: wants.tty.then(|| Box::new(mux.send(RESIZE)) as _),
        status: Box::new(mux.receive(ERROR)),
    };
    let socket = mux::websocket(io, Role::Client).await;
    let (mut talking, mut driver) = (pin!(with(remote)), pin!(mux.run(socket)));
    tokio::select! {
        told = &mut talking => told,
        ended = &mut driver => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a remote command's connection ended");
            }
            // Its pipes have ended, so that this ends too.
            talking.await
        }
    }
}

#[cfg(test)]
mod tests;
