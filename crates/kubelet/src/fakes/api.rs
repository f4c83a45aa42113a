//! An API server with the manners that the agent relies on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::{Body, Transport, full};
use tokio::sync::watch;

use super::Gate;

#[derive(Default)]
struct Objects {
    /// By request path.
    by_path: BTreeMap<String, Value>,
    version: u64,
    /// Every change, in order.
    events: Vec<(u64, &'static str, Value)>,
    /// How long tokens hold from now; none are given at first.
    token_seconds: Option<u64>,
    /// Path and body of each request for a token that was granted.
    token_requests: Vec<(String, Value)>,
    reviews: Reviews,
    /// How many times the control plane takes readiness back the moment that it is told.
    contradictions: u32,
    gate: Arc<Gate>,
}

/// What the API says of callers of the node.
#[derive(Default)]
struct Reviews {
    /// Users by token.
    known: BTreeMap<String, String>,
    /// User, verb, and subresource of the node.
    allowed: Vec<[String; 3]>,
    fail: bool,
    asked: Vec<Value>,
}

/// A key-value store with the API's manners: collections, watch, patches, versions.
#[derive(Clone)]
pub(crate) struct FakeApi(Arc<(Mutex<Objects>, watch::Sender<u64>)>);

impl Default for FakeApi {
    fn default() -> Self {
        Self(Arc::new((Mutex::default(), watch::channel(0).0)))
    }
}

impl FakeApi {
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut objects = self.0.0.lock();
        objects.version += 1;
        let version = objects.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let kind =
            if objects.by_path.insert(path.into(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        objects.events.push((version, kind, object));
        self.0.1.send_replace(version);
    }

    pub(crate) fn remove(&self, path: &str) -> bool {
        let mut objects = self.0.0.lock();
        let Some(mut object) = objects.by_path.remove(path) else { return false };
        objects.version += 1;
        let version = objects.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        objects.events.push((version, "DELETED", object));
        self.0.1.send_replace(version);
        true
    }

    /// What the agent's writes about pods pass.
    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.0.0.lock().gate.clone()
    }

    /// From now on tokens are given that hold so long, named `token-1` and on.
    pub(crate) fn grant_tokens_of(&self, seconds: u64) {
        self.0.0.lock().token_seconds = Some(seconds);
    }

    pub(crate) fn token_requests(&self) -> Vec<(String, Value)> {
        self.0.0.lock().token_requests.clone()
    }

    /// As many times, a pod that is told to be ready is said not to be before anybody sees it.
    pub(crate) fn contradict(&self, times: u32) {
        self.0.0.lock().contradictions = times;
    }

    /// How many are left of those.
    pub(crate) fn contradictions(&self) -> u32 {
        self.0.0.lock().contradictions
    }

    /// Says the opposite of a status that was just written, if it is to.
    fn contradiction(&self, object: &Value) -> Option<Value> {
        let mut object = (object["kind"] == "Pod").then(|| object.clone())?;
        let conditions = object["status"]["conditions"].as_array_mut()?;
        let ready = conditions.iter_mut().find(|each| each["type"] == "Ready" && each["status"] == "True")?;
        ready["status"] = json!("False");
        let mut objects = self.0.0.lock();
        objects.contradictions = objects.contradictions.checked_sub(1)?;
        Some(object)
    }

    /// That token is that user's.
    pub(crate) fn know(&self, token: &str, user: &str) {
        self.0.0.lock().reviews.known.insert(token.into(), user.into());
    }

    /// The user may do that to the node's subresource.
    pub(crate) fn allow(&self, user: &str, verb: &str, subresource: &str) {
        self.0.0.lock().reviews.allowed.push([user.into(), verb.into(), subresource.into()]);
    }

    pub(crate) fn fail_reviews(&self) {
        self.0.0.lock().reviews.fail = true;
    }

    /// How often somebody asked who or whether.
    pub(crate) fn reviews(&self) -> usize {
        self.0.0.lock().reviews.asked.len()
    }

    pub(crate) fn last_review(&self) -> Value {
        self.0.0.lock().reviews.asked.last().cloned().unwrap_or_default()
    }

    fn review(&self, mut body: Value) -> Response<Body> {
        let reviews = &mut self.0.0.lock().reviews;
        reviews.asked.push(body.clone());
        if reviews.fail {
            return not_found();
        }
        let spec = &body["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        body["status"] = if spec["token"].is_string() {
            match reviews.known.get(&text(&spec["token"])) {
                Some(user) => json!({"authenticated": true, "user": {"username": user, "groups": ["g"]}}),
                None => json!({"authenticated": false, "error": "unknown"}),
            }
        } else {
            let what = &spec["resourceAttributes"];
            let asked = [text(&spec["user"]), text(&what["verb"]), text(&what["subresource"])];
            json!({"allowed": reviews.allowed.contains(&asked)})
        };
        Response::new(full(body.to_string()))
    }

    fn token(&self, path: String, mut body: Value) -> Response<Body> {
        let mut objects = self.0.0.lock();
        let Some(seconds) = objects.token_seconds else { return not_found() };
        objects.token_requests.push((path, body.clone()));
        let until = crate::time::api_time(crate::time::now() + Duration::from_secs(seconds));
        let token = format!("token-{}", objects.token_requests.len());
        body["status"] = json!({"token": token, "expirationTimestamp": until});
        Response::new(full(body.to_string()))
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.0.lock().by_path.get(path).cloned()
    }

