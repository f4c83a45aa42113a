//! How fast nodes that failed may lose their pods: one in ten seconds a zone, more slowly where most of a
//! zone has failed, and not at all where nothing is left, as then it is rather the network or this very
//! machine that fails.
//!
//! The bounds are upstream's defaults: `--node-eviction-rate`, `--secondary-node-eviction-rate`,
//! `--unhealthy-zone-threshold` and `--large-cluster-size-threshold` of kube-controller-manager.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_secs(10);
const SLOW_INTERVAL: Duration = Duration::from_secs(100);
const UNHEALTHY_SHARE: f64 = 0.55;
/// From this many failed nodes on a zone can be in part disrupted.
const UNHEALTHY_MIN: usize = 3;
const LARGE_ZONE: usize = 50;

/// What is done about nodes of a zone that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// One after the other, so long apart.
    Every(Duration),
    /// No further one.
    Hold,
    /// None, and those that were before are spared.
    Outage,
}

/// Region and zone, as the node's labels tell them.
pub(super) fn of(node: &Node) -> String {
    let label = |key: &str| {
        let labels = node.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(key)).map(String::as_str).unwrap_or_default()
    };
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// The pace of each zone, from the zone of each node and whether it is ready.
pub(super) fn paces(nodes: impl IntoIterator<Item = (String, bool)>) -> BTreeMap<String, Pace> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (zone, ready) in nodes {
        let (ready_count, failed_count) = counts.entry(zone).or_default();
        *if ready { ready_count } else { failed_count } += 1;
    }
    let outage = counts.values().all(|(ready, _)| *ready == 0);
    let pace = |(ready, failed): (usize, usize)| {
        let share = failed as f64 / (ready + failed) as f64;
        match () {
            () if outage => Pace::Outage,
            // All of a zone has failed, and others have not.
            () if ready == 0 => Pace::Every(INTERVAL),
            () if failed < UNHEALTHY_MIN || share < UNHEALTHY_SHARE => Pace::Every(INTERVAL),
            () if ready + failed > LARGE_ZONE => Pace::Every(SLOW_INTERVAL),
            () => Pace::Hold,
        }
    };
    counts.into_iter().map(|(zone, counts)| (zone, pace(counts))).collect()
}

/// The paces in force, and when each zone's last node was given up.
#[derive(Debug, Default)]
pub(super) struct Zones {
    paces: BTreeMap<String, Pace>,
    last: BTreeMap<String, Instant>,
}

/// Whether a node may be given up now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    In(Duration),
    /// Not before the zones' state changes.
    Held,
    Outage,
}

impl Zones {
    /// Takes over what is so now; tells whether it was otherwise.
    pub(super) fn set(&mut self, paces: BTreeMap<String, Pace>) -> bool {
        let changed = self.paces != paces;
        self.last.retain(|zone, _| paces.contains_key(zone));
        self.paces = paces;
        changed
    }

    pub(super) fn turn(&self, zone: &str, now: Instant) -> Turn {
        match self.paces.get(zone) {
            Some(Pace::Every(interval)) => {
                let since = self.last.get(zone).map(|last| now.saturating_duration_since(*last));
                match since.and_then(|since| interval.checked_sub(since)).filter(|left| !left.is_zero()) {
                    Some(left) => Turn::In(left),
                    None => Turn::Now,
                }
            }
            Some(Pace::Outage) => Turn::Outage,
            // A zone that nobody has counted yet is counted at its node's next change.
            Some(Pace::Hold) | None => Turn::Held,
        }
    }

    /// A node of the zone has been given up.
    pub(super) fn took(&mut self, zone: &str, now: Instant) {
        self.last.insert(zone.to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_counts(zones: &[(&str, usize, usize)]) -> Vec<Pace> {
        let nodes = zones.iter().flat_map(|(zone, ready, failed)| {
            let zone = (*zone).to_owned();
            (0..ready + failed).map(move |at| (zone.clone(), at < *ready))
        });
        paces(nodes).into_values().collect()
    }

    #[test]
    fn a_zone_that_fails_for_the_most_part_is_evicted_slowly_or_not() {
        let usual = Pace::Every(INTERVAL);
        assert_eq!(of_counts(&[("a", 1, 2)]), [usual], "two may fail by themselves");
        assert_eq!(of_counts(&[("a", 1, 3)]), [Pace::Hold]);
        assert_eq!(of_counts(&[("a", 3, 3)]), [usual], "half of it is fewer than 55 %");
        assert_eq!(of_counts(&[("a", 9, 11)]), [Pace::Hold], "55 % are enough");
        assert_eq!(of_counts(&[("a", 20, 30)]), [Pace::Hold]);
        assert_eq!(of_counts(&[("a", 20, 31)]), [Pace::Every(SLOW_INTERVAL)]);
        assert_eq!(of_counts(&[("a", 0, 1)]), [Pace::Outage]);
        assert_eq!(of_counts(&[("a", 0, 9), ("b", 1, 0)]), [usual, usual]);
        assert_eq!(of_counts(&[("a", 0, 9), ("b", 0, 1)]), [Pace::Outage, Pace::Outage]);
        assert_eq!(of_counts(&[]), []);
    }

    #[tokio::test]
    async fn one_node_after_the_other_is_given_up() {
        let mut zones = Zones::default();
        let start = Instant::now();
        assert_eq!(zones.turn("a", start), Turn::Held, "not counted yet");
        assert!(zones.set(paces([("a".to_owned(), true), ("b".to_owned(), true)])));
        assert!(!zones.set(paces([("a".to_owned(), true), ("b".to_owned(), true)])));
        assert_eq!(zones.turn("a", start), Turn::Now);
        zones.took("a", start);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(zones.turn("a", later(4)), Turn::In(Duration::from_secs(6)));
        assert_eq!(zones.turn("b", later(4)), Turn::Now, "each zone has its own pace");
        assert_eq!(zones.turn("a", later(10)), Turn::Now);
        zones.set(paces([("a".to_owned(), false)]));
        assert_eq!(zones.turn("a", later(10)), Turn::Outage);
    }

    #[test]
    fn a_zone_is_one_of_its_region() {
        let of = |labels: serde_json::Value| {
            let node = serde_json::json!({"metadata": {"name": "n", "labels": labels}});
            super::of(&serde_json::from_value(node).unwrap())
        };
        let both =
            serde_json::json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"});
        assert_eq!(of(both), "r/z");
        assert_eq!(of(serde_json::json!({})), "/");
    }
}
