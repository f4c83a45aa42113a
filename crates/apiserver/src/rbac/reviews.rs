//! May I, may they, and what may I: the reviews of `authorization.k8s.io/v1`.

use std::sync::Arc;

use http::{Method, StatusCode};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SelfSubjectRulesReviewSpec, SubjectAccessReviewSpec,
};
use serde_json::{Value, json};
use skiff_api::status::{Cause, StatusError};

use super::rule::{Rule, aggregate};
use crate::access::{Access, Decision};
use crate::auth::{Attributes, Identity};
use crate::http_body::{Request, Response, full};
use crate::request::Address;
use crate::server::{Inner, read_body};
use crate::{decode, metadata, render};

const GROUP: &str = "authorization.k8s.io";
const VERSION: &str = "authorization.k8s.io/v1";

/// `None` when the address is none of these reviews'.
pub(crate) async fn answer(
    server: &Inner,
    address: &Address,
    who: &Identity,
    request: Request,
) -> Result<Option<Response>, StatusError> {
    let kind = match address.resource.as_str() {
        "selfsubjectaccessreviews" => "SelfSubjectAccessReview",
        "subjectaccessreviews" => "SubjectAccessReview",
        "localsubjectaccessreviews" => "LocalSubjectAccessReview",
        "selfsubjectrulesreviews" => "SelfSubjectRulesReview",
        _ => return Ok(None),
    };
    let local = kind == "LocalSubjectAccessReview";
    if address.group != GROUP
        || address.version != "v1"
        || !address.name.is_empty()
        || local == address.namespace.is_empty()
    {
        return Ok(None);
    }
    if request.method() != Method::POST {
        return Err(StatusError::method_not_allowed());
    }
    render::negotiate(request.headers(), false)?;
    let (parts, body) = request.into_parts();
    let mut review = decode::any(&parts.headers, &read_body(body).await?, VERSION, kind)?;
    review["kind"] = kind.into();
    review["apiVersion"] = VERSION.into();
    review["status"] = match kind {
        "SelfSubjectRulesReview" => rules(&server.access, who, &review)?,
        _ => access(&server.access, who, kind, &address.namespace, &review)?,
    };
    Ok(Some(render::json_response(StatusCode::CREATED, full(review.to_string()))))
}

fn access(
    access: &Access,
    who: &Identity,
    kind: &str,
    namespace: &str,
    review: &Value,
) -> Result<Value, StatusError> {
    let spec: SubjectAccessReviewSpec = serde_json::from_value(review["spec"].clone())
        .map_err(|error| StatusError::bad_request(error.to_string()))?;
    let faults = faults(kind, namespace, review, &spec);
    if !faults.is_empty() {
        return Err(StatusError::invalid(GROUP, kind, "", &faults));
    }
    if kind == "LocalSubjectAccessReview" {
        let asked = spec.resource_attributes.as_ref().and_then(|what| what.namespace.as_deref());
        if asked.unwrap_or_default() != namespace {
            let why = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
            return Err(StatusError::bad_request(why));
        }
    }
    let subject = match kind {
        "SelfSubjectAccessReview" => who.clone(),
        _ => subject(&spec),
    };
    let decision = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(what), _) => access.decide(&subject, &on_resource(what)),
        (None, Some(what)) => access.decide(&subject, &on_path(what)),
        (None, None) => Decision::Denied(String::new()),
    };
    let (allowed, reason) = match decision {
        Decision::Allowed(why) => (true, why.to_string()),
        Decision::Denied(why) => (false, why),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    Ok(status)
}

fn on_resource(what: &ResourceAttributes) -> Attributes<'_> {
    fn text(field: &Option<String>) -> &str {
        field.as_deref().unwrap_or_default()
    }
    Attributes {
        verb: text(&what.verb),
        group: text(&what.group),
        resource: text(&what.resource),
        subresource: text(&what.subresource),
        namespace: text(&what.namespace),
        name: text(&what.name),
        field_selector: what
            .field_selector
            .as_ref()
            .and_then(|selector| selector.raw_selector.as_deref())
            .unwrap_or_default(),
        ..Attributes::default()
    }
}

fn on_path(what: &NonResourceAttributes) -> Attributes<'_> {
    Attributes {
        verb: what.verb.as_deref().unwrap_or_default(),
        path: what.path.as_deref().unwrap_or_default(),
        ..Attributes::default()
    }
}

/// Whom a review asks about: exactly the groups that it names.
fn subject(spec: &SubjectAccessReviewSpec) -> Identity {
    Identity {
        user: spec.user.as_deref().unwrap_or_default().into(),
        uid: spec.uid.as_deref().unwrap_or_default().into(),
        groups: spec.groups.iter().flatten().map(|group| Arc::from(group.as_str())).collect(),
        extra: Arc::new(spec.extra.clone().unwrap_or_default()),
    }
}

