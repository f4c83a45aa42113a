//! The API on sockets: TLS, HTTP/1.1 and HTTP/2, with upgrades for streams.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;
use tracing::{debug, warn};

use crate::pki::ServerTls;
use crate::server::{ApiServer, Router};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open requests may take to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const STREAMS_MAX: u32 = 1000;
const CONNECTIONS_MAX: usize = 8192;

/// The address of a client, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl ApiServer {
    /// Serves until `shutdown`, then lets open requests end.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        tls: ServerTls,
        shutdown: CancellationToken,
    ) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, tls.clone(), self.router(), shutdown.clone()));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.stopped() => shutdown.cancel(),
        }
        self.stop();
        while accepting.join_next().await.is_some() {}
    }
}

async fn accept(listener: TcpListener, tls: ServerTls, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok(_) if connections.len() >= CONNECTIONS_MAX => warn!("too many connections; one was closed"),
            Ok((stream, peer)) => {
                let (tls, router, shutdown) = (tls.clone(), router.clone(), shutdown.clone());
                connections.spawn(connection(stream, peer, tls, router, shutdown));
            }
            Err(error) => {
                // Out of descriptors, most likely: what is open may end meanwhile.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        debug!("connections were still open after the drain; they are cut");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: ServerTls,
    router: Router,
    shutdown: CancellationToken,
) {
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls.config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => return debug!(%peer, "a TLS handshake took too long"),
    };
    let presented = tls.clients.judge(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut router = router.clone();
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        if let Some(presented) = &presented {
            request.extensions_mut().insert(presented.clone());
        }
        request.extensions_mut().insert(Peer(peer));
        async move { router.call(request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "a connection ended");
    }
}
