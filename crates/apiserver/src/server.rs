//! The server itself: what it is built of, and how requests get to it. Their way through it is [`route`]'s.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use skiff_api::codec::FieldValidation;
use skiff_api::status::StatusError;
use skiff_api::typed;
use skiff_store::Store;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::access::Access;
use crate::audit::{self, Audit};
use crate::auth::{Attributes, Identity};
use crate::authn::last_used::Uses;
use crate::cache::{CacheError, Caches, Loaded};
use crate::claims::Claims;
use crate::config::Config;
use crate::encoding::Packer;
use crate::http_body::{Body, Request, Response, lazy};
use crate::limits::guarded::BodyTimeout;
use crate::limits::lasting::Lasting;
use crate::limits::watches::Watches;
use crate::limits::{Gate, Limits, Slot};
use crate::notes::Notes;
use crate::object::Object;
use crate::render::{Include, Renderer};
use crate::request::{Address, Query};
use crate::resources::{Resource, of_storage};
use crate::serve::Peer;
use crate::tokens::{Keys, KeysError, Tokens};
use crate::{at_rest, authn, clock, limits, metrics, rbac, render, route, seed};
use skiff_streams::places::{Place, Places};

/// The largest request body, as upstream has it.
pub(crate) const BODY_MAX: usize = 3 * 1024 * 1024;

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) access: Access,
    pub(crate) audit: Option<Audit>,
    /// The server's own, for what it does by itself.
    pub(crate) own_identity: Identity,
    /// Cluster IPs, node ports and pod ranges, and whose they are.
    pub(crate) claims: Claims,
    pub(crate) openapi: crate::openapi::OpenApi,
    pub(crate) agents: crate::agents::Agents,
    pub(crate) gate: Gate,
    pub(crate) watches: Watches,
    pub(crate) lasting: Lasting,
    pub(crate) packer: Packer,
    pub(crate) requests: metrics::Requests,
    pub(crate) connections: Places,
    pub(crate) tokens: Tokens,
    pub(crate) token_uses: Uses,
    pub(crate) stopping: CancellationToken,
}

/// One request, understood.
pub(crate) struct Call {
    pub(crate) who: Identity,
    pub(crate) address: Address,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The caller takes typed values.
    pub(crate) wanted: bool,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    pub(crate) notes: Arc<Notes>,
}

impl Call {
    pub(crate) fn warn(&self, texts: Vec<String>) {
        for text in texts {
            self.notes.warn(text);
        }
    }
}

