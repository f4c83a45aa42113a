//! The end-to-end tests: a cluster of three nodes inside a network namespace without a way out.
//!
//! What is sent to a dead target there fails instead of leaving the machine. After the tests the cluster
//! goes down, and links, mounts, cgroups and processes must be what they were before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::build::{self, Profile};
use crate::failures::Failures;
use crate::test::{Totals, suite};
use crate::{images, setup};

const NAME: &str = "e2e";

/// `cargo xtask e2e [FILTER]`.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    setup::run_quietly()?;
    let mut failures = Failures::default();
    let totals = suite_in_netns(args, &mut failures)?;
    failures.print();
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if totals.failed > 0 || totals.broken {
        bail!("not all tests passed");
    }
    Ok(())
}

/// Builds everything, then runs [`inside`] in a network namespace of its own.
pub(crate) fn suite_in_netns(args: &[&str], failures: &mut Failures) -> anyhow::Result<Totals> {
    let images_dir = build::target_dir().join("images");
    images::build(&images_dir)?;
    build::skiff(Profile::Dev)?;
    // Built here, since nothing can be fetched inside.
    build::run(build::cargo().args(["test", "--package", "skiff-tests", "--no-run"]))?;
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().context("xtask knows itself")?)
        .arg("e2e-inside");
    suite(&mut command, args, failures)
}

/// Runs inside the namespace: cluster up, tests, cluster down, comparison.
pub(crate) fn inside(args: &[&str]) -> anyhow::Result<()> {
    let clients = setup::clients();
    let skiff = build::target_dir().join("debug/skiff");
    let images = build::target_dir().join("images");
    let data = std::env::temp_dir().join(format!("skiff-{NAME}"));
    let down = || {
        let mut command = Command::new(&skiff);
        command.args(["down", "--name", NAME, "--data-dir"]).arg(&data);
        build::run(&mut command)
    };
    // What an interrupted run left.
    down()?;
    let before = Stock::take();
    let mut up = Command::new(&skiff);
    up.args(["up", "--detach", "--name", NAME, "--nodes", "3", "--port", "0", "--data-dir"]).arg(&data);
    up.arg("--images").arg(&images);
    if let Err(error) = build::run(&mut up) {
        show_logs(&data);
        down()?;
        return Err(error);
    }
    let mut tests = build::cargo();
    tests
        .args(["test", "--package", "skiff-tests", "--no-fail-fast", "--offline"])
        .args(args.iter().filter(|arg| !arg.starts_with('-')))
        .args(["--", "--test-threads", "6"])
        .env("SKIFF", &skiff)
        .env("SKIFF_CLUSTER", NAME)
        .env("SKIFF_CLUSTER_DATA", &data)
        .env("SKIFF_IMAGES", &images)
        .env("SKIFF_PROGRAMS", build::target_dir().join("programs/x86_64-unknown-linux-gnu/release"))
        .env("KUBECTL", clients.kubectl_1_35)
        .env("KUBECTL_1_20", clients.kubectl_1_20)
        .env("HELM", clients.helm)
        .env("SKIFF_PYTHON_PACKAGES", clients.python_packages);
    let tested = build::run(&mut tests);
    if tested.is_err() {
        show_logs(&data);
    }
    down()?;
    let left = before.difference(&Stock::take());
    let clean = left.is_empty();
    // Counted as a test like any other.
    println!("test nothing_is_left_after_down ... {}", if clean { "ok" } else { "FAILED" });
    left.iter().for_each(|line| println!("    {line}"));
    let (passed, failed) = if clean { (1, 0) } else { (0, 1) };
    println!(
        "test result: {}. {passed} passed; {failed} failed; 0 ignored",
        if clean { "ok" } else { "FAILED" }
    );
    if !clean {
        bail!("the machine is not as before");
    }
    tested
}

/// Of each log of a failed run: more of them would push the failure itself out of sight.
const LOG_LINES_MAX: usize = 10;

/// The end of each platform log: what a failed run is understood by.
fn show_logs(data: &Path) {
    let Ok(nodes) = fs::read_dir(data.join("nodes")) else { return };
    for node in nodes.flatten() {
        for file in ["init.log", "server.log", "agent.log"] {
            let path = node.path().join("logs").join(file);
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}", path.display());
            lines.iter().skip(lines.len().saturating_sub(LOG_LINES_MAX)).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What there is on the machine, read independently of the binary under test.
struct Stock(BTreeSet<String>);

impl Stock {
    fn take() -> Self {
        let mut facts = BTreeSet::new();
        let mut add = |kind: &str, text: String| {
            facts.extend(text.lines().map(|line| format!("{kind}: {line}")));
        };
        let shown = |program: &str, args: &[&str]| {
            build::output(Command::new(program).args(args)).unwrap_or_default()
        };
        add(
            "link",
            shown("ip", &["-o", "link", "show"]).lines().map(link_name).collect::<Vec<_>>().join("\n"),
        );
        add("route", shown("ip", &["route"]));
        add("rule", shown("nft", &["list", "tables"]));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        add("mount", mounts);
        let mut cgroups = Vec::new();
        directories(Path::new("/sys/fs/cgroup"), &mut cgroups);
        let ours = cgroups.iter().filter(|path| path.to_string_lossy().contains("skiff"));
        add("cgroup", ours.map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n"));
        add("process", processes().join("\n"));
        let run = fs::read_dir("/run/skiff").into_iter().flatten().flatten();
        add(
            "record",
            run.filter(|entry| entry.path().is_dir())
                .map(|entry| entry.path().display().to_string())
                .collect::<Vec<_>>()
                .join("\n"),
        );
        Self(facts)
    }

    fn difference(&self, after: &Self) -> Vec<String> {
        let gone = self.0.difference(&after.0).map(|fact| format!("missing {fact}"));
        let new = after.0.difference(&self.0).map(|fact| format!("left over {fact}"));
        gone.chain(new).collect()
    }
}

fn link_name(line: &str) -> &str {
    line.split(": ").nth(1).unwrap_or(line)
}

fn directories(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            directories(&entry.path(), found);
        }
    }
}

/// Processes of the platform and of pods, by their command lines.
fn processes() -> Vec<String> {
    let ours = ["skiff-", "kubelet", "/pause"];
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let first = line.split('\0').next().unwrap_or_default();
        if ours.iter().any(|start| first.starts_with(start)) {
            found.push(format!("{} {}", entry.file_name().to_string_lossy(), line.replace('\0', " ")));
        }
    }
    found
}
