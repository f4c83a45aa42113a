//! `skiff status` and `skiff logs` of a cluster that is not this machine's: what its API and its nodes'
//! agents tell.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use skiff_client::kubeconfig::Kubeconfig;
use skiff_client::{Client, ListParams, Remote, empty};

use crate::image::{call, json};
use crate::output::{Format, print};
use crate::processes::ProcessRow;
use crate::{Health, refusal};

/// An agent that has not answered by then is told of as such, and the others are still asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a node's agent tells.
#[derive(Debug, Deserialize)]
struct Status {
    version: String,
    processes: Vec<Process>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    role: String,
    pid: i32,
    since_seconds: u64,
    memory_bytes: u64,
    health: String,
}

/// What is told of a node.
struct Told {
    node: String,
    /// Whether the API has it as Ready.
    ready: bool,
    /// What its agent says, if it answers.
    status: Option<Status>,
}

fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let remote = Kubeconfig::read(kubeconfig)?.remote(None)?;
    Ok(Client::new(Remote::new(remote).map_err(|error| anyhow::anyhow!(error))?))
}

pub(crate) async fn status(kubeconfig: &Path, format: Format) -> anyhow::Result<()> {
    let client = connect(kubeconfig)?;
    let nodes = tokio::time::timeout(PATIENCE, nodes(&client)).await;
    let nodes = nodes.map_err(|_| anyhow!("the API server does not answer"))??;
    let server = tokio::time::timeout(PATIENCE, server(&client)).await.unwrap_or_default();
    let asked = nodes.into_iter().map(async |(node, ready)| {
        let answer = tokio::time::timeout(PATIENCE, ask(&client, &node)).await;
        let answer = answer
            .ok()
            .and_then(|answer| answer.inspect_err(|error| eprintln!("skiff: warning: {error:#}")).ok());
        Told { node, ready, status: answer }
    });
    let told = futures_util::future::join_all(asked).await;
    print(&rows(server, told), format)
}

