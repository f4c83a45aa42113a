//! The `skiff` binary: reads flags, wires the crates together, and runs what was asked for.

mod agent;
mod authority;
mod isolation;
mod machine;
mod membership;
mod reset;
mod security;
mod server;
mod supervise;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

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
    Status(up::local::StatusArgs),
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
            eprintln!("skiff: {error:#}");
            ExitCode::FAILURE
        }
    }
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
        Command::Status(args) => return up::local::status(&args),
        Command::Node(args) => return up::local::node(&args),
        Command::Logs(args) => return up::local::logs(&args),
        Command::Client(command) => return skiff_cli::run(command, &up::local::clusters),
        Command::Completion(args) => skiff_cli::completion::print(&args, &Cli::command()),
        Command::Component(component) => run_component(&component)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_component(component: &Component) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match component.role {
        Role::Enter => up::node::enter(&component.config),
        Role::Init => up::node::init(&component.config),
        Role::Server => server::run_component(&component.config),
        Role::Agent => agent::run_component(&component.config),
    }
}
