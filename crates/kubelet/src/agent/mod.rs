//! The agent's server, port 10250: what the API server asks nodes for, at upstream's paths.
//!
//! Who may call is [`door`]'s to say.

mod door;
mod exec;
mod followed;
mod log_stream;
mod platform;
mod replay;
mod skiff;
mod stats;
mod streams;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use skiff_client::{Body, BoxError};
use skiff_runtime::{Container, ContainerState};
use skiff_streams::accepting::Failures;
use skiff_streams::places::{Bounds, Owner, Place, Places};
use skiff_streams::{Opening, Watched};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::door::{Door, Peer};
pub(crate) use self::exec::LEFT_MAX as COMMANDS_LEFT_MAX;
use self::followed::Followed;
pub(crate) use self::stats::Samples;
use crate::labels;
use crate::node_context::Context;
use crate::observed::is_over;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of the handshake, or of an answer, to the end of a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer other than success, as plain text.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

pub(crate) type Answer = Result<Response<Body>, Refusal>;

/// Serves one node.
pub(crate) struct Server {
    context: Arc<Context>,
    /// Rung when images come or go.
    images_changed: Arc<Notify>,
    door: Door,
    connections: Places,
    followed: Followed,
}

impl Server {
    pub(crate) fn new(context: Arc<Context>, images_changed: Arc<Notify>) -> Self {
        let door = Door::new(context.client.clone(), context.config.node_name.clone());
        let serving = context.config.serving.bounds;
        let per_source_max = (serving.connections_max / 8).max(1);
        let bounds = Bounds {
            connections_max: serving.connections_max,
            per_source_max,
            // No node has anything to ask of another.
            per_node_max: per_source_max,
            privileged_max: serving.privileged_connections_max,
        };
        let followed = Followed::new(serving);
        Self { context, images_changed, door, connections: Places::new(bounds), followed }
    }

