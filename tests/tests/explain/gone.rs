//! I4: how the start of a pod went that is gone is told as long as those of the last pods are kept.

use serde_json::Value;
use skiff_tests::{Cluster, wait_for, wait_until};

use super::truth::{explain, explained, text};

#[test]
fn i4_the_start_of_a_pod_that_was_just_deleted_is_told() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i4-gone");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: went}, spec: {terminationGracePeriodSeconds: 1, \
               containers: [{name: main, image: skiff/peer:v1, command: [peer, tcp, '7000']}]}}";
    let phases = |told: &Value| -> Vec<(String, String)> {
        let all = told["phases"].as_array().expect("a list").iter();
        all.map(|own| (text(&own["name"]), own["tookMs"].to_string())).collect()
    };
    namespace.apply(pod).ok();
    namespace.ready("went");
    let before = wait_for("its start is over, and others heard of it", || {
        let told = explained(&namespace, "start", "went");
        phases(&told).iter().any(|(name, _)| name == "status seen").then_some(told)
    });
    assert_eq!(before["past"], Value::Null, "{before}");
    namespace.delete("pod", "went");
    // The scheduler, which keeps what it saw of a start, hears of the end in its own time.
    wait_until("its start is told", || explain(&namespace, "start", "went", &["-o", "json"]).code == 0);
    let after = explained(&namespace, "start", "went");
    assert_eq!(phases(&after), phases(&before), "{after}");
    for field in ["metadata", "node", "totalMs", "finished", "meetsObjective", "missing"] {
        assert_eq!(after[field], before[field], "{field}: {after}");
    }
    let past = "the pod is gone; this is how its start went";
    assert_eq!(after["past"], past, "{after}");
    let shown = explain(&namespace, "start", "went", &[]).ok();
    assert!(shown.contains(&format!("PAST: {past}\n")), "{shown}");
    // Of another by that name its own start is told.
    namespace.apply(pod).ok();
    namespace.ready("went");
    let again = explained(&namespace, "start", "went");
    assert_eq!(again["past"], Value::Null, "{again}");
    assert_ne!(again["metadata"]["uid"], before["metadata"]["uid"], "{again}");
    // And of one that never was there is nothing to tell.
    let never = explain(&namespace, "start", "never", &[]).err();
    assert!(never.contains("pod \"never\" does not exist"), "{never}");
}
