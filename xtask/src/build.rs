//! Builds what the other commands run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(PathBuf::from(dir)).expect("the current directory exists"),
        None => root().join("target"),
    }
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo says of this package, when it runs it, would be another environment than a shell's to build
    // scripts that look at it (`ring`'s), and each change between the two builds half of everything anew.
    let of_this_package = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_")
    };
    std::env::vars_os().map(|(name, _)| name).filter(of_this_package).for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// Runs a command, showing it.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let line = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Runs a command quietly and returns what it printed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no UTF-8"))
}

/// Which of cargo's profiles a binary is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Builds the skiff binary.
pub(crate) fn skiff(profile: Profile) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", "skiff"]);
    let dir = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    run(&mut command)?;
    Ok(target_dir().join(dir).join("skiff"))
}

/// Builds a package without shared libraries and returns where its programs are.
fn static_release(package: &str, dir: &str) -> anyhow::Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // A fixed address keeps tables of pointers shared by all processes: see `crates/skiff/build.rs`.
    let flags = "build.rustflags=[\"-Ctarget-feature=+crt-static\", \"-Crelocation-model=static\"]";
    // A directory of its own: other flags would rebuild everything else.
    let dir = target_dir().join(dir);
    let mut command = cargo();
    command
        .args(["build", "--release", "--package", package, "--target", &triple, "--config", flags])
        .arg("--target-dir")
        .arg(&dir);
    run(&mut command)?;
    Ok(dir.join(triple).join("release"))
}

/// Builds the programs that run inside containers: static, since their images have no C library.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    static_release("skiff-test-programs", "programs")
}

/// `cargo xtask dist`: one static file that runs on any Linux of this architecture.
pub(crate) fn dist() -> anyhow::Result<()> {
    let built = static_release("skiff", "static")?.join("skiff");
    let copy = target_dir().join("dist/skiff");
    std::fs::create_dir_all(copy.parent().expect("it has a parent"))?;
    std::fs::copy(&built, &copy).with_context(|| format!("cannot copy {}", built.display()))?;
    let megabytes = std::fs::metadata(&copy)?.len() as f64 / 1e6;
    println!("{} ({megabytes:.1} MB)", copy.display());
    Ok(())
}
