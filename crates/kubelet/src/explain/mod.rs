//! The node's part of explanations: facts of its kernel about its pods, and what its pods wait for.
//!
//! The API server asks at `/skiff/explain/…`. Facts are read when asked for and never kept; what is kept, in
//! [`Memory`], is how pods' starts went and what each pod waits for, both bounded.

mod approach;
mod collect;
mod elsewhere;
mod memory;
mod probe;
mod scan;
mod services;
mod waits;
mod walk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use skiff_client::ObjectKey;
use skiff_explain::facts::Protocol;
use skiff_explain::pending::PortHolder;
use skiff_network::Network;

use crate::agent::{Answer, Query, Refusal, internal, json, text};
use crate::labels;
use crate::node_context::Context;

pub(crate) use memory::Memory;
pub(crate) use waits::waits;

/// Answers what follows `/skiff/explain/`.
pub(crate) async fn answer(context: &Arc<Context>, path: &[&str], query: &Query) -> Answer {
    match path {
        ["pods"] => {
            let namespace = query.get("namespace");
            json(&collect::pods(context, |key| namespace.is_none_or(|own| own == key.namespace)).await?)
        }
        ["pods", namespace, name] => {
            let wanted = ObjectKey::new(*namespace, *name);
            let mut found = collect::pods(context, |key| *key == wanted).await?;
            match found.pop() {
                Some(pod) => json(&pod),
                None => Err(not_found(format!("no pod {wanted} is on this node"))),
            }
        }
        ["node"] => json(&collect::node(context).await?),
        ["waits", namespace, name] => {
            let key = ObjectKey::new(*namespace, *name);
            let pod =
                context.pods.get(&key).ok_or_else(|| not_found(format!("no pod {key} is on this node")))?;
            json(&context.memory.waits.of(pod.metadata.uid.as_deref().unwrap_or_default()))
        }
        ["walk"] => walk::answer(context, query).await,
        ["starts", uid] => json(&context.memory.starts.get(uid)),
        ["ports"] => {
            let ports: Vec<(Protocol, u16)> =
                query.all("port").iter().filter_map(|port| parse(port)).collect();
            json(&holders(context, ports).await?)
        }
        _ => Err(not_found("404 page not found".into())),
    }
}

/// Does what follows `/skiff/explain/`. Who may merely look makes no connection, and has nobody listen.
pub(crate) async fn act(context: &Arc<Context>, path: &[&str], query: &Query) -> Answer {
    match path {
        ["listen", "stop"] => probe::stop(context, query),
        ["listen"] => probe::listen(context, query).await,
        ["probe"] => probe::connect(context, query).await,
        _ => Err(not_found("404 page not found".into())),
    }
}

/// The agent's own figures, for Prometheus.
pub(crate) fn metrics(context: &Context) -> Answer {
    Ok(text(context.memory.starts.prometheus()))
}

/// The node's network, once it has one.
fn network(context: &Context) -> Result<Arc<dyn Network>, Refusal> {
    context.network.borrow().clone().ok_or_else(|| {
        let message = "this node has no range of pod addresses yet";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, message.into())
    })
}

/// What each running sandbox is called, and its network namespace, by the sandbox's ID.
async fn sandboxes(context: &Context) -> Result<BTreeMap<String, (String, PathBuf)>, Refusal> {
    let sandboxes = context.runtime.list_sandboxes().await.map_err(internal)?;
    let known = sandboxes.into_iter().filter(|sandbox| sandbox.pid > 0).map(|sandbox| {
        let label = |name: &str| sandbox.config.labels.get(name).cloned().unwrap_or_default();
        let name = format!("pod {}/{}", label(labels::POD_NAMESPACE), label(labels::POD_NAME));
        (sandbox.id.0, (name, PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid))))
    });
    Ok(known.collect())
}

fn not_found(message: String) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, message)
}

/// `TCP/8080`.
fn parse(port: &str) -> Option<(Protocol, u16)> {
    let (protocol, port) = port.split_once('/')?;
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    Some((protocol, port.parse().ok()?))
}

/// The processes that listen on these ports of the node's own network.
async fn holders(context: &Arc<Context>, ports: Vec<(Protocol, u16)>) -> Result<Vec<PortHolder>, Refusal> {
    let scan = context.memory.scan(context).await?;
    let found = tokio::task::spawn_blocking(move || {
        let mut sockets = collect::node_sockets(&scan);
        sockets.retain(|socket| ports.contains(&(socket.protocol, socket.port)));
        let holder = |socket: skiff_explain::facts::Socket| {
            let process = socket.process?;
            Some(PortHolder {
                address: socket.address.to_string(),
                port: socket.port,
                protocol: socket.protocol.name().into(),
                pid: process.pid,
                command: process.command,
                pod: process.pod,
            })
        };
        sockets.into_iter().filter_map(holder).collect()
    });
    found.await.map_err(internal)
}
