//! What a node says its pods use, as tools that show usage ask for it.

use serde_json::Value;
use skiff_tests::{Cluster, wait_until};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  containers:
  - {name: spin, image: skiff/peer:v1, command: [peer, spin], resources: {limits: {cpu: 200m}}}
  - {name: eat, image: skiff/peer:v1, command: [peer, eat, '40']}
  - {name: write, image: alpine, command: [sleep, '999999'], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
";

#[test]
fn usage_is_what_the_kernel_counts() {
    let cluster = Cluster::start("lc-stats", 1);
    let listing = cluster.kubectl(&["get", "nodes", "-o", "name"]).ok();
    let node = listing.trim().trim_start_matches("node/");
    let namespace = cluster.namespace("stats");
    namespace.apply(POD).ok();
    namespace.ready("busy");
    let uid = namespace.pod("busy")["metadata"]["uid"].clone();
    let fill = "for f in /written /data/written; do dd if=/dev/urandom of=$f bs=1000000 count=5; done; sync";
    namespace.kubectl(&["exec", "busy", "-c", "write", "--", "sh", "-c", fill]).ok();
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary =
        || -> Value { serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path]).ok()).expect("JSON") };
    let of_pod = |summary: &Value| -> Value {
        let pods = summary["pods"].as_array().expect("pods");
        pods.iter().find(|pod| pod["podRef"]["uid"] == uid).cloned().expect("the pod is told of")
    };
    let container = |pod: &Value, name: &str| -> Value {
        let containers = pod["containers"].as_array().expect("containers");
        containers.iter().find(|each| each["name"] == name).cloned().expect("the container is told of")
    };
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {value}"));
    wait_until("the memory to be eaten", || {
        number(&container(&of_pod(&summary()), "eat")["memory"]["workingSetBytes"]) >= 40_000_000
    });
    let first = summary();
    let pod = of_pod(&first);
    assert_eq!((&pod["podRef"]["name"], &pod["podRef"]["namespace"]), (&"busy".into(), &"stats".into()));
    let eaten = number(&container(&pod, "eat")["memory"]["workingSetBytes"]);
    assert!(eaten < 100_000_000, "{pod}");
    assert!(number(&pod["memory"]["workingSetBytes"]) >= eaten, "{pod}");
    assert_eq!(pod["network"]["name"], "eth0", "{pod}");
    // What spins uses the CPU more than what sleeps, and ever more.
    let used = |summary: &Value, name: &str| {
        number(&container(&of_pod(summary), name)["cpu"]["usageCoreNanoSeconds"])
    };
    let before = used(&first, "spin");
    wait_until("a fifth of a second of CPU", || used(&summary(), "spin") > before + 200_000_000);

    // What was written before the first question is told, in the layer and in the volume.
    let pod = of_pod(&summary());
    let volume = pod["volume"].as_array().and_then(|all| all.iter().find(|each| each["name"] == "data"));
    let volume = volume.unwrap_or_else(|| panic!("the volume is told of: {pod}"));
    let written = &container(&pod, "write");
    for (what, fs) in [("the layer", &written["rootfs"]), ("the volume", volume)] {
        assert!(number(&fs["usedBytes"]) >= 5_000_000, "{what}: {fs}");
        assert!(number(&fs["capacityBytes"]) > number(&fs["usedBytes"]), "{what}: {fs}");
    }
    assert!(number(&pod["ephemeral-storage"]["usedBytes"]) >= 10_000_000, "{pod}");
    assert!(number(&pod["process_stats"]["process_count"]) >= 3, "{pod}");
    // What is eaten is of no file, and came by faults. The kernel adds these up at its leisure.
    wait_until("what is eaten is told as the container's own", || {
        let eater = &container(&of_pod(&summary()), "eat")["memory"];
        number(&eater["rssBytes"]) >= 40_000_000 && number(&eater["pageFaults"]) > 0
    });
    // From the second question on there is a rate.
    let rate = |name: &str| container(&of_pod(&summary()), name)["cpu"]["usageNanoCores"].as_u64();
    wait_until("what spins has a rate of CPU time", || rate("spin").is_some_and(|rate| rate > 10_000_000));

    let own = &first["node"];
    assert_eq!(own["nodeName"], node);
    assert!(number(&own["memory"]["workingSetBytes"]) > eaten, "{own}");
    assert!(number(&own["cpu"]["usageCoreNanoSeconds"]) > before, "{own}");
    let fs = &own["fs"];
    assert!(number(&fs["availableBytes"]) + number(&fs["usedBytes"]) <= number(&fs["capacityBytes"]), "{fs}");
    assert_eq!(own["network"]["name"], "eth0", "{own}");

    // The right to it is nodes/proxy by way of the API, which an ordinary account lacks.
    let refused = cluster.kubectl(&["get", "--raw", &path, "--as", "system:serviceaccount:stats:default"]);
    assert!(refused.err().to_lowercase().contains("forbidden"));
}
