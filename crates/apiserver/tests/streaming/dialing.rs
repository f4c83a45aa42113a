//! The way from the API server to an agent at whose door others push in.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A door in front of the agent that has closed so many connections before it lets one through, each in the middle
/// of its handshake; and how many have come.
async fn door(agent: u16, closes: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let came = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if counted.fetch_add(1, Ordering::SeqCst) < closes {
                // It has said hello, and gets no answer.
                let _ = stream.read(&mut [0; 4096]).await;
                continue;
            }
            tokio::spawn(async move {
                let mut agent = TcpStream::connect(("127.0.0.1", agent)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
            });
        }
    });
    (port, came)
}

impl Cluster {
    /// Says where the node's agent is; answers with where it was.
    async fn lead_to(&self, port: u16) -> u16 {
        let path = "/api/v1/nodes/node1/status";
        let node: Value = serde_json::from_str(&self.get("/api/v1/nodes/node1").await.1).unwrap();
        let before = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap();
        let change = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::patch(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/merge-patch+json")
            .body(full(change.to_string()))
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        u16::try_from(before).unwrap()
    }
}

#[tokio::test]
async fn who_is_pushed_out_of_an_agents_door_knocks_again() {
    let cluster = Cluster::new().await;
    let logs = format!("{POD}/log?container=app");
    let expected = cluster.get(&logs).await;
    assert_eq!(expected.0, 200);
    let agent = cluster.lead_to(1).await;
    let (port, came) = door(agent, 2).await;
    cluster.lead_to(port).await;
    assert_eq!(cluster.get(&logs).await, expected);
    assert_eq!(came.load(Ordering::SeqCst), 3);
    // But not for ever.
    let (port, came) = door(agent, usize::MAX).await;
    cluster.lead_to(port).await;
    let (code, message) = cluster.message(&logs).await;
    assert_eq!(code, 500, "{message}");
    assert!(message.contains(&format!("dial tcp 127.0.0.1:{port}: ")), "{message}");
    assert_eq!(came.load(Ordering::SeqCst), 3);
    // An agent that is another one is not asked twice, and where nobody is, nobody answers the next time either.
    let other = agent::serve(&cluster.pki, &cluster.pki.issue_node("node2", &[]).unwrap()).await;
    let (port, came) = door(other, 0).await;
    cluster.lead_to(port).await;
    assert_eq!(cluster.message(&logs).await.0, 500);
    assert_eq!(came.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_agent_that_is_asked_again_is_asked_by_the_same_connection() {
    let cluster = Cluster::new().await;
    let agent = cluster.lead_to(1).await;
    let (port, came) = door(agent, 0).await;
    cluster.lead_to(port).await;
    let path = "/apis/explain.skiff.dev/v1/namespaces/default/traces?from=node/node1&to=127.0.0.1:80";
    // For the way there, and for the answer's.
    for questions in 1..=2 {
        let (code, told) = cluster.get(path).await;
        assert_eq!(code, 200, "{told}");
        let told: Value = serde_json::from_str(&told).unwrap();
        let answer = told["ways"][0]["answerVerdict"].as_str().unwrap_or_default();
        assert!(answer.starts_with("the answer reaches node node1"), "{told:#}");
        // Nothing is kept from one question to the next.
        assert_eq!(came.load(Ordering::SeqCst), questions);
    }
}
