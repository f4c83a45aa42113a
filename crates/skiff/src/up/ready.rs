//! When a new cluster is ready to be used: every node is Ready, DNS answers on each, and the namespace
//! `default` has its service account, without which no pod can be made in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use skiff_client::kubeconfig::Kubeconfig;
use skiff_client::{Client, ListParams, Object, Remote, WatchEvent};
use skiff_sys::netlink::in_netns;
use tokio::time::{Instant, timeout, timeout_at};

use super::interrupt::Interrupts;
use super::record::Record;
use crate::tell;

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two questions of which the first was not answered: also so that a deadline is seen where each is
/// refused at once.
const PAUSE: Duration = Duration::from_millis(10);

/// An image is large, and a disk slow; but a node that takes nothing any more must not hold up for ever.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Waits until the cluster can be used, and loads the images of `images` meanwhile. `since` is when it began to be
/// made: what its nodes said before is of an earlier time.
pub(crate) fn wait(
    record: &Record,
    since: SystemTime,
    images: Option<&Path>,
    interrupts: &Interrupts,
) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let ready = runtime.block_on(async {
        tokio::select! {
            ready = until_ready(record, since, images) => ready,
            error = interrupts.interrupted() => Err(error),
        }
    });
    // Where an archive's next bytes are slow to come, who reads them is not waited for.
    runtime.shutdown_background();
    ready
}

async fn until_ready(record: &Record, since: SystemTime, images: Option<&Path>) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let remote = Kubeconfig::read(&record.kubeconfig)?.remote(None)?;
    let client = Client::new(Remote::new(remote).map_err(|error| anyhow::anyhow!(error))?);
    let logs = |node: &str| record.node_data_dir(node).join("logs");
    let first = &record.nodes[0].name;
    timeout_at(deadline, serving(&client)).await.map_err(|_| {
        anyhow::anyhow!(
            "the API server did not answer within 60 s: see {}",
            logs(first).join("server.log").display()
        )
    })?;
    let mut missing = Missing::of(record.nodes.iter().map(|node| node.name.clone()), since);
    if timeout_at(deadline, nodes_ready(&client, &mut missing)).await.is_err() {
        let logs: Vec<String> =
            missing.nodes.keys().map(|node| logs(node).join("agent.log").display().to_string()).collect();
        let names: Vec<&str> = missing.nodes.keys().map(String::as_str).collect();
        bail!("not Ready within 60 s: {}; see {}", names.join(", "), logs.join(", "));
    }
    let account = exists::<ServiceAccount>(&client, "default", "default");
    timeout_at(deadline, account)
        .await
        .context("the namespace default got no service account within 60 s")?;
    for node in &record.nodes {
        let answered = timeout_at(deadline, dns_answers(record, &node.name)).await;
        answered.with_context(|| format!("DNS on {} did not answer within 60 s", node.name))??;
    }
    if let Some(dir) = images {
        for archive in archives(dir)? {
            tell(format_args!("Loading {}", archive.display()));
            timeout(LOAD_TIMEOUT, skiff_cli::image::load(&client, first, &archive)).await.map_err(
                |_| anyhow::anyhow!("{first} did not take {} within 10 minutes", archive.display()),
            )??;
        }
    }
    Ok(())
}

