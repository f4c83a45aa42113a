//! Clusters to measure, started and ended here.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use skiff_client::kubeconfig::Kubeconfig;
use skiff_client::{Client, Remote};

use crate::stats::Figure;

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
    /// One node. With `--images`, the images of the tests are loaded.
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

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let remote = Kubeconfig::read(&self.kubeconfig())?.remote(None)?;
        Ok(Client::new(Remote::new(remote).map_err(|error| anyhow::anyhow!(error))?))
    }

    /// PID and role of the platform's processes.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let text = self.skiff(&["status", "--name", &self.name, "-o", "json"])?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        let row = |row: &serde_json::Value| Some((row["pid"].as_u64()?, row["role"].as_str()?.to_owned()));
        Ok(rows.iter().filter_map(row).collect())
    }
}

/// From nothing to a ready cluster: `up --detach` of one node, on empty data.
pub(crate) fn start_times(runs: usize) -> anyhow::Result<Vec<Figure>> {
    let (mut serving, mut returned) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let cluster =
            Cluster { name: "bench-start".into(), data_dir: std::env::temp_dir().join("skiff-bench-start") };
        let data_dir = cluster.data_dir.display().to_string();
        let begin = Instant::now();
        let mut up = Command::new(path("SKIFF")?)
            .args(["up", "--detach", "--port", "16443", "--name", &cluster.name, "--data-dir", &data_dir])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .context("cannot run skiff")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        serving.push(runtime.block_on(async {
            while begin.elapsed() < Duration::from_secs(30) {
                if let Ok(client) = cluster.client()
                    && let Ok(request) = http::Request::get("/readyz").body(skiff_client::empty())
                    && let Ok(response) = client.send(request).await
                    && response.status().is_success()
                {
                    return Ok(begin.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            bail!("the API did not answer within 30 s")
        })?);
        let status = up.wait()?;
        if !status.success() {
            bail!("skiff up failed: {status}");
        }
        returned.push(begin.elapsed());
    }
    Ok(vec![
        Figure::times("from nothing to API ready", serving),
        Figure::times("from nothing to node Ready and `up --detach` returned", returned),
    ])
}
