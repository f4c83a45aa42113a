//! How a pod's start went: what this server, its scheduler and the node's agent marked, as one waterfall.

use std::time::SystemTime;

use serde_json::Value;
use skiff_api::status::StatusError;
use skiff_explain::start::{Marks, Standing, StartExplanation, explain, micros};
use skiff_explain::{Metadata, Missing};

use super::{Question, metadata, node_of};

pub(super) async fn answer(question: &Question<'_>) -> Result<StartExplanation, StatusError> {
    let starts = &question.server.config.starts;
    let (namespace, name) = (&question.address.namespace, &question.address.name);
    let refused = match question.pod() {
        Ok(pod) => {
            let now = goes_on(&pod).then(|| micros(SystemTime::now()));
            return Ok(told(question, metadata(&pod), node_of(&pod).unwrap_or_default(), now).await);
        }
        Err(refused) => refused,
    };
    let Some(gone) = starts.find_gone(namespace, name) else { return Err(refused) };
    let own = Metadata { name: name.clone(), namespace: namespace.clone(), uid: gone.uid };
    let mut told = told(question, own, &gone.node, None).await;
    told.past = Some("the pod is gone; this is how its start went".into());
    Ok(told)
}

/// What is kept of the start of a pod.
async fn told(question: &Question<'_>, metadata: Metadata, node: &str, now: Option<u64>) -> StartExplanation {
    let mut missing = Vec::new();
    let mut parts: Vec<Marks> = Vec::new();
    match question.server.config.starts.get(&metadata.uid) {
        Some(marks) => parts.push(marks),
        None => missing.push(Missing::new(
            "what the server and its scheduler did",
            "the pod is not among the last 1,000, or older than this process",
        )),
    }
    let mut node_told = true;
    if node.is_empty() {
        missing.push(Missing::new("what a node did", "the pod has no node yet"));
    } else {
        match question.agent::<Option<Marks>>(node, &format!("starts/{}", metadata.uid)).await {
            Ok(Some(marks)) => parts.push(marks),
            Ok(None) => {
                node_told = false;
                let why = "the pod is not among the agent's last 1,000, or an agent before it started it";
                missing.push(Missing::new("what its node did", why));
            }
            Err(why) => {
                node_told = false;
                missing.push(Missing::new("what its node did", why));
            }
        }
    }
    let mut told = explain(metadata, node, &parts, Standing { now, node_told });
    told.missing = missing;
    told
}

/// Whether the pod may still become ready.
fn goes_on(pod: &Value) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    !ended && pod["metadata"]["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_start_of_a_pod_that_ends_does_not_go_on() {
        assert!(goes_on(&json!({"metadata": {}, "status": {"phase": "Pending"}})));
        assert!(goes_on(&json!({"metadata": {}})));
        assert!(!goes_on(&json!({"metadata": {}, "status": {"phase": "Failed"}})));
        assert!(!goes_on(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
    }
}
