//! Requests for typed objects.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use k8s_openapi::{ClusterResourceScope, Metadata};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use skiff_api::json::Json;
use skiff_api::typed;

use crate::transport::{Body, Transport, empty, full};
use crate::watch::{Unreadable, WatchStream};
use crate::{Error, ObjectKey};

/// How long one request may take, watches excepted.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A kind that the API serves as objects of its own.
pub trait Object:
    k8s_openapi::Resource + Metadata<Ty = ObjectMeta> + Json + Clone + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: k8s_openapi::Resource + Metadata<Ty = ObjectMeta> + Json + Clone + Send + Sync + 'static
{
}

/// Which objects of a collection, as of which version.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    /// `None` is all namespaces.
    pub namespace: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// See the API's rules: unset is latest, `0` is any.
    pub resource_version: Option<String>,
}

/// A collection at one resource version.
pub struct List<K> {
    pub items: Vec<Arc<K>>,
    /// Objects that are there too, and that this program can't read.
    pub unreadable: Vec<ObjectKey>,
    pub resource_version: String,
}

/// The patch formats that the API server takes.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Merges lists by their keys.
    Strategic(Value),
}

/// How to delete.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions>,
}

/// Requests to one API server, under one identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl Client {
    /// A client that sends through `transport`.
    pub fn new(transport: impl Transport) -> Self {
        Self { transport: Arc::new(transport) }
    }

    /// Sends any request (path and query as URI) and returns the answer whatever its status.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.transport.send(request).await
    }

    /// The object of that name. `namespace` is ignored for kinds that have none.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<Arc<K>, Error> {
        self.object(Method::GET, path::<K>(Some(namespace), Some(name), None), None).await
    }

    /// As [`Client::get`], with `None` where it does not exist.
    pub async fn find<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Error> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates `object` in the namespace its metadata names.
    pub async fn create<K: Object>(&self, object: &K) -> Result<Arc<K>, Error> {
        let path = path::<K>(object.metadata().namespace.as_deref(), None, None);
        self.object(Method::POST, path, Some(whole(object)?)).await
    }

    /// Creates `object` as [`Client::create`] does, for who doesn't ask what it has become.
    pub async fn create_unread<K: Object>(&self, object: &K) -> Result<(), Error> {
        let path = path::<K>(object.metadata().namespace.as_deref(), None, None);
        let mut request = request(Method::POST, &path, Some(whole(object)?))?;
        request.extensions_mut().insert(typed::Unread);
        read(self.bounded(request).await?).await.map(drop)
    }

    /// Replaces the object; a `resourceVersion` in its metadata makes that conditional.
    pub async fn update<K: Object>(&self, object: &K) -> Result<Arc<K>, Error> {
        self.put(object, None).await
    }

    /// Replaces the object's status alone.
    pub async fn update_status<K: Object>(&self, object: &K) -> Result<Arc<K>, Error> {
        self.put(object, Some("status")).await
    }

    /// Replaces the part of the object that a subresource stands for.
    pub async fn update_subresource<K: Object>(
        &self,
        object: &K,
        subresource: &str,
    ) -> Result<Arc<K>, Error> {
        self.put(object, Some(subresource)).await
    }

    async fn put<K: Object>(&self, object: &K, subresource: Option<&str>) -> Result<Arc<K>, Error> {
        let metadata = object.metadata();
        let path = path::<K>(metadata.namespace.as_deref(), metadata.name.as_deref(), subresource);
        self.object(Method::PUT, path, Some(whole(object)?)).await
    }

    /// Patches the object or one of its subresources.
    pub async fn patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        patch: &Patch,
    ) -> Result<Arc<K>, Error> {
        let (content_type, value) = match patch {
            Patch::Json(value) => ("application/json-patch+json", value),
            Patch::Merge(value) => ("application/merge-patch+json", value),
            Patch::Strategic(value) => ("application/strategic-merge-patch+json", value),
        };
        let body = Some((content_type, json(value)?.1));
        self.object(Method::PATCH, path::<K>(Some(namespace), Some(name), subresource), body).await
    }

    /// Deletes the object, or starts its graceful deletion.
    pub async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let request =
            request(Method::DELETE, &path::<K>(Some(namespace), Some(name), None), Some(json(options)?))?;
        read(self.bounded(request).await?).await.map(drop)
    }

    /// Posts to a subresource whose answer is no `K`, such as `binding` or `eviction`.
    pub async fn create_subresource<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<Bytes, Error> {
        let path = path::<K>(Some(namespace), Some(name), Some(subresource));
        read(self.bounded(request(Method::POST, &path, Some(json(body)?))?).await?).await
    }

    /// The matching objects at one version. One that does not fit its type is named, and keeps nobody from
    /// the others.
    pub async fn list<K: Object>(&self, params: &ListParams) -> Result<List<K>, Error> {
        let path = path::<K>(params.namespace.as_deref(), None, None) + &query(params, &[]);
        let response = self.bounded(request(Method::GET, &path, None)?).await?;
        if let Some(list) = response.extensions().get::<typed::List>() {
            let items = list.items.iter().cloned().map(downcast).collect::<Result<_, _>>()?;
            let unreadable = Vec::new();
            return Ok(List { items, unreadable, resource_version: list.resource_version.clone() });
        }
        let bytes = read(response).await?;
        let (present, resource_version) = items_of(&bytes)?;
        let (mut items, mut unreadable) = (Vec::with_capacity(present.len()), Vec::new());
        for item in present {
            let json = item.get().as_bytes();
            match decode(json) {
                Ok(object) => items.push(object),
                Err(why) => unreadable.push(Unreadable::of::<K>(json, false, why)?.key),
            }
        }
        Ok(List { items, unreadable, resource_version })
    }

    /// Changes after `params.resource_version`. Ends when the server ends it; an `Err` is the last item.
    pub async fn watch<K: Object>(&self, params: &ListParams) -> Result<WatchStream<K>, Error> {
        let more = [("watch", "true"), ("allowWatchBookmarks", "true")];
        let path = path::<K>(params.namespace.as_deref(), None, None) + &query(params, &more);
        let response = self.bounded(request(Method::GET, &path, None)?).await?;
        if let Some(stream) = response.extensions().get::<typed::Watch>().and_then(typed::Watch::take) {
            return Ok(WatchStream::typed(stream));
        }
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(WatchStream::of_lines(response.into_body()))
    }

    async fn object<K: Object>(
        &self,
        method: Method,
        path: String,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Arc<K>, Error> {
        match self.answer(method, path, body).await? {
            Answer::Typed(object) => downcast(object),
            Answer::Bytes(bytes) => decode(&bytes),
        }
    }

    async fn answer(
        &self,
        method: Method,
        path: String,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Answer, Error> {
        let response = self.bounded(request(method, &path, body)?).await?;
        if let Some(typed::Object(object)) = response.extensions().get() {
            return Ok(Answer::Typed(object.clone()));
        }
        read(response).await.map(Answer::Bytes)
    }

    async fn bounded(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.transport.send(request))
            .await
            .unwrap_or(Err(Error::Timeout { seconds: REQUEST_TIMEOUT.as_secs() }))
    }
}

