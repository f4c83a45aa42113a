//! `skiff status` and `skiff logs` of a cluster that is not this machine's: what its API and its nodes'
//! agents tell.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use skiff_client::kubeconfig::Kubeconfig;
use skiff_client::{Client, Remote, empty};

use crate::image::{call, json, node_names};
use crate::output::{Format, Row, age, print};

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

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessRow {
    node: String,
    role: String,
    /// As the node numbers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    health: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
}

impl Row for ProcessRow {
    const COLUMNS: &'static [&'static str] = &["NODE", "ROLE", "PID", "SINCE", "MEMORY", "HEALTH", "VERSION"];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or("-".into());
        vec![
            or_dash(Some(self.node.clone())),
            self.role.clone(),
            or_dash(self.pid.map(|pid| pid.to_string())),
            or_dash(self.since_seconds.map(age)),
            or_dash(self.memory_bytes.map(|bytes| format!("{:.1}MB", bytes as f64 / 1e6))),
            self.health.clone(),
            or_dash(Some(self.version.clone())),
        ]
    }
}

fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let remote = Kubeconfig::read(kubeconfig)?.remote(None)?;
    Ok(Client::new(Remote::new(remote).map_err(|error| anyhow::anyhow!(error))?))
}

pub(crate) async fn status(kubeconfig: &Path, format: Format) -> anyhow::Result<()> {
    let client = connect(kubeconfig)?;
    let nodes = node_names(&client).await?;
    let server = server(&client).await;
    let asked = nodes.into_iter().map(async |node| {
        let answer = tokio::time::timeout(PATIENCE, ask(&client, &node)).await;
        let answer = answer
            .ok()
            .and_then(|answer| answer.inspect_err(|error| eprintln!("skiff: warning: {error:#}")).ok());
        (node, answer)
    });
    let told = futures_util::future::join_all(asked).await;
    print(&rows(server, told), format)
}

async fn ask(client: &Client, node: &str) -> anyhow::Result<Status> {
    json(call(client, Method::GET, node, "status", empty()).await?).await
}

/// Whether the API that a kubeconfig leads to calls itself ready. One that does not answer is not.
pub(crate) async fn ready(kubeconfig: &Path) -> anyhow::Result<bool> {
    let client = connect(kubeconfig)?;
    Ok(tokio::time::timeout(PATIENCE, server(&client)).await.is_ok_and(|(ready, _)| ready))
}

/// Whether the API that answers calls itself ready, and its version.
async fn server(client: &Client) -> (bool, String) {
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
    (get("/readyz").await.is_some(), version.unwrap_or_default())
}

/// Rows of what was told. The server that answered is told of once even where no agent sees its process.
fn rows((ready, version): (bool, String), told: Vec<(String, Option<Status>)>) -> Vec<ProcessRow> {
    let mut rows = Vec::new();
    for (node, status) in told {
        let Some(status) = status else {
            rows.push(ProcessRow {
                node,
                role: "agent".into(),
                pid: None,
                since_seconds: None,
                memory_bytes: None,
                health: "unreachable".into(),
                version: String::new(),
            });
            continue;
        };
        rows.extend(status.processes.into_iter().map(|process| ProcessRow {
            node: node.clone(),
            role: process.role,
            pid: Some(process.pid),
            since_seconds: Some(process.since_seconds),
            memory_bytes: Some(process.memory_bytes),
            health: process.health,
            version: status.version.clone(),
        }));
    }
    let health = if ready { "ok" } else { "not ready" };
    let mut servers = rows.iter_mut().filter(|row| row.role == "server").peekable();
    if servers.peek().is_none() {
        let row = ProcessRow {
            node: String::new(),
            role: "server".into(),
            pid: None,
            since_seconds: None,
            memory_bytes: None,
            health: health.into(),
            version,
        };
        rows.insert(0, row);
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
        rows((ready, "1.36.0".into()), told).iter().map(|row| row.cells().join(" ")).collect()
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
        let stopped = vec![("a".to_owned(), status(&[("server", "stopped")]))];
        assert_eq!(cells(true, stopped), ["a server 7 60s 2.0MB stopped 1.36.0+skiff"]);
    }
}
