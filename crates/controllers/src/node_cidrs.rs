//! Every node gets a part of the cluster's pod range, and no two the same.

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use skiff_client::{Change, Error, EventType, ObjectKey, Patch, Requeue, WorkQueue, reference, work};
use tracing::{error, info, warn};

use crate::context::{Context, feed_own};

pub(crate) async fn run(context: Context) {
    let Some(range) = Range::parse(&context.config.cluster_cidr) else {
        error!(range = context.config.cluster_cidr, "the cluster's pod range can't be read, nodes get none");
        return std::future::pending().await;
    };
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    tokio::join!(
        feed_own(context.caches.nodes.clone(), queue.clone()),
        feed_freed(&context, queue.clone()),
        // One worker: two at a time could choose the same part.
        work("node-cidr", queue, 1, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, range, &key).await }
        }),
    );
}

/// A node that goes leaves its range to those that got none.
async fn feed_freed(context: &Context, queue: WorkQueue<ObjectKey>) {
    let mut changes = context.caches.nodes.subscribe();
    loop {
        if let Change::Deleted(_) | Change::Resync = changes.next().await {
            let all = context.caches.nodes.list();
            let without = all.iter().filter(|node| pod_range(node).is_none());
            without.for_each(|node| queue.add(ObjectKey::of(&**node)));
        }
    }
}

async fn reconcile(context: &Context, range: Range, key: &ObjectKey) -> Result<Requeue, Error> {
    let prefix = context.config.node_cidr_prefix;
    let Some(node) = context.caches.nodes.get(key).filter(|node| pod_range(node).is_none()) else {
        return Ok(Requeue::Never);
    };
    if range.first_free(prefix, &taken(&context.caches.nodes.list())).is_none() {
        let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
        context.events.record(reference(&*node), EventType::Normal, "CIDRNotAvailable", message);
        warn!(node = %key.name, range = context.config.cluster_cidr, "no part of the pod range is free");
        return Ok(Requeue::Never);
    }
    // The API itself is asked: a range that was given a moment ago may not be in the copy yet.
    let nodes = context.client.list::<Node>(&skiff_client::ListParams::default()).await?.items;
    let Some(node) = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(&key.name)) else {
        return Ok(Requeue::Never);
    };
    if pod_range(node).is_some() {
        return Ok(Requeue::Never);
    }
    let Some(part) = range.first_free(prefix, &taken(&nodes)) else {
        return Ok(Requeue::After(std::time::Duration::from_secs(1)));
    };
    let part = part.to_string();
    let patch = serde_json::json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"podCIDR": part, "podCIDRs": [part]},
    });
    context.client.patch::<Node>("", &key.name, None, &Patch::Merge(patch)).await?;
    info!(node = %key.name, range = part, "node has its pod range");
    Ok(Requeue::Never)
}

fn pod_range(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|range| !range.is_empty())
}

fn taken(nodes: &[Arc<Node>]) -> Vec<Range> {
    let specs = nodes.iter().filter_map(|node| node.spec.as_ref());
    specs
        .flat_map(|spec| spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten()))
        .filter_map(|range| Range::parse(range))
        .collect()
}

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    network: u32,
    prefix: u8,
}

impl Range {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        let address: Ipv4Addr = address.parse().ok()?;
        Some(Self { network: u32::from(address) & mask(prefix), prefix })
    }

    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.network
    }

    fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.network & common == other.network & common
    }

    /// The first part of that size that overlaps none of `taken`.
    fn first_free(self, prefix: u8, taken: &[Self]) -> Option<Self> {
        if prefix < self.prefix || prefix > 32 {
            return None;
        }
        let mut taken: Vec<(u64, u64)> =
            taken.iter().filter(|other| other.overlaps(self)).map(|other| other.span()).collect();
        taken.sort_unstable();
        let size = 1_u64 << (32 - prefix);
        let (mut at, end) = self.span();
        for (first, last) in taken {
            if at + size <= first {
                break;
            }
            // On to the first part that begins behind it.
            at = at.max((last + 1).div_ceil(size) * size);
        }
        let network = u32::try_from(at).ok().filter(|_| at + size - 1 <= end)?;
        Some(Self { network, prefix })
    }

    /// Its first and last address.
    fn span(self) -> (u64, u64) {
        let first = u64::from(self.network);
        (first, first + (1_u64 << (32 - self.prefix)) - 1)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl std::fmt::Display for Range {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_once() {
        let free = |range: &str, prefix: u8, taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|one| Range::parse(one).unwrap()).collect();
            Range::parse(range).unwrap().first_free(prefix, &taken).map(|part| part.to_string())
        };
        assert_eq!(free("10.244.0.0/16", 24, &[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(
            free("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.1.0/24"]).as_deref(),
            Some("10.244.2.0/24")
        );
        assert_eq!(free("10.244.0.0/16", 24, &["10.244.1.0/24"]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(free("10.244.0.0/16", 24, &["10.244.0.128/25"]).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(free("10.244.0.0/16", 24, &["10.244.0.0/17"]).as_deref(), Some("10.244.128.0/24"));
        assert_eq!(free("10.0.0.0/24", 24, &["10.0.0.0/8"]), None);
        assert_eq!(free("10.0.0.0/24", 25, &["10.0.0.0/25"]).as_deref(), Some("10.0.0.128/25"));
        assert_eq!(free("10.0.0.0/24", 16, &[]), None);
        assert_eq!(
            free("255.255.255.0/24", 25, &["255.255.255.0/25"]).as_deref(),
            Some("255.255.255.128/25")
        );
        assert_eq!(Range::parse("10.0.0.0/33"), None);
        assert_eq!(Range::parse("10.0.0.7/24").unwrap().to_string(), "10.0.0.0/24");
    }
}
