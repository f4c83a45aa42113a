//! The developer's tool: `cargo xtask test|demo|bench|images|dist`.
//!
//! It installs what it needs and builds what it runs, so that each command works on a fresh clone.

mod build;
mod images;
mod layers;
mod setup;
mod test;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  test [FILTER]   every test there is, end-to-end ones included
  images [DIR]    build the images of demo and tests as archives
  setup           install what the other commands need
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["test", rest @ ..] => test::run(rest),
        ["images"] => images::build(&build::target_dir().join("images")).map(drop),
        ["images", dir] => images::build(std::path::Path::new(dir)).map(drop),
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
