//! Upstream's audit policy: which requests are recorded, how much of them, and at which stages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::status::Cause;
use skiff_api::validate::names;

use crate::auth::{Attributes, Identity};

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When in a request's life an event is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    RequestReceived = 1,
    /// Of requests whose answers go on and on.
    ResponseStarted = 2,
    ResponseComplete = 4,
    Panic = 8,
}

const LEVELS: &[(&str, Level)] = &[
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];

const STAGES: &[(&str, Stage)] = &[
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

impl Level {
    pub(crate) fn name(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        STAGES.iter().find(|(_, stage)| *stage == self).map_or("", |(name, _)| name)
    }
}

/// A set of stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stages(u8);

impl Stages {
    pub(crate) fn contains(self, stage: Stage) -> bool {
        self.0 & stage as u8 != 0
    }
}

/// What the first rule that matches a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) level: Level,
    pub(crate) omitted: Stages,
    pub(crate) omit_managed_fields: bool,
}

/// A policy that can be used.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    says: Judgement,
    matches: RuleText,
}

/// Why a policy can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{0}")]
    Shape(String),
    #[error("{}", .0.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>().join(", "))]
    Values(Vec<Cause>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    /// Allowed, and without meaning.
    #[serde(default, rename = "metadata")]
    _metadata: BTreeMap<String, Value>,
    #[serde(default)]
    rules: Vec<RuleText>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RuleText {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads a document of the kind `Policy` of `audit.k8s.io/v1`.
    pub fn read(document: &Value) -> Result<Self, PolicyError> {
        let document =
            Document::deserialize(document).map_err(|error| PolicyError::Shape(error.to_string()))?;
        if document.kind != "Policy" || document.api_version != "audit.k8s.io/v1" {
            return Err(PolicyError::Shape(format!(
                "no kind {:?} is registered for version {:?}: expected Policy of audit.k8s.io/v1",
                document.kind, document.api_version
            )));
        }
        let mut faults = Vec::new();
        let omitted = stages("omitStages", &document.omit_stages, &mut faults);
        if document.rules.is_empty() {
            faults.push(Cause::required("rules", "loaded illegal policy with 0 rules"));
        }
        let mut rules = Vec::with_capacity(document.rules.len());
        for (at, text) in document.rules.into_iter().enumerate() {
            let path = format!("rules[{at}]");
            text.validate(&path, &mut faults);
            let own = stages(&format!("{path}.omitStages"), &text.omit_stages, &mut faults);
            let level = LEVELS.iter().find(|(name, _)| *name == text.level).map_or(Level::None, |(_, l)| *l);
            let omit_managed_fields = text.omit_managed_fields.unwrap_or(document.omit_managed_fields);
            let says = Judgement { level, omitted: Stages(omitted.0 | own.0), omit_managed_fields };
            rules.push(Rule { says, matches: text });
        }
        if faults.is_empty() { Ok(Self { rules }) } else { Err(PolicyError::Values(faults)) }
    }

    /// What is to be recorded of a request: nothing, if no rule matches.
    pub(crate) fn judge(&self, who: &Identity, what: &Attributes<'_>) -> Judgement {
        let none = Judgement { level: Level::None, omitted: Stages::default(), omit_managed_fields: false };
        self.rules.iter().find(|rule| rule.matches.matches(who, what)).map_or(none, |rule| rule.says)
    }
}

fn stages(field: &str, texts: &[String], faults: &mut Vec<Cause>) -> Stages {
    let mut set = Stages::default();
    for (at, text) in texts.iter().enumerate() {
        match STAGES.iter().find(|(name, _)| name == text) {
            Some((_, stage)) => set.0 |= *stage as u8,
            None => {
                let names: Vec<&str> = STAGES.iter().map(|(name, _)| *name).collect();
                let why = format!("allowed stages are {}", names.join(","));
                faults.push(Cause::invalid(format!("{field}[{at}]"), text.as_str(), why));
            }
        }
    }
    set
}

impl RuleText {
    fn validate(&self, path: &str, faults: &mut Vec<Cause>) {
        let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
        match self.level.as_str() {
            "" => faults.push(Cause::required(format!("{path}.level"), "")),
            level if !names.contains(&level) => {
                faults.push(Cause::not_supported(format!("{path}.level"), level, &names));
            }
            _ => {}
        }
        let field = format!("{path}.nonResourceURLs");
        for (at, url) in self.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let mut fault =
                |why: &str| faults.push(Cause::invalid(format!("{field}[{at}]"), url.as_str(), why));
            if !url.starts_with('/') {
                fault("non-resource URL rules must begin with a '/' character");
            }
            if url.find('*').is_some_and(|star| star + 1 != url.len()) {
                fault("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for resources in &self.resources {
            if let Some(why) = names::subdomain(&resources.group).filter(|_| !resources.group.is_empty()) {
                faults.push(Cause::invalid(format!("{path}.resources.group"), resources.group.as_str(), why));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                faults.push(Cause::invalid(
                    format!("{path}.resources.resourceNames"),
                    json!(resources.resource_names),
                    "using resourceNames requires at least one resource",
                ));
            }
        }
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            faults.push(Cause::invalid(field, json!(self.non_resource_urls), why));
        }
    }

    fn matches(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == text);
        if !self.users.is_empty() && !has(&self.users, &who.user) {
            return false;
        }
        if !self.user_groups.is_empty() && !who.groups.iter().any(|group| has(&self.user_groups, group)) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, what.verb) {
            return false;
        }
        let is_path = what.resource.is_empty();
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return !is_path
                && (self.namespaces.is_empty() || has(&self.namespaces, what.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|named| named.matches(what)));
        }
        if !self.non_resource_urls.is_empty() {
            return is_path && self.non_resource_urls.iter().any(|url| path_matches(url, what.path));
        }
        true
    }
}

