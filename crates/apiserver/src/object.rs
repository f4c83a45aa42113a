//! A stored object: its bytes as the store has them, and the little that selectors and lookups need
//! of them, parsed once.
//!
//! Stored bytes are JSON without `kind`, `apiVersion` and `metadata.resourceVersion`, and start with
//! [`HEAD`]; so a single object, a list item and a watch frame with a resource version are each made by
//! putting bytes together, never by parsing.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use skiff_api::json::Json;
use skiff_api::typed::AnyObject;

use crate::resources::Resource;

/// What stored bytes start with; a resource version is inserted after it.
pub(crate) const HEAD: &str = "{\"metadata\":{";

pub(crate) struct Object {
    /// `/STORAGE/NAMESPACE/NAME`, or `/STORAGE/NAME`.
    pub(crate) key: Arc<str>,
    /// The write that made this state; for an object in a DELETED event the deletion's.
    pub(crate) revision: u64,
    pub(crate) body: Bytes,
    pub(crate) uid: Box<str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) deleting: bool,
    /// Values of the resource's selectable fields, in the table's order.
    pub(crate) fields: Box<[Box<str>]>,
    typed: OnceLock<Option<AnyObject>>,
}

/// The parts of an object that selectable fields can be made of, of whichever kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Partial {
    metadata: PartialMeta,
    pub(crate) spec: PartialSpec,
    pub(crate) status: PartialStatus,
    #[serde(rename = "type")]
    pub(crate) type_: String,
    pub(crate) reason: String,
    pub(crate) reporting_component: String,
    pub(crate) source: PartialSource,
    pub(crate) involved_object: PartialReference,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PartialMeta {
    uid: String,
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PartialSpec {
    pub(crate) node_name: String,
    pub(crate) restart_policy: String,
    pub(crate) scheduler_name: String,
    pub(crate) service_account_name: String,
    pub(crate) host_network: bool,
    pub(crate) unschedulable: bool,
    pub(crate) signer_name: String,
    #[serde(rename = "type")]
    pub(crate) type_: String,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PartialStatus {
    pub(crate) phase: String,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: String,
    pub(crate) nominated_node_name: String,
    pub(crate) replicas: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PartialSource {
    pub(crate) component: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PartialReference {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) api_version: String,
    pub(crate) resource_version: String,
    pub(crate) field_path: String,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the stored object {key}")]
pub struct StoredObjectError {
    key: Arc<str>,
    #[source]
    source: serde_json::Error,
}

impl Object {
    pub(crate) fn from_stored(
        resource: &Resource,
        key: Arc<str>,
        revision: u64,
        body: Bytes,
    ) -> Result<Self, StoredObjectError> {
        let partial: Partial = serde_json::from_slice(&body)
            .map_err(|source| StoredObjectError { key: Arc::clone(&key), source })?;
        let fields = resource.fields.iter().map(|f| (f.value)(&partial).into_boxed_str()).collect();
        Ok(Self {
            key,
            revision,
            body,
            uid: partial.metadata.uid.into(),
            deleting: partial.metadata.deletion_timestamp.is_some(),
            labels: partial.metadata.labels,
            fields,
            typed: OnceLock::new(),
        })
    }

    /// The same state, named by a later revision: what a DELETED event shows.
    pub(crate) fn at(&self, revision: u64) -> Self {
        Self {
            key: Arc::clone(&self.key),
            revision,
            body: self.body.clone(),
            uid: self.uid.clone(),
            labels: self.labels.clone(),
            deleting: self.deleting,
            fields: self.fields.clone(),
            typed: OnceLock::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// Empty for an object of the cluster.
    pub(crate) fn namespace(&self) -> &str {
        let mut parts = self.key.split('/').skip(2);
        match (parts.next(), parts.next()) {
            (Some(namespace), Some(_)) => namespace,
            _ => "",
        }
    }

    /// Parsed, with `kind`, `apiVersion` and `metadata.resourceVersion`.
    pub(crate) fn value(&self, resource: &Resource) -> Value {
        let mut value: Value =
            serde_json::from_slice(&self.body).expect("the same bytes were parsed when they were cached");
        if let Value::Object(map) = &mut value {
            map.insert("kind".into(), resource.kind.into());
            map.insert("apiVersion".into(), resource.api_version().into());
            if self.revision != 0
                && let Some(Value::Object(meta)) = map.get_mut("metadata")
            {
                meta.insert("resourceVersion".into(), self.revision.to_string().into());
            }
        }
        value
    }

    /// The typed value, parsed at most once. `None` when the stored bytes don't fit the type.
    pub(crate) fn typed(&self, resource: &Resource) -> Option<AnyObject> {
        self.typed.get_or_init(|| (resource.typed)(&self.json(resource))).clone()
    }

    /// The whole object as JSON.
    pub(crate) fn json(&self, resource: &Resource) -> Bytes {
        let mut out = BytesMut::with_capacity(self.body.len() + 128);
        self.write_json(resource, &mut out);
        out.freeze()
    }

    /// The same in two parts, of which the second is what lies here and no copy.
    pub(crate) fn json_parts(&self, resource: &Resource) -> (Bytes, Bytes) {
        let mut head = BytesMut::with_capacity(128);
        head.put_slice(resource.json_head().as_bytes());
        self.write_revision(&mut head);
        (head.freeze(), self.body.slice(HEAD.len()..))
    }

    /// About how long it is as JSON.
    pub(crate) fn size(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn write_json(&self, resource: &Resource, out: &mut BytesMut) {
        out.put_slice(resource.json_head().as_bytes());
        self.write_after_head(out);
    }

    /// As an item of a list: without kind and version.
    pub(crate) fn write_item(&self, out: &mut BytesMut) {
        out.put_slice(HEAD.as_bytes());
        self.write_after_head(out);
    }

    fn write_after_head(&self, out: &mut BytesMut) {
        self.write_revision(out);
        out.put_slice(&self.body[HEAD.len()..]);
    }

    fn write_revision(&self, out: &mut BytesMut) {
        // What a dry run would have created has none.
        if self.revision != 0 {
            out.put_slice(b"\"resourceVersion\":\"");
            out.put_slice(self.revision.to_string().as_bytes());
            out.put_slice(b"\",");
        }
    }
}

/// The bytes to store for an object: `metadata` first, and without what is known from elsewhere.
pub(crate) fn to_stored(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"metadata\":");
    write_members(&mut out, &value["metadata"], &["resourceVersion"], b'{');
    out.push(b'}');
    write_members(&mut out, value, &["kind", "apiVersion", "metadata"], b',');
    out.push(b'}');
    Bytes::from(out)
}

/// The members of an object but for some, the first one after `before`, the others after a comma.
fn write_members(out: &mut Vec<u8>, object: &Value, without: &[&str], mut before: u8) {
    let written = "a JSON value can be written to memory";
    let members = object.as_object().into_iter().flatten();
    for (key, value) in members.filter(|(key, _)| !without.contains(&key.as_str())) {
        out.push(before);
        before = b',';
        serde_json::to_writer(&mut *out, key).expect(written);
        out.push(b':');
        serde_json::to_writer(&mut *out, value).expect(written);
    }
    if before == b'{' {
        out.push(b'{');
    }
}

/// The reader of a typed kind: the `typed` column of the resource table.
pub(crate) fn typed_as<K>(json: &[u8]) -> Option<AnyObject>
where
    K: Json + Any + Send + Sync,
{
    match K::from_json(json) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::warn!(%error, "a stored object does not fit its type");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::find;

    #[test]
    fn an_object_survives_storing_and_rendering() {
        let pods = find("", "pods").expect("pods are served");
        let value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"x": "y"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c\"quoted"}]},
        });
        let object = Object::from_stored(pods, "/pods/n/a".into(), 7, to_stored(&value)).expect("readable");
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = "7".into();
        assert_eq!(serde_json::from_slice::<Value>(&object.json(pods)).expect("JSON"), expected);
        assert_eq!(object.value(pods), expected);
        assert_eq!((object.namespace(), object.name()), ("n", "a"));
        assert_eq!(object.labels["x"], "y");
        let node = pods.fields.iter().position(|f| f.name == "spec.nodeName").expect("selectable");
        assert_eq!(&*object.fields[node], "node");
    }
}
