//! A shim alone, for programs that use the runtime without being `skiff` themselves, such as its tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    skiff_runtime::dispatch_internal(&args).unwrap_or_else(|| {
        eprintln!("skiff-shim is started by the runtime, not by hand");
        ExitCode::from(2)
    })
}
