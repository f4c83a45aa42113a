//! How the program that embeds this runtime becomes a shim.

use std::ffi::OsString;
use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// What a shim is called, so that `ps` tells it from the agent it was started by.
pub const SHIM: &str = "skiff-shim";

/// To be called by `main` before anything else and before any thread exists, with the program's arguments,
/// its own name first. `Some` if this process was a shim and has ended.
pub fn dispatch_internal(args: &[OsString]) -> Option<ExitCode> {
    (args.first()? == SHIM && args.len() == 2).then(crate::shim::main)
}

/// Says something in the shim's log. Where that lies on a full disk it can't be said, and whose containers
/// these are must not die of it, as it would of `eprintln!`.
pub(crate) fn complain(what: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
