//! Unknown names, who may see what, and the API that any client can use.

use serde_json::Value;
use skiff_tests::{Cluster, skiff, wait_for, wait_until};

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
    // A name that is elsewhere, a namespace that is not there, and no name at all.
    let says = |args: &[&str], expected: &str| {
        let config = cluster.kubeconfig.display().to_string();
        let mut all = vec!["explain"];
        all.extend(args);
        all.extend(["--kubeconfig", &config]);
        let output = skiff(&all);
        assert_eq!(
            (output.code, output.stdout.as_str(), output.stderr.as_str()),
            (1, "", expected),
            "{args:?}"
        );
    };
    let elsewhere = cluster.namespace("i1-elsewhere");
    let absent = "skiff: pod \"webserver\" does not exist in namespace \"i1-elsewhere\", but in ";
    says(&["pod", "webserver", "-n", "i1-elsewhere"], &format!("{absent}\"i1-names\": -n i1-names\n"));
    says(
        &["pending", "webserver", "-n", "i1-elsewere"],
        "skiff: namespace \"i1-elsewere\" does not exist: the nearest name is \"i1-elsewhere\"\n",
    );
    says(&["pod", "", "-n", "i1-names"], "skiff: the name of a pod is empty\n");
    says(&["start", "webserver", "-n", ""], "skiff: the name of a namespace is empty\n");
    says(&["node", ""], "skiff: the name of a node is empty\n");
    drop(elsewhere);
}

#[test]
fn pods_of_which_nothing_runs_are_told_as_such() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-ended");
    let pod = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, nodeName: {}, {spec}}}}}\n---\n",
            cluster.worker(1)
        )
    };
    namespace
        .apply(
            &[
                pod("done", "containers: [{name: main, image: alpine, command: ['true']}]"),
                pod("failed", "containers: [{name: main, image: alpine, command: ['false']}]"),
                pod(
                    "slow",
                    "terminationGracePeriodSeconds: 1, initContainers: [{name: net, image: alpine, command: [sleep, '9999']}], containers: [{name: main, image: alpine}]",
                ),
            ]
            .concat(),
        )
        .ok();
    for (name, phase, says) in [
        ("done", "Succeeded", "it has ended, successfully"),
        ("failed", "Failed", "it has failed, and will not run again"),
    ] {
        wait_until("it has ended", || namespace.pod(name)["status"]["phase"] == phase);
        assert_eq!(explained(&namespace, "pending", name)["summary"], says);
        wait_until("nothing of it is told to run", || {
            let shown = explain(&namespace, "pod", name, &[]).ok();
            shown.contains("  none: nothing of the pod runs\n") && shown.contains("(ended with exit code ")
        });
    }
    // While its first container runs, that one is what the pod is; its name is no namespace's line.
    let shown = wait_for("the init container runs", || {
        let shown = explain(&namespace, "pod", "slow", &[]).ok();
        shown.contains("Container net (running").then_some(shown)
    });
    assert_eq!(shown.lines().filter(|line| line.starts_with("net")).count(), 1, "{shown}");
    assert!(shown.contains("Container main (not created yet)"), "{shown}");
    let waits = explained(&namespace, "pending", "slow");
    let summary = waits["summary"].as_str().expect("a sentence");
    assert!(summary.contains("waits for container net: the init container runs"), "{summary}");
    // The node counts those alone of which something runs.
    let node = explained(&namespace, "node", &cluster.worker(1));
    let time = node["namespaces"].as_array().expect("a list").iter().find(|own| own["namespace"] == "time");
    let inside = time.expect("it is told")["pods"].to_string();
    assert!(inside.contains("i1-ended/slow") && !inside.contains("i1-ended/done"), "{inside}");
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
    assert_eq!(lasting(&all["items"][0]), lasting(&told));
    let listed = cluster.kubectl(&["api-resources", "--api-group=explain.skiff.dev", "-o", "name"]).ok();
    for name in ["nodes.explain.skiff.dev", "pods.explain.skiff.dev"] {
        assert!(listed.lines().any(|line| line == name), "{listed}");
    }
    let openapi = cluster.kubectl(&["get", "--raw", "/openapi/v3"]).ok();
    assert!(openapi.contains("apis/explain.skiff.dev/v1"), "{openapi}");
    // What is published is what is sent, in both versions of the specification.
    let three = raw("/openapi/v3/apis/explain.skiff.dev/v1");
    let two = raw("/openapi/v2");
    let answers = [
        ("PodExplanation", "namespaces/i1-api/pods/p"),
        ("PodExplanationList", "namespaces/i1-api/pods"),
        ("PendingExplanation", "namespaces/i1-api/pods/p/pending"),
        ("StartExplanation", "namespaces/i1-api/pods/p/start"),
        ("NodeExplanation", &format!("nodes/{}", told["node"].as_str().expect("a node"))),
        ("TraceExplanation", "namespaces/i1-api/traces?from=p&to=pod/p:80"),
    ];
    for (kind, path) in answers {
        let answer = raw(&format!("/apis/explain.skiff.dev/v1/{path}"));
        assert_eq!(
            (answer["kind"].as_str(), answer["apiVersion"].as_str()),
            (Some(kind), Some("explain.skiff.dev/v1"))
        );
        let name = format!("dev.skiff.explain.v1.{kind}");
        for schemas in [&three["components"]["schemas"], &two["definitions"]] {
            fits(&answer, &schemas[&name], schemas, kind);
        }
    }
    let served = &three["paths"]["/apis/explain.skiff.dev/v1/namespaces/{namespace}/pods/{name}"]["get"];
    let schema = &served["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(schema["$ref"], "#/components/schemas/dev.skiff.explain.v1.PodExplanation");
    let explained =
        cluster.kubectl(&["explain", "--api-version=explain.skiff.dev/v1", "pods.listeners.reachable"]).ok();
    assert!(explained.contains("reason") && explained.contains("<string>"), "{explained}");
    // How long starts took, for Prometheus.
    let bound = "skiff_pod_start_phase_seconds_count{phase=\"bind\"} ";
    wait_until("binds are counted", || {
        let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).ok();
        let count = metrics.lines().find_map(|line| line.strip_prefix(bound)).map(str::parse::<u64>);
        count.is_some_and(|count| count.expect("a number") > 0)
    });
    // Plain kubectl still means the pods themselves.
    let names = cluster.kubectl(&["get", "pods", "-n", "i1-api", "-o", "name"]).ok();
    assert_eq!(names, "pod/p\n");
}

