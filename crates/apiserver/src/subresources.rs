//! What is done through an object's subresources: status, binding, finalize, scale, eviction, streams.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::status::{GroupResource, StatusError};

use crate::admission::topology_labels;
use crate::auth::Identity;
use crate::claims::Taken;
use crate::delete::DeleteOptions;
use crate::http_body::{Request, Response, full};
use crate::node_access::restriction::{self, Written};
use crate::request::Address;
use crate::resources::{Cx, Resource, find, pod_condition};
use crate::server::{Call, Inner, read_body};
use crate::write::{Step, modify, settle};
use crate::{clock, decode, delete, metadata, read, render, streaming, tokens, write};

/// Subresources that are answered by a node's agent.
pub(crate) fn is_stream(address: &Address) -> bool {
    address.group.is_empty()
        && address.resource == "pods"
        && matches!(address.subresource.as_str(), "exec" | "attach" | "portforward")
}

/// Where an upgrade is a stream into whichever pod of the node its path names.
pub(crate) fn is_node_proxy(address: &Address) -> bool {
    address.group.is_empty() && address.resource == "nodes" && address.subresource == "proxy"
}

pub(crate) async fn answer(
    server: Arc<Inner>,
    call: Call,
    row: &'static Resource,
    verb: &'static str,
    request: Request,
) -> Result<Response, StatusError> {
    let sub = row.subresource(&call.address.subresource).filter(|_| !call.address.name.is_empty());
    let Some(sub) = sub else { return Err(StatusError::no_such_resource()) };
    if !sub.verbs.contains(&verb) {
        return Err(StatusError::method_not_allowed());
    }
    match (sub.name, verb) {
        ("log" | "exec" | "attach" | "portforward" | "proxy", _) => {
            streaming::answer(server, call, row, request).await
        }
        ("status" | "approval", "get") => read::get(&server, &call, row).await,
        ("scale", _) => crate::scale::answer(&server, &call, row, verb, request).await,
        ("binding", "create") => {
            let body = read_body(request.into_body()).await?;
            let binding = decode::any(&call.headers, &body, "v1", "Binding")?;
            bind(&server, &call, &binding).await
        }
        ("token", "create") => tokens::request::create(&server, &call, request).await,
        ("eviction", "create") => evict(&server, &call, row, request).await,
        (_, "update") => {
            let value = decode::object(&call, row, &read_body(request.into_body()).await?)?;
            let done = write::update(&server, &call, row, |_| Ok(value.clone())).await?;
            server.object_response(&call, row, StatusCode::OK, done.object())
        }
        (_, "patch") => {
            let patch = read_body(request.into_body()).await?;
            let wanted = decode::kind_of(row);
            let done = write::update(&server, &call, row, |present| {
                decode::patched(&call, &wanted, &patch, present)
            })
            .await?;
            server.object_response(&call, row, StatusCode::OK, done.object())
        }
        _ => Err(StatusError::method_not_allowed()),
    }
}

/// Resources that discovery lists without being stored: `bindings`, reviews.
pub(crate) async fn unlisted(
    server: &Arc<Inner>,
    address: &Address,
    who: &Identity,
    request: Request,
) -> Result<Option<Response>, StatusError> {
    let method = request.method().clone();
    let is = |group: &str, version: &str, resource: &str| {
        address.group == group && address.version == version && address.resource == resource
    };
    if is("", "v1", "bindings") && !address.namespace.is_empty() && address.name.is_empty() {
        if method != http::Method::POST {
            return Err(StatusError::method_not_allowed());
        }
        let (parts, body) = request.into_parts();
        let binding = decode::any(&parts.headers, &read_body(body).await?, "v1", "Binding")?;
        let mut address = address.clone();
        address.name = metadata::text(&binding, "name").to_owned();
        let query = crate::request::Query::parse(parts.uri.query());
        let call = Call {
            who: who.clone(),
            dry_run: query.dry_run()?,
            validation: decode::field_validation(&query)?,
            notes: Arc::default(),
            query,
            headers: parts.headers,
            wanted: false,
            address,
        };
        return bind(server, &call, &binding).await.map(Some);
    }
    // Nothing can be added to the kinds yet. kubectl asks for what was, when a manifest's kind is unknown,
    // and says that the kind is unknown only if it gets an answer.
    if is("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        && method == http::Method::GET
        && address.name.is_empty()
        && !address.within
    {
        let list = json!({
            "kind": "CustomResourceDefinitionList",
            "apiVersion": "apiextensions.k8s.io/v1",
            "metadata": {"resourceVersion": server.caches.applied().to_string()},
            "items": [],
        });
        return Ok(Some(render::json_response(StatusCode::OK, full(list.to_string()))));
    }
    match crate::authn::reviews::answer(server, address, who, request).await? {
        Ok(answer) => Ok(Some(answer)),
        Err(request) => crate::rbac::reviews::answer(server, address, who, request).await,
    }
}

fn success(code: StatusCode) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    });
    render::json_response(code, full(status.to_string()))
}

