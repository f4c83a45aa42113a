//! Taints that follow conditions, whose turn it is, and how long pods stay.

use super::evict::{Tolerated, not_ready, tolerated_for};
use super::*;

fn node(value: serde_json::Value) -> Node {
    serde_json::from_value(value).unwrap()
}

fn taints(value: serde_json::Value, outage: bool) -> String {
    taints_at(value, if outage { &Turn::Outage } else { &Turn::Now })
}

fn taints_at(value: serde_json::Value, turn: &Turn) -> String {
    let at = Timestamp::from_second(50).unwrap();
    let (taints, _) = wanted_taints(&node(value), turn, at);
    let text: Vec<_> = taints
        .iter()
        .map(|taint| {
            let at = taint.time_added.as_ref().map_or(0, |time| time.0.as_second());
            format!("{}:{}@{at}", taint.key, taint.effect)
        })
        .collect();
    text.join(" ")
}

#[test]
fn taints_follow_conditions() {
    let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
    assert_eq!(taints(json!({"metadata": {}, "status": {"conditions": ready("True")}}), false), "");
    assert_eq!(
        taints(json!({"metadata": {}, "status": {"conditions": ready("False")}}), false),
        "node.kubernetes.io/not-ready:NoSchedule@50 node.kubernetes.io/not-ready:NoExecute@50"
    );
    assert_eq!(
        taints(json!({"metadata": {}}), false),
        "node.kubernetes.io/unreachable:NoSchedule@50 node.kubernetes.io/unreachable:NoExecute@50"
    );
    assert_eq!(taints(json!({"metadata": {}}), true), "node.kubernetes.io/unreachable:NoSchedule@50");
    let present = json!([
        {"key": "mine", "effect": "NoExecute"},
        {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:07Z"},
        {"key": NOT_READY, "effect": "NoSchedule"}]);
    assert_eq!(
        taints(
            json!({"metadata": {}, "spec": {"taints": present, "unschedulable": true},
            "status": {"conditions": ready("Unknown")}}),
            false
        ),
        "mine:NoExecute@0 node.kubernetes.io/unreachable:NoSchedule@50 \
         node.kubernetes.io/unreachable:NoExecute@7 node.kubernetes.io/unschedulable:NoSchedule@50"
    );
}

#[test]
fn a_pod_is_marked_as_it_was_seen_and_not_once_more() {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u", "resourceVersion": "7"}})).unwrap();
    let at = Timestamp::from_second(50).unwrap();
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:00:50Z"});
    assert_eq!(
        not_ready(&pod, at),
        json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"conditions": [condition]}})
    );
}

#[test]
fn a_node_is_given_up_when_it_is_its_turn() {
    let failed = json!({"metadata": {}});
    let waits = "node.kubernetes.io/unreachable:NoSchedule@50";
    for turn in [Turn::Held, Turn::In(Duration::from_secs(1)), Turn::Outage] {
        assert_eq!(taints_at(failed.clone(), &turn), waits, "{turn:?}");
        assert!(!wanted_taints(&node(failed.clone()), &turn, Timestamp::UNIX_EPOCH).1);
    }
    assert!(wanted_taints(&node(failed), &Turn::Now, Timestamp::UNIX_EPOCH).1);
    // Whose turn has been keeps its taint, also as another one.
    let given_up = json!({"metadata": {}, "spec": {"taints": [
        {"key": NOT_READY, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:07Z"}]}});
    let stays = "node.kubernetes.io/unreachable:NoSchedule@50 node.kubernetes.io/unreachable:NoExecute@50";
    assert_eq!(taints_at(given_up.clone(), &Turn::Held), stays);
    assert_eq!(taints_at(given_up.clone(), &Turn::Outage), waits);
    assert!(!wanted_taints(&node(given_up), &Turn::Now, Timestamp::UNIX_EPOCH).1, "it takes no turn");
}

#[test]
fn a_taint_that_does_not_say_when_it_was_put_evicts_all_the_same() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let taint = |value: &str, effect: &str| -> Taint {
        serde_json::from_value(json!({"key": "dedicated", "value": value, "effect": effect})).unwrap()
    };
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": [
        {"key": "dedicated", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}}))
    .unwrap();
    let mut seen = Seen::default();
    let mut look = |taints: &[Taint], second| {
        let dated = dated(&mut seen, taints, at(second));
        tolerated_for(&pod, &dated.iter().collect::<Vec<_>>(), at(second))
    };
    let x = [taint("x", "NoExecute"), taint("x", "NoSchedule")];
    assert_eq!(look(&x, 100), Tolerated::For(Duration::from_secs(5)));
    assert_eq!(look(&x, 103), Tolerated::For(Duration::from_secs(2)));
    assert_eq!(look(&x, 105), Tolerated::For(Duration::ZERO));
    // Taken off and put again, or another one: from the beginning.
    assert_eq!(look(&[taint("y", "NoExecute")], 106), Tolerated::For(Duration::from_secs(5)));
    assert_eq!(look(&[], 107), Tolerated::Always);
    assert_eq!(look(&[taint("y", "NoExecute")], 108), Tolerated::For(Duration::from_secs(5)));
}

#[test]
fn a_pod_tolerates_from_its_own_start_on() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"creationTimestamp": "1970-01-01T00:00:10Z"},
        "spec": {"containers": [], "tolerations": [{"operator": "Exists", "tolerationSeconds": 30}]},
        "status": {"conditions": [{"type": "PodScheduled", "status": "True",
            "lastTransitionTime": "1970-01-01T00:01:30Z"}]}}))
    .unwrap();
    let taint: Taint = serde_json::from_value(
        json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"}),
    )
    .unwrap();
    let left = tolerated_for(&pod, &[&taint], Timestamp::from_second(100).unwrap());
    assert_eq!(left, Tolerated::For(Duration::from_secs(20)));
}