/// What is said of namespaces, without sentences: they count what other pods come and go with meanwhile.
fn lasting(told: &Value) -> Vec<Value> {
    let namespaces = told["namespaces"].as_array().cloned().unwrap_or_default();
    let facts =
        |own: Value| serde_json::json!([own["namespace"], own["word"], own["inode"], own["containers"]]);
    namespaces.into_iter().map(facts).collect()
}

/// Whether a value is as a schema says: every field is published, and what is required is there.
fn fits(value: &Value, schema: &Value, all: &Value, at: &str) {
    // What says something of its own beside a reference holds it in a list.
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|to| to.rsplit('/').next()) {
        return fits(value, &all[name], all, at);
    }
    match value {
        Value::Object(fields) => {
            assert_eq!(schema["type"], "object", "{at}: {schema}");
            for (name, field) in fields {
                let published = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                let published = published.unwrap_or_else(|| panic!("{at}.{name} is not published: {schema}"));
                fits(field, published, all, &format!("{at}.{name}"));
            }
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(fields.contains_key(name), "{at} lacks {name}");
            }
        }
        Value::Array(items) => {
            assert_eq!(schema["type"], "array", "{at}: {schema}");
            items.iter().for_each(|item| fits(item, &schema["items"], all, at));
        }
        Value::String(word) => {
            assert_eq!(schema["type"], "string", "{at}: {schema}");
            let words = schema["enum"].as_array();
            assert!(words.is_none_or(|words| words.iter().any(|own| own == word)), "{at}: {word}");
        }
        Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{at}: {schema}"),
        Value::Number(_) => {
            assert!(schema["type"] == "integer" || schema["type"] == "number", "{at}: {schema}");
        }
        Value::Null => panic!("{at} is null"),
    }
}

#[test]
fn who_may_view_a_namespace_may_have_its_pods_explained() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-view");
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
  hostPID: true
  containers: [{{name: main, image: alpine, command: [sleep, '999999']}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: viewer}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{kind: User, name: i1-viewer, apiGroup: rbac.authorization.k8s.io}}]
"
        ))
        .ok();
    namespace.ready("p");
    let base = "/apis/explain.skiff.dev/v1";
    let ask = |path: &str| cluster.kubectl(&["get", "--raw", path, "--as", "i1-viewer"]);
    for part in ["pods/p", "pods/p/pending", "pods/p/start", "pods", "traces?from=p&to=pod/p:80"] {
        let told = ask(&format!("{base}/namespaces/i1-view/{part}")).ok();
        // The pod's part, and of the node's processes neither name nor PID.
        assert!(!told.contains("kubelet") && !told.contains("skiff-init"), "{part}: {told}");
    }
    let whole = explained(&namespace, "pod", "p");
    assert!(whole.to_string().contains("kubelet"), "an administrator sees them: {whole}");
    let refused = ask(&format!("{base}/nodes/{node}")).err();
    assert!(refused.contains("Forbidden") && refused.contains("nodes/explain"), "{refused}");
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
