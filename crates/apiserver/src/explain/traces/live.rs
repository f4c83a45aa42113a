//! One real connection: listeners on the nodes first, then the probe, then what they heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use http::Method;
use http_body_util::{BodyExt, Limited};
use skiff_explain::trace::live::{Heard, Listen, Observed, Outcome, Probe, judge, sender};
use skiff_explain::trace::{Live, Origin, Request, Way, World};
use tokio::time::Instant;

use super::super::{AGENTS_TIMEOUT, ANSWER_BYTES_MAX, Question, ask, silent};
use super::encoded;
use crate::http_body::empty;
use crate::streaming::agent::Agent;

/// How long the sender waits for an answer.
const PROBE_MILLIS: u64 = 1_800;
/// Listeners are told to stop. Where nobody tells them, they have listened until the slowest of them was ready
/// and the sender's agent had its time besides the connection's own.
const LISTEN_MILLIS: u64 = PROBE_MILLIS + 3 * AGENTS_TIMEOUT.as_millis() as u64;

/// What became of it, or why none was made.
pub(super) async fn answer(
    question: &Question<'_>,
    origins: &[Origin],
    ways: &mut [Way],
    world: &World,
    request: &Request,
) -> Result<Live, String> {
    let origin = origins.first().ok_or("nobody begins it")?;
    let Some(sandbox) = sender(&origin.start) else {
        return Err("a connection is made from inside the cluster only: begin at a pod or node".into());
    };
    if world.leads_outside(origin.to.0) {
        return Err(format!("{} is outside the cluster: nothing is sent there", origin.to.0));
    }
    // As a sequence number it is no zero, with which the kernel would choose another one.
    let token = rand::random::<u64>() | 1;
    let heard = Heard { protocol: request.protocol.into(), token };
    let to = SocketAddrV4::new(origin.to.0, origin.to.1);
    let mut places = places(ways, world);
    places.entry(origin.node.clone()).or_default().extend(sandbox);
    // What they hear comes when they have heard enough; that they listen they say at once.
    let listening = places.iter().map(|(node, sandboxes)| {
        let listen = Listen { sandboxes: sandboxes.iter().copied().collect(), heard, millis: LISTEN_MILLIS };
        listen_on(question, node, listen)
    });
    let sent = match try_join_all(listening).await {
        Ok(listening) => {
            let probe = Probe { sandbox, to, heard, millis: PROBE_MILLIS };
            connect(question, &origin.node, &probe).await.map(|outcome| (outcome, listening))
        }
        Err(why) => Err(why),
    };
    // Whoever answered or refused has seen the packet by now; and nobody listens on for nothing.
    let stop = places.keys().map(|node| async move {
        let (path, deadline) =
            (format!("listen/stop?token={}", heard.token), Instant::now() + AGENTS_TIMEOUT);
        let _: Result<(), String> = ask(question.server, node, (Method::POST, &path), deadline).await;
    });
    join_all(stop).await;
    let (outcome, listening) = sent?;
    let mut observed = Observed::default();
    for heard in join_all(listening.into_iter().map(|(node, body)| hear(node, body))).await {
        observed.extend(heard?);
    }
    Ok(judge(ways, request.protocol, &outcome, &observed))
}

/// Makes the connection, which takes its own time besides what the agent may take.
async fn connect(question: &Question<'_>, node: &str, probe: &Probe) -> Result<Outcome, String> {
    let deadline = Instant::now() + AGENTS_TIMEOUT + Duration::from_millis(probe.millis);
    let probe = serde_json::to_string(probe).map_err(|error| error.to_string())?;
    let path = format!("probe?probe={}", encoded(&probe));
    ask(question.server, node, (Method::POST, &path), deadline).await
}

/// The nodes on the ways, each with the addresses of its pods on them.
fn places(ways: &[Way], world: &World) -> BTreeMap<String, BTreeSet<Ipv4Addr>> {
    let mut places: BTreeMap<String, BTreeSet<Ipv4Addr>> = BTreeMap::new();
    for hop in ways.iter().flat_map(|way| way.hops.iter().chain(&way.answer)) {
        if let Some(node) = hop.place.strip_prefix("node ") {
            places.entry(node.to_owned()).or_default();
        } else if let Some((namespace, name)) =
            hop.place.strip_prefix("pod ").and_then(|pod| pod.split_once('/'))
            && let Some(pod) = world.pod(namespace, name).filter(|pod| !pod.host_network)
        {
            places.entry(pod.node.clone()).or_default().extend(pod.ip);
        }
    }
    places
}

type Body = hyper::body::Incoming;

/// The node that listens, and what will be what it heard.
async fn listen_on<'n>(
    question: &Question<'_>,
    node: &'n str,
    listen: Listen,
) -> Result<(&'n str, Body), String> {
    let listen = serde_json::to_string(&listen).map_err(|error| error.to_string())?;
    let asking = async {
        let agent = Agent::of(question.server, node)?;
        let path = format!("/skiff/explain/listen?listen={}", encoded(&listen));
        let mut request = agent.request(&path)?.map(|()| empty());
        *request.method_mut() = Method::POST;
        agent.send(request).await
    };
    let response = tokio::time::timeout(AGENTS_TIMEOUT, asking)
        .await
        .map_err(|_| silent(node, AGENTS_TIMEOUT))?
        .map_err(|error| format!("node {node} can't listen: {}", error.message()))?;
    if !response.status().is_success() {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned());
        return Err(format!("node {node} can't listen: {}", text.unwrap_or_default()));
    }
    Ok((node, response.into_body()))
}

async fn hear(node: &str, body: Body) -> Result<Observed, String> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(AGENTS_TIMEOUT, body).await.map_err(|_| silent(node, AGENTS_TIMEOUT))?;
    let bytes = body.map_err(|error| format!("a node stopped telling what it heard: {error}"))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| format!("a node told what can't be read: {error}"))
}
