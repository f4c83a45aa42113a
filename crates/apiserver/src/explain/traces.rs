//! Which way a connection goes: the agents of the nodes on it are asked one after the other.
//!
//! Who may `get pods/explain` in the namespace sees the way; processes of nodes by name are for those who
//! may `get nodes/explain`, and names of other namespaces' objects for those who may `get pods/explain` there.
//! One of both ends at least is the asker's to see. A real connection, `live=true`, is for those who may forward ports to the pod that sends it, or who may
//! reach nodes if it begins in a node's network.

mod live;
mod world;

use std::sync::Arc;

use skiff_api::status::StatusError;
use skiff_explain::path::encoded;
use skiff_explain::pod::PodExplanation;
use skiff_explain::trace::walk::NodeWay;
use skiff_explain::trace::{
    ComparedWay, Follow, Protocol, Request, Target, TraceComparison, TraceError, TraceExplanation, Way,
    World, compared, listening,
};
use skiff_explain::{API_VERSION, Missing};

use super::{Question, hidden, json};
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
    let request =
        Request::read(end("from")?, end("to")?, namespace, &world).map_err(|error| wrong(question, error))?;
    may_ask(question, &request, &world)?;
    if query.flag("compare") {
        return json(&comparison(question, &request, &world).await?);
    }
    let live = query.flag("live");
    if live {
        may_send(question, &request, &world)?;
    }
    json(&one(question, request, world, live).await?)
}

/// Whether one of the ends is the asker's to see. What others reach among each other, and at their own loopback, is
/// theirs to know: it shows where they listen.
fn may_ask(question: &Question<'_>, request: &Request, world: &World) -> Result<(), StatusError> {
    let mut hider = question.hider();
    let mut sees = |end: &Target| match end {
        // Names are of the namespace that is asked about.
        Target::Pod { .. } | Target::Service { .. } | Target::External => true,
        Target::Node { name } => question.may_see_node(name),
        Target::Address(ip) => match (world.pod_at(*ip), world.service_of(*ip), world.node_at(*ip)) {
            (Some(pod), ..) => !hider.hides(&pod.namespace),
            (_, Some(service), _) => !hider.hides(&service.namespace),
            (.., Some(node)) => question.may_see_node(&node.name),
            _ => false,
        },
    };
    // From a stranger's address every way may be asked for: whoever is outside can go it.
    let outside = matches!(request.from, Target::Address(ip) if world.leads_outside(ip));
    if outside || sees(&request.from) || sees(&request.to) {
        return Ok(());
    }
    let why = format!(
        "user {:?} may see neither end of this way: one of them takes get of pods/explain in the pod's namespace, or of \
         nodes/explain",
        &*question.who.user
    );
    Err(StatusError::forbidden(Question::row().group_resource(), "", &why))
}

/// Whether the asker may have a real connection made by this sender: what it can reach is the sender's to
/// reach, not the asker's.
fn may_send(question: &Question<'_>, request: &Request, world: &World) -> Result<(), StatusError> {
    let pod = match &request.from {
        Target::Pod { namespace, name } => world.pod(namespace, name),
        Target::Address(ip) => world.pod_at(*ip),
        Target::Service { .. } | Target::Node { .. } | Target::External => None,
    };
    let asked = |resource, subresource| Attributes {
        verb: "create",
        group: "",
        resource,
        subresource,
        namespace: "",
        name: "",
        ..*question.base
    };
    let what = match pod.filter(|pod| !pod.host_network) {
        Some(pod) => {
            Attributes { namespace: &pod.namespace, name: &pod.name, ..asked("pods", "portforward") }
        }
        // It begins in a node's own network, which policies don't hold.
        None => asked("nodes", "proxy"),
    };
    let refused = authorize(question.server, question.who, &what);
    // Whose address it is may be somebody else's to know.
    refused.map_err(|_| {
        let why = format!(
            "user {:?} may not have connections made from there: for a pod it takes create of pods/portforward in \
             the pod's namespace, for anything else create of nodes/proxy",
            &*question.who.user
        );
        StatusError::forbidden(Question::row().group_resource(), "", &why)
    })
}

/// The question makes no sense in this cluster. What it is about may be somebody else's.
fn wrong(question: &Question<'_>, error: TraceError) -> StatusError {
    let without = question.hider().text(&error.0);
    StatusError::bad_request(without.unwrap_or(error.0))
}

async fn one(
    question: &Question<'_>,
    request: Request,
    world: Arc<World>,
    live: bool,
) -> Result<TraceExplanation, StatusError> {
    let mut follow = Follow::new(world, request).map_err(|error| wrong(question, error))?;
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
    let (from, to) = (request.from.words(&world), request.goal(&world));
    let mut told = None;
    if live {
        match live::answer(question, &origins, &mut ways, &world, &request).await {
            Ok(seen) => told = Some(seen),
            Err(why) => missing.push(Missing::new("a real connection", why)),
        }
    }
    let mut hider = question.hider();
    ways.iter_mut().for_each(|way| hider.insides(way, |node| question.may_see_node(node)));
    let mut explanation = TraceExplanation::new(from, to, request.protocol, ways, missing);
    explanation.live = told.map(|mut live| {
        hider.live(&mut live);
        live
    });
    let mut explanation =
        hider.answer(explanation).map_err(|error| StatusError::internal(error.to_string()))?;
    if hider.hid {
        explanation.missing.push(hidden());
    }
    Ok(explanation)
}

/// Where the pod that is compared really listens, as far as its node says so: whoever may ask for the ways to the
/// pod may ask what it shares.
async fn listeners(question: &Question<'_>, request: &Request, world: &World) -> Vec<(Protocol, u16)> {
    let Target::Pod { namespace, name } = &request.to else { return Vec::new() };
    let Some(pod) = world.pod(namespace, name).filter(|pod| !pod.node.is_empty()) else { return Vec::new() };
    let path = format!("pods/{namespace}/{name}");
    let told = question.agent::<PodExplanation>(&pod.node, &path).await;
    // That the node is silent is told by each way that leads there.
    told.map(|told| listening(&told.listeners, pod.ip)).unwrap_or_default()
}

async fn comparison(
    question: &Question<'_>,
    request: &Request,
    world: &Arc<World>,
) -> Result<TraceComparison, StatusError> {
    let mut rows = Vec::new();
    let listening = listeners(question, request, world).await;
    for row in compared(request, world, &listening).map_err(|error| wrong(question, error))? {
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
                let (from, to) = (row.request.from.words(world), row.request.goal(world));
                TraceExplanation::new(from, to, row.request.protocol, vec![way], Vec::new())
            }
        };
        rows.push(ComparedWay { by: row.by.into(), address, opens_on: row.opens_on, trace });
    }
    let told = TraceComparison {
        api_version: API_VERSION.into(),
        kind: "TraceComparison".into(),
        pod: request.to.words(world),
        from: request.from.words(world),
        rows,
    };
    // An end given as an address may be somebody else's pod.
    question.hider().answer(told).map_err(|error| StatusError::internal(error.to_string()))
}
