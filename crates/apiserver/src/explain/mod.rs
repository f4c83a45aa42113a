//! The API group `explain.skiff.dev`: what a pod shares, why it waits, how its start went.
//!
//! Nothing of it is stored. The kernel's facts come from the agents of nodes, the filters' verdicts from the
//! scheduler; here it is decided who may ask, whom to ask, and what is left out of the answer. A node that
//! does not answer makes an answer poorer, never late.

mod around;
mod nodes;
mod pending;
mod pods;
mod schemas;
mod start;
mod traces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skiff_api::status::{GroupResource, StatusError};
use skiff_explain::Missing;
use skiff_explain::pending::PendingExplanation;
use skiff_explain::trace::hide::Hider;
use tokio::time::Instant;

use crate::auth::{Attributes, Identity};
use crate::discovery::Listed;
use crate::http_body::{Response, empty, full};
use crate::render;
use crate::request::{Address, Query};
use crate::resources::{Resource, Subresource, find};
use crate::server::{Inner, authorize};
use crate::streaming::agent::{Agent, Line};

/// How long agents may take, all together; the whole answer then comes within three seconds.
const AGENTS_TIMEOUT: Duration = Duration::from_millis(2_500);
/// What an agent has at least, when another took all the time.
const AGENT_TIMEOUT_MIN: Duration = Duration::from_millis(200);
/// A node has a few hundred pods at most, each explained in some kilobytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(crate) use schemas::own as schemas;

/// Says why a pod has no node; nothing where no scheduler runs that could.
pub type PendingSource =
    Arc<dyn Fn(Arc<Pod>) -> BoxFuture<'static, Option<PendingExplanation>> + Send + Sync>;

/// Whether this is the group's business.
pub(crate) fn serves(address: &Address) -> bool {
    address.group == skiff_explain::GROUP && address.version == skiff_explain::VERSION
}

const fn sub(name: &'static str, kind: &'static str) -> Subresource {
    Subresource { name, group: "", version: "", kind, verbs: &["get"] }
}

static OF_PODS: &[Subresource] = &[sub("pending", "PendingExplanation"), sub("start", "StartExplanation")];

/// What discovery lists.
pub(crate) fn listed() -> impl Iterator<Item = Listed> {
    let row = |plural, singular, kind, namespaced, verbs, subresources| Listed {
        plural,
        singular,
        kind,
        namespaced,
        verbs,
        short_names: &[],
        categories: &[],
        subresources,
    };
    [
        row("nodes", "node", "NodeExplanation", false, &["get"] as &[_], &[] as &[_]),
        row("pods", "pod", "PodExplanation", true, &["get", "list"], OF_PODS),
        row("traces", "trace", "TraceExplanation", true, &["list"], &[]),
    ]
    .into_iter()
}

/// One question, understood.
struct Question<'a> {
    server: &'a Arc<Inner>,
    who: &'a Identity,
    address: &'a Address,
    /// What the request would be asked of authorizers as.
    base: &'a Attributes<'a>,
    /// Until when agents may answer. Of those that are asked one after the other, the silence of one is
    /// what the next ones lack.
    deadline: Instant,
    /// Nodes that did not answer in time, which are not asked again.
    silent: Mutex<BTreeMap<String, String>>,
    lines: Lines,
}

/// Connections to agents that are asked again, by node: a handshake costs as much as an answer.
#[derive(Default)]
struct Lines(Mutex<BTreeMap<String, Line>>);

/// Answers a request to the group.
pub(crate) async fn answer(
    server: &Arc<Inner>,
    who: &Identity,
    address: &Address,
    base: &Attributes<'_>,
    method: &Method,
    query: &Query,
) -> Result<Response, StatusError> {
    let deadline = Instant::now() + AGENTS_TIMEOUT;
    let question =
        Question { server, who, address, base, deadline, silent: Mutex::default(), lines: Lines::default() };
    let name = address.name.as_str();
    let of_namespace = !address.namespace.is_empty();
    let resource = address.resource.as_str();
    let served = match resource {
        "pods" | "traces" => true,
        "nodes" => !address.within,
        _ => false,
    };
    if address.watch || !served {
        authorize(server, who, base)?;
        return Err(StatusError::no_such_resource());
    }
    let node = if resource == "nodes" { name } else { "" };
    let kind = if resource == "traces" { "pods" } else { resource };
    question.check(kind, &address.namespace, if node.is_empty() { name } else { node })?;
    if *method != Method::GET {
        return Err(StatusError::method_not_allowed());
    }
    match (resource, name, address.subresource.as_str()) {
        ("pods", "", "") => json(&pods::list(&question).await?),
        ("pods", _, "") if of_namespace => json(&pods::one(&question).await?),
        ("pods", _, "pending") if of_namespace => json(&pending::answer(&question).await?),
        ("pods", _, "start") if of_namespace => json(&start::answer(&question).await?),
        ("traces", "", "") if of_namespace => traces::answer(&question, query).await,
        ("nodes", name, "") if !name.is_empty() => json(&nodes::answer(&question).await?),
        _ => Err(StatusError::no_such_resource()),
    }
}

fn json(value: &impl Serialize) -> Result<Response, StatusError> {
    let text = serde_json::to_string(value).map_err(|error| StatusError::internal(error.to_string()))?;
    Ok(render::json_response(StatusCode::OK, full(text)))
}