#[test]
fn pods_stay_as_long_as_they_tolerate() {
    let taint = |key: &str, since: i64| Taint {
        key: key.to_owned(),
        effect: "NoExecute".to_owned(),
        value: None,
        time_added: Some(Time(Timestamp::from_second(since).unwrap())),
    };
    let at = Timestamp::from_second(100).unwrap();
    let left = |tolerations: serde_json::Value, taints: &[Taint]| {
        let pod = json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        tolerated_for(&pod, &taints.iter().collect::<Vec<_>>(), at)
    };
    let seconds = |seconds: u64| Tolerated::For(Duration::from_secs(seconds));
    let usual = json!([
        {"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
    assert_eq!(left(usual.clone(), &[taint(UNREACHABLE, 90)]), seconds(50));
    assert_eq!(left(usual.clone(), &[taint(UNREACHABLE, 90), taint(NOT_READY, 0)]), seconds(50));
    assert_eq!(left(usual.clone(), &[taint(UNREACHABLE, 10)]), seconds(0));
    assert_eq!(left(usual, &[taint("other", 100)]), seconds(0));
    assert_eq!(left(json!([{"operator": "Exists"}]), &[taint("other", 0)]), Tolerated::Always);
    assert_eq!(left(json!([]), &[]), Tolerated::Always);
}

#[test]
fn a_silent_node_is_unknown_once() {
    let mut silent = node(json!({"metadata": {}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}));
    assert!(has_unheard_condition(&silent));
    mark_unknown(&mut silent, Timestamp::from_second(9).unwrap());
    assert!(!has_unheard_condition(&silent));
    let ready = condition(&silent, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    let pressure = condition(&silent, "DiskPressure").unwrap();
    assert_eq!(pressure.reason.as_deref(), Some("NodeStatusNeverUpdated"));
}

#[tokio::test]
async fn a_node_is_heard_by_its_lease_or_its_heartbeat() {
    tokio::time::pause();
    let heard = Heard::default();
    let lease = |at: &str| -> Lease {
        serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": at}})).unwrap()
    };
    let mut ready = node(json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": "2020-01-01T00:00:00Z"}]}}));
    let first = lease("2020-01-01T00:00:00.000000Z");
    assert_eq!(silence(&heard, &ready, Some(&first)), Duration::ZERO);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(silence(&heard, &ready, Some(&first)), Duration::from_secs(30));
    mark_unknown(&mut ready, Timestamp::from_second(9).unwrap());
    assert_eq!(silence(&heard, &ready, Some(&first)), Duration::from_secs(30), "that wasn't the node");
    let second = lease("2020-01-01T00:00:10.000000Z");
    assert_eq!(silence(&heard, &ready, Some(&second)), Duration::ZERO);
}
