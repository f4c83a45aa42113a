//! What lasts has a connection to an agent for itself, so its number has bounds.

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
/// An answer that begins and never ends.
const ENDLESS: &str = "/api/v1/nodes/node1/proxy/skiff/endless";

impl Cluster {
    /// A user who may do all, and is no administrator all the same.
    async fn user(&self, name: &str) -> Issued {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        });
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        let request = Request::post(path).header("content-type", "application/json");
        let answer = self.send_as(&self.pki.admin().unwrap(), request, binding.to_string()).await;
        assert_eq!(answer.status(), 201);
        self.pki.issue_client(name, &[]).unwrap()
    }

    async fn send_as(
        &self,
        who: &Issued,
        request: http::request::Builder,
        body: String,
    ) -> hyper::Response<hyper::body::Incoming> {
        let io = TokioIo::new(self.connect_as(who).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = request.header("host", "127.0.0.1").body(full(body)).unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn endless(&self, who: &Issued) -> hyper::Response<hyper::body::Incoming> {
        self.send_as(who, Request::get(ENDLESS), String::new()).await
    }

    /// Asks until there is room.
    async fn endless_at_last(&self, who: &Issued) -> hyper::Response<hyper::body::Incoming> {
        let asking = async {
            loop {
                let answer = self.endless(who).await;
                if answer.status() == 200 {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("there is room again")
    }

    /// A command that runs until its input ends.
    async fn command(&self, who: &Issued) -> Result<command::Dialed, DialError> {
        let path = format!("{POD}/exec?container=app&stdin=true&stdout=true&stderr=true&command=cat");
        let request = Request::get(path).header("host", "127.0.0.1").body(()).unwrap();
        command::dial(self.connect_as(who).await, request).await
    }
}

#[tokio::test]
async fn who_has_too_much_that_lasts_is_told_to_come_back_and_others_are_not() {
    let cluster = Cluster::with(Limits { lasting_per_user_max: 2, ..Limits::default() }).await;
    let (jane, john) = (cluster.user("jane").await, cluster.user("john").await);
    let first = cluster.endless(&jane).await;
    assert_eq!(first.status(), 200);
    // One whose connection was upgraded, after which no answer is sent any more.
    let command = cluster.command(&jane).await.expect("room for two");
    let refused = cluster.endless(&jane).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let status: Value =
        serde_json::from_slice(&refused.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&status["kind"], &status["reason"]), (&json!("Status"), &json!("TooManyRequests")));
    assert_eq!(
        status["message"],
        "Too many logs, commands, forwarded ports and proxied requests at once, please try again later."
    );
    match cluster.command(&jane).await.err() {
        Some(DialError::Refused { status, .. }) => assert_eq!(status, 429),
        other => panic!("{other:?}"),
    }
    let log = Request::get(format!("{POD}/log?container=app"));
    assert_eq!(cluster.send_as(&jane, log, String::new()).await.status(), 429);
    let pod = Request::get(POD);
    assert_eq!(
        cluster.send_as(&jane, pod, String::new()).await.status(),
        200,
        "what does not last is served"
    );

    let mut others = Vec::new();
    for who in [&john, &john, &cluster.pki.admin().unwrap()] {
        let answer = cluster.endless(who).await;
        assert_eq!(answer.status(), 200);
        others.push(answer);
    }
    // Each place is given back by its end: the stream's, and the answer's.
    let (stdout, outcome) = command
        .run(ALL, |mut remote| async move {
            drop(remote.stdin.take());
            (read_all(remote.stdout.take().unwrap()).await, remote.outcome().await)
        })
        .await;
    assert_eq!((&*stdout, outcome), ("", Outcome::Success));
    let second = cluster.endless_at_last(&jane).await;
    drop(first);
    let _third = cluster.endless_at_last(&jane).await;
    assert_eq!(cluster.endless(&jane).await.status(), 429);
    drop(second);
}

#[tokio::test]
async fn all_that_lasts_together_has_a_bound_and_administrators_places_of_their_own() {
    let cluster = Cluster::with(Limits { lasting_max: 4, ..Limits::default() }).await;
    let mut held = Vec::new();
    for user in ["u1", "u2", "u3", "u4", "u5"] {
        let user = cluster.user(user).await;
        loop {
            let answer = cluster.endless(&user).await;
            if answer.status() == 429 {
                break;
            }
            assert_eq!(answer.status(), 200);
            held.push(answer);
        }
    }
    assert_eq!(held.len(), 4);
    let admin = cluster.pki.admin().unwrap();
    let own = cluster.endless(&admin).await;
    assert_eq!(own.status(), 200);
    assert_eq!(cluster.endless(&admin).await.status(), 429, "theirs have a bound, too");
    drop(own);
    cluster.endless_at_last(&admin).await;
}
