//! `cargo xtask mutate [CRATE|FILE] [--shard K/N] [--minutes N]`: are the tests of the pure decisions any
//! good?
//!
//! `cargo-mutants` changes one expression after another; a change that no test notices is a survivor.
//! Each is killed by a test or explained in `docs/mutants.md`; the report says which are neither. A shard
//! is every Nth change, from the Kth on (counted from 0): a sample.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::build;

const VERSION: &str = "27.1.0";

/// All crates together.
const MINUTES: u64 = 60;

/// The decisions of one crate.
struct Row {
    krate: &'static str,
    /// Of `crates/KRATE/src`.
    files: &'static [&'static str],
    /// Which targets' tests look at them. Those that need a kernel's help don't run here.
    tests: &'static [&'static str],
}

const ROWS: &[Row] = &[
    Row {
        krate: "api",
        files: &["quantity.rs", "quantity/text.rs", "selector.rs", "selector/*.rs", "validate/*.rs"],
        tests: &["--lib"],
    },
    Row {
        krate: "scheduler",
        files: &[
            "decide.rs",
            "filter.rs",
            "filter/*.rs",
            "score.rs",
            "score/*.rs",
            "preempt.rs",
            "fit_error.rs",
            "resources.rs",
            "neighbours.rs",
            "snapshot.rs",
            "verdicts.rs",
            "explain/*.rs",
        ],
        tests: &["--lib"],
    },
    Row {
        krate: "kubelet",
        files: &[
            "plan.rs",
            "status.rs",
            "env.rs",
            "backoff.rs",
            "resources.rs",
            "admission.rs",
            "admission/*.rs",
            "restarts.rs",
            "unsupported.rs",
            "names.rs",
            "labels.rs",
            "security/*.rs",
        ],
        tests: &["--lib"],
    },
    Row {
        krate: "pod-security",
        files: &["*.rs", "checks/*.rs"],
        tests: &["--lib", "--test=checks", "--test=admission"],
    },
    Row {
        krate: "apiserver",
        files: &[
            "rbac/rule.rs",
            "rbac/index.rs",
            "rbac/index/*.rs",
            "node_access/mod.rs",
            "node_access/restriction.rs",
        ],
        tests: &["--lib"],
    },
    Row {
        krate: "controllers",
        files: &[
            "deployments/plan.rs",
            "deployments/status.rs",
            "deployments/revisions.rs",
            "replica_sets/plan.rs",
            "daemon_sets/plan.rs",
            "daemon_sets/revisions.rs",
            "endpoints/plan.rs",
            "garbage/plan.rs",
            "node_lifecycle/zones.rs",
            "owners.rs",
            "pods.rs",
        ],
        tests: &["--lib"],
    },
    Row {
        krate: "proxy",
        files: &[
            "plan.rs",
            "endpoints.rs",
            "table.rs",
            "policy/spec.rs",
            "policy/table.rs",
            "policy/addresses.rs",
        ],
        tests: &["--lib", "--test=plan"],
    },
    Row {
        krate: "explain",
        files: &[
            "judge.rs",
            "reach.rs",
            "namespaces.rs",
            "nearest.rs",
            "node.rs",
            "policies.rs",
            "start.rs",
            "redact.rs",
            "trace/*.rs",
            "trace/live/*.rs",
        ],
        tests: &["--lib"],
    },
    Row { krate: "sys", files: &["nft/passage.rs"], tests: &["--lib"] },
    Row { krate: "skiff", files: &["up/ranges.rs"], tests: &["--bins"] },
];

pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let Wanted { what: wanted, shard, minutes } = Wanted::read(args)?;
    let selected: Vec<(&Row, Vec<String>)> =
        ROWS.iter().map(|row| (row, select(row, wanted))).filter(|(_, files)| !files.is_empty()).collect();
    if selected.is_empty() {
        bail!("{wanted} is none of the crates and files that hold decisions: see xtask/src/mutate.rs");
    }
    let tool = install()?;
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let dir = build::target_dir().join("mutants");
    let mut report = Report::default();
    for (row, files) in selected {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let out = dir.join(row.krate);
        if left == 0 {
            report.unfinished.push(row.krate);
            continue;
        }
        if !mutate(&tool, row, &files, shard, &out, left)? {
            report.unfinished.push(row.krate);
        }
        report.read(&out.join("mutants.out"))?;
    }
    let known = fs::read_to_string(build::root().join("docs/mutants.md")).unwrap_or_default();
    let text = report.text(&known);
    let path = dir.join("report.md");
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{text}");
    match report.survivors.iter().filter(|survivor| !explained(survivor, &known)).count() {
        0 => Ok(()),
        count => bail!("{count} survivors are neither killed nor explained: see {}", path.display()),
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    /// A crate or a file; empty for all.
    what: &'a str,
    /// `K/N`.
    shard: Option<&'a str>,
    minutes: u64,
}

