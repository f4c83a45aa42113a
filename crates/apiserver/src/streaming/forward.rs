//! Port forwards: each connection of the client's gets one of its own to the agent.

use std::sync::Arc;

use skiff_api::status::StatusError;
use skiff_streams::client::DialError;
use skiff_streams::{Forward, forward};
use tokio::io::AsyncWriteExt;

use super::agent::Agent;
use super::{query, spawn_upgraded, switching, target, upgrade_error};
use crate::http_body::{Request, Response};
use crate::resources::Resource;
use crate::server::{Call, Inner};

pub(super) async fn answer(
    server: &Arc<Inner>,
    call: &Call,
    row: &'static Resource,
    request: Request,
) -> Result<Response, StatusError> {
    let pod = target::pod(server, call, row)?;
    let node = target::assigned_node(&pod)?.to_owned();
    let front = forward::negotiate(&call.headers).map_err(|error| upgrade_error(&error))?;
    let ports = ports(&call.query)?;
    if front.needs_ports() && ports.is_empty() {
        return Err(StatusError::bad_request("query parameter \"ports\" is required"));
    }
    // Fails now if there is no such node, and not at the first connection.
    Agent::of(server, &node)?;

    let response = switching(front.response());
    let (namespace, name) = (call.address.namespace.clone(), call.address.name.clone());
    let inner = Arc::clone(server);
    spawn_upgraded(server, "port-forward", request, async move |io| {
        let run = |forward: Forward| one(&inner, &node, &namespace, &name, forward);
        forward::serve(io, &front, &ports, run).await
    });
    Ok(response)
}

/// The ports of the query: `ports=80&ports=81`, or `ports=80,81`.
fn ports(query: &crate::request::Query) -> Result<Vec<u16>, StatusError> {
    query
        .all("ports")
        .flat_map(|ports| ports.split(','))
        .filter(|port| !port.is_empty())
        .map(|port| match port.parse() {
            Ok(0) | Err(_) => Err(StatusError::bad_request(format!("invalid port {port:?}"))),
            Ok(port) => Ok(port),
        })
        .collect()
}

/// Forwards one connection; what goes wrong is told on its own error stream.
async fn one(server: &Inner, node: &str, namespace: &str, pod: &str, mut forward: Forward) {
    match dial(server, node, namespace, pod, forward.port).await {
        Ok(dialed) => dialed.relay(forward).await,
        Err(text) => {
            // The client may be gone by now.
            let _ = forward.error.write_all(text.as_bytes()).await;
        }
    }
}

async fn dial(
    server: &Inner,
    node: &str,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<forward::Dialed, String> {
    let agent = Agent::of(server, node).map_err(|error| error.to_string())?;
    let mut path = query::Path::new(&["portForward", namespace, pod]);
    path.add("port", &port.to_string());
    let ask = agent.request(&path.into_string()).map_err(|error| error.to_string())?;
    let connection = agent.connect().await.map_err(|error| error.to_string())?;
    forward::dial(connection, ask).await.map_err(|error| match error {
        DialError::Refused { body, .. } if !body.is_empty() => {
            format!("error forwarding port {port} to pod {pod}: {}", String::from_utf8_lossy(&body))
        }
        other => format!("error forwarding port {port} to pod {pod}: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    #[test]
    fn ports_come_in_two_forms() {
        let check = |query: &str| ports(&Query::parse(Some(query))).map_err(|error| error.code());
        assert_eq!(check("ports=80&ports=8080"), Ok(vec![80, 8080]));
        assert_eq!(check("ports=80%2C81"), Ok(vec![80, 81]));
        assert_eq!(check(""), Ok(vec![]));
        assert_eq!(check("ports=0"), Err(400));
        assert_eq!(check("ports=70000"), Err(400));
    }
}
