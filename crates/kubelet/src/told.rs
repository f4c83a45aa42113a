//! Whether the API still has what this node told it of a pod.
//!
//! Others write a pod's status too: the control plane marks the pods of a silent node as not ready. What
//! the API answered to a write is held against every later state of the pod, by revision and by content,
//! so that a foreign write is known from an older state that arrives late, and a field that the API keeps
//! in its own form is no difference. The worker then tells its own view anew ([`Pace`] says how often).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::status::OWN_CONDITIONS;

/// While somebody writes over it again and again, a pod's status is told this often at most.
const ANEW_EVERY: Duration = Duration::from_secs(1);

/// The API's answer to a write: what it then had.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    revision: u64,
    own: PodStatus,
}

impl Stored {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self { revision: revision(&pod.metadata), own: own_part(pod.status.as_ref()) }
    }
}

/// The last write of a status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// None is wanted, or it was refused for good: whatever the API has is compared as it is.
    Nothing,
    /// On its way.
    Asked,
    Stored(Arc<Stored>),
}

/// How what the API has stands to what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As told, or older than that: then its news is to come.
    Holds,
    /// Not known before the write is answered.
    Open,
    /// Somebody else wrote since.
    Overwritten,
}

/// Compares the last write with a state of the pod as the API sends it.
pub(crate) fn standing(told: &Told, pod: &Pod) -> Standing {
    match told {
        Told::Nothing => Standing::Holds,
        Told::Asked => Standing::Open,
        Told::Stored(stored) if revision(&pod.metadata) <= stored.revision => Standing::Holds,
        Told::Stored(stored) if own_part(pod.status.as_ref()) == stored.own => Standing::Holds,
        Told::Stored(_) => Standing::Overwritten,
    }
}

/// When a pod's status is told anew because of others.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Nothing if it may be told now, which then counts; else how long to wait.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Duration> {
        let left = self.last.map(|last| (last + ANEW_EVERY).saturating_duration_since(now));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return Some(left);
        }
        self.last = Some(now);
        None
    }
}

/// Revisions of one server are numbers that grow.
pub(crate) fn revision(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What of a status the node answers for, in one order.
fn own_part(status: Option<&PodStatus>) -> PodStatus {
    let mut own = status.cloned().unwrap_or_default();
    if let Some(conditions) = &mut own.conditions {
        conditions.retain(|condition| OWN_CONDITIONS.contains(&condition.type_.as_str()));
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
    own.nominated_node_name = None;
    own
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(revision: &str, conditions: Value) -> Pod {
        let pod = json!({
            "metadata": {"name": "p", "resourceVersion": revision},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn only_what_others_wrote_after_it_is_a_difference() {
        let ready = json!([condition("Initialized", "True"), condition("Ready", "True")]);
        let unready = json!([condition("Initialized", "True"), condition("Ready", "False")]);
        let turned = json!([condition("Ready", "True"), condition("Initialized", "True")]);
        let more = json!([
            condition("DisruptionTarget", "True"),
            condition("Initialized", "True"),
            condition("Ready", "True")
        ]);
        let later = json!([condition("Initialized", "True"),
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}]);
        let told = Told::Stored(Arc::new(Stored::of(&pod("10", ready.clone()))));
        for (what, revision, conditions, expected) in [
            ("the answer itself", "10", &ready, Standing::Holds),
            ("a later state that leaves it alone", "11", &ready, Standing::Holds),
            ("another order", "11", &turned, Standing::Holds),
            ("a condition that is not the node's", "11", &more, Standing::Holds),
            ("an older state", "9", &unready, Standing::Holds),
            ("an older state of fewer digits", "9", &json!([]), Standing::Holds),
            ("readiness taken back", "11", &unready, Standing::Overwritten),
            ("readiness taken back, many revisions later", "100", &unready, Standing::Overwritten),
            ("a condition that is gone", "11", &json!([condition("Ready", "True")]), Standing::Overwritten),
            ("another time", "11", &later, Standing::Overwritten),
        ] {
            assert_eq!(standing(&told, &pod(revision, conditions.clone())), expected, "{what}");
        }
        let mut elsewhere = pod("11", ready);
        elsewhere.status.get_or_insert_default().pod_ip = Some("10.0.0.2".into());
        assert_eq!(standing(&told, &elsewhere), Standing::Overwritten);
        elsewhere.status = None;
        assert_eq!(standing(&told, &elsewhere), Standing::Overwritten);
    }

    #[test]
    fn a_preempting_pods_nomination_is_not_the_nodes() {
        let told = Told::Stored(Arc::new(Stored::of(&pod("10", json!([])))));
        let mut nominated = pod("11", json!([]));
        nominated.status.get_or_insert_default().nominated_node_name = Some("n".into());
        assert_eq!(standing(&told, &nominated), Standing::Holds);
    }

    #[test]
    fn before_the_answer_nothing_is_known() {
        let foreign = pod("11", json!([condition("Ready", "False")]));
        assert_eq!(standing(&Told::Asked, &foreign), Standing::Open);
        assert_eq!(standing(&Told::Nothing, &foreign), Standing::Holds);
    }

    #[test]
    fn the_first_time_is_at_once_and_the_next_a_second_later() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(pace.take(at(0)), None);
        assert_eq!(pace.take(at(400)), Some(Duration::from_millis(600)));
        assert_eq!(pace.take(at(999)), Some(Duration::from_millis(1)), "asking does not put it off");
        assert_eq!(pace.take(at(1_000)), None);
        assert_eq!(pace.take(at(1_001)), Some(Duration::from_millis(999)));
    }
}
