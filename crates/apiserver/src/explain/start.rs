//! How a pod's start went: what this server, its scheduler and the node's agent marked, as one waterfall.

use skiff_api::status::StatusError;
use skiff_explain::Missing;
use skiff_explain::start::{Marks, StartExplanation, explain};

use super::{Question, metadata, node_of};

pub(super) async fn answer(question: &Question<'_>) -> Result<StartExplanation, StatusError> {
    let pod = question.pod()?;
    let metadata = metadata(&pod);
    let mut missing = Vec::new();
    let mut parts: Vec<Marks> = Vec::new();
    match question.server.config.starts.get(&metadata.uid) {
        Some(marks) => parts.push(marks),
        None => missing.push(Missing::new(
            "what the server and its scheduler did",
            "the pod is not among the last 1,000, or older than this process",
        )),
    }
    let node = node_of(&pod).unwrap_or_default();
    if node.is_empty() {
        missing.push(Missing::new("what a node did", "the pod has no node yet"));
    } else {
        match question.agent::<Option<Marks>>(node, &format!("starts/{}", metadata.uid)).await {
            Ok(Some(marks)) => parts.push(marks),
            Ok(None) => missing.push(Missing::new(
                "what its node did",
                "the pod is not among the agent's last 1,000, or was started by an agent before it",
            )),
            Err(why) => missing.push(Missing::new("what its node did", why)),
        }
    }
    let mut told = explain(metadata, node, &parts);
    told.missing = missing;
    Ok(told)
}
