//! Nodes that have the pod's images already are better, by size; an image that few nodes have counts less,
//! so that one node doesn't draw all pods of an image.

use crate::snapshot::{NodeInfo, PodInfo};

const MEGABYTE: i64 = 1024 * 1024;
/// Below this much in images, locality isn't worth anything.
const LEAST: i64 = 23 * MEGABYTE;
/// Above this much per container, more isn't worth more.
const MOST_PER_CONTAINER: i64 = 1000 * MEGABYTE;

pub(super) fn score(pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let spec = pod.pod.spec.as_ref()?;
    if nodes.iter().all(|node| node.images.is_empty()) {
        return None;
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let names: Vec<String> =
        containers.filter_map(|container| container.image.as_deref()).map(full_name).collect();
    let most = MOST_PER_CONTAINER * i64::try_from(names.len()).unwrap_or(1).max(1);
    let all = i64::try_from(nodes.len()).unwrap_or(1).max(1);
    let mut sums = vec![0; nodes.len()];
    for name in &names {
        let having = i64::try_from(nodes.iter().filter(|node| node.images.contains_key(name)).count());
        let having = having.unwrap_or(0);
        for (sum, node) in sums.iter_mut().zip(nodes) {
            *sum += node.images.get(name).map_or(0, |size| size * having / all);
        }
    }
    let scale = |sum: i64| super::MAX * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST);
    Some(sums.into_iter().map(scale).collect())
}

/// The name as nodes report it: with a registry and a tag.
fn full_name(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let has_registry = first.contains(['.', ':']) || first == "localhost";
    let named = match (has_registry, first) {
        (true, _) => image.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{image}"),
    };
    let last = named.rsplit('/').next().unwrap_or(&named);
    if last.contains([':', '@']) { named } else { format!("{named}:latest") }
}
