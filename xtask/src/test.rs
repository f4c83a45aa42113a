//! `cargo xtask test`: all that CI runs.
//!
//! Tests that need no cluster run first. Then a cluster of three nodes is started inside a network
//! namespace without a way out, the end-to-end tests run beside it, and the machine must be as before.

use std::process::Command;

use anyhow::bail;

use crate::failures::Failures;
use crate::{build, setup};

pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    setup::run_quietly()?;
    build::run(build::cargo().args(["fmt", "--all", "--check"]))?;
    let mut totals = Totals::default();
    let mut failures = Failures::default();
    totals.add(suite(
        build::cargo().args(["test", "--workspace", "--exclude", "skiff-tests", "--no-fail-fast"]),
        args,
        &mut failures,
    )?);
    totals.add(crate::e2e::suite_in_netns(args, &mut failures)?);
    failures.print();
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if totals.failed > 0 || totals.broken {
        bail!("not all tests passed");
    }
    Ok(())
}

/// `cargo xtask lint`: what needs no test to be seen.
pub(crate) fn lint() -> anyhow::Result<()> {
    build::run(build::cargo().args(["fmt", "--all", "--check"]))?;
    build::run(build::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    crate::deny::run()
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// A test program did not end as it should.
    pub(crate) broken: bool,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.broken |= other.broken;
    }
}

pub(crate) fn suite(command: &mut Command, args: &[&str], failures: &mut Failures) -> anyhow::Result<Totals> {
    use std::io::{BufRead, BufReader};
    // The same random inputs in every run of all tests; `cargo test` alone draws new ones.
    if std::env::var_os("SKIFF_SEED").is_none() {
        command.env("SKIFF_SEED", "1");
    }
    command.args(args).stdout(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    let mut totals = Totals::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            totals.add(counts(&line));
            failures.read(&line);
        }
    }
    totals.broken = !child.wait()?.success();
    Ok(totals)
}

/// The counts in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn counts(line: &str) -> Totals {
    let Some(rest) = line.strip_prefix("test result: ") else { return Totals::default() };
    let count = |word: &str| {
        let before = rest.split(&format!(" {word}")).next().unwrap_or_default();
        before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Totals { passed: count("passed"), failed: count("failed"), skipped: count("ignored"), broken: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_off_the_summary() {
        let totals = counts(
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        assert_eq!((totals.passed, totals.failed, totals.skipped), (12, 3, 1));
        assert_eq!(counts("running 3 tests").passed, 0);
    }
}
