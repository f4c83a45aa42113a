//! Services, as a client outside sees them: how soon a new one answers, and how long a pod that goes still
//! gets connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::{Operation, load};
use crate::cluster::Cluster;
use crate::stats::Figure;
use crate::wire::{Target, Wire};

const JSON: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

const MANY: usize = 10_000;

/// A pod that answers with its name, and goes on with that until its grace is over: as PID 1, the server gets
/// no signal that it does not ask for.
fn web(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "alpine",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", "hostname >/tmp/index.html && exec httpd -f -p 8080 -h /tmp"]}]},
    })
    .to_string()
}

fn service(name: &str, kind: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
    .to_string()
}

/// What a new connection is answered, `None` if there is none or no answer.
fn ask(address: SocketAddr) -> Option<String> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    Some(body.trim().to_owned())
}

/// Asks until `found` is content.
fn until(address: SocketAddr, mut found: impl FnMut(Option<&str>) -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !found(ask(address).as_deref()) {
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(60), "{address} does not answer as it should");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

async fn node_ip(wire: &mut Wire) -> anyhow::Result<Ipv4Addr> {
    let nodes: Value = serde_json::from_slice(wire.call("GET", "/api/v1/nodes", "", "").await?)?;
    let addresses = nodes["items"][0]["status"]["addresses"].as_array().context("the node has no address")?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    Ok(internal.and_then(|address| address["address"].as_str()).context("no InternalIP")?.parse()?)
}

/// Creates a service on a port of the node.
async fn expose(wire: &mut Wire, node: Ipv4Addr, name: &str) -> anyhow::Result<SocketAddr> {
    let made: Value =
        serde_json::from_slice(wire.call("POST", SERVICES, JSON, &service(name, "NodePort")).await?)?;
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
    Ok((node, u16::try_from(port)?).into())
}

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let mut wire = target.connect().await?;
    let node = node_ip(&mut wire).await?;
    wire.call("POST", PODS, JSON, &web("web-0")).await?;
    let address = expose(&mut wire, node, "web").await?;
    let goes = endpoint_goes(&mut wire, address).await?;
    let added = one_more(&target, &mut wire, node).await?;
    Ok(vec![added, goes])
}

/// From before a pod is deleted until the last connection that still came to it, or failed, was begun.
async fn endpoint_goes(wire: &mut Wire, address: SocketAddr) -> anyhow::Result<Figure> {
    const ROUNDS: usize = 40;
    let mut times = Vec::new();
    let (mut asked, mut failed) = (0, 0);
    for round in 0..ROUNDS {
        let (old, new) = (format!("web-{round}"), format!("web-{}", round + 1));
        wire.call("POST", PODS, JSON, &web(&new)).await?;
        let (mut seen_old, mut seen_new) = (false, false);
        until(address, |name| {
            seen_old |= name == Some(old.as_str());
            seen_new |= name == Some(new.as_str());
            seen_old && seen_new
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let asking = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    answers.push((begun, ask(address)));
                }
                answers
            })
        };
        let begin = Instant::now();
        wire.call("DELETE", &format!("{PODS}/{old}"), "", "").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.store(true, Ordering::Relaxed);
        let answers = asking.join().ok().context("the client panicked")?;
        asked += answers.len();
        failed += answers.iter().filter(|(_, name)| name.is_none()).count();
        let last = answers.iter().rev().find(|(_, name)| name.as_deref().is_none_or(|name| name == old));
        times.push(last.map_or(Duration::ZERO, |(begun, _)| begun.saturating_duration_since(begin)));
    }
    let figure = Figure::times("an endpoint goes: its last new connection", times, None, Some(50.0));
    Ok(figure.note(&format!("{failed} of {asked} connections meanwhile failed")))
}

/// From before a service is created until it answers, where there are very many already.
async fn one_more(target: &Target, wire: &mut Wire, node: Ipv4Addr) -> anyhow::Result<Figure> {
    let create = Operation {
        method: "POST",
        media: JSON,
        path: Box::new(|_| SERVICES.to_owned()),
        body: Box::new(|index| service(&format!("many-{index}"), "ClusterIP")),
    };
    load(target, MANY, create).await?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?limit=1";
    for _ in 0..3_000 {
        let list: Value = serde_json::from_slice(wire.call("GET", slices, "", "").await?)?;
        if list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) >= MANY as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The first waits for all the others to be in place.
    let mut times = Vec::new();
    for index in 0..31 {
        let begin = Instant::now();
        let address = expose(wire, node, &format!("more-{index}")).await?;
        until(address, |name| name.is_some())?;
        times.push(begin.elapsed());
    }
    times.remove(0);
    Ok(Figure::times("add one service among 10,000, until it answers", times, Some(20.0), None))
}
