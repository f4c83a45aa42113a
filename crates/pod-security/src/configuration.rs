//! Defaults and exemptions: upstream's `PodSecurityConfiguration`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use skiff_api::status::Cause;
use skiff_api::validate::names;

use crate::policy::{Mode, Policy};

const GROUP: &str = "pod-security.admission.config.k8s.io";

/// Who or what no policy applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Exemptions {
    pub usernames: Vec<String>,
    pub runtime_classes: Vec<String>,
    pub namespaces: Vec<String>,
}

/// What holds where a namespace's labels say nothing, and what nothing holds for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    pub defaults: Policy,
    pub exemptions: Exemptions,
}

/// Why a configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationError {
    /// Another kind or version, a field that is not there, or a value of the wrong type.
    Shape(String),
    /// Values that mean nothing, each with its field.
    Values(Vec<Cause>),
}

impl std::fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shape(why) => f.write_str(why),
            Self::Values(causes) => {
                let texts: Vec<String> =
                    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
                f.write_str(&texts.join(", "))
            }
        }
    }
}

impl std::error::Error for ConfigurationError {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

impl Configuration {
    /// Reads a document of the kind `PodSecurityConfiguration`.
    pub fn read(document: &Value) -> Result<Self, ConfigurationError> {
        let document: Document =
            Document::deserialize(document).map_err(|error| ConfigurationError::Shape(error.to_string()))?;
        let known = ["v1", "v1beta1", "v1alpha1"].map(|version| format!("{GROUP}/{version}"));
        if document.kind != "PodSecurityConfiguration" || !known.contains(&document.api_version) {
            return Err(ConfigurationError::Shape(format!(
                "no kind {:?} is registered for version {:?}: expected PodSecurityConfiguration of {GROUP}/v1",
                document.kind, document.api_version
            )));
        }
        let mut faults = Vec::new();
        let defaults = document.defaults.policy(&mut faults);
        document.exemptions.validate(&mut faults);
        match faults.is_empty() {
            true => Ok(Self { defaults, exemptions: document.exemptions }),
            false => Err(ConfigurationError::Values(faults)),
        }
    }
}

impl Defaults {
    fn policy(&self, faults: &mut Vec<Cause>) -> Policy {
        let mut policy = Policy::default();
        for mode in [Mode::Enforce, Mode::Warn, Mode::Audit] {
            let (level, version) = match mode {
                Mode::Enforce => (&self.enforce, &self.enforce_version),
                Mode::Audit => (&self.audit, &self.audit_version),
                Mode::Warn => (&self.warn, &self.warn_version),
            };
            let held = policy.of_mut(mode);
            let field = format!("defaults.{}", mode.name());
            if !level.is_empty() {
                match level.parse() {
                    Ok(level) => held.level = level,
                    Err(why) => faults.push(Cause::invalid(&field, level.as_str(), why)),
                }
            }
            if !version.is_empty() {
                match version.parse() {
                    Ok(version) => held.version = version,
                    Err(why) => {
                        faults.push(Cause::invalid(format!("{field}-version"), version.as_str(), why));
                    }
                }
            }
        }
        policy
    }
}

impl Exemptions {
    fn validate(&self, faults: &mut Vec<Cause>) {
        unique("exemptions.namespaces", &self.namespaces, faults, |field, name| {
            names::label(name).map(|why| Cause::invalid(field, name, why))
        });
        unique("exemptions.runtimeClasses", &self.runtime_classes, faults, |field, name| {
            names::subdomain(name).map(|why| Cause::invalid(field, name, why))
        });
        unique("exemptions.usernames", &self.usernames, faults, |field, name| {
            name.is_empty().then(|| Cause::required(field, ""))
        });
    }
}

fn unique(
    path: &str,
    values: &[String],
    faults: &mut Vec<Cause>,
    fault: impl Fn(String, &str) -> Option<Cause>,
) {
    let mut seen = BTreeSet::new();
    for (at, value) in values.iter().enumerate() {
        let field = format!("{path}[{at}]");
        match fault(field.clone(), value) {
            Some(fault) => faults.push(fault),
            None if !seen.insert(value) => faults.push(Cause::duplicate(field, value.as_str())),
            None => {}
        }
    }
}