impl Question<'_> {
    /// Refuses who may not `get pods/explain` (or `nodes/explain`). A role may name the subresource in the
    /// core group, as it names `pods/log`, or in this group.
    fn check(&self, resource: &str, namespace: &str, name: &str) -> Result<(), StatusError> {
        let what =
            Attributes { verb: "get", resource, subresource: "explain", namespace, name, ..*self.base };
        match authorize(self.server, self.who, &Attributes { group: "", ..what }) {
            Ok(()) => Ok(()),
            Err(refused) => {
                let here = Attributes { group: skiff_explain::GROUP, ..what };
                authorize(self.server, self.who, &here).map_err(|_| refused)
            }
        }
    }

    /// Whether the asker may see this node's processes by name.
    fn may_see_node(&self, node: &str) -> bool {
        self.check("nodes", "", node).is_ok()
    }

    /// Takes out of an answer what is in namespaces whose pods the asker may not have explained.
    fn hider(&self) -> Hider<impl FnMut(&str) -> bool> {
        let namespaces = find("", "namespaces").expect("namespaces are in the table");
        let own = self.address.namespace.clone();
        Hider::new(move |namespace: &str| {
            let is_one = || self.server.caches.of(namespaces).get(&namespaces.key("", namespace)).is_some();
            namespace != own && is_one() && self.check("pods", namespace, "").is_err()
        })
    }

    fn row() -> &'static Resource {
        find("", "pods").expect("pods are in the table")
    }

    /// The pod that is asked about.
    fn pod(&self) -> Result<Value, StatusError> {
        let row = Self::row();
        let key = row.key(&self.address.namespace, &self.address.name);
        match self.server.caches.of(row).get(&key) {
            Some(object) => Ok(object.value(row)),
            None => Err(StatusError::not_found(row.group_resource(), &self.address.name)),
        }
    }

    fn node_exists(&self, name: &str) -> Result<(), StatusError> {
        let row = find("", "nodes").expect("nodes are in the table");
        match self.server.caches.of(row).get(&row.key("", name)) {
            Some(_) => Ok(()),
            None => Err(StatusError::not_found(GroupResource { group: "", resource: "nodes" }, name)),
        }
    }

    /// Asks a node's agent, for as long as an answer may take. Why it gave none is in words.
    async fn agent<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T, String> {
        if let Some(why) = self.silent.lock().get(node) {
            return Err(why.clone());
        }
        // One that answers is not left out because another did not.
        let until = self.deadline.max(Instant::now() + AGENT_TIMEOUT_MIN);
        let answer = ask_by(&self.lines, self.server, node, (Method::GET, path), until).await;
        if let Err(why) = &answer
            && Instant::now() >= until
        {
            self.silent.lock().insert(node.to_owned(), why.clone());
        }
        answer
    }
}

async fn ask<T: DeserializeOwned>(
    server: &Inner,
    node: &str,
    what: (Method, &str),
    deadline: Instant,
) -> Result<T, String> {
    ask_by(&Lines::default(), server, node, what, deadline).await
}

/// The same by a connection that is kept, if nobody else asks by it just now.
async fn ask_by<T: DeserializeOwned>(
    lines: &Lines,
    server: &Inner,
    node: &str,
    (method, path): (Method, &str),
    deadline: Instant,
) -> Result<T, String> {
    let within = deadline - Instant::now();
    let asking = async {
        let agent = Agent::of(server, node)?;
        let request = || {
            let mut request = agent.request(&format!("/skiff/explain/{path}"))?.map(|()| empty());
            *request.method_mut() = method.clone();
            Ok::<_, StatusError>(request)
        };
        let kept = lines.0.lock().remove(node).filter(|line| !line.is_closed());
        let (mut line, again) = match kept {
            Some(line) => (line, method == Method::GET),
            None => (agent.line().await?, false),
        };
        let mut response = agent.send_by(&mut line, request()?).await;
        // The agent may have ended, and another be there.
        if response.is_err() && again {
            line = agent.line().await?;
            response = agent.send_by(&mut line, request()?).await;
        }
        let response = response?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| StatusError::internal(error.to_string()))?.to_bytes();
        lines.0.lock().insert(node.to_owned(), line);
        Ok::<_, StatusError>((status, body))
    };
    let (status, body) = match tokio::time::timeout_at(deadline, asking).await {
        Err(_) => return Err(silent(node, within)),
        Ok(Err(error)) => return Err(format!("node {node} cannot be asked: {}", error.message())),
        Ok(Ok(answer)) => answer,
    };
    if !status.is_success() {
        let text = String::from_utf8_lossy(&body);
        return Err(format!("node {node} answered {}: {}", status.as_u16(), text.trim_end()));
    }
    serde_json::from_slice(&body).map_err(|error| format!("node {node} answered what can't be read: {error}"))
}

fn silent(node: &str, within: Duration) -> String {
    format!("node {node} did not answer within {:.1} s", within.as_secs_f32())
}

/// What a [`Hider`] took out.
fn hidden() -> Missing {
    Missing::new(
        "what is marked (hidden), and processes by name",
        "you may not get pods/explain in those namespaces, or nodes/explain",
    )
}

/// Where the pod is, if it is anywhere.
fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

fn metadata(pod: &Value) -> skiff_explain::Metadata {
    let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
    skiff_explain::Metadata { name: text("name"), namespace: text("namespace"), uid: text("uid") }
}
