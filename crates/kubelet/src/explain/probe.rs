//! One real connection for `trace --live`: the agent of the sender's node makes it, those of the nodes on
//! the way listen for its first packet and for what answers that.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Deserialize;
use skiff_client::BoxError;
use skiff_network::probe::{self, Ear, Heard};

use super::{network, sandboxes};
use crate::agent::{Answer, Query, Refusal, internal, json};
use crate::node_context::Context;

/// So many may listen at once, since each puts a table into the packet filters where it does.
const LISTENING_MAX: usize = 32;
/// Connections that are made at once, each with a thread that waits.
const PROBING_MAX: usize = 32;
/// For how long one waits for its answer, whatever is asked.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// The parameter `listen`, as JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listen {
    /// Addresses of the pods of this node to listen in; in the node itself always.
    sandboxes: Vec<Ipv4Addr>,
    heard: Heard,
    millis: u64,
}

/// The parameter `probe`, as JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    /// The address of the pod that sends; none is the node.
    sandbox: Option<Ipv4Addr>,
    to: SocketAddrV4,
    heard: Heard,
    millis: u64,
}

fn read<'a, T: Deserialize<'a>>(query: &'a Query, name: &str) -> Result<T, Refusal> {
    serde_json::from_str(query.get(name).unwrap_or_default())
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("{name}: {error}")))
}

/// Name and network namespace of each sandbox on the pod network, by address.
async fn namespaces(context: &Arc<Context>) -> Result<BTreeMap<Ipv4Addr, (String, PathBuf)>, Refusal> {
    let attached = network(context)?.attachments().await.map_err(internal)?;
    let mut known = sandboxes(context).await?;
    Ok(attached.into_iter().filter_map(|own| Some((own.ip, known.remove(&own.sandbox)?))).collect())
}

fn not_here(ip: Ipv4Addr) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("no pod of this node has the address {ip}"))
}

/// Ends the listening with this token, if there is one.
pub(super) fn stop(context: &Context, query: &Query) -> Answer {
    let token: u64 = read(query, "token")?;
    if let Some(stop) = context.memory.listening.lock().get(&token) {
        stop.store(true, Ordering::Release);
    }
    json(&())
}

/// Answers as soon as it listens; the body is what was heard.
pub(super) async fn listen(context: &Arc<Context>, query: &Query) -> Answer {
    let asked: Listen = read(query, "listen")?;
    let known = namespaces(context).await?;
    let node = Ear { place: format!("node {}", context.config.node_name), netns: None };
    let mut ears = vec![node];
    for ip in asked.sandboxes {
        let (place, netns) = known.get(&ip).cloned().ok_or_else(|| not_here(ip))?;
        ears.push(Ear { place, netns: Some(netns) });
    }
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let patience = Duration::from_millis(asked.millis);
    let (memory, stop) = (context.memory.clone(), Arc::new(AtomicBool::new(false)));
    {
        let mut listening = memory.listening.lock();
        if listening.len() >= LISTENING_MAX {
            let why = format!("{LISTENING_MAX} real connections are being observed here already");
            return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, why));
        }
        listening.insert(asked.heard.token, stop.clone());
    }
    let hearing = tokio::task::spawn_blocking(move || {
        let heard = probe::listen(&ears, asked.heard, patience, &stop, || {
            // Who asked may have gone.
            let _ = ready.send(());
        });
        memory.listening.lock().remove(&asked.heard.token);
        heard
    });
    if is_ready.await.is_err() {
        let error = hearing.await.map_err(internal)?.err();
        return Err(Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.map_or_else(|| "listening ended early".into(), |error| crate::images::chain(&error)),
        ));
    }
    let frame = async move {
        let heard = hearing.await.map_err(BoxError::from)?.map_err(BoxError::from)?;
        Ok::<_, BoxError>(Frame::data(Bytes::from(serde_json::to_vec(&heard)?)))
    };
    Ok(Response::new(BodyExt::boxed_unsync(StreamBody::new(stream::once(frame)))))
}