impl<'a> Wanted<'a> {
    fn read(args: &[&'a str]) -> anyhow::Result<Self> {
        let (what, mut rest) = match args {
            [what, rest @ ..] if !what.starts_with('-') => (*what, rest),
            rest => ("", rest),
        };
        let mut wanted = Self { what, shard: None, minutes: MINUTES };
        while let [option, value, more @ ..] = rest {
            match *option {
                "--minutes" => wanted.minutes = number(value)?,
                "--shard" if is_shard(value) => wanted.shard = Some(value),
                "--shard" => bail!("{value} is no shard: K/N, where K is less than N"),
                _ => break,
            }
            rest = more;
        }
        if !rest.is_empty() {
            bail!("usage: cargo xtask mutate [CRATE|FILE] [--shard K/N] [--minutes N]");
        }
        Ok(wanted)
    }
}

fn is_shard(text: &str) -> bool {
    let parts =
        text.split_once('/').and_then(|(k, n)| Some((k.parse::<u32>().ok()?, n.parse::<u32>().ok()?)));
    parts.is_some_and(|(k, n)| k < n)
}

fn number(text: &str) -> anyhow::Result<u64> {
    text.parse().with_context(|| format!("{text} is no number of minutes"))
}

/// The row's files as patterns from the root, all of them or the one that is asked for.
fn select(row: &Row, wanted: &str) -> Vec<String> {
    let wanted = wanted.strip_prefix("skiff-").unwrap_or(wanted);
    let paths = row.files.iter().map(|file| format!("crates/{}/src/{file}", row.krate));
    if wanted.is_empty() || wanted == row.krate {
        return paths.collect();
    }
    let covers = |pattern: &str| match pattern.split_once("*.rs") {
        Some((dir, _)) => wanted
            .strip_prefix(dir)
            .is_some_and(|name| Path::new(name).extension().is_some() && !name.contains('/')),
        None => pattern == wanted,
    };
    if paths.into_iter().any(|pattern| covers(&pattern)) { vec![wanted.to_owned()] } else { Vec::new() }
}

/// Where the tool is, which is installed below the target directory unless it is there.
fn install() -> anyhow::Result<PathBuf> {
    let root = build::target_dir().join("tools");
    let tool = root.join("bin/cargo-mutants");
    if !tool.exists() {
        let name = format!("cargo-mutants@{VERSION}");
        build::run(build::cargo().args(["install", "--locked", &name, "--root"]).arg(&root))?;
    }
    Ok(tool)
}

/// Whether it came to its end within that many seconds. Survivors are no failure here.
fn mutate(
    tool: &Path,
    row: &Row,
    files: &[String],
    shard: Option<&str>,
    out: &Path,
    seconds: u64,
) -> anyhow::Result<bool> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let package = if row.krate == "skiff" { "skiff".to_owned() } else { format!("skiff-{}", row.krate) };
    let mut command = Command::new("timeout");
    command.args(["--signal", "INT", "--kill-after", "30", &seconds.to_string()]);
    command.arg(tool).args(["mutants", "--package", &package, "--no-shuffle", "--timeout", "120"]);
    for file in files {
        command.args(["--file", file]);
    }
    if let Some(shard) = shard {
        command.args(["--sharding", "round-robin", "--shard", shard]);
    }
    // For building as well as for running: nothing else has to be built anew for each change.
    command.args(row.tests.iter().map(|target| format!("--cargo-arg={target}")));
    command.arg("--output").arg(out).current_dir(build::root());
    let status = command.status().context("cannot run timeout")?;
    match status.code() {
        // 2: some survived. 3: some made a test hang, which is noticed too.
        Some(0 | 2 | 3) => Ok(true),
        // 124: `timeout` ended it.
        Some(124) => Ok(false),
        _ => bail!("cargo-mutants on {package}: {status}"),
    }
}

