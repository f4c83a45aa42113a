//! The API on sockets: TLS, HTTP/1.1 and HTTP/2, with upgrades for streams.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use skiff_streams::accepting::Failures;
use skiff_streams::places::Place;
use skiff_streams::{Opening, Watched};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;
use tracing::{debug, warn};

use crate::auth::owner;
use crate::http_body::{Response, empty};
use crate::limits::activity::{Activity, Lasts, PARTING, Verdict};
use crate::limits::guarded::{Answer, Guard, InFlight, Timed, read_unwanted};
use crate::pki::{Presented, ServerTls};
use crate::request::{Address, Query, verb};
use crate::server::{ApiServer, Router, is_lasting};

/// How long open requests may take to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a client on HTTP/2 is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The answer to a HEAD: its headers alone. On HTTP/1.1 hyper leaves the body away itself, on HTTP/2 it
/// would send it.
fn bodyless(mut response: Response) -> Response {
    let length = response.body().size_hint().exact();
    *response.body_mut() = empty();
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    response
}

/// The address of a client, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl ApiServer {
    /// Serves until `shutdown`, then lets open requests end.
    pub async fn serve(&self, listeners: Vec<TcpListener>, tls: ServerTls, shutdown: CancellationToken) {
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
        self.flush().await;
    }
}

async fn accept(listener: TcpListener, tls: ServerTls, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut failures = Failures::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failures.over();
                let place = router.admit(peer.ip());
                let (tls, router, shutdown) = (tls.clone(), router.clone(), shutdown.clone());
                connections.spawn(async move {
                    let own = place.clone();
                    tokio::select! {
                        () = connection(stream, peer, place, tls, router, shutdown) => {}
                        // Said at debug: a client can make it happen as often as it likes.
                        () = own.ended() => debug!(%peer, "too many strangers; the oldest was closed"),
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: what is open may end meanwhile.
                let next = failures.failed(&error);
                if let Some(times) = next.say {
                    warn!(%error, times, "cannot accept connections");
                }
                tokio::select! {
                    () = tokio::time::sleep(next.wait) => {}
                    () = shutdown.cancelled() => {}
                }
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
    place: Place,
    tls: ServerTls,
    router: Router,
    shutdown: CancellationToken,
) {
    let limits = router.limits();
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls.config).accept(Opening::new(stream)).into_fallible();
    let stream = match tokio::time::timeout(limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, stream))) => {
            debug!(%peer, %error, "a TLS handshake failed");
            return stream.end().await;
        }
        Err(_) => return debug!(%peer, "a TLS handshake took too long"),
    };
    let presented = tls.clients.judge(stream.get_ref().1.peer_certificates());
    tls.clients.note_address(presented.as_ref(), peer.ip());
    if let Some(Presented::Good { identity, .. }) = &presented
        && place.known(owner(identity)).is_err()
    {
        return debug!(%peer, user = &*identity.user, "too many connections; one was closed");
    }
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let activity = Activity::new(&limits);
    let guard = Guard::new(activity.clone(), limits.stall_timeout, place.clone());
    let stream = Watched::by(guard, stream);
    let of_requests = activity.clone();
    // Each is an open stream, so there are no more of them than of these.
    let (unwanted, mut given_up) = mpsc::channel(limits.streams_max.max(1) as usize);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut router = router.clone();
        let activity = of_requests.clone();
        let lasts = lasts(&request);
        let underway = activity.begin(lasts);
        let head = request.method() == http::Method::HEAD;
        let in_flight = InFlight::default();
        let mut request = request.map(|body| match lasts {
            Lasts::Watch | Lasts::Stream => body.map_err(Into::into).boxed_unsync(),
            Lasts::No => {
                let unwanted = is_http2.then(|| unwanted.clone());
                Timed::new(body, limits.body_timeout, activity.clone(), unwanted, InFlight::clone(&in_flight))
                    .boxed_unsync()
            }
        });
        if let Some(presented) = &presented {
            request.extensions_mut().insert(presented.clone());
        }
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(place.clone());
        request.extensions_mut().insert(InFlight::clone(&in_flight));
        async move {
            let response = router.call(request).await?;
            if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                activity.upgraded();
            }
            let response = if head && is_http2 { bodyless(response) } else { response };
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, underway, in_flight, head, is_http2)))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The header's time is kept by `Activity`, which knows a silent connection from half a header.
    builder.http1().header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .keep_alive_interval(PING_EVERY);
    // As was agreed in the handshake: nothing is guessed from the first bytes, which may never come.
    let builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let look = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(look);
    let mut ending = false;
    let mut being_read = FuturesUnordered::new();
    let ended = loop {
        // All are cancel-safe: the connection is polled again, the rest is looked at again.
        tokio::select! {
            ended = serving.as_mut() => break ended,
            () = shutdown.cancelled(), if !ending => {
                ending = true;
                being_read.clear();
                serving.as_mut().graceful_shutdown();
            }
            Some(body) = given_up.recv() => if !ending {
                being_read.push(read_unwanted(body, limits.body_timeout));
            },
            Some(()) = being_read.next() => {}
            () = activity.flooded() => return debug!(%peer, "too many requests were taken back"),
            () = look.as_mut() => match activity.verdict(&limits, !is_http2) {
                Verdict::LookAgain(at) => look.as_mut().reset(at),
                Verdict::TooLong if ending => return debug!(%peer, "a connection was cut: nothing came of it"),
                Verdict::TooLong => {
                    ending = true;
                    being_read.clear();
                    serving.as_mut().graceful_shutdown();
                    look.as_mut().reset(tokio::time::Instant::now() + PARTING);
                }
            },
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "a connection ended");
    }
}

/// How long a request may take.
fn lasts<B>(request: &http::Request<B>) -> Lasts {
    const STREAMS: [&str; 6] = ["exec", "attach", "portforward", "proxy", "log", "/watch/"];
    let (path, query) = (request.uri().path(), request.uri().query());
    // Most say at a glance that they are none.
    if !query.is_some_and(|query| query.contains("watch")) && !STREAMS.iter().any(|s| path.contains(s)) {
        return Lasts::No;
    }
    let Some(address) = Address::parse(path) else { return Lasts::No };
    match verb(request.method(), &address, &Query::parse(query)) {
        "watch" => Lasts::Watch,
        verb if is_lasting(&address, verb) => Lasts::Stream,
        _ => Lasts::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watches_and_streams_last() {
        let check = |method: &str, uri: &str, expected: Lasts| {
            let request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
            assert_eq!(lasts(&request), expected, "{method} {uri}");
        };
        check("GET", "/api/v1/pods?watch=true", Lasts::Watch);
        check("GET", "/api/v1/namespaces/n/pods/p/log?follow=true", Lasts::Stream);
        check("POST", "/api/v1/namespaces/n/pods/p/exec?command=ls", Lasts::Stream);
        check("PUT", "/api/v1/nodes/n/proxy/upload", Lasts::Stream);
        check("GET", "/api/v1/watch/namespaces/n/pods", Lasts::Watch);
        check("GET", "/api/v1/pods?watch=false", Lasts::No);
        check("POST", "/api/v1/namespaces/n/configmaps?watch=true", Lasts::No);
        check("POST", "/api/v1/namespaces/log/configmaps", Lasts::No);
        check("PUT", "/api/v1/namespaces/n/configmaps/exec", Lasts::No);
        check("POST", "/apis/authorization.k8s.io/v1/exec", Lasts::No);
    }
}
