//! What containers leave behind and what reaches them while they run.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Agent, web};

fn ended(status: &Value) -> bool {
    !status["containerStatuses"][0]["state"]["terminated"].is_null()
}

#[tokio::test]
async fn last_words_are_those_of_the_file_else_of_the_log_where_that_is_asked_for() {
    let log = "2026-01-01T00:00:00Z stdout F first\n2026-01-01T00:00:01Z stderr F then it broke\n";
    for (policy, file, code, expected) in [
        ("File", "written", 1, json!("written")),
        ("File", "", 1, Value::Null),
        ("FallbackToLogsOnError", "written", 1, json!("written")),
        ("FallbackToLogsOnError", "", 1, json!("first\nthen it broke\n")),
        ("FallbackToLogsOnError", "", 0, Value::Null),
    ] {
        let agent = Agent::new();
        let mut spec = web();
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["terminationMessagePolicy"] = json!(policy);
        agent.apply(spec);
        agent.until_running().await;
        let dir = agent.dir.path();
        std::fs::write(dir.join("pods/u1/containers/c/0-termination"), file).expect("writes");
        std::fs::write(dir.join("pods-log/default_p_u1/c/0.log"), log).expect("writes");
        agent.runtime.exit("c", code);
        let status = agent.until("ends", ended).await;
        let end = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(end["message"], expected, "{policy}, {file:?}, {code}: {end}");
    }
}

#[tokio::test]
async fn a_changed_config_map_and_changed_labels_reach_the_pod_that_runs() {
    let agent = Agent::new();
    let put = |value: &str| {
        let metadata = json!({"name": "m", "namespace": "default"});
        let map = json!({"kind": "ConfigMap", "metadata": metadata, "data": {"k": value}});
        agent.api.put("/api/v1/namespaces/default/configmaps/m", map);
    };
    put("old");
    let mut spec = web();
    spec["volumes"] = json!([
        {"name": "map", "configMap": {"name": "m"}},
        {"name": "own", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]);
    agent.apply(spec);
    agent.until_running().await;
    let file = |path: &str| agent.dir.path().join("pods/u1/volumes").join(path);
    let (map, labels) = (file("configmap/map/k"), file("downward-api/own/labels"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!((read(&map).as_str(), read(&labels).as_str()), ("old", ""));
    put("new");
    let mut pod = agent.api.get(super::POD).expect("it is there");
    pod["metadata"]["labels"] = json!({"app": "web"});
    agent.api.put(super::POD, pod);
    let arrives = async {
        while (read(&map).as_str(), read(&labels).trim_end()) != ("new", "app=\"web\"") {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), arrives).await;
    assert!(in_time.is_ok(), "{:?} {:?}", read(&map), read(&labels));
    assert_eq!(agent.runtime.running(), ["c"]);
    assert!(!agent.runtime.calls().iter().any(|call| call.starts_with("stop")), "nothing restarts");
}