/// Puts a pod on a node, once.
async fn bind(server: &Inner, call: &Call, binding: &Value) -> Result<Response, StatusError> {
    let pods = find("", "pods").expect("pods are in the table");
    let name = call.address.name.as_str();
    let of = GroupResource { group: "", resource: "pods/binding" };
    let given = metadata::text(binding, "name");
    if !given.is_empty() && given != name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        let fault = skiff_api::status::Cause::not_supported("target.kind", kind, &["Node", "<empty>"]);
        return Err(StatusError::invalid("", "Binding", name, &[fault]));
    }
    if node.is_empty() {
        let fault = skiff_api::status::Cause::required("target.name", "");
        return Err(StatusError::invalid("", "Binding", name, &[fault]));
    }
    if let Some(why) = skiff_api::validate::names::subdomain(node) {
        let fault = skiff_api::status::Cause::invalid("target.name", node, why);
        return Err(StatusError::invalid("", "Binding", name, &[fault]));
    }
    let uid = metadata::text(binding, "uid").to_owned();
    let key = pods.key(&call.address.namespace, name);
    let now = clock::rfc3339(clock::now());
    modify(server, pods, pods, &key, call.dry_run, |current| {
        if !uid.is_empty() && uid != *current.uid {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current.uid
            );
            return Err(StatusError::conflict(of, name, &why));
        }
        let old = current.value(pods);
        if metadata::is_deleting(&old) {
            let why = format!("pod {name} is being deleted, cannot be assigned to a host");
            return Err(StatusError::conflict(of, name, &why));
        }
        let bound = old["spec"]["nodeName"].as_str().unwrap_or_default();
        if !bound.is_empty() {
            let why = format!("pod {name} is already assigned to node {bound:?}");
            return Err(StatusError::conflict(of, name, &why));
        }
        if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
            let why = format!("pod {name} has non-empty .spec.schedulingGates");
            return Err(StatusError::conflict(of, name, &why));
        }
        let mut new = old.clone();
        new["spec"]["nodeName"] = node.into();
        if let Some(status) = new["status"].as_object_mut() {
            status.remove("nominatedNodeName");
        }
        for field in ["labels", "annotations"] {
            let given = binding["metadata"][field].as_object();
            for (key, value) in given.into_iter().flatten() {
                new["metadata"][field][key] = value.clone();
            }
        }
        if kind == "Node" {
            topology_labels::give(server, node, &mut new);
        }
        // What it brings along is held to what any update of the pod is.
        let faults = crate::validation::update(pods, "binding", &new, &old);
        if !faults.is_empty() {
            return Err(StatusError::invalid("", "Binding", name, &faults));
        }
        pod_condition(
            &mut new,
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null}),
            &now,
        );
        // Its generation counts what is asked of it; where it is done is none of that.
        Ok(Step::Put { value: new, old, volatile: false, taken: Taken::default() })
    })
    .await?;
    Ok(success(StatusCode::CREATED))
}

/// Deletes a pod on behalf of who drains its node.
async fn evict(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    request: Request,
) -> Result<Response, StatusError> {
    let body = read_body(request.into_body()).await?;
    let eviction = decode::any(&call.headers, &body, "policy/v1", "Eviction")?;
    let name = call.address.name.as_str();
    let given = metadata::text(&eviction, "name");
    if !given.is_empty() && given != name {
        return Err(StatusError::bad_request(format!(
            "name in URL does not match name in Eviction object: {given:?}"
        )));
    }
    let options: DeleteOptions = match eviction.get("deleteOptions") {
        None | Some(Value::Null) => DeleteOptions::default(),
        Some(options) => {
            serde_json::from_value(options.clone()).map_err(|e| StatusError::bad_request(e.to_string()))?
        }
    };
    options.check()?;
    if let Some(pod) = server.caches.of(row).get(&row.key(&call.address.namespace, name)) {
        let pod = pod.value(row);
        let write = Written { row, subresource: "eviction", old: Some(&pod), new: None };
        restriction::check(server, &call.who, &write)?;
    }
    let options = match options.is_dry_run(call) {
        true => options,
        false => tell_of_eviction(server, call, row, options).await?,
    };
    delete::one(server, call, row, &options).await?;
    Ok(success(StatusCode::CREATED))
}

/// Says in the pod's status why it goes; answers the options for its deletion, which now is of another version.
async fn tell_of_eviction(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    mut options: DeleteOptions,
) -> Result<DeleteOptions, StatusError> {
    let key = row.key(&call.address.namespace, &call.address.name);
    let now = clock::rfc3339(clock::now());
    let told = modify(server, row, row, &key, false, |current| {
        delete::check_preconditions(current, row, &options)?;
        let old = current.value(row);
        if metadata::is_deleting(&old) {
            return Ok(Step::Keep);
        }
        let mut new = old.clone();
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        });
        pod_condition(&mut new, condition, &now);
        Ok(Step::Put { value: new, old, volatile: false, taken: Taken::default() })
    })
    .await?;
    if let Some(version) = options.preconditions.as_mut().and_then(|own| own.resource_version.as_mut()) {
        *version = told.object().revision.to_string();
    }
    Ok(options)
}

/// A new value for an object that a subresource computes from the present one.
pub(crate) fn settled(
    cx: &Cx<'_>,
    row: &'static Resource,
    wanted: Value,
    old: Value,
) -> Result<Step, StatusError> {
    settle(cx, row, row, wanted, old)
}
