//! The audit log: who asked for what, when, and what became of it.
//!
//! What is recorded is upstream's policy ([`Policy`]), how it looks is upstream's event ([`event`]), and
//! [`log`] writes it. A server without a policy has no [`Audit`], and a request costs nothing more. With
//! one, a request that the policy wants recorded carries a [`Record`] as an extension; bodies are kept only
//! as far as the policy's level for this very request goes.

mod event;
mod log;
mod policy;

use std::any::Any;
use std::sync::{Arc, OnceLock};

use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::codec::{self, FieldValidation, Media};
use skiff_api::status::StatusError;

use self::event::{Event, Head, ObjectReference, User, now, response_status, without_managed_fields};
use self::log::Log;
pub use self::log::{LogConfig, LogError};
use self::policy::{Judgement, Level, Stage};
pub use self::policy::{Policy, PolicyError};
use crate::access::Decision;
use crate::auth::{Attributes, Identity};
use crate::decode;
use crate::http_body::{Request, Response, full};
use crate::notes::Notes;
use crate::request::{Address, Query, verb};
use crate::serve::Peer;
use crate::server::{Inner, is_lasting, read_body};

/// What a server is told about its audit log.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    pub policy: Policy,
    pub log: LogConfig,
}

pub(crate) struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    pub(crate) fn open(config: AuditConfig) -> Result<Self, LogError> {
        Ok(Self { policy: config.policy, log: Log::open(config.log)? })
    }

    /// Waits until all events so far are in the file.
    pub(crate) async fn flush(&self) {
        self.log.flush().await;
    }

    /// The beginning of a request: if the policy wants it recorded, it gets a record. `who` is `None` for
    /// somebody who could not show who they are.
    pub(crate) async fn begin(&self, request: &mut Request, who: Option<&Identity>) -> Option<Begun> {
        let record = self.record(request, who)?;
        record.emit(Stage::RequestReceived, None).await;
        if let Some(slot) = request.extensions().get::<Slot>() {
            // It is set once, here.
            let _ = slot.set(Arc::clone(&record));
        }
        let held = record.is_lasting.then(|| Arc::new(Held(Arc::clone(&record))));
        request.extensions_mut().insert(Arc::clone(&record));
        request.extensions_mut().insert(held.clone());
        Some(Begun { record, held })
    }

    fn record(&self, request: &Request, who: Option<&Identity>) -> Option<Arc<Record>> {
        let nobody = Identity { user: "".into(), groups: Arc::default(), ..Identity::anonymous() };
        let who = who.unwrap_or(&nobody);
        let path = request.uri().path();
        let address = Address::parse(path);
        let query = Query::parse(request.uri().query());
        let method = request.method().as_str().to_ascii_lowercase();
        let field_selector = query.given("fieldSelector").unwrap_or_default();
        // A list of one name is that object's to policies, as it is to authorization.
        let named = |address: &Address| {
            let selected = address.selected_name(verb(request.method(), address, &query), field_selector);
            selected.unwrap_or_else(|| address.name.clone())
        };
        let name = address.as_ref().map(named).unwrap_or_default();
        let what = match &address {
            None => Attributes { verb: &method, path, ..Attributes::default() },
            Some(address) => Attributes {
                verb: verb(request.method(), address, &query),
                group: &address.group,
                resource: &address.resource,
                subresource: &address.subresource,
                namespace: &address.namespace,
                name: &name,
                ..Attributes::default()
            },
        };
        let judgement = self.policy.judge(who, &what);
        if judgement.level == Level::None {
            return None;
        }
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let object_ref = address.as_ref().map(|address| ObjectReference {
            resource: address.resource.clone(),
            namespace: address.namespace.clone(),
            name: name.clone(),
            api_group: address.group.clone(),
            api_version: address.version.clone(),
            subresource: address.subresource.clone(),
            ..ObjectReference::default()
        });
        let peer = request.extensions().get::<Peer>();
        Some(Arc::new(Record {
            judgement,
            id: header("audit-id").map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
            head: Head {
                request_uri: request.uri().path_and_query().map_or(path, |uri| uri.as_str()).to_owned(),
                verb: what.verb.to_owned(),
                user: User::from(who),
                source_ips: peer.map(|peer| peer.0.ip().to_canonical().to_string()).into_iter().collect(),
                user_agent: header("user-agent").unwrap_or_default().to_owned(),
                request_received_timestamp: now(),
            },
            is_lasting: address.as_ref().is_some_and(|address| is_lasting(address, what.verb)),
            known: Mutex::new(Known { object_ref, ..Known::default() }),
            notes: Arc::default(),
            log: self.log.clone(),
        }))
    }
}

