//! The `skiff` binary: reads flags, wires the crates together, and runs what was asked for.

// A full disk, or a terminal that was closed, must kill nobody: `tell` and the log say what is to be said.
#![deny(clippy::print_stderr)]

mod agent;
mod authority;
mod config;
mod ending;
mod in_use;
mod isolation;
mod kernel;
mod lockfile;
mod machine;
mod membership;
mod memory;
mod reset;
mod resolver;
mod security;
mod server;
mod shell;
mod supervise;
mod up;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use self::ending::Ending;
use self::up::interrupt::Interrupted;

/// Kubernetes pods on plain Linux from one small binary.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Down(up::down::Args),
    Server(server::Args),
    Agent(agent::Args),
    Reset(reset::Args),
    Status(up::status::Args),
    Node(up::local::NodeArgs),
    Logs(up::local::LogsArgs),
    #[command(flatten)]
    Client(skiff_cli::Command),
    Completion(skiff_cli::completion::Args),
    #[command(hide = true)]
    Component(Component),
}

/// One of the platform's own processes, started by another.
#[derive(Debug, clap::Args)]
struct Component {
    role: Role,
    #[arg(long)]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Role {
    Enter,
    Init,
    Server,
    Agent,
}

fn main() -> ExitCode {
    // Before anything else: shims and container helpers are this binary too, and want to be small.
    if let Some(code) = skiff_runtime::dispatch_internal(&std::env::args_os().collect::<Vec<_>>()) {
        return code;
    }
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tell(format_args!("skiff: {error:#}"));
            error.downcast_ref::<Interrupted>().map_or(ExitCode::FAILURE, Interrupted::exit_code)
        }
    }
}

/// Says something on standard error. Nobody may hear it any more, as when a terminal was closed: that is no
/// reason to leave undone what is to be done.
pub(crate) fn tell(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // What runs on must not hold a lock or a pipe of the shell that it was started from.
    if matches!(command, Command::Up(_) | Command::Server(_) | Command::Agent(_)) {
        skiff_sys::process::hand_on_nothing_inherited().context("cannot keep open files to itself")?;
    }
    match command {
        Command::Up(args) => up::run(&args)?,
        Command::Down(args) => return up::down::run(&args),
        Command::Server(args) => server::run(&args)?,
        Command::Agent(args) => agent::run(&args)?,
        Command::Reset(args) => return reset::run(&args),
        Command::Status(args) => return up::status::run(&args),
        Command::Node(args) => return up::local::node(&args),
        Command::Logs(args) => return up::local::logs(&args),
        Command::Client(command) => return skiff_cli::run(command, &up::local::clusters),
        Command::Completion(args) => skiff_cli::completion::print(&args, &Cli::command())?,
        Command::Component(component) => run_component(&component)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_component(component: &Component) -> anyhow::Result<()> {
    // A node's first process hands the lock of the data on to these, and pods' shims must not have it.
    if matches!(component.role, Role::Server | Role::Agent) {
        skiff_sys::process::hand_on_nothing_inherited().context("cannot keep open files to itself")?;
    }
    log_to_stderr();
    // Before pods, and what they start inherits it: shims are a step behind, containers have their own.
    match skiff_sys::oom::protect(OOM_SCORE_ADJ) {
        Ok(OOM_SCORE_ADJ) => {}
        Ok(value) => tracing::debug!(value, "the kernel permits no lower oom_score_adj"),
        Err(error) => tracing::warn!(%error, "cannot be kept from being killed first when memory runs out"),
    }
    // What clients may have open is a share of it. Containers have limits of their own.
    if matches!(component.role, Role::Server | Role::Agent) {
        match skiff_sys::descriptors::raise() {
            Ok(max) => tracing::debug!(max, "this many files may be open"),
            Err(error) => tracing::warn!(%error, "cannot have as many files open as may be"),
        }
    }
    match component.role {
        Role::Enter => up::node::enter(&component.config),
        Role::Init => up::node::init(&component.config),
        Role::Server => {
            let ending = Ending::watch()?;
            ending::run(server::serve(config::read(&component.config)?, &ending))
        }
        Role::Agent => {
            let ending = Ending::watch()?;
            ending::run(agent::serve(config::read(&component.config)?, &component.config, &ending))
        }
    }
}

/// Of the platform's own processes, as upstream's kubelet has it for itself: a node without them is none.
const OOM_SCORE_ADJ: i32 = -999;

/// What is logged where the disk is full is lost. That must not be told by `eprintln!`, as the subscriber does
/// unless it is told not to: it panics where nothing can be written, and takes along who wanted to log.
fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    const FULL: &str = "SKIFF_TEST_LOGS_TO_A_FULL_DISK";

    /// Runs itself once more, with standard error on a device that is always full.
    #[test]
    fn logging_to_a_full_disk_kills_nobody() {
        if std::env::var_os(FULL).is_some() {
            super::log_to_stderr();
            let logged = std::thread::spawn(|| tracing::error!("cannot write to the store"));
            return logged.join().unwrap();
        }
        let test = "tests::logging_to_a_full_disk_kills_nobody";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args([test, "--exact", "--nocapture"]).env(FULL, "1").stdin(Stdio::null());
        again.stdout(Stdio::null()).stderr(File::options().write(true).open("/dev/full").unwrap());
        assert!(again.status().unwrap().success(), "who logged panicked");
    }
}
