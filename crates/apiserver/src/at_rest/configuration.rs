//! Upstream's `EncryptionConfiguration`, read and checked; its faults name the field.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::status::Cause;

use super::chain::Step;
use super::cipher::Cipher;

pub(super) const API_VERSION: &str = "apiserver.config.k8s.io/v1";
pub(super) const KIND: &str = "EncryptionConfiguration";

/// Why an encryption configuration can't be used. Never shows a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    #[error("{0}")]
    Shape(String),
    #[error("{}", .0.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>().join(", "))]
    Values(Vec<Cause>),
}

/// The resources of one entry, and how they are stored.
pub(super) struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`.
    resources: Vec<String>,
    pub(super) steps: Vec<Arc<Step>>,
}

impl Rule {
    pub(super) fn covers(&self, group: &str, resource: &str) -> bool {
        self.resources.iter().any(|named| {
            let (named, of) = group_resource(named);
            (of == group || (named, of) == ("*", "*")) && (named == resource || named == "*")
        })
    }
}

/// Resource and group of a text as `deployments.apps`.
fn group_resource(text: &str) -> (&str, &str) {
    text.split_once('.').unwrap_or((text, ""))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A provider that has keys: its name, how long they are, and what it makes of one.
struct Kind {
    name: &'static str,
    lengths: &'static [usize],
    cipher: fn(&[u8]) -> Option<Cipher>,
}

const GCM: Kind = Kind { name: "aesgcm", lengths: &[16, 24, 32], cipher: Cipher::gcm };
const CBC: Kind = Kind { name: "aescbc", lengths: &[16, 24, 32], cipher: Cipher::cbc };
const SECRETBOX: Kind = Kind { name: "secretbox", lengths: &[32], cipher: Cipher::secretbox };

/// Reads a document of the kind `EncryptionConfiguration`.
pub(super) fn read(document: &Value) -> Result<Vec<Rule>, ConfigurationError> {
    let document =
        Document::deserialize(document).map_err(|error| ConfigurationError::Shape(error.to_string()))?;
    if document.kind != KIND || document.api_version != API_VERSION {
        return Err(ConfigurationError::Shape(format!(
            "no kind {:?} is registered for version {:?}: expected {KIND} of {API_VERSION}",
            document.kind, document.api_version
        )));
    }
    let mut faults = Vec::new();
    if document.resources.is_empty() {
        faults.push(at_least_one("resources"));
    }
    let rules: Vec<Rule> = document
        .resources
        .into_iter()
        .enumerate()
        .map(|(at, entry)| entry.rule(&format!("resources[{at}]"), &mut faults))
        .collect();
    if faults.is_empty() { Ok(rules) } else { Err(ConfigurationError::Values(faults)) }
}

fn at_least_one(field: &str) -> Cause {
    Cause::required(field, format!("at least one {field} is required"))
}

impl Entry {
    fn rule(self, path: &str, faults: &mut Vec<Cause>) -> Rule {
        let field = format!("{path}.resources");
        if self.resources.is_empty() {
            faults.push(at_least_one(&field));
        }
        overlaps(&field, &self.resources, faults);
        for (at, resource) in self.resources.iter().enumerate() {
            if let Some(why) = unusable(resource) {
                faults.push(Cause::invalid(format!("{field}[{at}]"), resource.as_str(), why));
            }
        }
        let field = format!("{path}.providers");
        if self.providers.is_empty() {
            faults.push(at_least_one(&field));
        }
        let steps = self.providers.iter().enumerate();
        let steps = steps
            .flat_map(|(at, provider)| provider.steps(&format!("{field}[{at}]"), faults))
            .map(Arc::new)
            .collect();
        Rule { resources: self.resources, steps }
    }
}

fn overlaps(field: &str, resources: &[String], faults: &mut Vec<Cause>) {
    let pairs = || {
        resources
            .iter()
            .enumerate()
            .flat_map(|(at, a)| resources[at + 1..].iter().map(move |b| (a.as_str(), b.as_str())))
    };
    let refused = |why: &str| Cause::invalid(field, json!(resources), why);
    if pairs().any(|(a, b)| a == b) {
        faults.push(refused("the same resource cannot be specified multiple times"));
    }
    let overlap = pairs().filter(|(a, b)| a != b).any(|(a, b)| {
        let ((resource, group), (other, of)) = (group_resource(a), group_resource(b));
        a == "*.*" || b == "*.*" || (group == of && (resource == "*" || other == "*"))
    });
    if overlap {
        faults.push(refused(
            "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed \
             as they will be masked",
        ));
    }
}

/// Why a resource can't be named.
fn unusable(resource: &str) -> Option<&'static str> {
    let (name, group) = group_resource(resource);
    match (resource, name, group) {
        _ if resource.chars().any(char::is_uppercase) => {
            Some("resource name should not contain capital letters")
        }
        ("*", ..) => {
            Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
        }
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, _, "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in \
             the config file",
        ),
        (_, _, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, name, "*") if name != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

impl Provider {
    fn steps(&self, path: &str, faults: &mut Vec<Cause>) -> Vec<Step> {
        let keyed = [(&GCM, &self.aesgcm), (&CBC, &self.aescbc), (&SECRETBOX, &self.secretbox)];
        let keyed: Vec<(&Kind, &Keys)> =
            keyed.into_iter().filter_map(|(kind, keys)| Some((kind, keys.as_ref()?))).collect();
        let others = usize::from(self.identity.is_some()) + usize::from(self.kms.is_some());
        match (keyed.len() + others, &keyed[..]) {
            (0, _) => {
                let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, \
                           Secretbox, Identity";
                faults.push(Cause::invalid(path, json!({}), why));
                Vec::new()
            }
            (1, [(kind, keys)]) => keys.steps(kind, &format!("{path}.{}.keys", kind.name), faults),
            (1, _) if self.kms.is_some() => {
                let why = "plugins of key management services are not supported by this server";
                faults.push(Cause::forbidden(format!("{path}.kms"), why));
                Vec::new()
            }
            (1, _) => vec![Step::Identity],
            _ => {
                let why = "more than one provider specified in a single element, should split into different \
                           list elements";
                faults.push(Cause::invalid(path, "REDACTED", why));
                Vec::new()
            }
        }
    }
}

impl Keys {
    fn steps(&self, kind: &Kind, path: &str, faults: &mut Vec<Cause>) -> Vec<Step> {
        if self.keys.is_empty() {
            faults.push(Cause::required(path, "at least one keys is required"));
        }
        let keys = self.keys.iter().enumerate();
        keys.filter_map(|(at, key)| key.step(kind, &format!("{path}[{at}]"), faults)).collect()
    }
}

impl Key {
    fn step(&self, kind: &Kind, path: &str, faults: &mut Vec<Cause>) -> Option<Step> {
        if self.name.is_empty() {
            faults.push(Cause::required(format!("{path}.name"), "name is a mandatory field for a key"));
        }
        let field = format!("{path}.secret");
        if self.secret.is_empty() {
            faults.push(Cause::required(field, "secret is a mandatory field for a key"));
            return None;
        }
        let Ok(secret) = STANDARD.decode(&self.secret) else {
            faults.push(Cause::invalid(field, "REDACTED", "secrets must be base64 encoded"));
            return None;
        };
        let Some(cipher) = (kind.cipher)(&secret) else {
            let lengths: Vec<String> = kind.lengths.iter().map(usize::to_string).collect();
            let why = format!(
                "secret is not of the expected length, got {}, expected one of [{}]",
                secret.len(),
                lengths.join(" ")
            );
            faults.push(Cause::invalid(field, "REDACTED", why));
            return None;
        };
        Some(Step::Key { prefix: format!("k8s:enc:{}:v1:{}:", kind.name, self.name), cipher })
    }
}
