//! How long a node is without its agent or server when one of them is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::stats::Figure;
use crate::wire::Target;

pub(crate) const NAME: &str = "bench-recovery";

const ROUNDS: usize = 5;

/// What died within ten seconds of its start is started with a delay that grows: here each death is a first.
const BETWEEN: Duration = Duration::from_secs(11);

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let agent = format!("/api/v1/nodes/{NAME}/proxy/healthz");
    answers(&target, &agent).await?;
    let (mut agents, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        tokio::time::sleep(BETWEEN).await;
        agents.push(recovered(cluster, &target, "agent", &agent).await?);
        servers.push(recovered(cluster, &target, "server", "/readyz").await?);
    }
    Ok(vec![
        Figure::times("a killed agent runs again, and answers", agents, None, Some(1_000.0)),
        Figure::times("a killed server runs again, and is ready", servers, None, Some(1_000.0)),
    ])
}

/// From the kill until its successor answers.
async fn recovered(cluster: &Cluster, target: &Target, role: &str, path: &str) -> anyhow::Result<Duration> {
    let pid = cluster.process(NAME, role)?;
    let begin = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("cannot kill the {role}"))?;
    // From here on the one that was killed answers nothing.
    while alive(pid) {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "the {role} did not die");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    answers(target, path).await?;
    Ok(begin.elapsed())
}

/// Asks, on a new connection each time, until the answer is `ok`.
async fn answers(target: &Target, path: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let asked = async { anyhow::Ok(target.connect().await?.call("GET", path, "", "").await? == b"ok") };
        if let Ok(Ok(true)) = tokio::time::timeout(PATIENCE, asked).await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    bail!("{path} was not ok within {PATIENCE:?}")
}

/// Neither gone nor a zombie, which nobody has taken note of yet.
fn alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}
