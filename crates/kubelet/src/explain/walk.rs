//! The way of a packet through this node, for `trace`.

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use skiff_network::walk::{Asked, Conversation, Packets, Start};

use crate::agent::{Answer, Query, Refusal, internal, json};
use crate::labels;
use crate::node_context::Context;

/// The parameter `walk`, as JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    start: Start,
    packets: Packets,
    #[serde(default)]
    conversations: Vec<Conversation>,
}

pub(super) async fn answer(context: &Arc<Context>, query: &Query) -> Answer {
    let refuse = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let question: Question = serde_json::from_str(query.get("walk").unwrap_or_default())
        .map_err(|error| refuse(format!("walk: {error}")))?;
    let network = context.network.borrow().clone().ok_or_else(|| {
        let message = "this node has no range of pod addresses yet";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, message.into())
    })?;
    let sandboxes = context.runtime.list_sandboxes().await.map_err(internal)?;
    let known = sandboxes.into_iter().filter(|sandbox| sandbox.pid > 0).map(|sandbox| {
        let label = |name: &str| sandbox.config.labels.get(name).cloned().unwrap_or_default();
        let name = format!("pod {}/{}", label(labels::POD_NAMESPACE), label(labels::POD_NAME));
        let netns = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
        (sandbox.id.0.clone(), (name, netns))
    });
    let asked = Asked {
        node: format!("node {}", context.config.node_name),
        start: question.start,
        packets: question.packets,
        conversations: question.conversations,
        sandboxes: known.collect(),
    };
    match network.walk(asked).await {
        Ok(ways) => json(&ways),
        Err(error @ (skiff_network::Error::Invalid(_) | skiff_network::Error::NotAttached(_))) => {
            Err(refuse(error.to_string()))
        }
        Err(error) => Err(internal(error)),
    }
}