/// Where a record is found when its request's handler has panicked.
pub(crate) type Slot = Arc<OnceLock<Arc<Record>>>;

/// A request that is recorded, and is not complete yet.
pub(crate) struct Begun {
    record: Arc<Record>,
    /// Of a request whose answer goes on and on.
    held: Option<Arc<Held>>,
}

/// One request's part of the log.
pub(crate) struct Record {
    judgement: Judgement,
    id: String,
    head: Head,
    is_lasting: bool,
    known: Mutex<Known>,
    notes: Arc<Notes>,
    log: Log,
}

/// What comes to be known of a request while it is served.
#[derive(Default)]
struct Known {
    object_ref: Option<ObjectReference>,
    impersonated: Option<User>,
    request_object: Option<Value>,
    response_object: Option<Value>,
    status: Option<Value>,
}

/// The notes of a request: those of its record, if it has one.
pub(crate) fn notes(extensions: &http::Extensions) -> Arc<Notes> {
    extensions.get::<Arc<Record>>().map(|record| Arc::clone(&record.notes)).unwrap_or_default()
}

/// Keeps what a request sends, as far as its record wants it. The request stays as it was.
pub(crate) async fn keep_body(
    request: Request,
    address: &Address,
    verb: &str,
) -> Result<Request, StatusError> {
    let Some(record) = request.extensions().get::<Arc<Record>>().cloned() else { return Ok(request) };
    let sends = matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection");
    if !sends || record.is_lasting {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    if let Some(object) = object(&parts.headers, address, verb, &bytes) {
        record.sent(verb, object);
    }
    Ok(http::Request::from_parts(parts, full(bytes)))
}

/// What a request's body says. `None` for what nobody could read, which its answer will tell.
fn object(headers: &http::HeaderMap, address: &Address, verb: &str, bytes: &[u8]) -> Option<Value> {
    if bytes.is_empty() {
        return None;
    }
    match (verb, address.row()) {
        ("create" | "update", Some(row))
            if address.subresource.is_empty() || address.subresource == "status" =>
        {
            let media = Media::of(headers.get("content-type").and_then(|value| value.to_str().ok()))?;
            codec::decode(bytes, media, &decode::kind_of(row), FieldValidation::Ignore).ok().map(|d| d.value)
        }
        _ => [Media::Json, Media::Yaml]
            .into_iter()
            .find_map(|media| codec::parse(bytes, media).ok().map(|(value, _)| value)),
    }
}

/// Whether a failure's message may quote the request's body. Others are about who asks, and about the path.
fn quotes(failure: &Status) -> bool {
    !matches!(failure.code, Some(401 | 403 | 404 | 405 | 409 | 410 | 429))
}

/// Notes how a request was authorized.
pub(crate) fn note_decision(inner: &Inner, request: &Request, who: &Identity, what: &Attributes<'_>) {
    let Some(record) = request.extensions().get::<Arc<Record>>() else { return };
    let (decision, reason) = match inner.access.decide(who, what) {
        Decision::Allowed(why) => ("allow", why.to_string()),
        Decision::Denied(why) => ("forbid", why),
    };
    record.notes.annotate("authorization.k8s.io/decision".into(), decision.into());
    record.notes.annotate("authorization.k8s.io/reason".into(), reason);
}

impl Record {
    fn sent(&self, verb: &str, object: Value) {
        let mut known = self.known.lock();
        if verb != "patch"
            && let Some(object_ref) = &mut known.object_ref
        {
            object_ref.complete(&object);
        }
        if self.judgement.level >= Level::Request {
            known.request_object = Some(self.shown(object));
        }
    }

    fn shown(&self, object: Value) -> Value {
        if self.judgement.omit_managed_fields { without_managed_fields(object) } else { object }
    }

    async fn end_answer(&self, mut response: Response) -> Response {
        let mut answered = None;
        if self.judgement.level == Level::RequestResponse {
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            answered = serde_json::from_slice(&bytes).ok();
            response = http::Response::from_parts(parts, full(bytes));
        }
        self.known.lock().response_object = answered.map(|object| self.shown(object));
        self.emit(Stage::ResponseComplete, None).await;
        response
    }

    /// The handler panicked, with this.
    pub(crate) fn panicked(&self, panic: Box<dyn Any + Send>) -> impl Future<Output = ()> + Send {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        // In upstream's words; the client isn't told what was said.
        let mut status = StatusError::internal("").0;
        (status.message, status.details) = (Some(format!("APIServer panic'd: {said}")), None);
        let known = self.known.lock();
        let is_secret = known.object_ref.as_ref().is_some_and(|about| about.resource == "secrets");
        drop(known);
        let told = if is_secret { self.told(&status) } else { *status };
        self.emit(Stage::Panic, Some(response_status(500, Some(&told))))
    }

    /// A failure as far as the level goes: what is said of a body quotes it.
    fn told(&self, failure: &Status) -> Status {
        let mut told = failure.clone();
        if quotes(failure) && self.judgement.level < Level::Request {
            told.message = None;
            let causes = told.details.iter_mut().flat_map(|details| details.causes.iter_mut().flatten());
            causes.for_each(|cause| cause.message = None);
        }
        told
    }

    async fn emit(&self, stage: Stage, status: Option<Value>) {
        if let Some(event) = self.event(stage, status) {
            self.log.write(event).await;
        }
    }

    /// The event of a stage, if it is wanted.
    fn event(&self, stage: Stage, status: Option<Value>) -> Option<Event> {
        if self.judgement.omitted.contains(stage) {
            return None;
        }
        let known = self.known.lock();
        let received = stage == Stage::RequestReceived;
        Some(Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.judgement.level.name(),
            audit_id: self.id.clone(),
            stage: stage.name(),
            head: self.head.clone(),
            impersonated_user: known.impersonated.clone(),
            object_ref: known.object_ref.clone(),
            response_status: status.or_else(|| known.status.clone()),
            request_object: known.request_object.clone(),
            response_object: known.response_object.clone(),
            stage_timestamp: if received { self.head.request_received_timestamp } else { now() },
            annotations: self.notes.annotations().into_iter().collect(),
        })
    }
}

