//! `skiff completion`.

use anyhow::Context;

use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script for all commands but hidden ones.
pub fn print(args: &Args, command: &clap::Command) -> anyhow::Result<()> {
    // At once: what writes piece by piece panics where its reader has seen enough.
    output::write(&script(args, command)?)
}

fn script(args: &Args, command: &clap::Command) -> anyhow::Result<String> {
    let shown = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned();
    let mut command = clap::Command::new("skiff").args(command.get_arguments().cloned()).subcommands(shown);
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "skiff", &mut script);
    String::from_utf8(script).context("the script is no text")
}