fn faults(kind: &str, namespace: &str, review: &Value, spec: &SubjectAccessReviewSpec) -> Vec<Cause> {
    let mut faults = Vec::new();
    let raw = |field: &str| review["spec"][field].clone();
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(_)) => faults.push(Cause::invalid(
            "spec.nonResourceAttributes",
            raw("nonResourceAttributes"),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => faults.push(Cause::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let nobody =
        spec.user.as_deref().unwrap_or_default().is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty);
    if kind != "SelfSubjectAccessReview" && nobody {
        faults.push(Cause::invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    let local = kind == "LocalSubjectAccessReview";
    let given = metadata::text(review, "namespace");
    let rest = review["metadata"].as_object().into_iter().flatten();
    let others = rest
        .filter(|(key, value)| {
            !matches!(key.as_str(), "namespace" | "managedFields" | "creationTimestamp") && !value.is_null()
        })
        .count();
    if others > 0 || (!local && !given.is_empty()) {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        faults.push(Cause::invalid("metadata", review["metadata"].clone(), why));
    }
    if local {
        if let Some(what) = &spec.resource_attributes
            && what.namespace.as_deref().unwrap_or_default()
                != if given.is_empty() { namespace } else { given }
        {
            let asked = what.namespace.as_deref().unwrap_or_default();
            faults.push(Cause::invalid(
                "spec.resourceAttributes.namespace",
                asked,
                "must match metadata.namespace",
            ));
        }
        if spec.non_resource_attributes.is_some() {
            faults.push(Cause::invalid(
                "spec.nonResourceAttributes",
                raw("nonResourceAttributes"),
                "disallowed on this kind of request",
            ));
        }
    }
    faults
}

/// What a user may do in a namespace; more than that may be allowed where it says it is incomplete.
fn rules(access: &Access, who: &Identity, review: &Value) -> Result<Value, StatusError> {
    let spec: SelfSubjectRulesReviewSpec = serde_json::from_value(review["spec"].clone())
        .map_err(|error| StatusError::bad_request(error.to_string()))?;
    let Some(namespace) = spec.namespace.filter(|namespace| !namespace.is_empty()) else {
        return Err(StatusError::bad_request("no namespace on request"));
    };
    let (rules, faults) = access.rules_of(who, &namespace);
    let of_paths = |rule: &&Rule| !rule.urls.is_empty();
    let resource_rules: Vec<Value> = rules.iter().filter(|rule| !of_paths(rule)).map(resource_rule).collect();
    let path_rules: Vec<Value> = rules
        .iter()
        .filter(of_paths)
        .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}))
        .collect();
    let mut status = json!({
        "resourceRules": resource_rules,
        "nonResourceRules": path_rules,
        "incomplete": !faults.is_empty(),
    });
    if !faults.is_empty() {
        status["evaluationError"] = aggregate(&faults).into();
    }
    Ok(status)
}

fn resource_rule(rule: &Rule) -> Value {
    let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
    if !rule.names.is_empty() {
        shown["resourceNames"] = json!(rule.names);
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The fields at fault of a review in namespace `a`.
    fn told(kind: &str, metadata: Value, spec: Value) -> Vec<String> {
        let review = json!({"metadata": metadata, "spec": spec});
        let spec = serde_json::from_value(review["spec"].clone()).expect("a specification");
        let faults = faults(kind, "a", &review, &spec);
        faults.into_iter().map(|fault| fault.field.to_string()).collect()
    }

    #[test]
    fn a_review_asks_for_one_thing_and_for_somebody() {
        let (resource, path) = (json!({"verb": "get", "namespace": "a"}), json!({"path": "/x"}));
        let of = |kind: &str, spec: Value| told(kind, json!({}), spec);
        let (own, other) = ("SelfSubjectAccessReview", "SubjectAccessReview");
        let none: [&str; 0] = [];
        assert_eq!(of(own, json!({"resourceAttributes": resource})), none);
        assert_eq!(of(own, json!({"nonResourceAttributes": path})), none);
        assert_eq!(of(own, json!({})), ["spec.resourceAttributes"]);
        assert_eq!(
            of(own, json!({"resourceAttributes": resource, "nonResourceAttributes": path})),
            ["spec.nonResourceAttributes"]
        );
        assert_eq!(of(other, json!({"resourceAttributes": resource})), ["spec.user"]);
        assert_eq!(
            of(other, json!({"resourceAttributes": resource, "user": "", "groups": []})),
            ["spec.user"]
        );
        assert_eq!(of(other, json!({"resourceAttributes": resource, "user": "u"})), none);
        assert_eq!(of(other, json!({"resourceAttributes": resource, "groups": ["g"]})), none);
    }

    #[test]
    fn a_review_has_no_metadata_but_a_local_ones_namespace() {
        let spec = |namespace: &str| json!({"user": "u", "resourceAttributes": {"verb": "get", "namespace": namespace}});
        let (wide, local) = ("SubjectAccessReview", "LocalSubjectAccessReview");
        let none: [&str; 0] = [];
        for kind in [wide, local] {
            let unset = json!({"creationTimestamp": null, "managedFields": [], "labels": null});
            assert_eq!(told(kind, unset, spec("a")), none, "{kind}");
            assert_eq!(told(kind, json!({"name": "x"}), spec("a")), ["metadata"], "{kind}");
            assert_eq!(told(kind, json!({"name": "x", "namespace": "a"}), spec("a")), ["metadata"], "{kind}");
        }
        assert_eq!(told(wide, json!({"namespace": "a"}), spec("a")), ["metadata"]);
        assert_eq!(told(wide, json!({}), spec("b")), none);
        // A local one is about its namespace: that of its object, or else of the request.
        assert_eq!(told(local, json!({"namespace": "a"}), spec("a")), none);
        assert_eq!(told(local, json!({"namespace": "b"}), spec("b")), none);
        for (metadata, asked) in [(json!({}), "b"), (json!({"namespace": "b"}), "a"), (json!({}), "")] {
            assert_eq!(told(local, metadata, spec(asked)), ["spec.resourceAttributes.namespace"], "{asked}");
        }
    }
}
