//! How the binary is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Every pod has a shim, which is this program once more. Loaded at a fixed address its tables of pointers
    // need no relocation and stay shared by all shims; otherwise each has a private copy of megabytes. (A
    // fully static program says the same by `-C relocation-model=static`.)
    if !std::env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|features| features.contains("crt-static")) {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
