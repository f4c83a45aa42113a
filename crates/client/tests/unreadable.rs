//! One object that does not fit its type stops nothing that is about others.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::Pod;
use skiff_client::*;
use tokio::sync::mpsc;

/// Answers a list with one text and each watch with lines as they come.
struct Server {
    list: String,
    lines: Mutex<Option<mpsc::UnboundedReceiver<String>>>,
}

#[async_trait]
impl Transport for Server {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        if !request.uri().query().unwrap_or_default().contains("watch=true") {
            return Ok(Response::new(full(self.list.clone())));
        }
        let lines = self.lines.lock().unwrap().take();
        let Some(lines) = lines else { return std::future::pending().await };
        let frames = futures_util::stream::unfold(lines, |mut lines| async {
            let line = Bytes::from(lines.recv().await? + "\n");
            Some((Ok::<_, BoxError>(http_body::Frame::data(line)), lines))
        });
        Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
    }
}

fn pod(name: &str, version: u64, more: &str) -> String {
    format!(r#"{{"metadata":{{"namespace":"a","name":"{name}","resourceVersion":"{version}"{more}}}}}"#)
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

/// What nobody can read as a date.
const BAD: &str = r#","deletionTimestamp":"""#;

#[tokio::test]
async fn who_can_not_read_one_object_follows_the_others() {
    let (tell, lines) = mpsc::unbounded_channel();
    let items = [pod("bad", 3, BAD), pod("good", 4, ""), pod("turns", 5, "")].join(",");
    let list = format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{items}]}}"#);
    let client = Client::new(Server { list, lines: Mutex::new(Some(lines)) });
    let cache = Cache::<Pod>::new(client, ListParams::default());
    let mut changes = cache.subscribe();
    let running = tokio::spawn(cache.clone().run());
    let mut next = async || {
        let change = tokio::time::timeout(Duration::from_secs(30), changes.next()).await.expect("a change");
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
        match change {
            Change::Applied { new, .. } => format!("+{}", name(&new)),
            Change::Deleted(old) => format!("-{}", name(&old)),
            Change::Resync => "all".to_owned(),
        }
    };
    let mut first = [next().await, next().await];
    first.sort();
    assert_eq!(first, ["+good", "+turns"], "the list without the one");
    // It turns unreadable, and others come and go.
    tell.send(event("MODIFIED", &pod("turns", 10, BAD))).unwrap();
    tell.send(event("ADDED", &pod("later", 11, ""))).unwrap();
    assert_eq!(next().await, "+later");
    assert!(cache.get(&ObjectKey::new("a", "turns")).is_some(), "its last state is kept while it is there");
    tell.send(event("DELETED", &pod("bad", 12, BAD))).unwrap();
    tell.send(event("DELETED", &pod("turns", 13, BAD))).unwrap();
    assert_eq!(next().await, "-turns");
    tell.send(event("DELETED", &pod("good", 14, ""))).unwrap();
    assert_eq!(next().await, "-good");
    let left: Vec<_> = cache.keys().into_iter().map(|key| key.name).collect();
    assert_eq!(left, ["later"]);
    running.abort();
}
