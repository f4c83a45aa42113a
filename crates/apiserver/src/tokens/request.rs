//! TokenRequest: the `token` subresource of service accounts.

use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::codec::Gvk;
use skiff_api::status::{Cause, GroupResource, StatusError};

use super::claims::{Claims, NodeReference, Reference, Times};
use crate::http_body::{Request, Response, full};
use crate::node_access::restriction;
use crate::object::Object;
use crate::resources::find;
use crate::server::{Call, Inner, read_body};
use crate::{clock, decode, metadata, render};

const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;

/// What the service account admission asks for: clients that never read their token again would fail
/// after that, so such tokens hold for a year and only say when they should have been renewed.
const SECONDS_OF_MOUNTED: i64 = 3607;
const YEAR_S: i64 = 365 * 24 * 3600;

pub(crate) async fn create(
    server: &Arc<Inner>,
    call: &Call,
    request: Request,
) -> Result<Response, StatusError> {
    let body = read_body(request.into_body()).await?;
    let mut wanted = decode::any(&call.headers, &body, "authentication.k8s.io/v1", "TokenRequest")?;
    let (namespace, name) = (call.address.namespace.as_str(), call.address.name.as_str());
    in_accord_with_url(&wanted, namespace, name)?;
    let accounts = find("", "serviceaccounts").expect("service accounts are in the table");
    let Some(account) = server.caches.of(accounts).get(&accounts.key(namespace, name)) else {
        return Err(StatusError::not_found(accounts.group_resource(), name));
    };
    restriction::token(server, &call.who, namespace, name, &wanted)?;
    complete(&mut wanted, server.tokens.issuer());
    let seconds = valid_seconds(&wanted)?;
    let audiences: Vec<String> = wanted["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let bound = bound_object(server, &wanted["spec"]["boundObjectRef"], namespace, name)?;
    let now = server.config.clock.now();
    let mounted = matches!(bound, Some(BoundObject::Pod(_)))
        && seconds == SECONDS_OF_MOUNTED
        && audiences == [server.tokens.issuer()];
    let times = match mounted {
        true => Times { now, end: now + YEAR_S, warn_after: Some(now + seconds) },
        false => Times { now, end: now + seconds, warn_after: None },
    };
    let account = Reference::new(name, &account.uid);
    let mut claims = Claims::new(server.tokens.issuer(), namespace, account, &audiences, times);
    bind(&mut claims, server, bound);
    let token = server.tokens.issue(&claims).map_err(StatusError::internal)?;
    let fields = metadata::of_mut(&mut wanted);
    fields.insert("name".into(), name.into());
    fields.insert("namespace".into(), namespace.into());
    fields.insert("creationTimestamp".into(), clock::rfc3339(now).into());
    wanted["kind"] = "TokenRequest".into();
    wanted["apiVersion"] = "authentication.k8s.io/v1".into();
    wanted["status"] = json!({"token": token, "expirationTimestamp": clock::rfc3339(now + seconds)});
    Ok(render::json_response(StatusCode::CREATED, full(wanted.to_string())))
}

fn in_accord_with_url(wanted: &Value, namespace: &str, name: &str) -> Result<(), StatusError> {
    for (field, url, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
        let given = metadata::text(wanted, field);
        if !given.is_empty() && given != url {
            let why = format!("must match the service account {what} if specified");
            let fault = Cause::invalid(format!("metadata.{field}"), given, why);
            return Err(StatusError::invalid("authentication.k8s.io", "TokenRequest", name, &[fault]));
        }
    }
    Ok(())
}

fn complete(wanted: &mut Value, audience: &str) {
    if !wanted["spec"].is_object() {
        wanted["spec"] = json!({});
    }
    let spec = &mut wanted["spec"];
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!([audience]);
    }
    if spec["expirationSeconds"].as_i64().is_none() {
        spec["expirationSeconds"] = SECONDS_DEFAULT.into();
    }
}

fn valid_seconds(wanted: &Value) -> Result<i64, StatusError> {
    let seconds = wanted["spec"]["expirationSeconds"].as_i64().unwrap_or(SECONDS_DEFAULT);
    let why = match seconds {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        seconds if seconds > SECONDS_MAX => "may not specify a duration larger than 2^32 seconds",
        seconds => return Ok(seconds),
    };
    let fault = Cause::invalid("spec.expirationSeconds", seconds, why);
    Err(StatusError::invalid("authentication.k8s.io", "TokenRequest", "", &[fault]))
}

/// What the token shall live as long as.
enum BoundObject {
    Pod(Arc<Object>),
    Secret(Arc<Object>),
    Node(Arc<Object>),
}

fn bound_object(
    server: &Inner,
    reference: &Value,
    namespace: &str,
    account: &str,
) -> Result<Option<BoundObject>, StatusError> {
    if !reference.is_object() {
        return Ok(None);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let plural = match (version, kind) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        ("v1", "Node") => "nodes",
        _ => {
            let Gvk { group, version, kind } = &Gvk::parse(version, kind);
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(StatusError::bad_request(why));
        }
    };
    let row = find("", plural).expect("what tokens are bound to is in the table");
    let key = row.key(if row.namespaced { namespace } else { "" }, name);
    let object =
        server.caches.of(row).get(&key).ok_or_else(|| StatusError::not_found(row.group_resource(), name))?;
    if plural == "pods" && *pod_account(&object) != *account {
        return Err(StatusError::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount \
             name."
        )));
    }
    if !uid.is_empty() && *uid != *object.uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object \
             might have been deleted and then recreated"
        );
        return Err(StatusError::conflict(GroupResource { group: "", resource: kind }, name, &why));
    }
    Ok(Some(match plural {
        "pods" => BoundObject::Pod(object),
        "secrets" => BoundObject::Secret(object),
        _ => BoundObject::Node(object),
    }))
}

fn typed_pod(object: &Object) -> Option<Arc<Pod>> {
    let pods = find("", "pods").expect("pods are in the table");
    object.typed(pods)?.downcast::<Pod>().ok()
}

fn pod_account(object: &Object) -> String {
    let spec = typed_pod(object).and_then(|pod| pod.spec.clone());
    spec.and_then(|spec| spec.service_account_name).unwrap_or_default()
}

fn bind(claims: &mut Claims, server: &Inner, object: Option<BoundObject>) {
    let Some(bound) = &mut claims.bound else { return };
    let reference = |object: &Object| Reference::new(object.name(), &object.uid);
    match object {
        None => {}
        Some(BoundObject::Secret(secret)) => bound.secret = Some(reference(&secret)),
        Some(BoundObject::Node(node)) => {
            bound.node = Some(NodeReference { name: node.name().into(), uid: node.uid.to_string() });
        }
        Some(BoundObject::Pod(pod)) => {
            bound.pod = Some(reference(&pod));
            let spec = typed_pod(&pod).and_then(|pod| pod.spec.clone());
            bound.node = spec.and_then(|spec| spec.node_name).filter(|name| !name.is_empty()).map(|name| {
                let nodes = find("", "nodes").expect("nodes are in the table");
                let node = server.caches.of(nodes).get(&nodes.key("", &name));
                NodeReference { uid: node.map(|node| node.uid.to_string()).unwrap_or_default(), name }
            });
        }
    }
}
