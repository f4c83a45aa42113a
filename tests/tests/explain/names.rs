//! Unknown names, who may see what, and the API that any client can use.

use serde_json::Value;
use skiff_tests::Cluster;

use super::truth::{explain, explained};

#[test]
fn unknown_names_get_one_sentence_with_the_nearest() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-names");
    namespace
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: webserver}, spec: {containers: [{name: main, image: alpine, command: [sleep, '999999']}]}}")
        .ok();
    for what in ["pod", "pending", "start"] {
        let output = explain(&namespace, what, "websrever", &[]);
        assert_eq!((output.code, output.stdout.as_str()), (1, ""));
        assert_eq!(
            output.stderr,
            "skiff: pod \"websrever\" does not exist in namespace \"i1-names\": the nearest name is \"webserver\"\n"
        );
    }
    let output = explain(&namespace, "node", &format!("{}x", cluster.worker(1)), &[]);
    let near = format!("the nearest name is {:?}\n", cluster.worker(1));
    assert!(output.code == 1 && output.stderr.ends_with(&near), "{output:?}");
    let output = explain(&namespace, "pod", "nothing-like-it-at-all", &[]);
    assert_eq!(
        output.stderr,
        "skiff: pod \"nothing-like-it-at-all\" does not exist in namespace \"i1-names\"\n"
    );
}

#[test]
fn any_client_can_ask_and_discovery_lists_it() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-api");
    namespace
        .apply("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: main, image: alpine, command: [sleep, '999999']}]}}")
        .ok();
    namespace.ready("p");
    let raw = |path: &str| -> Value {
        serde_json::from_str(&cluster.kubectl(&["get", "--raw", path]).ok()).expect("JSON")
    };
    let told = raw("/apis/explain.skiff.dev/v1/namespaces/i1-api/pods/p");
    assert_eq!(
        (told["kind"].as_str(), told["metadata"]["name"].as_str()),
        (Some("PodExplanation"), Some("p"))
    );
    let all = raw("/apis/explain.skiff.dev/v1/namespaces/i1-api/pods");
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all["items"][0]["namespaces"], told["namespaces"]);
    let listed = cluster.kubectl(&["api-resources", "--api-group=explain.skiff.dev", "-o", "name"]).ok();
    for name in ["nodes.explain.skiff.dev", "pods.explain.skiff.dev"] {
        assert!(listed.lines().any(|line| line == name), "{listed}");
    }
    let openapi = cluster.kubectl(&["get", "--raw", "/openapi/v3"]).ok();
    assert!(openapi.contains("apis/explain.skiff.dev/v1"), "{openapi}");
    // Plain kubectl still means the pods themselves.
    let names = cluster.kubectl(&["get", "pods", "-n", "i1-api", "-o", "name"]).ok();
    assert_eq!(names, "pod/p\n");
}

#[test]
fn who_may_see_a_pod_does_not_see_the_node_s_processes() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-rights");
    let node = cluster.worker(1);
    namespace
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  nodeName: {node}
  hostNetwork: true
  containers: [{{name: main, image: alpine, command: [sleep, '999999']}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: explainer}}
rules: [{{apiGroups: [''], resources: [pods/explain], verbs: [get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: explainer}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: explainer}}
subjects: [{{kind: User, name: i1-jane, apiGroup: rbac.authorization.k8s.io}}]
"
        ))
        .ok();
    namespace.ready("p");
    let path = "/apis/explain.skiff.dev/v1/namespaces/i1-rights/pods/p";
    let whole = explained(&namespace, "pod", "p");
    assert!(whole["otherListeners"].to_string().contains("kubelet"), "{whole}");
    let told = cluster.kubectl(&["get", "--raw", path, "--as", "i1-jane"]).ok();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    // Sentences count what other pods come and go with meanwhile.
    let lasting = |told: &Value| -> Vec<Value> {
        let namespaces = told["namespaces"].as_array().cloned().unwrap_or_default();
        let facts =
            |own: Value| serde_json::json!([own["namespace"], own["word"], own["inode"], own["containers"]]);
        namespaces.into_iter().map(facts).collect()
    };
    assert_eq!(lasting(&told), lasting(&whole));
    assert!(!told.to_string().contains("kubelet"), "{told}");
    assert!(told["missing"].to_string().contains("nodes/explain"), "{told}");
    // And who may nothing gets upstream's refusal.
    for (who, path) in [
        ("i1-nobody", path),
        ("i1-jane", "/apis/explain.skiff.dev/v1/namespaces/default/pods/p"),
        ("i1-jane", &format!("/apis/explain.skiff.dev/v1/nodes/{node}")),
    ] {
        let refused = cluster.kubectl(&["get", "--raw", path, "--as", who]).err();
        assert!(refused.contains("Forbidden") && refused.contains("/explain"), "{refused}");
    }
}
