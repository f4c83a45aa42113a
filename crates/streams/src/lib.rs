//! The streams of remote commands (exec, attach) and port forwards, over every protocol that Kubernetes
//! clients speak: WebSocket channels, SPDY/3.1, and SPDY/3.1 inside a WebSocket.
//!
//! The one idea: whatever the protocol, both sides see the same few byte pipes. Who runs a command gets a
//! [`Session`] (its standard streams and where to report the exit), who asks for one gets a [`Remote`];
//! [`relay`] joins the two, which is all that an API server does. A port forward is a [`Forward`] on either
//! side. Every pipe is bounded: who does not read makes the other end wait.
//!
//! ```ignore
//! // Serving a request, after its caller has been authorized:
//! let front = command::negotiate(request.headers())?;           // Err → 400/403 before any upgrade
//! let answer = front.response();                                 // 101 Switching Protocols
//! let upgraded = hyper::upgrade::on(request);
//! tokio::spawn(async move {
//!     let io = TokioIo::new(upgraded.await?);
//!     command::serve(io, &front, wants, |session| async move { /* run it */ }).await
//! });
//! ```
//!
//! [`Opening`] is what both servers have below their TLS, for clients that speak none, [`places`] is how both
//! count their connections, and [`Watched`] how both look at what passes.
//!
//! Knows no Kubernetes objects, no server framework, no TLS and no authorization.

pub mod accepting;
pub mod channel;
pub mod client;
pub mod command;
pub mod forward;
mod mux;
mod opening;
pub mod places;
mod session;
pub mod spdy;
mod tunnel;
pub mod upgrade;
mod watched;

pub use forward::Forward;
pub use opening::Opening;
pub use session::{Exit, Outcome, PIPE_BYTES, Reader, Remote, Resizes, Session, Size, Wants, Writer, relay};
pub use upgrade::UpgradeError;
pub use watched::{Watch, Watched};

use tokio::io::{AsyncRead, AsyncWrite};

/// What streams run over: an upgraded connection, or one end of a pipe in tests.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Why a connection's streams ended before their time.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the WebSocket connection broke")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the SPDY connection broke")]
    Spdy(#[source] spdy::SpdyError),
    #[error("the peer has closed the connection")]
    Closed,
    #[error("the peer did not open the {missing} within {} s", upgrade::STREAMS_TIMEOUT.as_secs())]
    StreamsTimeout { missing: String },
}

impl From<tokio_tungstenite::tungstenite::Error> for StreamError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

impl From<spdy::SpdyError> for StreamError {
    fn from(error: spdy::SpdyError) -> Self {
        Self::Spdy(error)
    }
}

/// For tests. The seed is printed; `SKIFF_SEED` repeats a run.
#[cfg(test)]
fn random() -> rand::rngs::SmallRng {
    let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SKIFF_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}