impl Inner {
    /// The row that the objects of `row` are stored as.
    pub(crate) fn stored_row(&self, row: &'static Resource) -> &'static Resource {
        if row.conversion.is_none() {
            return row;
        }
        of_storage(row.storage).expect("each storage has a row of its own shape")
    }

    pub(crate) fn renderer(&self, call: &Call, row: &'static Resource) -> Result<Renderer, StatusError> {
        Ok(Renderer {
            row,
            stored: self.stored_row(row),
            accepted: render::negotiate(&call.headers, true)?,
            include: Include::parse(call.query.get("includeObject"))?,
            now: clock::now(),
        })
    }

    /// The answer of one object, typed for callers in this process.
    pub(crate) fn object_response(
        &self,
        call: &Call,
        row: &'static Resource,
        code: StatusCode,
        object: &Arc<Object>,
    ) -> Result<Response, StatusError> {
        let renderer = self.renderer(call, row)?;
        if call.wanted
            && renderer.is_plain()
            && let Some(value) = object.typed(renderer.stored)
        {
            let object = Arc::clone(object);
            let body = lazy(move || renderer.object(&object));
            let mut response = render::json_response(code, body);
            response.extensions_mut().insert(typed::Object(value));
            return Ok(response);
        }
        Ok(render::respond(code, renderer.object(object), renderer.accepted.yaml))
    }

    pub(crate) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Audit(#[from] audit::LogError),
    #[error("cannot fill the caches")]
    Cache(#[from] CacheError),
    #[error("cannot have the keys of service accounts' tokens")]
    Keys(#[from] KeysError),
    #[error("cannot set up the objects of a new cluster")]
    Seed(#[source] StatusError),
}

/// The API server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

impl ApiServer {
    /// Loads the store, starts following it, and sets up what a new cluster has.
    pub async fn build(config: Config, store: Arc<dyn Store>) -> Result<Self, BuildError> {
        let keys = match &config.account_keys {
            Some(dir) => Keys::open(dir)?,
            None => Keys::ephemeral()?,
        };
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let audit = config.audit.clone().map(Audit::open).transpose()?;
        let Loaded { caches, events, stale } = Caches::load(&*store, &config.at_rest).await?;
        let stopping = CancellationToken::new();
        let follower = Arc::clone(&caches);
        let stopped = stopping.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                failed = follower.follow(events) => {
                    if !stopped.is_cancelled() {
                        error!(error = %failed, "the caches can't follow the store; the server stops");
                        stopped.cancel();
                    }
                }
            }
        });
        let (token_uses, uses) = Uses::new();
        let inner = Inner {
            token_uses,
            agents: crate::agents::Agents::new(config.agent_tls.clone()),
            gate: Gate::new(&config.limits),
            watches: Watches::new(&config.limits),
            lasting: Lasting::new(&config.limits),
            packer: Packer::default(),
            requests: metrics::Requests::default(),
            connections: Places::new(config.limits.places()),
            tokens: Tokens::new(keys, &issuer),
            config,
            store,
            access: Access::new(&caches),
            claims: Claims::new(&caches),
            audit,
            caches,
            own_identity: Identity::new("system:apiserver", &["system:masters"]),
            openapi: crate::openapi::OpenApi::new(),
            stopping,
        };
        let server = Self { inner: Arc::new(inner) };
        rbac::bootstrap::run(&server.inner).await.map_err(BuildError::Seed)?;
        for claim in server.inner.claims.shared() {
            tracing::warn!(?claim, "more than one object holds a value that is one object's alone");
        }
        seed::objects(&server.inner).await.map_err(BuildError::Seed)?;
        authn::own_token::publish(&server.inner).await.map_err(BuildError::Seed)?;
        if server.inner.config.pki.is_some() {
            tokio::spawn(authn::own_token::sweep(Arc::clone(&server.inner)));
        }
        tokio::spawn(seed::keep(Arc::clone(&server.inner)));
        tokio::spawn(authn::last_used::keep(Arc::clone(&server.inner), uses));
        tokio::spawn(at_rest::rewrite(Arc::clone(&server.inner), stale));
        Ok(server)
    }

    /// The whole API as a service for callers in this process, who put an [`Identity`] (and
    /// [`typed::Wanted`]) into the request's extensions.
    pub fn router(&self) -> Router {
        Router { inner: Arc::clone(&self.inner) }
    }

    /// A token of a service account (name, UID) that is good as long as a Secret holds it.
    pub fn account_token(
        &self,
        namespace: &str,
        account: (&str, &str),
        secret: &str,
    ) -> Result<String, KeysError> {
        self.inner.tokens.issue_kept(namespace, account, secret)
    }

    /// Encrypts by another configuration from now on, and writes anew what is stored by the former one, which
    /// this server goes on reading. Returns when that is done.
    pub async fn encrypt_by(&self, at_rest: &crate::at_rest::AtRest) {
        let stale = self.inner.caches.store_by(at_rest);
        at_rest::rewrite(Arc::clone(&self.inner), stale).await;
    }

    /// Ends all watches and the follower of the store. Resolves [`ApiServer::stopped`].
    pub fn stop(&self) {
        self.inner.stopping.cancel();
    }

    /// Waits until what requests have left to be written is written: the audit log.
    pub async fn flush(&self) {
        if let Some(audit) = &self.inner.audit {
            audit.flush().await;
        }
    }

    /// Resolves when the server was stopped, or can't go on.
    pub async fn stopped(&self) {
        self.inner.stopping.cancelled().await;
    }
}

/// The API as a `tower` service.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

impl Router {
    pub(crate) fn limits(&self) -> Limits {
        self.inner.config.limits
    }

    /// A place for a new connection, whose owner is not known yet.
    pub(crate) fn admit(&self, source: IpAddr) -> Place {
        self.inner.connections.enter(source)
    }
}

impl tower_service::Service<Request> for Router {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let recorded = inner.audit.as_ref().map(|_| audit::Slot::default());
            if let Some(slot) = &recorded {
                request.extensions_mut().insert(Arc::clone(slot));
            }
            let response = match AssertUnwindSafe(route::answer(inner, request)).catch_unwind().await {
                Ok(response) => response,
                Err(panic) => {
                    error!(path, "a request made the server panic");
                    if let Some(record) = recorded.as_ref().and_then(|slot| slot.get()) {
                        record.panicked(panic).await;
                    }
                    render::error(&StatusError::internal("the server could not finish the request"))
                }
            };
            Ok(response)
        })
    }
}

/// Reads a body whole, up to the limit. One that says beforehand that it is larger is not begun with.
pub(crate) async fn read_body(mut body: Body) -> Result<Bytes, StatusError> {
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(StatusError::too_large(BODY_MAX));
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<BodyTimeout>() {
            true => StatusError::timeout("Timeout: request did not complete within the allotted timeout"),
            false => StatusError::bad_request(format!("cannot read the request's body: {error}")),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > BODY_MAX {
            return Err(StatusError::too_large(BODY_MAX));
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

pub(crate) fn identity(request: &Request) -> Identity {
    request.extensions().get::<Identity>().cloned().unwrap_or_else(Identity::anonymous)
}

pub(crate) fn authorize(inner: &Inner, who: &Identity, what: &Attributes<'_>) -> Result<(), StatusError> {
    inner.access.check(who, what)
}

/// A place among the requests in flight.
pub(crate) fn enter(inner: &Inner, request: &Request, who: &Identity) -> Result<Slot, StatusError> {
    let kind = if request.method().is_safe() { limits::Kind::ReadOnly } else { limits::Kind::Mutating };
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    inner.gate.enter(kind, who, source, !request.body().is_end_stream())
}

/// Watches and streams hold nothing that others wait for.
pub(crate) fn is_lasting(address: &Address, verb: &str) -> bool {
    verb == "watch"
        || matches!(address.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}
