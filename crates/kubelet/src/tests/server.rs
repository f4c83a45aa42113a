//! The agent's server: what the API server asks of a node.

use serde_json::{Value, json};

use super::{Agent, web};

/// One request to the agent's server.
async fn ask(agent: &Agent, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(("127.0.0.1", agent.port().await)).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    format!("{} {body}", head.split(' ').nth(1).expect("a status"))
}

#[tokio::test]
async fn the_server_answers_what_the_api_server_asks() {
    let agent = Agent::new();
    agent.apply(web());
    agent.until_running().await;
    assert_eq!(ask(&agent, "/healthz").await, "200 ok");
    assert_eq!(ask(&agent, "/none").await, "404 404 page not found");
    let ps = ask(&agent, "/skiff/ps").await;
    assert!(ps.contains("\"name\":\"pause\"") && ps.contains("\"name\":\"c\""), "{ps}");
    assert_eq!(
        ask(&agent, "/containerLogs/default/p/c?previous=true").await,
        "400 previous terminated container \"c\" in pod \"p\" not found"
    );
    assert_eq!(
        ask(&agent, "/containerLogs/default/p/none").await,
        "400 container \"none\" in pod \"p\" is waiting to start: ContainerCreating"
    );
    assert_eq!(ask(&agent, "/exec/default/p/none?command=ls").await, "404 container not found (\"none\")");
    assert_eq!(ask(&agent, "/attach/default/p/none").await, "404 container none not found in pod p_default");
    let log = agent.dir.path().join("pods-log/default_p_u1/c/0.log");
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n")
        .expect("writes");
    let tail = ask(&agent, "/containerLogs/default/p/c?tailLines=1&timestamps=true").await;
    assert!(tail.contains("2026-01-01T00:00:01Z two\n") && !tail.contains("one"), "{tail}");
}

#[tokio::test]
async fn the_server_tells_what_pods_use() {
    let agent = Agent::new();
    let mut spec = web();
    spec["volumes"] = json!([
        {"name": "data", "emptyDir": {}},
        {"name": "machine", "hostPath": {"path": "/"}},
    ]);
    spec["containers"][0]["resources"] = json!({"limits": {"memory": "1Mi"}});
    agent.apply(spec);
    agent.until_running().await;
    let dir = agent.dir.path();
    let volume = dir.join("pods/u1/volumes/empty-dir/data");
    let log_dir = dir.join("pods-log/default_p_u1/c");
    let pod_dir = dir.join("pods/u1");
    let hosts = pod_dir.join("etc-hosts");
    for (path, bytes) in [(volume.join("file"), 300_000), (log_dir.join("0.log"), 200_000), (hosts, 100_000)]
    {
        std::fs::write(&path, vec![1; bytes]).expect("writes");
        // Some file systems give out blocks only then.
        std::fs::File::open(&path).and_then(|file| file.sync_all()).expect("is kept");
    }
    let answer = ask(&agent, "/stats/summary").await;
    let summary: Value = serde_json::from_str(answer.trim_start_matches("200 ")).expect("JSON");
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "default", "uid": "u1"}));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {value} in {pod}"));
    let volumes = pod["volume"].as_array().expect("volumes");
    assert_eq!(volumes.len(), 1, "the machine's own directories are not the pod's: {pod}");
    assert_eq!(volumes[0]["name"], "data");
    let (data, logs) = (number(&volumes[0]["usedBytes"]), number(&pod["containers"][0]["logs"]["usedBytes"]));
    let counted = |path: &std::path::Path| skiff_runtime::usage::of(path).expect("it is there").bytes;
    assert_eq!((data, logs), (counted(&volume), counted(&log_dir)), "{pod}");
    assert!(data > 0 && logs > 0, "{pod}");
    let others = number(&pod["ephemeral-storage"]["usedBytes"]) - data - logs;
    assert_eq!(others, skiff_runtime::usage::of_all_but(&pod_dir, &[c"volumes"]).expect("it is there").bytes);
    assert!(others >= 100_000, "what containers write into the files that they share counts: {others}");
    assert!(number(&volumes[0]["capacityBytes"]) > data, "{pod}");
    assert_eq!(pod["containers"][0]["memory"]["availableBytes"], 1 << 20);
    assert_eq!(pod["process_stats"]["process_count"], 0);
    let node = &summary["node"];
    assert_eq!(node["nodeName"], "node");
    for path in
        ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes", "/memory/pageFaults", "/rlimit/curproc"]
    {
        assert!(node.pointer(path).and_then(Value::as_u64).is_some_and(|value| value > 0), "{path}: {node}");
    }
    let fs = &node["fs"];
    assert!(number(&fs["usedBytes"]) <= number(&fs["capacityBytes"]), "{fs}");
    assert_eq!(node["runtime"]["containerFs"]["capacityBytes"], fs["capacityBytes"]);
}

/// A followed log: the status of the answer, and the connection, on which it goes on.
async fn follow(agent: &Agent) -> (String, tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(("127.0.0.1", agent.port().await)).await.expect("connects");
    let request = "GET /containerLogs/default/p/c?follow=true HTTP/1.1\r\nhost: node\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("text");
    (head.split(' ').nth(1).expect("a status").to_owned(), stream)
}

#[tokio::test]
async fn a_containers_log_is_followed_by_so_many_at_once() {
    let serving = crate::fakes::config().serving;
    let bounds = crate::ServingBounds { followed_logs_of_a_container_max: 2, ..serving.bounds };
    let agent = Agent::with(crate::Serving { bounds, ..serving });
    agent.apply(web());
    agent.until_running().await;
    let log = agent.dir.path().join("pods-log/default_p_u1/c/0.log");
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n").expect("writes");
    let (status, first) = follow(&agent).await;
    let (other, _second) = follow(&agent).await;
    assert_eq!((&*status, &*other), ("200", "200"));
    let told = "429 too many logs of this container are followed already, please try again later";
    assert_eq!(ask(&agent, "/containerLogs/default/p/c?follow=true").await, told);
    assert!(ask(&agent, "/containerLogs/default/p/c").await.contains("one\n"), "what has an end is served");
    drop(first);
    let again = async {
        while follow(&agent).await.0 != "200" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), again).await.expect("there is room again");
}
