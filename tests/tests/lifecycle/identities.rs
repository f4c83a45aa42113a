//! Who really asks the API for what, by its own audit log: every component under the identity that upstream gives
//! it, and nobody with an administrator's rights but the administrator. What the roles of these identities allow is
//! the access matrix's to show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use skiff_tests::{Cluster, wait_until};

const POLICY: &str =
    "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: Metadata}]}";

/// What each writes while something happens to a namespace, its workloads and its services.
const COMPONENTS: &[(&str, &str)] = &[
    ("system:kube-scheduler", "create pods/binding"),
    ("system:serviceaccount:kube-system:daemon-set-controller", "create pods"),
    ("system:serviceaccount:kube-system:deployment-controller", "create replicasets"),
    ("system:serviceaccount:kube-system:endpoint-controller", "create endpoints"),
    ("system:serviceaccount:kube-system:endpointslice-controller", "create endpointslices"),
    ("system:serviceaccount:kube-system:generic-garbage-collector", "delete replicasets"),
    ("system:serviceaccount:kube-system:namespace-controller", "update namespaces/finalize"),
    ("system:serviceaccount:kube-system:replicaset-controller", "create pods"),
    ("system:serviceaccount:kube-system:root-ca-cert-publisher", "create configmaps"),
    ("system:serviceaccount:kube-system:service-account-controller", "create serviceaccounts"),
    ("system:node:lc-who", "patch pods/status"),
];

const WORK: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: alpine, command: [sleep, '999999']}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: every}
spec:
  selector: {matchLabels: {app: every}}
  template:
    metadata: {labels: {app: every}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: alpine, command: [sleep, '999999']}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// Per user, what it did and was allowed to do.
fn deeds(log: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut deeds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Its last line may be half written.
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut what = format!("{} {}", text("/verb"), text("/objectRef/resource"));
        let part = text("/objectRef/subresource");
        if !part.is_empty() {
            what = format!("{what}/{part}");
        }
        deeds.entry(text("/user/username")).or_default().insert(what);
    }
    deeds
}

#[test]
fn every_component_asks_under_its_own_name_and_nobody_as_an_administrator() {
    let directory = tempfile::tempdir().expect("a directory");
    let (policy, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    fs::write(&policy, POLICY).expect("it is written");
    let flags = ["--audit-policy-file", policy.to_str().expect("UTF-8"), "--audit-log-path"];
    let cluster = Cluster::start_with("lc-who", 1, &[&flags[..], &[log.to_str().expect("UTF-8")]].concat());
    let namespace = cluster.namespace("w");
    namespace.apply(WORK).ok();
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    namespace.kubectl(&["rollout", "status", "daemonset/every", "--timeout=120s"]).ok();
    namespace.kubectl(&["delete", "deployment", "web", "--timeout=120s"]).ok();
    drop(namespace);
    let read = || fs::read_to_string(&log).unwrap_or_default();
    wait_until("each component has done its work under its own name", || {
        let deeds = deeds(&read());
        let lacking: Vec<_> = COMPONENTS
            .iter()
            .filter(|(who, what)| !deeds.get(*who).is_some_and(|done| done.contains(*what)))
            .collect();
        if !lacking.is_empty() {
            eprintln!("not yet: {lacking:?}");
        }
        lacking.is_empty()
    });

    let log = read();
    let known = |who: &str| {
        let plain = ["kubernetes-admin", "system:anonymous", "system:kube-controller-manager"];
        plain.contains(&who)
            || COMPONENTS.iter().any(|(own, _)| *own == who)
            || who.starts_with("system:serviceaccount:kube-system:")
            || who.starts_with("system:bootstrap:")
    };
    let strangers: Vec<String> = deeds(&log).into_keys().filter(|who| !known(who)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    // The administrator's rights are the kubeconfig's alone.
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let groups = event["user"]["groups"].to_string();
        let strong = groups.contains("system:masters");
        assert!(!strong || event["user"]["username"] == "kubernetes-admin", "{event}");
    }
}