async fn serving(client: &Client) {
    loop {
        let request = http::Request::get("/readyz").body(skiff_client::empty());
        if let Ok(request) = request
            && let Ok(response) = client.send(request).await
            && response.status().is_success()
        {
            return;
        }
        // The listener exists before the server does, so this waits for a restarting server only.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Nodes that have not said since then that they are Ready.
struct Missing {
    /// In whole seconds, as the API tells times.
    since: Timestamp,
    /// With the first time that each was seen to have said so, which may be of its life before.
    nodes: BTreeMap<String, Option<Option<Timestamp>>>,
}

impl Missing {
    fn of(names: impl Iterator<Item = String>, since: SystemTime) -> Self {
        let since = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let since = i64::try_from(since).ok().and_then(|since| Timestamp::from_second(since).ok());
        let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
        Self { since, nodes: names.map(|name| (name, None)).collect() }
    }

    fn saw(&mut self, node: &Node) {
        let conditions =
            node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let Some(ready) = conditions.iter().find(|condition| condition.type_ == "Ready") else { return };
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let Some(first) = self.nodes.get_mut(name) else { return };
        let said = ready.last_heartbeat_time.as_ref().map(|time| time.0);
        // By the time alone a clock that was put back would keep it waiting.
        let anew = said >= Some(self.since) || said != *first.get_or_insert(said);
        if ready.status == "True" && anew {
            self.nodes.remove(name);
        }
    }
}

async fn nodes_ready(client: &Client, missing: &mut Missing) {
    while !missing.nodes.is_empty() {
        let Ok(list) = client.list::<Node>(&ListParams::default()).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        list.items.iter().for_each(|node| missing.saw(node));
        let params = ListParams { resource_version: Some(list.resource_version), ..ListParams::default() };
        let Ok(mut events) = client.watch::<Node>(&params).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while !missing.nodes.is_empty()
            && let Some(Ok(event)) = events.next().await
        {
            if let WatchEvent::Added(node) | WatchEvent::Modified(node) = event {
                missing.saw(&node);
            }
        }
        if !missing.nodes.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn exists<K: Object>(client: &Client, namespace: &str, name: &str) {
    loop {
        let params = ListParams {
            namespace: Some(namespace.to_owned()),
            field_selector: Some(format!("metadata.name={name}")),
            ..ListParams::default()
        };
        let Ok(list) = client.list::<K>(&params).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if !list.items.is_empty() {
            return;
        }
        let params = ListParams { resource_version: Some(list.resource_version), ..params };
        if let Ok(mut events) = client.watch::<K>(&params).await
            && let Some(Ok(WatchEvent::Added(_))) = events.next().await
        {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks for the API's own name, from inside the node.
async fn dns_answers(record: &Record, node: &str) -> anyhow::Result<()> {
    let path = Record::netns(&record.name, node);
    let netns = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let socket = in_netns(netns.as_fd(), || UdpSocket::bind(("0.0.0.0", 0)))
        .context("cannot enter the node's network")??;
    socket.set_nonblocking(true).context("cannot use the socket")?;
    let socket = tokio::net::UdpSocket::from_std(socket).context("cannot use the socket")?;
    let query = query("kubernetes.default.svc.cluster.local");
    let server = SocketAddr::from((record.ranges.dns(), 53));
    loop {
        // Refused while nobody listens yet; lost while the address is not there yet.
        let _ = socket.send_to(&query, server).await;
        let mut answer = [0u8; 512];
        if let Ok(Ok(length)) =
            tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut answer)).await
            && answered(&query, &answer[..length])
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A question for an A record, RFC 1035 §4.1.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x53, 0x4b, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        // Labels of our own names are short.
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// Whether it is a positive answer to the query: same ID, a response, no error, at least one record.
fn answered(query: &[u8], answer: &[u8]) -> bool {
    answer.len() >= 12
        && answer[..2] == query[..2]
        && answer[2] & 0x80 != 0
        && answer[3] & 0x0f == 0
        && (answer[6] > 0 || answer[7] > 0)
}

fn archives(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let is_archive = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|suffix| name.ends_with(suffix))
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_archive).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use skiff_client::{Body, Error, Transport};

    use super::*;

    /// A server that answers everything at once: refuses, or has an empty list whose watch ends.
    struct Hasty {
        refuses: bool,
    }

    #[async_trait]
    impl Transport for Hasty {
        async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Error> {
            let watch = request.uri().query().is_some_and(|query| query.contains("watch"));
            match (self.refuses, watch) {
                (true, _) => Err(Error::Transport("refused".into())),
                (false, true) => Ok(http::Response::new(skiff_client::empty())),
                (false, false) => {
                    let list = r#"{"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}"#;
                    Ok(http::Response::new(skiff_client::full(list)))
                }
            }
        }
    }

    /// The clock goes on by itself when nothing else can happen: a wait that gives nobody else a turn would
    /// never end.
    #[tokio::test(start_paused = true)]
    async fn waits_end_at_their_deadline_however_hasty_the_answers() {
        for refuses in [true, false] {
            let client = Client::new(Hasty { refuses });
            let mut missing = Missing::of(["n".to_owned()].into_iter(), UNIX_EPOCH);
            assert!(timeout(READY_TIMEOUT, nodes_ready(&client, &mut missing)).await.is_err());
            let account = exists::<ServiceAccount>(&client, "default", "default");
            assert!(timeout(READY_TIMEOUT, account).await.is_err());
        }
        assert!(timeout(READY_TIMEOUT, serving(&Client::new(Hasty { refuses: true }))).await.is_err());
    }

    #[test]
    fn what_a_node_said_in_its_life_before_does_not_count() {
        let node = |status: &str, at: &str| -> Node {
            let ready = serde_json::json!({"type": "Ready", "status": status, "lastHeartbeatTime": at});
            let node = serde_json::json!({"metadata": {"name": "n"}, "status": {"conditions": [ready]}});
            serde_json::from_value(node).expect("a node")
        };
        let ten: Timestamp = "2026-01-01T10:00:00Z".parse().expect("a time");
        let since = UNIX_EPOCH + Duration::from_millis(ten.as_second().unsigned_abs() * 1_000 + 700);
        let waits = |told: &[Node]| {
            let mut missing = Missing::of(["n".to_owned()].into_iter(), since);
            told.iter().for_each(|node| missing.saw(node));
            !missing.nodes.is_empty()
        };
        let before = node("True", "2026-01-01T09:59:59Z");
        assert!(waits(&[before.clone()]) && waits(&[before.clone(), before.clone()]));
        assert!(!waits(&[node("True", "2026-01-01T10:00:00Z")]), "times have whole seconds");
        assert!(waits(&[before.clone(), node("False", "2026-01-01T10:00:01Z")]));
        assert!(!waits(&[
            before.clone(),
            node("False", "2026-01-01T10:00:01Z"),
            node("True", "2026-01-01T10:00:01Z")
        ]));
        // The clock was put back meanwhile.
        assert!(!waits(&[before, node("True", "2026-01-01T08:00:00Z")]));
    }

    #[test]
    fn only_a_positive_answer_to_our_question_counts() {
        let query = query("a.b");
        assert_eq!(&query[12..], [1, b'a', 1, b'b', 0, 0, 1, 0, 1]);
        let mut answer = query.clone();
        assert!(!answered(&query, &answer), "a query is no answer");
        answer[2] |= 0x80;
        assert!(!answered(&query, &answer), "it has no record");
        answer[7] = 1;
        assert!(answered(&query, &answer));
        answer[3] |= 3;
        assert!(!answered(&query, &answer), "NXDOMAIN");
    }
}