impl Begun {
    /// Whose request it is from now on.
    pub(crate) fn impersonated(&self, who: &Identity) {
        self.record.known.lock().impersonated = Some(User::from(who));
    }

    /// The end of a request, or of its beginning if its answer goes on and on.
    pub(crate) async fn finish(self, response: Response, failure: Option<&Status>) -> Response {
        let Self { record, held } = self;
        let code = response.status().as_u16();
        let told = failure.map(|failure| record.told(failure));
        record.known.lock().status = Some(response_status(code, told.as_ref()));
        let mut response = match held {
            Some(held) => {
                if failure.is_none() {
                    record.emit(Stage::ResponseStarted, None).await;
                }
                response.map(|body| {
                    // A closure that lives as long as the body, whose end is the request's.
                    let ending = move |frame| {
                        let _ = &held;
                        frame
                    };
                    body.map_frame(ending).boxed_unsync()
                })
            }
            None => record.end_answer(response).await,
        };
        if let Ok(id) = record.id.parse() {
            response.headers_mut().insert("audit-id", id);
        }
        response
    }
}

/// Keeps a lasting request from being complete. The last one that is dropped completes it.
pub(crate) struct Held(Arc<Record>);

impl Drop for Held {
    fn drop(&mut self) {
        // That has an event of its own.
        if std::thread::panicking() {
            return;
        }
        if let Some(event) = self.0.event(Stage::ResponseComplete, None) {
            self.0.log.write_now(event);
        }
    }
}

/// What a stream that outlives its answer keeps, so that the request ends with it.
pub(crate) fn held(request: &Request) -> Option<Arc<Held>> {
    request.extensions().get::<Option<Arc<Held>>>().cloned().flatten()
}