#[derive(Debug, Default)]
struct Report {
    caught: usize,
    /// Those that don't compile.
    unviable: usize,
    survivors: Vec<String>,
    unfinished: Vec<&'static str>,
}

impl Report {
    fn read(&mut self, dir: &Path) -> anyhow::Result<()> {
        let lines = |name: &str| -> anyhow::Result<Vec<String>> {
            let path = dir.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        self.caught += lines("caught.txt")?.len() + lines("timeout.txt")?.len();
        self.unviable += lines("unviable.txt")?.len();
        self.survivors.extend(lines("missed.txt")?);
        Ok(())
    }

    fn text(&self, known: &str) -> String {
        use std::fmt::Write;
        let mut text = format!(
            "# Mutants\n\n{} killed, {} survived, {} don't compile.\n",
            self.caught,
            self.survivors.len(),
            self.unviable
        );
        for krate in &self.unfinished {
            let _ = writeln!(text, "\nThe time was up before `{krate}` was done.");
        }
        let (explained, open): (Vec<_>, Vec<_>) =
            self.survivors.iter().partition(|survivor| explained(survivor, known));
        for (title, list) in [("Survivors", open), ("Survivors that `docs/mutants.md` explains", explained)] {
            if !list.is_empty() {
                let _ = writeln!(text, "\n## {title}\n");
                for line in list {
                    let _ = writeln!(text, "- `{line}`");
                }
            }
        }
        text
    }
}

/// Whether the explanations have a survivor. Its line and column don't count: they move.
fn explained(survivor: &str, known: &str) -> bool {
    known.contains(&format!("`{}`", without_place(survivor)))
}

/// `FILE:LINE:COLUMN: CHANGE` as `FILE: CHANGE`.
fn without_place(survivor: &str) -> String {
    let Some((place, change)) = survivor.split_once(": ") else { return survivor.to_owned() };
    format!("{}: {change}", place.split(':').next().unwrap_or(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_or_one_of_its_files_is_selected() {
        let select =
            |wanted: &str| -> Vec<String> { ROWS.iter().flat_map(|row| select(row, wanted)).collect() };
        assert_eq!(select("skiff"), ["crates/skiff/src/up/ranges.rs"]);
        assert_eq!(select("skiff-proxy"), select("proxy"));
        assert_eq!(select("crates/api/src/quantity.rs"), ["crates/api/src/quantity.rs"]);
        assert_eq!(select("crates/api/src/validate/pod.rs"), ["crates/api/src/validate/pod.rs"]);
        for none in
            ["crates/api/src/lib.rs", "crates/api/src/validate", "crates/api/src/validate/a/b.rs", "x"]
        {
            assert_eq!(select(none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn a_shard_and_a_time_may_be_asked_for() {
        let read = |args: &[&'static str]| Wanted::read(args).ok();
        let wanted = |what, shard, minutes| Some(Wanted { what, shard, minutes });
        assert_eq!(read(&[]), wanted("", None, MINUTES));
        assert_eq!(read(&["api", "--minutes", "5"]), wanted("api", None, 5));
        assert_eq!(read(&["--minutes", "5", "--shard", "0/4"]), wanted("", Some("0/4"), 5));
        for wrong in
            [&["a", "b"][..], &["--minutes"], &["--minutes", "x"], &["--shard", "4/4"], &["--shard", "1"]]
        {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_file_of_the_table_exists() {
        for path in ROWS.iter().flat_map(|row| select(row, "")) {
            let path = build::root().join(path.replace("*.rs", ""));
            assert!(path.exists(), "{}", path.display());
        }
    }

    #[test]
    fn a_survivor_is_known_wherever_it_has_moved() {
        let known = "- `crates/a/src/b.rs: replace f -> u8 with 0`: it is 0 anyway.";
        assert!(explained("crates/a/src/b.rs:12:5: replace f -> u8 with 0", known));
        assert!(!explained("crates/a/src/b.rs:12:5: replace f -> u8 with 1", known));
        let report = Report {
            caught: 3,
            survivors: vec!["crates/a/src/b.rs:12:5: replace f -> u8 with 0".into(), "x.rs:1:2: y".into()],
            ..Report::default()
        };
        let text = report.text(known);
        let open = text.find("- `x.rs:1:2: y`").expect("it is listed");
        assert!(open < text.find("- `crates/a").expect("it is listed"), "{text}");
    }
}