/// The URL path of a collection, object or subresource of kind `K`.
fn path<K: Object>(namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
    let mut path = match K::GROUP {
        "" => format!("/api/{}", K::VERSION),
        group => format!("/apis/{group}/{}", K::VERSION),
    };
    let namespaced = std::any::TypeId::of::<K::Scope>() != std::any::TypeId::of::<ClusterResourceScope>();
    if let Some(namespace) = namespace.filter(|namespace| namespaced && !namespace.is_empty()) {
        let _ = write!(path, "/namespaces/{namespace}");
    }
    let _ = write!(path, "/{}", K::URL_PATH_SEGMENT);
    for part in [name, subresource].into_iter().flatten() {
        let _ = write!(path, "/{part}");
    }
    path
}

fn query(params: &ListParams, more: &[(&str, &str)]) -> String {
    let mut query = String::new();
    let own = [
        ("labelSelector", params.label_selector.as_deref()),
        ("fieldSelector", params.field_selector.as_deref()),
        ("resourceVersion", params.resource_version.as_deref()),
    ];
    let own = own.iter().filter_map(|(key, value)| value.map(|value| (*key, value)));
    for (key, value) in own.chain(more.iter().copied()) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(key);
        query.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    query.push(byte as char)
                }
                _ => {
                    let _ = write!(query, "%{byte:02X}");
                }
            }
        }
    }
    query
}

