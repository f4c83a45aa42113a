//! `cargo xtask bench`: measures a release build and writes what it found to `docs/figures.md`.
//!
//! The clusters live in a network namespace without a way out. Figures of a machine that does other work
//! meanwhile are worth little, so the page says how busy it was at the beginning.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::build::{self, Profile};
use crate::{images, setup};

/// `cargo xtask bench [NAME]`; with a name, only the measurements that contain it, and no page.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    setup::run_quietly()?;
    let images_dir = build::target_dir().join("images");
    images::build(&images_dir)?;
    let skiff = build::skiff(Profile::Release)?;
    build::run(build::cargo().args(["build", "--release", "--package", "skiff-bench"]))?;
    let result = build::target_dir().join("bench.json");
    let load = load_average();
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(build::target_dir().join("release/skiff-bench"))
        .arg(&result)
        .args(args)
        .env("SKIFF", &skiff)
        .env("SKIFF_IMAGES", &images_dir)
        .env("KUBECTL", setup::clients().kubectl_1_35);
    build::run(&mut command)?;
    if args.is_empty() {
        let text = fs::read(&result).with_context(|| format!("cannot read {}", result.display()))?;
        let figures: Vec<Value> =
            serde_json::from_slice(&text).context("the result is no list of figures")?;
        let page = build::root().join("docs/figures.md");
        // Sections after the table are written by hand, and stay.
        let before = fs::read_to_string(&page).unwrap_or_default();
        let notes = before.find("\n## ").map_or("", |at| &before[at..]);
        let table = table(&figures, &machine(&load)?);
        fs::write(&page, table + notes).with_context(|| format!("cannot write {}", page.display()))?;
        println!("{}", page.display());
    }
    Ok(())
}

/// Where and when the figures were taken.
struct Machine {
    cpu: String,
    cores: usize,
    memory_gb: u64,
    kernel: String,
    load: String,
    date: String,
    commit: String,
}

fn machine(load: &str) -> anyhow::Result<Machine> {
    let shown = |program: &str, args: &[&str]| {
        let text = build::output(Command::new(program).current_dir(build::root()).args(args))?;
        anyhow::Ok(text.trim().to_owned())
    };
    let cpu = field(Path::new("/proc/cpuinfo"), "model name")?;
    let memory = field(Path::new("/proc/meminfo"), "MemTotal")?;
    let kilobytes: u64 = memory.trim_end_matches(" kB").parse().context("MemTotal is no number")?;
    let changed = if shown("git", &["status", "--porcelain", "--", "crates"])?.is_empty() {
        ""
    } else {
        ", with changes"
    };
    Ok(Machine {
        cpu,
        cores: std::thread::available_parallelism()?.get(),
        memory_gb: kilobytes / 1_000_000,
        kernel: shown("uname", &["-r"])?,
        load: load.to_owned(),
        date: shown("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?,
        commit: format!("{}{changed}", shown("git", &["rev-parse", "--short", "HEAD"])?),
    })
}

/// The value of the first line `NAME: VALUE`.
fn field(path: &Path, name: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    match value {
        Some((_, value)) => Ok(value.trim().to_owned()),
        None => bail!("{} says no {name}", path.display()),
    }
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn table(figures: &[Value], machine: &Machine) -> String {
    let mut text = format!(
        "# Figures\n\n\
         What `cargo xtask bench` measured. The client, which shares the machine with the cluster, speaks \
         HTTP/1.1 over TLS; each cluster is started anew by `skiff up --detach` with one node.\n\n\
         - Machine: {}, {} cores, {} GB of memory, Linux {}; load average at the beginning: {}\n\
         - Taken: {}, commit {}\n\n\
         | figure | measured | bar | |\n|---|---|---|---|\n",
        machine.cpu,
        machine.cores,
        machine.memory_gb,
        machine.kernel,
        machine.load,
        machine.date,
        machine.commit
    );
    for figure in figures {
        let bars = figure["bars"].as_array().map(Vec::as_slice).unwrap_or_default();
        let each = |of: fn(&Value) -> String| bars.iter().map(of).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            figure["name"].as_str().unwrap_or_default(),
            figure["value"].as_str().unwrap_or_default(),
            each(|bar| bar["bar"].as_str().unwrap_or_default().to_owned()),
            each(|bar| if bar["met"] == true { "met".to_owned() } else { "**missed**".to_owned() }),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missed_bar_is_said_to_be_missed() {
        let machine = Machine {
            cpu: "A CPU".into(),
            cores: 2,
            memory_gb: 8,
            kernel: "6.1".into(),
            load: "0.1".into(),
            date: "2026-01-01".into(),
            commit: "abc".into(),
        };
        let figures = [
            json!({"name": "a", "value": "1 ms", "bars": [{"bar": "≤ 2 ms", "met": true}, {"bar": "≤ 0 ms", "met": false}]}),
            json!({"name": "b", "value": "3 ms", "bars": []}),
        ];
        let text = table(&figures, &machine);
        let rows: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(rows, ["| b | 3 ms |  |  |", "| a | 1 ms | ≤ 2 ms, ≤ 0 ms | met, **missed** |"]);
    }
}
