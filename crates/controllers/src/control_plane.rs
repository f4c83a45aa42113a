//! The role of the node that the control plane runs on, shown by a label. Agents may not give themselves
//! such labels, so the control plane, which knows where it runs, does.

use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_client::{Error, ObjectKey, Patch, Requeue, WorkQueue, work};

use crate::context::{Context, feed_own};

const LABEL: &str = "node-role.kubernetes.io/control-plane";

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    tokio::join!(
        feed_own(context.caches.nodes.clone(), queue.clone()),
        work("control-plane", queue, 1, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(node) = context.caches.nodes.get(key) else { return Ok(Requeue::Never) };
    if lacks_label(&node, context.config.control_plane_node.as_deref()) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL: ""}}}));
        context.client.patch::<Node>("", &key.name, None, &patch).await?;
    }
    Ok(Requeue::Never)
}

fn lacks_label(node: &Node, control_plane: Option<&str>) -> bool {
    let is_it = control_plane.is_some() && node.metadata.name.as_deref() == control_plane;
    is_it && !node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_planes_node_alone_gets_the_label() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        let labelled: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": {LABEL: ""}}})).unwrap();
        assert!(lacks_label(&node, Some("a")));
        assert!(!lacks_label(&node, Some("b")));
        assert!(!lacks_label(&node, None));
        assert!(!lacks_label(&labelled, Some("a")));
    }
}