fn request(method: Method, path: &str, body: Option<(&'static str, Bytes)>) -> Result<Request<Body>, Error> {
    let builder = Request::builder().method(method).uri(path).header("accept", "application/json");
    match body {
        Some((content_type, bytes)) => builder.header("content-type", content_type).body(full(bytes)),
        None => builder.body(empty()),
    }
    .map_err(|error| Error::Encode(error.into()))
}

fn json(value: &impl Serialize) -> Result<(&'static str, Bytes), Error> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(("application/json", bytes.into())),
        Err(error) => Err(Error::Encode(error.into())),
    }
}

fn whole<K: Object>(object: &K) -> Result<(&'static str, Bytes), Error> {
    match object.to_json() {
        Ok(bytes) => Ok(("application/json", bytes.into())),
        Err(error) => Err(Error::Encode(error.into())),
    }
}

pub(crate) fn decode<K: Object>(json: &[u8]) -> Result<Arc<K>, Error> {
    K::from_json(json).map(Arc::new).map_err(|error| Error::Decode(error.into()))
}

/// The items of a list, not yet read, and its resource version.
fn items_of(list: &[u8]) -> Result<(Vec<&RawValue>, String), Error> {
    #[derive(serde::Deserialize)]
    struct Wire<'a> {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    let wire: Wire<'_> = serde_json::from_slice(list).map_err(|error| Error::Decode(error.into()))?;
    Ok((wire.items, wire.metadata.resource_version.unwrap_or_default()))
}

pub(crate) fn downcast<K: Object>(object: typed::AnyObject) -> Result<Arc<K>, Error> {
    object.downcast().map_err(|_| Error::Decode("the server's object is of another kind".into()))
}

async fn read(response: Response<Body>) -> Result<Bytes, Error> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    collect(response.into_body()).await
}

async fn collect(body: Body) -> Result<Bytes, Error> {
    tokio::time::timeout(REQUEST_TIMEOUT, body.collect())
        .await
        .map_err(|_| Error::Timeout { seconds: REQUEST_TIMEOUT.as_secs() })?
        .map(|collected| collected.to_bytes())
        .map_err(Error::Transport)
}

/// The server's Status, or one made of its plain text.
async fn refusal(response: Response<Body>) -> Error {
    let code = response.status();
    let bytes = match collect(response.into_body()).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    let mut status: Status = serde_json::from_slice(&bytes).unwrap_or_else(|_| Status {
        message: Some(format!("{code}: {}", String::from_utf8_lossy(&bytes).trim())),
        ..Status::default()
    });
    status.code.get_or_insert(i32::from(code.as_u16()));
    Error::Status(Box::new(status))
}

/// An object as the server has given it.
enum Answer {
    Typed(typed::AnyObject),
    Bytes(Bytes),
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    #[test]
    fn paths_follow_scope_and_group() {
        use k8s_openapi::api::apps::v1::Deployment;
        assert_eq!(path::<Pod>(Some("a"), Some("b"), Some("status")), "/api/v1/namespaces/a/pods/b/status");
        assert_eq!(path::<Pod>(None, None, None), "/api/v1/pods");
        assert_eq!(path::<Node>(Some("ignored"), Some("n"), None), "/api/v1/nodes/n");
        assert_eq!(path::<Deployment>(Some("a"), None, None), "/apis/apps/v1/namespaces/a/deployments");
    }

    #[test]
    fn queries_are_percent_encoded() {
        let params = ListParams { field_selector: Some("spec.nodeName=a b".into()), ..ListParams::default() };
        assert_eq!(query(&params, &[("watch", "true")]), "?fieldSelector=spec.nodeName%3Da%20b&watch=true");
    }
}
