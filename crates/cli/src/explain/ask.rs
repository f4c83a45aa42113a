//! Questions to the API group, and what an unknown name is answered with.

use anyhow::{Context, bail};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_client::kubeconfig::Kubeconfig;
use skiff_client::{Client, empty};
use skiff_explain::nearest::nearest;
use skiff_explain::path::encoded;

use super::OfPod;
use crate::{Clusters, Connection};

/// One pod's explanation; `part` is the subresource, empty for the explanation of the pod itself.
pub(super) async fn pod<T: DeserializeOwned>(
    of: &OfPod,
    part: &str,
    clusters: &Clusters,
) -> anyhow::Result<T> {
    let client = of.connection.client(clusters)?;
    let namespace = namespace(of.namespace.as_deref(), &of.connection, clusters)?;
    if of.pod.is_empty() || namespace.is_empty() {
        bail!("the name of a {} is empty", if of.pod.is_empty() { "pod" } else { "namespace" });
    }
    let mut path = format!("namespaces/{}/pods/{}", encoded(&namespace), encoded(&of.pod));
    if !part.is_empty() {
        path = format!("{path}/{part}");
    }
    match get(&client, &path).await? {
        Answer::Told(told) => Ok(told),
        Answer::Unknown => {
            namespace_exists(&client, &namespace).await?;
            let list = format!("/api/v1/namespaces/{}/pods", encoded(&namespace));
            let what = format!("pod {:?} does not exist in namespace {namespace:?}", of.pod);
            match namesakes(&client, &of.pod).await.as_slice() {
                [] => unknown(&client, &list, &of.pod, &what).await,
                [only] => bail!("{what}, but in {only:?}: -n {only}"),
                some => bail!("{what}, but in {}: name one with -n", some.join(", ")),
            }
        }
    }
}

/// An error where the namespace is not there; who may not see namespaces is told of the pod alone.
async fn namespace_exists(client: &Client, name: &str) -> anyhow::Result<()> {
    let (status, _) = fetch(client, &format!("/api/v1/namespaces/{}", encoded(name))).await?;
    match status {
        StatusCode::NOT_FOUND => {
            unknown(client, "/api/v1/namespaces", name, &format!("namespace {name:?} does not exist")).await
        }
        _ => Ok(()),
    }
}

/// The namespaces that have a pod of this name, as far as one may know.
async fn namesakes(client: &Client, pod: &str) -> Vec<String> {
    let list = format!("/api/v1/pods?fieldSelector=metadata.name%3D{}", encoded(pod));
    let found = fetch(client, &list).await.map(|(_, value)| value).unwrap_or_default();
    let found = found["items"].as_array().into_iter().flatten();
    found.filter_map(|item| item["metadata"]["namespace"].as_str()).map(str::to_owned).collect()
}

/// The one given, else that of the kubeconfig's context.
pub(super) fn namespace(
    given: Option<&str>,
    connection: &Connection,
    clusters: &Clusters,
) -> anyhow::Result<String> {
    if let Some(namespace) = given {
        return Ok(namespace.to_owned());
    }
    let config = Kubeconfig::read(&connection.kubeconfig(clusters)?)?;
    Ok(config.namespace().unwrap_or("default").to_owned())
}

/// A node's explanation.
pub(super) async fn node<T: DeserializeOwned>(client: &Client, name: &str) -> anyhow::Result<T> {
    if name.is_empty() {
        bail!("the name of a node is empty");
    }
    match get(client, &format!("nodes/{}", encoded(name))).await? {
        Answer::Told(told) => Ok(told),
        Answer::Unknown => {
            unknown(client, "/api/v1/nodes", name, &format!("node {name:?} does not exist")).await
        }
    }
}

enum Answer<T> {
    Told(T),
    Unknown,
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<Answer<T>> {
    let (status, value) = fetch(client, &format!("/apis/{}/{path}", skiff_explain::API_VERSION)).await?;
    if status.is_success() {
        return serde_json::from_value(value).map(Answer::Told).context("cannot decode the answer");
    }
    // Only an object that is absent is unknown; a server that lacks the group says so itself.
    if status == StatusCode::NOT_FOUND && value["details"]["name"].is_string() {
        return Ok(Answer::Unknown);
    }
    bail!("{}", value["message"].as_str().unwrap_or("the server gave no reason"))
}

pub(super) async fn fetch(client: &Client, path: &str) -> anyhow::Result<(StatusCode, Value)> {
    let request = Request::get(path).header("accept", "application/json").body(empty());
    let response = client.send(request.context("cannot make the request")?).await?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| anyhow::anyhow!(error));
    let bytes = body.context("the server stopped sending")?.to_bytes();
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Says that it does not exist, and which name may have been meant.
async fn unknown<T>(client: &Client, list: &str, name: &str, what: &str) -> anyhow::Result<T> {
    // Who may not list gets no hint.
    let others = fetch(client, list).await.map(|(_, value)| value).unwrap_or_default();
    let names = others["items"].as_array().into_iter().flatten();
    let names = names.filter_map(|item| item["metadata"]["name"].as_str());
    match nearest(name, names) {
        Some(near) => bail!("{what}: the nearest name is {near:?}"),
        None => bail!("{what}"),
    }
}
