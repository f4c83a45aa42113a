//! The way of a packet through this node, for `trace`.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use skiff_network::walk::{Asked, Conversation, Packets, Start};

use super::{network, sandboxes};
use crate::agent::{Answer, Query, Refusal, internal, json};
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
    let network = network(context)?;
    let asked = Asked {
        node: format!("node {}", context.config.node_name),
        start: question.start,
        packets: question.packets,
        conversations: question.conversations,
        sandboxes: sandboxes(context).await?,
    };
    match network.walk(asked).await {
        Ok(ways) => json(&ways),
        Err(error @ (skiff_network::Error::Invalid(_) | skiff_network::Error::NotAttached(_))) => {
            Err(refuse(error.to_string()))
        }
        Err(error) => Err(internal(error)),
    }
}