fn path_matches(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl GroupResources {
    fn matches(&self, what: &Attributes<'_>) -> bool {
        if self.group != what.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.iter().any(|name| name == what.name) {
            return false;
        }
        self.resources.iter().any(|named| match named.split_once('/') {
            None => named == "*" || (named == what.resource && what.subresource.is_empty()),
            Some((resource, "*")) => resource == what.resource,
            Some(("*", subresource)) => !what.subresource.is_empty() && subresource == what.subresource,
            Some((resource, subresource)) => resource == what.resource && subresource == what.subresource,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        let document = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, {text}}}");
        let document: Value = serde_yaml_ng::from_str(&document).expect("YAML");
        Policy::read(&document).map_err(|error| error.to_string())
    }

    /// A request as `verb user resource[/subresource] namespace/name`, or `verb user /path`.
    fn level(policy: &Policy, request: &str) -> &'static str {
        let words: Vec<&str> = request.split(' ').collect();
        let mut what = Attributes { verb: words[0], ..Attributes::default() };
        if words[2].starts_with('/') {
            what.path = words[2];
        } else {
            let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let (namespace, name) = words[3].split_once('/').unwrap_or(("", words[3]));
            what = Attributes { resource, subresource, group, namespace, name, ..what };
        }
        policy.judge(&Identity::new(words[1], &["team"]), &what).level.name()
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let policy = policy(
            "rules: [
              {level: None, users: [watcher], verbs: [watch, list], resources: [{resources: [endpoints]}]},
              {level: None, userGroups: [other, nobody]},
              {level: None, nonResourceURLs: ['/healthz*', '/version']},
              {level: Request, resources: [{resources: [configmaps], resourceNames: [trust]}], namespaces: [kube-system]},
              {level: Metadata, resources: [{resources: [secrets, configmaps, 'serviceaccounts/token']}]},
              {level: RequestResponse, resources: [{group: apps}]},
              {level: Request, resources: [{resources: ['*/status', 'pods/*']}]},
              {level: None, resources: [{resources: ['*']}], namespaces: ['']},
              {level: RequestResponse, userGroups: [team], verbs: [delete]}]",
        )
        .expect("a policy");
        for (request, expected) in [
            ("watch watcher endpoints n/e", "None"),
            ("get jane endpoints n/e", "None"),
            ("get jane /healthz/ping", "None"),
            ("update jane configmaps kube-system/trust", "Request"),
            ("update jane configmaps kube-system/other", "Metadata"),
            ("get jane secrets n/s", "Metadata"),
            ("create jane serviceaccounts/token n/a", "Metadata"),
            ("get jane serviceaccounts n/a", "None"),
            ("get jane secrets/status n/s", "Request"),
            ("get jane deployments.apps n/d", "RequestResponse"),
            ("get jane deployments.apps/scale n/d", "RequestResponse"),
            ("create jane pods/exec n/p", "Request"),
            ("get jane pods n/p", "Request"),
            ("update jane nodes/status n1", "Request"),
            ("delete jane nodes n1", "None"),
            ("delete jane services n/s", "RequestResponse"),
            ("get jane /apis", "None"),
            ("delete jane /apis", "RequestResponse"),
        ] {
            assert_eq!(level(&policy, request), expected, "{request}");
        }
    }

    #[test]
    fn stages_and_managed_fields_are_left_out_by_rule_or_for_all() {
        let policy = policy(
            "omitStages: [RequestReceived], omitManagedFields: true, rules: [
              {level: Metadata, verbs: [get], omitStages: [ResponseStarted], omitManagedFields: false}, {level: Request}]",
        )
        .expect("a policy");
        let judge =
            |verb| policy.judge(&Identity::anonymous(), &Attributes { verb, ..Attributes::default() });
        let (get, put) = (judge("get"), judge("put"));
        assert!(get.omitted.contains(Stage::RequestReceived) && get.omitted.contains(Stage::ResponseStarted));
        assert!(
            put.omitted.contains(Stage::RequestReceived) && !put.omitted.contains(Stage::ResponseStarted)
        );
        assert_eq!((get.omit_managed_fields, put.omit_managed_fields), (false, true));
    }

    #[test]
    fn faults_name_their_field() {
        for (text, fault) in [
            ("rules: []", "rules: Required value: loaded illegal policy with 0 rules"),
            ("rules: [{}]", "rules[0].level: Required value"),
            (
                "rules: [{level: All}]",
                "rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [healthz]}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"healthz\": non-resource URL rules must begin with a '/' character",
            ),
            (
                "rules: [{level: None, nonResourceURLs: ['/a*b']}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule",
            ),
            (
                "rules: [{level: None, nonResourceURLs: ['/a'], namespaces: [n]}]",
                "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and non-resource URLs",
            ),
            (
                "rules: [{level: None, resources: [{resourceNames: [a]}]}]",
                "rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames requires at least one resource",
            ),
            (
                "rules: [{level: None, resources: [{group: apps/v1}]}]",
                "rules[0].resources.group: Invalid value: \"apps/v1\": a lowercase RFC 1123 subdomain",
            ),
            (
                "omitStages: [Started], rules: [{level: None}]",
                "omitStages[0]: Invalid value: \"Started\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
            ),
            ("rules: [{level: None, user: [a]}]", "unknown field `user`"),
        ] {
            let error = policy(text).expect_err(text);
            assert!(error.contains(fault), "{error}");
        }
    }
}
