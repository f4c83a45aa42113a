//! The lines of the audit log, in upstream's shape: `Event` of `audit.k8s.io/v1`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use k8s_openapi::jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::auth::{Extra, Identity};

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

pub(crate) fn now() -> Timestamp {
    // A clock before 1970 is off anyway.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

/// With microseconds, as upstream writes them.
fn micros<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{at:.6}"))
}

/// An identity as events show it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Extra::is_empty")]
    extra: Extra,
}

impl From<&Identity> for User {
    fn from(who: &Identity) -> Self {
        Self {
            username: who.user.to_string(),
            uid: who.uid.to_string(),
            groups: who.groups.iter().map(ToString::to_string).collect(),
            extra: (*who.extra).clone(),
        }
    }
}

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) subresource: String,
}

impl ObjectReference {
    /// Adds what only the object itself says, such as the name of one that is created.
    pub(crate) fn complete(&mut self, object: &Value) {
        let meta = &object["metadata"];
        let fields = [
            (&mut self.name, "name"),
            (&mut self.namespace, "namespace"),
            (&mut self.uid, "uid"),
            (&mut self.resource_version, "resourceVersion"),
        ];
        for (field, key) in fields {
            if field.is_empty()
                && let Some(text) = meta[key].as_str()
            {
                text.clone_into(field);
            }
        }
    }
}

/// What stays the same in all of a request's events.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    #[serde(rename = "requestURI")]
    pub(crate) request_uri: String,
    pub(crate) verb: String,
    pub(crate) user: User,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user_agent: String,
    #[serde(serialize_with = "micros")]
    pub(crate) request_received_timestamp: Timestamp,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub(crate) kind: &'static str,
    pub(crate) api_version: &'static str,
    pub(crate) level: &'static str,
    #[serde(rename = "auditID")]
    pub(crate) audit_id: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) stage: &'static str,
    #[serde(flatten)]
    pub(crate) head: Head,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) impersonated_user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_object: Option<Value>,
    #[serde(serialize_with = "micros")]
    pub(crate) stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// How a request ended: a failure's whole Status, or just the code.
pub(crate) fn response_status(code: u16, failure: Option<&Status>) -> Value {
    let mut status =
        failure.and_then(|status| serde_json::to_value(status).ok()).unwrap_or_else(|| json!({}));
    if let Value::Object(map) = &mut status {
        map.remove("kind");
        map.remove("apiVersion");
        map.entry("metadata").or_insert_with(|| json!({}));
        map.insert("code".into(), code.into());
    }
    status
}

/// Leaves out who manages which field, in an object or a list's items.
pub(crate) fn without_managed_fields(mut object: Value) -> Value {
    let strip = |object: &mut Value| {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
    };
    strip(&mut object);
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(strip);
    }
    object
}