/// The names of the nodes, and which of them are Ready.
async fn nodes(client: &Client) -> anyhow::Result<Vec<(String, bool)>> {
    let nodes = client.list::<Node>(&ListParams::default()).await;
    let nodes = nodes.map_err(|error| anyhow!(refusal::of_error(&error)))?;
    Ok(nodes.items.iter().filter_map(|node| Some((node.metadata.name.clone()?, is_ready(node)))).collect())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn ask(client: &Client, node: &str) -> anyhow::Result<Status> {
    json(call(client, Method::GET, node, "status", empty()).await?).await
}

/// What the API that a kubeconfig leads to tells of itself and of agents. One that does not answer in time is
/// not ready.
pub(crate) async fn health(kubeconfig: &Path, wanted: &BTreeSet<String>) -> anyhow::Result<Health> {
    let client = connect(kubeconfig)?;
    let server = tokio::time::timeout(PATIENCE, server(&client)).await.is_ok_and(|(ready, _)| ready);
    let Ok(Ok(nodes)) = tokio::time::timeout(PATIENCE, nodes(&client)).await else {
        return Ok(Health { server, agents: None });
    };
    let asked = nodes.into_iter().filter(|(node, ready)| *ready && wanted.contains(node));
    let asked = asked.map(async |(node, _)| {
        let answer = tokio::time::timeout(PATIENCE, is_well(&client, &node)).await;
        answer.unwrap_or(false).then_some(node)
    });
    let agents = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
    Ok(Health { server, agents: Some(agents) })
}

/// Whether a node's agent says so, through the API server.
async fn is_well(client: &Client, node: &str) -> bool {
    let request = Request::get(format!("/api/v1/nodes/{node}/proxy/healthz")).body(empty());
    let Ok(request) = request else { return false };
    client.send(request).await.is_ok_and(|answer| answer.status().is_success())
}

/// Whether the API that answers calls itself ready, and its version.
async fn server(client: &Client) -> (bool, Option<String>) {
    let get = async |path: &str| {
        let response = client.send(Request::get(path).body(empty()).ok()?).await.ok()?;
        let fine = response.status().is_success();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        fine.then_some(body)
    };
    let version = get("/version").await.and_then(|body| {
        let version: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(version.get("gitVersion")?.as_str()?.trim_start_matches('v').to_owned())
    });
    (get("/readyz").await.is_some(), version)
}

/// Rows of what was told. The server that answered is told of once even where no agent sees its process.
fn rows((ready, version): (bool, Option<String>), told: Vec<Told>) -> Vec<ProcessRow> {
    let mut rows = Vec::new();
    for Told { node, ready, status } in told {
        let Some(status) = status else {
            rows.push(ProcessRow::new(node, "agent", "unreachable"));
            continue;
        };
        rows.extend(status.processes.into_iter().map(|process| {
            let health = match process.role == "agent" && process.health == "ok" && !ready {
                true => "not ready".to_owned(),
                false => process.health,
            };
            ProcessRow {
                pid: Some(process.pid),
                since_seconds: Some(process.since_seconds),
                memory_bytes: Some(process.memory_bytes),
                version: Some(status.version.clone()),
                ..ProcessRow::new(node.clone(), process.role, health)
            }
        }));
    }
    let health = if ready { "ok" } else { "not ready" };
    let mut servers = rows.iter_mut().filter(|row| row.role == "server").peekable();
    if servers.peek().is_none() {
        rows.insert(0, ProcessRow { version, ..ProcessRow::new("", "server", health) });
    } else {
        servers.filter(|row| row.health == "ok").for_each(|row| {
            row.health = health.into();
            row.version.clone_from(&version);
        });
    }
    rows
}

pub(crate) async fn logs(kubeconfig: &Path, node: &str, follow: bool) -> anyhow::Result<()> {
    let client = connect(kubeconfig)?;
    let path = if follow { "logs?follow=true" } else { "logs" };
    let mut body = call(&client, Method::GET, node, path, empty()).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow::anyhow!(error));
        let frame = frame.with_context(|| format!("{node} stopped sending its logs"))?;
        let Ok(data) = frame.into_data() else { continue };
        let mut out = io::stdout().lock();
        match out.write_all(&data).and_then(|()| out.flush()) {
            // A reader such as `head` has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("cannot write the output")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Row;

    fn process(role: &str, health: &str) -> Process {
        Process {
            role: role.into(),
            pid: 7,
            since_seconds: 60,
            memory_bytes: 2_000_000,
            health: health.into(),
        }
    }

    fn cells(ready: bool, told: Vec<(String, Option<Status>)>) -> Vec<String> {
        // The one called `late` is not Ready.
        let told = told.into_iter().map(|(node, status)| Told { ready: node != "late", node, status });
        let rows = rows((ready, Some("1.36.0".into())), told.collect());
        // None is of a cluster of this machine.
        rows.iter().map(|row| row.cells()[1..].join(" ")).collect()
    }

    #[test]
    fn agents_tell_of_processes_and_the_api_of_itself() {
        let status = |processes: &[(&str, &str)]| {
            let processes = processes.iter().map(|(role, health)| process(role, health)).collect();
            Some(Status { version: "1.36.0+skiff".into(), processes })
        };
        let told = || {
            vec![
                ("a".to_owned(), status(&[("server", "ok"), ("agent", "ok")])),
                ("b".to_owned(), status(&[("agent", "ok")])),
                ("c".to_owned(), None),
            ]
        };
        assert_eq!(
            cells(true, told()),
            [
                "a server 7 60s 2.0MB ok 1.36.0",
                "a agent 7 60s 2.0MB ok 1.36.0+skiff",
                "b agent 7 60s 2.0MB ok 1.36.0+skiff",
                "c agent - - - unreachable -",
            ]
        );
        assert_eq!(cells(false, told())[0], "a server 7 60s 2.0MB not ready 1.36.0");
        // No agent beside the server.
        assert_eq!(cells(true, Vec::new()), ["- server - - - ok 1.36.0"]);
        let late = vec![("late".to_owned(), status(&[("agent", "ok"), ("shim", "ok")]))];
        assert_eq!(
            cells(true, late)[1..],
            ["late agent 7 60s 2.0MB not ready 1.36.0+skiff", "late shim 7 60s 2.0MB ok 1.36.0+skiff"]
        );
        let stopped = vec![("a".to_owned(), status(&[("server", "stopped")]))];
        assert_eq!(cells(true, stopped), ["a server 7 60s 2.0MB stopped 1.36.0+skiff"]);
    }
}