    pub(crate) fn all(&self, part: &str) -> Vec<Value> {
        self.0
            .0
            .lock()
            .by_path
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Every status that an object of that name has had.
    pub(crate) fn history(&self, name: &str) -> Vec<Value> {
        let objects = self.0.0.lock();
        let own = objects.events.iter().filter(|(.., object)| object["metadata"]["name"] == name);
        own.map(|(.., object)| object["status"].clone()).collect()
    }

    /// Waits until `test` holds of the object at `path`.
    pub(crate) async fn until(
        &self,
        path: &str,
        what: &str,
        test: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let mut changes = self.0.1.subscribe();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                let now = self.get(path);
                if test(now.as_ref()) {
                    return now;
                }
                changes.changed().await.expect("the store lives");
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), waiting).await {
            Ok(object) => object,
            Err(_) => panic!("{what}: {:#}", self.get(path).unwrap_or_default()),
        }
    }
}

/// A merge patch, and of a strategic one what the agent uses: conditions by type, lists that are replaced.
fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Array(items) if items.first().is_some_and(|item| item["$patch"] == "replace") => {
            *target = items[1..].to_vec().into();
        }
        Value::Array(items) if items.iter().any(|item| item.get("lastTransitionTime").is_some()) => {
            let mut merged = target.as_array().cloned().unwrap_or_default();
            for item in items {
                let at = merged.iter().position(|old| old["type"] == item["type"]).unwrap_or_else(|| {
                    merged.push(json!({}));
                    merged.len() - 1
                });
                merge(&mut merged[at], item);
            }
            *target = merged.into();
        }
        Value::Object(fields) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    target.as_object_mut().expect("it is one").remove(key);
                } else {
                    merge(&mut target[key], value);
                }
            }
        }
        other => *target = other.clone(),
    }
}

fn not_found() -> Response<Body> {
    let body = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"});
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

/// Whether `path` is an object of the collection at `collection` (of all namespaces, if it names none).
fn is_in(path: &str, collection: &str) -> bool {
    if collection.contains("/namespaces/") || path.matches("/namespaces/").count() == 0 {
        return path.rsplit_once('/').is_some_and(|(parent, _)| parent == collection);
    }
    let Some((_, plural)) = collection.rsplit_once('/') else { return false };
    path.rsplit('/').nth(1) == Some(plural)
}

#[async_trait]
impl Transport for FakeApi {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, skiff_client::Error> {
        let guarded = request.method() != Method::GET && request.uri().path().contains("/pods/");
        if !guarded {
            return self.answer(request).await;
        }
        let gate = self.gate();
        gate.pass().await;
        let answer = self.answer(request).await;
        gate.pass().await;
        answer
    }
}

impl FakeApi {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, skiff_client::Error> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect().await.map_err(skiff_client::Error::Transport)?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = path.trim_end_matches("/status").to_owned();
        let name = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"))
            .map(str::to_owned);
        let selected = move |object: &Value| {
            name.as_ref().is_none_or(|name| object["metadata"]["name"] == name.as_str())
        };
        Ok(match method {
            Method::POST if path.ends_with("/token") => self.token(path, body),
            Method::POST if path.ends_with("reviews") => self.review(body),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or("none").to_owned();
                let path = format!("{path}/{name}");
                self.put(&path, body);
                Response::new(full(self.get(&path).unwrap_or_default().to_string()))
            }
            Method::PATCH => {
                let Some(mut object) = self.get(&path) else { return Ok(not_found()) };
                merge(&mut object, &body);
                self.put(&path, object.clone());
                let object = self.get(&path).unwrap_or_default();
                if let Some(contradiction) = self.contradiction(&object) {
                    self.put(&path, contradiction);
                }
                Response::new(full(object.to_string()))
            }
            Method::DELETE => {
                if self.remove(&path) {
                    Response::new(full("{}"))
                } else {
                    not_found()
                }
            }
            _ if query.contains("watch=true") => {
                let from: u64 = query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("resourceVersion="))
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                let (store, changes) = (self.clone(), self.0.1.subscribe());
                let frames = futures_util::stream::unfold((from, changes), move |(mut seen, mut changes)| {
                    let (store, path, selected) = (store.clone(), path.clone(), selected.clone());
                    async move {
                        loop {
                            changes.borrow_and_update();
                            let next = {
                                let objects = store.0.0.lock();
                                objects.events.iter().find(|(version, ..)| *version > seen).cloned()
                            };
                            let Some((version, kind, object)) = next else {
                                changes.changed().await.ok()?;
                                continue;
                            };
                            seen = version;
                            let own = object_path(&object);
                            if !is_in(&own, &path) || !selected(&object) {
                                continue;
                            }
                            let line = format!("{}\n", json!({"type": kind, "object": object}));
                            let frame = http_body::Frame::data(bytes::Bytes::from(line));
                            return Some((Ok(frame), (seen, changes)));
                        }
                    }
                });
                Response::new(BodyExt::boxed_unsync(http_body_util::StreamBody::new(frames)))
            }
            _ => match self.get(&path) {
                Some(object) => Response::new(full(object.to_string())),
                None if path.rsplit('/').next().is_some_and(|last| last.ends_with('s')) => {
                    let objects = self.0.0.lock();
                    let items: Vec<&Value> = objects
                        .by_path
                        .iter()
                        .filter(|(own, object)| is_in(own, &path) && selected(object))
                        .map(|(_, object)| object)
                        .collect();
                    let list =
                        json!({"metadata": {"resourceVersion": objects.version.to_string()}, "items": items});
                    Response::new(full(list.to_string()))
                }
                None => not_found(),
            },
        })
    }
}

/// Where an object lies, by its kind: only those that tests put.
fn object_path(object: &Value) -> String {
    let (kind, metadata) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]);
    let plural = format!("{}s", kind.to_lowercase());
    let name = metadata["name"].as_str().unwrap_or_default();
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/{plural}/{name}"),
        None => format!("/api/v1/{plural}/{name}"),
    }
}
