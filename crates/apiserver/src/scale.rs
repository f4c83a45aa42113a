//! `autoscaling/v1` Scale of deployments and replica sets.

use serde_json::{Value, json};
use skiff_api::status::{Cause, StatusError};

use crate::http_body::{Request, Response};
use crate::resources::{Cx, Resource};
use crate::server::{Call, Inner, read_body};
use crate::write::modify;
use crate::{decode, metadata, render, subresources};

pub(crate) async fn answer(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    verb: &str,
    request: Request,
) -> Result<Response, StatusError> {
    let name = call.address.name.as_str();
    let key = row.key(&call.address.namespace, name);
    if verb == "get" {
        let object = server.caches.of(row).get(&key);
        let object = object.ok_or_else(|| StatusError::not_found(row.group_resource(), name))?;
        return scale_response(call, &object.value(row));
    }
    let body = read_body(request.into_body()).await?;
    let replaced = match verb {
        "update" => Some(decode::any(&call.headers, &body, "autoscaling/v1", "Scale")?),
        _ => None,
    };
    let done = modify(server, row, row, &key, call.dry_run, |current| {
        let old = current.value(row);
        let scale = match &replaced {
            Some(scale) => scale.clone(),
            None => decode::patched(
                call,
                &skiff_api::codec::Gvk::new("autoscaling", "v1", "Scale"),
                &body,
                of(&old),
            )?,
        };
        let version = metadata::text(&scale, "resourceVersion");
        if !matches!(version, "" | "0") && version != current.revision.to_string() {
            return Err(StatusError::modified(row.group_resource(), name));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let fault = Cause::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(StatusError::invalid("autoscaling", "Scale", name, &[fault]));
        }
        let mut wanted = old.clone();
        wanted["spec"]["replicas"] = replicas.into();
        let cx = Cx { server, who: &call.who, subresource: "scale", key: &key, notes: &call.notes };
        subresources::settled(&cx, row, wanted, old)
    })
    .await?;
    scale_response(call, &done.object().value(row))
}

fn scale_response(call: &Call, object: &Value) -> Result<Response, StatusError> {
    render::view(call, ("autoscaling", "Scale"), of(object))
}

/// The Scale of a workload.
fn of(object: &Value) -> Value {
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            meta[field] = value.clone();
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)},
    });
    if scale["spec"]["replicas"] == json!(0) {
        scale["spec"] = json!({});
    }
    let selector: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector> =
        serde_json::from_value(object["spec"]["selector"].clone()).ok();
    if let Ok(selector) = skiff_api::selector::Selector::from_object(selector.as_ref()) {
        let text = selector.to_string();
        if !text.is_empty() {
            scale["status"]["selector"] = text.into();
        }
    }
    scale
}
