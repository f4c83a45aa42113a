//! How the program that embeds this runtime becomes a shim.

use std::ffi::OsString;
use std::process::ExitCode;

/// What a shim is called, so that `ps` tells it from the agent it was started by.
pub const SHIM: &str = "skiff-shim";

/// To be called by `main` before anything else and before any thread exists, with the program's arguments,
/// its own name first. `Some` if this process was a shim and has ended.
pub fn dispatch_internal(args: &[OsString]) -> Option<ExitCode> {
    (args.first()? == SHIM && args.len() == 2).then(crate::shim::main)
}
