//! The developer's tool: `cargo xtask test|demo|bench|lint|mutate|images|dist|vm`.
//!
//! It installs what it needs and builds what it runs, so that each command works on a fresh clone.

mod bench;
mod build;
mod demo;
mod deny;
mod e2e;
mod failures;
mod habits;
mod images;
mod layers;
mod mutate;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  test [FILTER]   every test there is, end-to-end ones included
  demo [--keep]   the scenarios, played on three nodes with real kubectl
  e2e [FILTER]    the end-to-end tests alone
  bench [NAME]    measure a release build; without a name, write docs/figures.md
  dist            the static single file, to copy to other machines
  lint            formatting, clippy, and the rules for dependencies
  deny            licences and duplicate versions of the dependencies
  mutate [CRATE]  change the pure decisions in small ways: does a test notice?
  images [DIR]    build the images of demo and tests as archives
  vm [--plain]    look at it on a stock Debian kernel, in a virtual machine; also --keep, --kernel DEB
  setup           install what the other commands need
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["test", rest @ ..] => test::run(rest),
        ["e2e", rest @ ..] => e2e::run(rest),
        ["e2e-inside", rest @ ..] => e2e::inside(rest),
        ["demo", rest @ ..] => demo::run(rest),
        ["demo-inside"] => demo::play(false),
        ["bench", rest @ ..] => bench::run(rest),
        ["lint"] => test::lint(),
        ["deny"] => deny::run(),
        ["mutate", rest @ ..] => mutate::run(rest),
        ["dist"] => build::dist(),
        ["images"] => images::build(&build::target_dir().join("images")).map(drop),
        ["images", dir] => images::build(std::path::Path::new(dir)).map(drop),
        ["vm", rest @ ..] => vm::run(rest),
        ["setup"] => setup::run(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
