//! The tour, in every language: each of its commands is typed, and prints what the tour says.

use std::path::Path;
use std::process::Command;

use skiff_tests::{Cluster, fixed_ports, run, skiff_path};

fn tour(cluster: &Cluster, args: &[&str]) -> skiff_tests::Output {
    let kubectl = std::env::var("KUBECTL").expect("KUBECTL is set: run these tests with `cargo xtask test`");
    let directory = Path::new(&kubectl).parent().expect("it is in a directory").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(skiff_path());
    command.arg("tour").args(args).args(["--name", &cluster.name]);
    command.env("PATH", format!("{directory}:{path}")).env_remove("KUBECONFIG");
    run(&mut command)
}

#[test]
fn the_tour_is_as_it_says_in_every_language() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    for (language, expected) in
        [("en", "--> as expected"), ("ko", "--> 기대한 대로입니다"), ("zh", "--> 符合预期")]
    {
        let output = tour(&cluster, &["--yes", "--lang", language]);
        assert_eq!(output.code, 0, "{language}: {}\n{}", output.stderr, output.stdout);
        let typed = output.stdout.lines().filter(|line| line.starts_with("$ ")).count();
        assert!(typed > 40, "{language}: {typed} commands");
        assert_eq!(output.stdout.matches(expected).count(), typed, "{language}: {}", output.stdout);
    }
    let left = cluster.kubectl(&["get", "namespace", "skiff-tour", "skiff-tour-guarded"]);
    assert!(left.stderr.contains("not found") && left.stdout.is_empty(), "{left:?}");
}

#[test]
fn an_unknown_language_is_named_and_nobody_waits_for_enter_in_vain() {
    let cluster = Cluster::shared();
    let error = tour(&cluster, &["--lang", "kr"]).err();
    assert!(error.contains("\"kr\"") && error.contains("did you mean ko?"), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
}
