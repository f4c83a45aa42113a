//! Network policies: how soon one is in force, what they cost a pod's start among very many, and what they
//! cost a stream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::{Operation, load};
use crate::cluster::Cluster;
use crate::stats::{Bar, Figure};
use crate::wire::{Target, Wire};

const JSON: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/default/pods";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const ELSEWHERE: usize = 1_000;
const MANY: usize = 100;
const STREAM_MB: usize = 256;
/// How often a stream is taken in each state, so that it isn't the writing of the policies that is measured.
const STREAMS: usize = 6;

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let mut wire = target.connect().await?;
    wire.call("POST", PODS, JSON, &web()).await?;
    let address = web_address(&mut wire).await?;
    until(address, true)?;
    let denied = denied(&mut wire, address).await?;
    let stream = stream(&mut wire, address).await?;
    let started = started(&target, &mut wire).await?;
    Ok(vec![denied, started, stream])
}

/// A pod that serves a large file.
fn web() -> String {
    let command =
        format!("dd if=/dev/zero of=/tmp/big bs=1M count={STREAM_MB} && exec httpd -f -p 8080 -h /tmp");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "alpine",
            "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", command]}]},
    })
    .to_string()
}

async fn web_address(wire: &mut Wire) -> anyhow::Result<SocketAddr> {
    for _ in 0..3_000 {
        let pod: Value = serde_json::from_slice(wire.call("GET", &format!("{PODS}/web"), "", "").await?)?;
        if let Some(ip) = pod["status"]["podIP"].as_str() {
            return Ok(SocketAddr::new(ip.parse()?, 8080));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the pod gets no address")
}

fn policy(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// Lets in whoever is in the range.
fn from_range(range: &str) -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"ipBlock": {"cidr": range}}]}],
    })
}

fn connects(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_ok()
}

fn until(address: SocketAddr, answers: bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while connects(address) != answers {
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(60), "{address} does not answer as it should");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// From before a policy is written until the last connection that it forbids, and that still came about,
/// was begun.
async fn denied(wire: &mut Wire, address: SocketAddr) -> anyhow::Result<Figure> {
    let mut times = Vec::new();
    for _ in 0..20 {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut last = None;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    last = if connects(address) { Some(begun) } else { last };
                }
                last
            })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begin = Instant::now();
        wire.call("POST", POLICIES, JSON, &policy("deny", &from_range("192.0.2.0/24"))).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.store(true, Ordering::Relaxed);
        let last = asking.join().ok().context("the client panicked")?.context("nothing came about at all")?;
        times.push(last.saturating_duration_since(begin));
        wire.call("DELETE", &format!("{POLICIES}/deny"), "", "").await?;
        until(address, true)?;
    }
    Ok(Figure::times("a first policy: the last connection that it forbids", times, None, None))
}

/// Bytes a second of one download.
fn download(address: SocketAddr) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /big HTTP/1.0\r\n\r\n")?;
    let (begin, mut buffer, mut bytes) = (Instant::now(), vec![0; 1 << 18], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => bytes += length,
        }
    }
    anyhow::ensure!(bytes > STREAM_MB << 20, "the file came only in part");
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The middle one of some downloads, after one that counts for nothing.
fn downloads(address: SocketAddr) -> anyhow::Result<f64> {
    download(address)?;
    let mut rates = (0..STREAMS).map(|_| download(address)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(median(&mut rates))
}

/// A stream into the cluster without and with policies, in turns.
async fn stream(wire: &mut Wire, address: SocketAddr) -> anyhow::Result<Figure> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        without.push(downloads(address)?);
        // What it allows looks the same without it, so another one shows that policies are in force.
        wire.call("POST", POLICIES, JSON, &policy("deny", &from_range("192.0.2.0/24"))).await?;
        until(address, false)?;
        wire.call("POST", POLICIES, JSON, &policy("allow", &from_range("0.0.0.0/0"))).await?;
        until(address, true)?;
        with.push(downloads(address)?);
        for name in ["deny", "allow"] {
            wire.call("DELETE", &format!("{POLICIES}/{name}"), "", "").await?;
        }
        until(address, true)?;
    }
    let (without, with) = (median(&mut without), median(&mut with));
    let share = with / without * 100.0;
    let text = format!("{share:.0} % ({:.2} and {:.2} GB/s, medians of 7)", with / 1e9, without / 1e9);
    let figure = Figure::new("a stream with policies, of one without", text);
    Ok(figure.bar(share, Bar::AtLeast(95.0), "%"))
}

/// By how much a pod starts later where there are very many pods and policies; nothing of it runs before
/// it is filtered.
async fn started(target: &Target, wire: &mut Wire) -> anyhow::Result<Figure> {
    let without = starts(target, "before").await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere"}}).to_string();
    wire.call("POST", "/api/v1/nodes", JSON, &node).await?;
    let create = Operation {
        method: "POST",
        media: JSON,
        path: Box::new(|_| PODS.to_owned()),
        body: Box::new(|index| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("elsewhere-{index}"), "labels": {"app": format!("app-{}", index % 50)}},
                "spec": {"nodeName": "elsewhere", "containers": [{"name": "main", "image": "alpine"}]},
            })
            .to_string()
        }),
    };
    load(target, ELSEWHERE, create).await?;
    let tell = Operation {
        method: "PATCH",
        media: "application/merge-patch+json",
        path: Box::new(|index| format!("{PODS}/elsewhere-{index}/status")),
        body: Box::new(|index| {
            let ip = format!("10.244.{}.{}", 100 + index / 250, 1 + index % 250);
            json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}).to_string()
        }),
    };
    load(target, ELSEWHERE, tell).await?;
    let write = Operation {
        method: "POST",
        media: JSON,
        path: Box::new(|_| POLICIES.to_owned()),
        body: Box::new(|index| {
            let app = |number: usize| json!({"podSelector": {"matchLabels": {"app": format!("app-{}", number % 50)}}});
            let spec = json!({
                "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [app(index), app(index + 1)], "ports": [{"port": 80}]}],
                "egress": [{"to": [app(index + 2)]}],
            });
            policy(&format!("many-{index}"), &spec)
        }),
    };
    load(target, MANY, write).await?;
    // The first waits for all that is new.
    crate::pods::start(target, &["first".to_owned()]).await?;
    let with = starts(target, "after").await?;
    let extra = (with.as_secs_f64() - without.as_secs_f64()) * 1e3;
    let text = format!(
        "{extra:.2} ms (a start's p50 is {:.2} ms, {:.2} ms without)",
        with.as_secs_f64() * 1e3,
        without.as_secs_f64() * 1e3
    );
    let figure =
        Figure::new("a pod among 1,000 under 100 policies: until filtered, added to its start", text);
    Ok(figure.bar(extra, Bar::AtMost(20.0), "ms"))
}

async fn starts(target: &Target, prefix: &str) -> anyhow::Result<Duration> {
    let mut times = Vec::new();
    for index in 0..21 {
        times.push(crate::pods::start(target, &[format!("{prefix}-{index}")]).await?);
    }
    times.sort();
    Ok(times[times.len() / 2])
}