    pub(crate) async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut failures = Failures::default();
        loop {
            // All of these are cancel-safe.
            tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        failures.over();
                        let place = server.connections.enter(from.ip());
                        let server = server.clone();
                        connections.spawn(async move {
                            tokio::select! {
                                () = server.connection(stream, place.clone()) => {}
                                // Said at debug: who connects can make it happen as often as they like.
                                () = place.ended() => debug!(%from, "too many strangers; the oldest was closed"),
                            }
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, mostly: others may finish meanwhile.
                        let next = failures.failed(&error);
                        if let Some(times) = next.say {
                            let error = &error as &dyn std::error::Error;
                            warn!(error, times, "cannot accept connections");
                        }
                        tokio::select! {
                            () = tokio::time::sleep(next.wait) => {}
                            () = shutdown.cancelled() => return,
                        }
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Serves a connection, which holds its `place` to its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, place: Place) {
        let _ = stream.set_nodelay(true);
        // Below TLS, so that a handshake is heard too.
        let stream = Watched::by(place.clone(), stream);
        let allowed = self.context.config.serving.allowed_names.clone();
        match self.context.config.serving.tls.clone() {
            None => {
                let peer = if allowed.is_empty() { Peer::ApiServer } else { Peer::Unknown };
                self.serve(stream, peer, place).await;
            }
            Some(tls) => {
                if let Some(mut ready) = self.context.config.serving.ready.clone() {
                    let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT, ready.wait_for(|ready| *ready)).await;
                }
                let accepting = TlsAcceptor::from(tls).accept(Opening::new(stream)).into_fallible();
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
                    Ok(Ok(stream)) => {
                        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        let peer = Peer::of(certificate.map(|certificate| &**certificate), &allowed);
                        self.serve(stream, peer, place).await;
                    }
                    Ok(Err((error, stream))) => {
                        debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
                        stream.end().await;
                    }
                    Err(_) => debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S, peer: Peer, place: Place)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // A certificate of the cluster's authority is good whatever its bearer may do here.
        let full = peer != Peer::Unknown && place.known(peer.owner()).is_err();
        // Who looks after the node is told: its clients' commands and logs have these connections.
        if full && peer.owner() != Owner::Privileged {
            return debug!("too many connections of one client; one was closed");
        }
        let peer = Arc::new(peer);
        let service = service_fn(move |request| {
            let (server, peer, place) = (self.clone(), peer.clone(), place.clone());
            async move {
                Ok::<_, Infallible>(match full {
                    true => too_many_connections(),
                    false => server.answer(request, &peer, &place).await,
                })
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        // As was agreed in the handshake: nothing is guessed from the first bytes, which may never come.
        let builder = builder.http1_only();
        if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
            debug!(error, "a connection to the agent ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer, place: &Place) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let result = match self.door.admit(peer, request.headers(), request.method(), &path).await {
            Ok(()) if place.known(Owner::Client).is_err() => {
                Err(Refusal(StatusCode::TOO_MANY_REQUESTS, "too many connections".into()))
            }
            Ok(()) => self.route(request, &path).await,
            Err(refusal) => Err(refusal),
        };
        result.unwrap_or_else(|Refusal(status, message)| {
            let mut response = text(message);
            *response.status_mut() = status;
            response
        })
    }

    async fn route(&self, request: Request<Incoming>, path: &str) -> Answer {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match (request.method(), parts.as_slice()) {
            (_, ["exec", namespace, pod, container]) => {
                let id = self.running(namespace, pod, container).await?.id;
                exec::exec(&self.context, id, &query, request)
            }
            (_, ["attach", namespace, pod, container]) => {
                let newest = self.history(namespace, pod, container).await?.into_iter().next();
                let has_one_user = self.has_one_user(namespace, pod, container);
                match newest {
                    Some(runs) if runs.state == ContainerState::Running => {
                        streams::attach(&self.context, runs, has_one_user, &query, request)
                    }
                    Some(ended) if is_over(&ended) && has_one_user => streams::replay(ended, &query, request),
                    _ => Err(Refusal(
                        StatusCode::NOT_FOUND,
                        format!("container {container} not found in pod {pod}_{namespace}"),
                    )),
                }
            }
            (_, ["portForward", namespace, pod]) => {
                let sandbox = self.sandbox(namespace, pod).await?;
                streams::port_forward(&self.context, sandbox, &query, request)
            }
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                log_stream::answer(&self.context, &self.followed, [namespace, pod, container], &query).await
            }
            (&Method::GET, ["healthz"]) => Ok(text("ok")),
            (&Method::GET, ["pods"]) => {
                let items: Vec<_> = self.context.pods.list();
                let items: Vec<&k8s_openapi::api::core::v1::Pod> = items.iter().map(|pod| &**pod).collect();
                json(
                    &serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
                )
            }
            (&Method::GET, ["skiff", "ps"]) => skiff::ps(&self.context).await,
            (&Method::GET, ["skiff", "status"]) => platform::status(&self.context).await,
            (&Method::GET, ["skiff", "logs"]) => platform::logs(&self.context, query.is("follow")).await,
            (&Method::GET, ["skiff", "explain", of @ ..]) => {
                crate::explain::answer(&self.context, of, &query).await
            }
            (&Method::POST, ["skiff", "explain", of @ ..]) => {
                crate::explain::act(&self.context, of, &query).await
            }
            (&Method::GET, ["stats", "summary"]) => stats::summary(&self.context).await,
            (&Method::GET, ["metrics"]) => crate::explain::metrics(&self.context),
            (_, ["skiff", "images"]) => {
                let answer = skiff::images(&self.context, &query, request).await;
                self.images_changed.notify_one();
                answer
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".into())),
        }
    }

    /// The container that runs under that name.
    async fn running(&self, namespace: &str, pod: &str, name: &str) -> Result<Container, Refusal> {
        let containers = self.history(namespace, pod, name).await?;
        containers.into_iter().find(|container| container.state == ContainerState::Running).ok_or_else(|| {
            let message = format!("container not found (\"{name}\")");
            Refusal(StatusCode::NOT_FOUND, message)
        })
    }

    /// Whether the container's input is for one client alone.
    fn has_one_user(&self, namespace: &str, pod: &str, name: &str) -> bool {
        let pod = self.context.pods.get(&skiff_client::ObjectKey::new(namespace, pod));
        let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
        let mut containers = spec.into_iter().flat_map(|spec| &spec.containers);
        containers.any(|each| each.name == name && each.stdin_once.unwrap_or(false))
    }

    async fn history(&self, namespace: &str, pod: &str, name: &str) -> Result<Vec<Container>, Refusal> {
        history(&self.context, namespace, pod, name).await
    }

    async fn sandbox(&self, namespace: &str, pod: &str) -> Result<skiff_runtime::SandboxId, Refusal> {
        let sandboxes = self.context.runtime.list_sandboxes().await.map_err(internal)?;
        let found = sandboxes
            .into_iter()
            .find(|sandbox| sandbox.ready && is_of(&sandbox.config.labels, namespace, pod));
        found
            .map(|sandbox| sandbox.id)
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod not found (\"{pod}_{namespace}\")")))
    }
}

/// The containers of that name, newest first.
async fn history(
    context: &Context,
    namespace: &str,
    pod: &str,
    name: &str,
) -> Result<Vec<Container>, Refusal> {
    let mut containers = context.runtime.list_containers().await.map_err(internal)?;
    let current = context.pods.get(&skiff_client::ObjectKey::new(namespace, pod));
    let uid = current.and_then(|pod| pod.metadata.uid.clone());
    containers.retain(|container| {
        is_of(&container.labels, namespace, pod)
            && labels::container_name(container) == name
            && uid.as_deref().is_none_or(|uid| labels::uid(&container.labels) == uid)
    });
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    Ok(containers)
}

fn is_of(of: &std::collections::BTreeMap<String, String>, namespace: &str, pod: &str) -> bool {
    of.get(labels::POD_NAMESPACE).is_some_and(|own| own == namespace)
        && of.get(labels::POD_NAME).is_some_and(|own| own == pod)
}

/// The last answer on a connection of who has as many as they may.
fn too_many_connections() -> Response<Body> {
    let mut response = text("too many connections to this node, please try again later");
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}

pub(crate) fn internal(error: impl std::error::Error) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, crate::images::chain(&error))
}

pub(crate) fn text(text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    let value = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    response
}

pub(crate) fn json(value: &impl serde::Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(internal)?;
    let mut response = Response::new(full(bytes.into()));
    let value = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    Ok(response)
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| -> BoxError { match never {} }).boxed_unsync()
}

/// A decoded query string; a name may occur more than once.
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    fn parse(query: &str) -> Self {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(&name.replace('+', " "))).or_default().push(decode(&value.replace('+', " ")));
        }
        Self(values)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|values| values.first()).map(String::as_str)
    }

    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// `1` or `true`, as both are sent.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true"))
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                decoded.push(code);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_decode() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22&tty=1&stdin=true&x");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a&b\""]);
        assert!(query.is("tty") && query.is("stdin") && !query.is("x") && !query.is("none"));
    }
}
