//! A node's own namespaces, and which pods are in them.

use skiff_api::status::StatusError;
use skiff_explain::Missing;
use skiff_explain::node::NodeExplanation;

use super::Question;

pub(super) async fn answer(question: &Question<'_>) -> Result<NodeExplanation, StatusError> {
    let name = question.address.name.as_str();
    question.node_exists(name)?;
    Ok(match question.agent::<NodeExplanation>(name, "node").await {
        Ok(told) => told,
        Err(why) => NodeExplanation::unknown(name, Missing::new("facts of the node", why)),
    })
}
