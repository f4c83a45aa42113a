//! Requests for kinds that are known only at run time, as JSON.

use bytes::Bytes;
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::Value;
use skiff_client::{Client, Error, empty, full};

/// Sends a request and reads the answer; a refusal becomes an error.
pub(crate) async fn json(
    client: &Client,
    method: http::Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Error> {
    let builder = http::Request::builder().method(method).uri(path).header("accept", "application/json");
    let request = match body {
        Some(body) => {
            builder.header("content-type", "application/json").body(full(Bytes::from(body.to_string())))
        }
        None => builder.body(empty()),
    };
    let response = client.send(request.map_err(|error| Error::Encode(error.into()))?).await?;
    let code = response.status();
    let bytes = response.into_body().collect().await.map_err(Error::Transport)?.to_bytes();
    if !code.is_success() {
        let mut status: Status = serde_json::from_slice(&bytes).unwrap_or_default();
        status.code.get_or_insert(i32::from(code.as_u16()));
        status.message.get_or_insert_with(|| code.to_string());
        return Err(Error::Status(Box::new(status)));
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::Decode(error.into()))
}

/// A namespaced resource that the server serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Served {
    /// As `/api/v1` or `/apis/apps/v1`.
    pub(crate) base: String,
    pub(crate) group: String,
    pub(crate) plural: String,
}

impl Served {
    pub(crate) fn path(&self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.base, self.plural)
    }
}

/// Every namespaced resource that can be listed and deleted, each in its group's preferred version.
pub(crate) async fn namespaced(client: &Client) -> Result<Vec<Served>, Error> {
    let mut bases = vec![(String::new(), "/api/v1".to_owned())];
    let groups = json(client, http::Method::GET, "/apis", None).await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        if let (Some(name), Some(version)) =
            (group["name"].as_str(), group["preferredVersion"]["groupVersion"].as_str())
        {
            bases.push((name.to_owned(), format!("/apis/{version}")));
        }
    }
    let mut served = Vec::new();
    for (group, base) in bases {
        let list = json(client, http::Method::GET, &base, None).await?;
        served.extend(deletable(&list).map(|plural| Served {
            base: base.clone(),
            group: group.clone(),
            plural: plural.to_owned(),
        }));
    }
    Ok(served)
}

fn deletable(list: &Value) -> impl Iterator<Item = &str> {
    list["resources"].as_array().into_iter().flatten().filter_map(|resource| {
        let verbs = resource["verbs"].as_array()?;
        let can = |verb: &str| verbs.iter().any(|own| own == verb);
        let name = resource["name"].as_str()?;
        (resource["namespaced"] == true && !name.contains('/') && can("list") && can("delete"))
            .then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_listed_and_deleted_counts() {
        let list = serde_json::json!({"resources": [
            {"name": "pods", "namespaced": true, "verbs": ["list", "delete", "get"]},
            {"name": "pods/status", "namespaced": true, "verbs": ["list", "delete"]},
            {"name": "bindings", "namespaced": true, "verbs": ["create"]},
            {"name": "nodes", "namespaced": false, "verbs": ["list", "delete"]},
        ]});
        assert_eq!(deletable(&list).collect::<Vec<_>>(), ["pods"]);
    }
}