fn patience(millis: u64) -> Duration {
    Duration::from_millis(millis).min(PROBE_MAX)
}

pub(super) async fn connect(context: &Arc<Context>, query: &Query) -> Answer {
    let asked: Probe = read(query, "probe")?;
    let netns = match asked.sandbox {
        None => None,
        Some(ip) => Some(namespaces(context).await?.remove(&ip).ok_or_else(|| not_here(ip))?.1),
    };
    let patience = patience(asked.millis);
    let turn = context.memory.probing.clone();
    if Arc::strong_count(&turn) > PROBING_MAX + 1 {
        let why = format!("{PROBING_MAX} real connections are being made from here already");
        return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, why));
    }
    let sent = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        probe::connect(netns.as_deref(), asked.to, asked.heard, patience)
    });
    json(&sent.await.map_err(internal)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_explain::trace::live as asked;
    use skiff_network::probe as told;

    use super::{Listen, PROBE_MAX, Probe, patience};

    #[test]
    fn nobody_has_a_thread_wait_for_longer_than_an_answer_takes() {
        assert_eq!(patience(1_800).as_millis(), 1_800);
        assert_eq!(patience(u64::MAX), PROBE_MAX);
    }

    #[test]
    fn the_server_and_this_node_read_what_the_other_writes() {
        let end = |port| std::net::SocketAddrV4::new([10, 0, 0, 1].into(), port);
        let text = || "x".to_owned();
        let observed = told::Observed {
            sights: vec![told::Sight {
                place: text(),
                device: text(),
                answer: true,
                source: end(1),
                destination: end(2),
            }],
            rules: vec![told::MetRule {
                place: text(),
                table: text(),
                chain: text(),
                handle: 7,
                verdict: text(),
                answer: true,
                again: true,
                source: end(3),
                destination: end(4),
            }],
            tracked: vec![told::Tracked {
                place: text(),
                source: end(5),
                destination: end(6),
                answer_source: end(7),
                answer_destination: end(8),
            }],
            blind: vec![told::Blind { place: text(), why: text() }],
            frames: vec![told::Frames { place: text(), family: text(), answers: true }],
        };
        let written = serde_json::to_value(&observed).unwrap();
        let read: asked::Observed = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), written);
        let outcome = told::Outcome { outcome: text(), source: Some(end(9)) };
        let read: asked::Outcome = serde_json::from_value(serde_json::to_value(&outcome).unwrap()).unwrap();
        assert_eq!((read.outcome, read.source), (outcome.outcome, outcome.source));

        for protocol in [asked::WireProtocol::Tcp, asked::WireProtocol::Udp] {
            let heard = asked::Heard { protocol, token: u64::MAX };
            let listen = asked::Listen { sandboxes: vec![[10, 0, 0, 1].into()], heard, millis: 5 };
            let read: Listen = serde_json::from_value(serde_json::to_value(&listen).unwrap()).unwrap();
            assert_eq!((read.sandboxes, read.millis), (listen.sandboxes, listen.millis));
            assert_eq!(serde_json::to_value(read.heard).unwrap(), serde_json::to_value(heard).unwrap());
            let probe = asked::Probe { sandbox: Some([10, 0, 0, 1].into()), to: end(1), heard, millis: 5 };
            let read: Probe = serde_json::from_value(serde_json::to_value(&probe).unwrap()).unwrap();
            assert_eq!((read.sandbox, read.to, read.millis), (probe.sandbox, probe.to, probe.millis));
        }
        let none: Probe = serde_json::from_value(json!({
            "sandbox": null, "to": "10.0.0.1:1", "heard": {"protocol": "Tcp", "token": 1}, "millis": 5
        }))
        .unwrap();
        assert_eq!(none.sandbox, None);
    }
}
