//! Which way a connection goes: the agents of the nodes on it are asked one after the other.
//!
//! Who may `get pods/explain` in the namespace sees the way; processes of nodes by name are for those who
//! may `get nodes/explain`. A real connection, `live=true`, is for those who may forward ports to pods.

mod live;
mod world;

use std::sync::Arc;

use skiff_api::status::StatusError;
use skiff_explain::path::encoded;
use skiff_explain::trace::walk::NodeWay;
use skiff_explain::trace::{
    ComparedWay, Follow, Request, TraceComparison, TraceError, TraceExplanation, Way, World, compared,
};
use skiff_explain::{API_VERSION, Missing};

use super::{Question, json};
use crate::auth::Attributes;
use crate::http_body::Response;
use crate::request::Query;
use crate::server::authorize;

pub(super) async fn answer(question: &Question<'_>, query: &Query) -> Result<Response, StatusError> {
    let namespace = question.address.namespace.as_str();
    let world = Arc::new(world::of(question.server));
    let end = |name: &str| {
        query.given(name).ok_or_else(|| StatusError::bad_request(format!("{name}: say which end it is")))
    };
    let request = Request::read(end("from")?, end("to")?, namespace, &world).map_err(wrong)?;
    if query.flag("compare") {
        return json(&comparison(question, &request, &world).await?);
    }
    let live = query.flag("live");
    if live {
        let what = Attributes {
            verb: "create",
            group: "",
            resource: "pods",
            subresource: "portforward",
            namespace,
            name: "",
            ..*question.base
        };
        authorize(question.server, question.who, &what)?;
    }
    json(&one(question, request, world, live).await?)
}

/// The question makes no sense in this cluster.
fn wrong(error: TraceError) -> StatusError {
    StatusError::bad_request(error.0)
}

async fn one(
    question: &Question<'_>,
    request: Request,
    world: Arc<World>,
    live: bool,
) -> Result<TraceExplanation, StatusError> {
    let mut follow = Follow::new(world, request).map_err(wrong)?;
    let origins = follow.origins().to_vec();
    while let Some(ask) = follow.next() {
        let walk =
            serde_json::to_string(&ask.question).map_err(|error| StatusError::internal(error.to_string()))?;
        let node = ask.node.clone();
        let path = format!("walk?walk={}", encoded(&walk));
        let answer = question.agent::<Vec<NodeWay>>(&node, &path).await;
        follow.answer(answer);
    }
    let (mut ways, world, request) = follow.finish();
    let mut missing = Vec::new();
    let (from, to) = (request.from.words(&world), goal(&request, &world));
    let mut told = None;
    if live {
        match live::answer(question, &origins, &ways, &world, &request).await {
            Ok(seen) => told = Some(seen),
            Err(why) => missing.push(Missing::new("a real connection", why)),
        }
    }
    ways.iter_mut().for_each(|way| redact(question, way));
    let mut explanation = TraceExplanation::new(from, to, request.protocol, ways, missing);
    explanation.live = told;
    Ok(explanation)
}

fn goal(request: &Request, world: &World) -> String {
    let port = request.port.as_deref().map(|port| format!(", port {port}")).unwrap_or_default();
    format!("{}{port}", request.to.words(world))
}

async fn comparison(
    question: &Question<'_>,
    request: &Request,
    world: &Arc<World>,
) -> Result<TraceComparison, StatusError> {
    let mut rows = Vec::new();
    for row in compared(request, world).map_err(wrong)? {
        let port = row.request.port.clone().unwrap_or_default();
        let address = match skiff_explain::trace::address(&row.request, world) {
            Some(ip) => format!("{ip}:{port}"),
            None => port,
        };
        // From outside, an address of the cluster's inside leads nowhere: that is an answer too.
        let trace = match one(question, row.request.clone(), Arc::clone(world), false).await {
            Ok(trace) => trace,
            Err(error) => {
                let way = Way::unreachable(error.message().to_owned());
                let (from, to) = (row.request.from.words(world), goal(&row.request, world));
                TraceExplanation::new(from, to, row.request.protocol, vec![way], Vec::new())
            }
        };
        rows.push(ComparedWay { by: row.by.into(), address, opens_on: row.opens_on, trace });
    }
    Ok(TraceComparison {
        api_version: API_VERSION.into(),
        kind: "TraceComparison".into(),
        pod: request.to.words(world),
        from: request.from.words(world),
        rows,
    })
}

/// Leaves out which process it is where the asker may not see the node's.
fn redact(question: &Question<'_>, way: &mut Way) {
    for hop in way.hops.iter_mut().chain(&mut way.answer) {
        if hop.kind == "socket"
            && let Some(node) = hop.place.strip_prefix("node ")
            && !question.may_see_node(node)
            && let Some((target, _)) = hop.text.split_once(" is taken by ")
        {
            hop.text = format!("{target} is taken by a process of the node");
            way.summary = format!("reaches {}: a process of the node takes it", hop.place);
        }
    }
}
