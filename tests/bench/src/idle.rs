//! What an idle node costs.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::cluster::Cluster;
use crate::pods;
use crate::stats::{Bar, Figure};

const OVER: Duration = Duration::from_secs(60);

/// Time for what a start leaves behind to settle: leases, first heartbeats, memory that is given back.
pub(crate) const SETTLE: Duration = Duration::from_secs(35);

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let names = |range: std::ops::Range<u32>| range.map(|index| format!("idle-{index}")).collect::<Vec<_>>();
    pods::start(&target, &names(0..2)).await?;
    tokio::time::sleep(SETTLE).await;
    let mut figures = Vec::new();
    let memory: u64 = cluster.processes()?.into_iter().map(|(pid, _)| pss_bytes(pid)).sum();
    figures.push(
        Figure::new(
            "idle memory of a node with 2 pods, PSS of all processes",
            format!("{:.1} MB", memory as f64 / 1e6),
        )
        .bar(memory as f64 / 1e6, Bar::AtMost(50.0), "MB"),
    );
    for (pid, role) in cluster.processes()? {
        // The shims are alike, and pods' own processes are not counted.
        if role != "shim" {
            figures.push(Figure::new(
                format!("  of which {role}"),
                format!("{:.1} MB", pss_bytes(pid) as f64 / 1e6),
            ));
        }
    }
    let (cpu, written) = over_a_minute(cluster).await?;
    figures.push(cpu_figure(2, cpu, 0.3));
    figures.push(writes_figure(2, written));
    pods::start(&target, &names(2..32)).await?;
    tokio::time::sleep(SETTLE).await;
    let (cpu, written) = over_a_minute(cluster).await?;
    figures.push(cpu_figure(32, cpu, 0.5));
    figures.push(writes_figure(32, written));
    let size = fs::metadata(std::env::var_os("SKIFF").context("SKIFF is not set")?)?.len();
    let size = size as f64 / 1e6;
    let figure = Figure::new("binary, everything in it", format!("{size:.1} MB"));
    figures.push(figure.bar(size, Bar::AtMost(40.0), "MB"));
    Ok(figures)
}

fn cpu_figure(pods: u32, cpu: f64, most: f64) -> Figure {
    Figure::new(format!("idle CPU with {pods} pods, over 60 s"), format!("{cpu:.2} % of a core")).bar(
        cpu,
        Bar::AtMost(most),
        "% of a core",
    )
}

fn writes_figure(pods: u32, written: u64) -> Figure {
    Figure::new(format!("idle disk writes with {pods} pods, over 60 s"), format!("{written} bytes")).bar(
        written as f64,
        Bar::AtMost(0.0),
        "bytes",
    )
}

/// CPU in percent of a core, and bytes written to disk, by all of the platform's processes.
async fn over_a_minute(cluster: &Cluster) -> anyhow::Result<(f64, u64)> {
    let processes = cluster.processes()?;
    let total = |read: fn(u64) -> u64| processes.iter().map(|(pid, _)| read(*pid)).sum::<u64>();
    let (cpu, written) = (total(cpu_nanoseconds), total(written_bytes));
    tokio::time::sleep(OVER).await;
    let cpu = (total(cpu_nanoseconds) - cpu) as f64 / OVER.as_nanos() as f64 * 100.0;
    Ok((cpu, total(written_bytes) - written))
}

pub(crate) fn pss_bytes(pid: u64) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:") * 1024
}

fn written_bytes(pid: u64) -> u64 {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// Of all threads, those that ended too.
pub(crate) fn cpu_nanoseconds(pid: u64) -> u64 {
    let clock = i32::try_from(pid).ok().and_then(|pid| ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok());
    let time = clock.and_then(|clock| clock.now().ok());
    time.map_or(0, |time| Duration::from(time).as_nanos().try_into().unwrap_or(u64::MAX))
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
