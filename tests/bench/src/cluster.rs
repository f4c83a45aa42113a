//! Clusters to measure, started and ended here.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::stats::Figure;
use crate::wire::{Target, Wire};

pub(crate) struct Cluster {
    name: String,
    data_dir: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.skiff(&["down", "--name", &self.name]) {
            eprintln!("cannot take {} down: {error:#}", self.name);
        }
    }
}

fn path(variable: &str) -> anyhow::Result<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .with_context(|| format!("{variable} is not set: run `cargo xtask bench`"))
}

impl Cluster {
    /// One node, unless flags of `up` say otherwise. With `--images`, the images of the tests are loaded.
    pub(crate) fn start(name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let cluster =
            Self { name: name.to_owned(), data_dir: std::env::temp_dir().join(format!("skiff-{name}")) };
        let mut args = vec![
            "up".to_owned(),
            "--detach".into(),
            "--port".into(),
            "0".into(),
            "--name".into(),
            name.into(),
        ];
        args.extend(["--data-dir".to_owned(), cluster.data_dir.display().to_string()]);
        if flags.contains(&"--images") {
            args.extend(["--images".to_owned(), path("SKIFF_IMAGES")?.display().to_string()]);
        }
        args.extend(flags.iter().filter(|flag| **flag != "--images").map(|flag| (*flag).to_owned()));
        cluster.skiff(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(cluster)
    }

    pub(crate) fn skiff(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(path("SKIFF")?).args(args).output().context("cannot run skiff")?;
        if !output.status.success() {
            bail!("skiff {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Where its API is.
    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        Target::read(&self.kubeconfig())
    }

    /// PID and role of the platform's processes.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let row = |row: &Value| Some((row["pid"].as_u64()?, row["role"].as_str()?.to_owned()));
        Ok(self.status()?.iter().filter_map(row).collect())
    }

    /// The PID of the one process of a role on a node.
    pub(crate) fn process(&self, node: &str, role: &str) -> anyhow::Result<i32> {
        let rows = self.status()?;
        let row = rows.iter().find(|row| row["node"] == node && row["role"] == role);
        let pid = row.and_then(|row| row["pid"].as_i64()).with_context(|| format!("{node} has no {role}"))?;
        Ok(i32::try_from(pid)?)
    }

    fn status(&self) -> anyhow::Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.skiff(&["status", "--name", &self.name, "-o", "json"])?)?)
    }
}

/// From nothing to a ready cluster: `up --detach` of one node, on empty data.
pub(crate) fn start_times(runs: usize) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut serving, mut nodes, mut returned) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let cluster =
            Cluster { name: "bench-start".into(), data_dir: std::env::temp_dir().join("skiff-bench-start") };
        let data_dir = cluster.data_dir.display().to_string();
        let begin = Instant::now();
        let mut up = Command::new(path("SKIFF")?)
            .args(["up", "--detach", "--port", "0", "--name", &cluster.name, "--data-dir", &data_dir])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .context("cannot run skiff")?;
        runtime.block_on(async {
            let mut wire = connected(&cluster, begin).await?;
            answers(&mut wire, begin, "/readyz", b"ok").await?;
            serving.push(begin.elapsed());
            let ready = br#""status":"True","type":"Ready""#;
            answers(&mut wire, begin, "/api/v1/nodes", ready).await?;
            nodes.push(begin.elapsed());
            anyhow::Ok(())
        })?;
        let status = up.wait()?;
        if !status.success() {
            bail!("skiff up failed: {status}");
        }
        returned.push(begin.elapsed());
    }
    Ok(vec![
        Figure::times("from nothing to API ready", serving, Some(300.0), None),
        Figure::times("from nothing to node Ready", nodes, Some(800.0), None),
        Figure::times("from nothing to `up --detach` returned, 1 node", returned, Some(1_500.0), None),
    ])
}

const START_TIMEOUT: Duration = Duration::from_secs(30);

async fn connected(cluster: &Cluster, begin: Instant) -> anyhow::Result<Wire> {
    while begin.elapsed() < START_TIMEOUT {
        if let Ok(target) = cluster.target()
            && let Ok(wire) = target.connect().await
        {
            return Ok(wire);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    bail!("the API took no connection within 30 s")
}

/// Asks until the answer contains `text`.
async fn answers(wire: &mut Wire, begin: Instant, path: &str, text: &[u8]) -> anyhow::Result<()> {
    while begin.elapsed() < START_TIMEOUT {
        if let Ok(body) = wire.call("GET", path, "", "").await
            && body.windows(text.len()).any(|window| window == text)
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    bail!("{path} was not as expected within 30 s")
}
