//! Where a pod runs, as its node's labels have it: its own containers may read that as they read any label of
//! the pod.

use serde_json::Value;

use crate::resources::find;
use crate::server::Inner;

/// The labels of nodes that say so.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Gives a pod that comes to this node its labels of the kind, whatever the pod said before. A node that isn't
/// known has none.
pub(crate) fn give(server: &Inner, node: &str, pod: &mut Value) {
    let nodes = find("", "nodes").expect("nodes are in the table");
    let Some(node) = server.caches.of(nodes).get(&nodes.key("", node)) else { return };
    let node = node.value(nodes);
    for label in LABELS {
        if let Some(value) = node["metadata"]["labels"].get(label) {
            pod["metadata"]["labels"][label] = value.clone();
        }
    }
}
