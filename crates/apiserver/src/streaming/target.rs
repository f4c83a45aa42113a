//! Which pod, on which node, and which of its containers a request is about.

use serde_json::Value;
use skiff_api::status::StatusError;

use crate::resources::Resource;
use crate::server::{Call, Inner};

/// The pod that the request names.
pub(super) fn pod(server: &Inner, call: &Call, row: &'static Resource) -> Result<Value, StatusError> {
    let name = &call.address.name;
    let key = row.key(&call.address.namespace, name);
    match server.caches.of(row).get(&key) {
        Some(object) => Ok(object.value(row)),
        None => Err(StatusError::not_found(row.group_resource(), name)),
    }
}

/// The pod's node, if it has one already.
pub(super) fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

/// As [`node`], for what is of no use without.
pub(super) fn assigned_node(pod: &Value) -> Result<&str, StatusError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    node(pod).ok_or_else(|| StatusError::bad_request(format!("pod {name} does not have a host assigned")))
}

/// The container asked for, or the only one.
pub(super) fn container(pod: &Value, asked: Option<&str>) -> Result<String, StatusError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let all: Vec<&str> = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .filter_map(|field| pod["spec"][*field].as_array())
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    if let Some(asked) = asked {
        return match all.contains(&asked) {
            true => Ok(asked.to_owned()),
            false => Err(StatusError::bad_request(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    match pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default() {
        [] => Err(StatusError::bad_request(format!("a container name must be specified for pod {name}"))),
        [only] => Ok(only["name"].as_str().unwrap_or_default().to_owned()),
        _ => Err(StatusError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_found_or_asked_for() {
        let one = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "app"}], "initContainers": [{"name": "first"}],
        }});
        let two = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "first"}],
        }});
        let check = |pod: &Value, asked: Option<&str>, expected: Result<&str, &str>| {
            let found = container(pod, asked).map_err(|error| (error.code(), error.message().to_owned()));
            let expected = expected.map(str::to_owned).map_err(|message| (400, message.to_owned()));
            assert_eq!(found, expected);
        };
        check(&one, None, Ok("app"));
        check(&one, Some("first"), Ok("first"));
        check(&one, Some("x"), Err("container x is not valid for pod p"));
        check(&two, Some("b"), Ok("b"));
        let choice = "a container name must be specified for pod p, choose one of: [first a b]";
        check(&two, None, Err(choice));
    }

    #[test]
    fn a_pod_without_host_is_told_so() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": ""}});
        assert_eq!(node(&pod), None);
        assert_eq!(assigned_node(&pod).unwrap_err().message(), "pod p does not have a host assigned");
    }
}
