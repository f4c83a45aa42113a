//! Compiles `pause`, the program that holds a sandbox's namespaces, so that the runtime can embed it.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    // A shim is this program once more. Loaded at a fixed address its tables of pointers need no relocation,
    // and stay shared by all shims: otherwise each has a private copy.
    // (A fully static program says the same by `-C relocation-model=static`.)
    if !env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|features| features.contains("crt-static")) {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-examples=-no-pie");
    }
    let source = PathBuf::from("../pause/src/main.rs");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", source.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pause");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc.args([
        "--edition=2024",
        "--crate-name=pause",
        "--crate-type=bin",
        "-Cpanic=abort",
        "-Copt-level=z",
    ]);
    rustc.args(["-Cstrip=symbols", "-Crelocation-model=static", "-Ctarget-feature=+crt-static"]);
    // Neither libc nor its start files; one segment, as pages are what the program costs.
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"]
    {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    rustc.arg("--target").arg(env::var_os("TARGET").expect("cargo sets TARGET"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    let status = rustc.arg("-o").arg(&out).arg(&source).status().expect("rustc can be started");
    assert!(status.success(), "compiling {} failed: {status}", source.display());
    let size = fs::metadata(&out).expect("rustc wrote pause").len();
    assert!(size < 64 << 10, "pause has {size} bytes: it was linked against something");
}
