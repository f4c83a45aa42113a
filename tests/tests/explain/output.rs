//! In which forms an explanation is printed: colours on a terminal alone, JSON and YAML with the same facts.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, Output, pod_on, run, skiff_path, wait_for};

use super::truth::explain;

/// Runs the program on a terminal of its own.
fn on_a_terminal(namespace: &Namespace, words: &str) -> Output {
    let cluster = &namespace.cluster;
    let config = cluster.kubeconfig.display();
    let command =
        format!("'{}' {words} -n {} --kubeconfig '{config}'", skiff_path().display(), namespace.name);
    run(Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR"))
}

#[test]
fn colours_are_for_terminals_and_machines_get_json_and_yaml() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("i1-output");
    let node = cluster.worker(1);
    namespace
        .apply(&pod_on(&node, "p", "hostNetwork: true", "image: alpine, command: [sleep, '999999']"))
        .ok();
    namespace.ready("p");
    for what in ["pod", "pending", "start"] {
        let plain = explain(&namespace, what, "p", &[]).ok();
        assert!(!plain.contains('\u{1b}') && !plain.is_empty(), "{what}: {plain}");
        let json: Value =
            serde_json::from_str(&explain(&namespace, what, "p", &["-o", "json"]).ok()).expect("JSON");
        // What is counted may change between two questions, which facts there are does not.
        let yaml = explain(&namespace, what, "p", &["-o", "yaml"]).ok();
        for field in ["kind", "apiVersion"] {
            let line = format!("{field}: {}", json[field].as_str().expect("a text"));
            assert!(yaml.lines().any(|own| own == line), "{what}: {line}: {yaml}");
        }
        let keys: BTreeSet<&str> = yaml
            .lines()
            .filter(|line| !line.starts_with([' ', '-']))
            .filter_map(|line| Some(line.split_once(':')?.0))
            .collect();
        let same: BTreeSet<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, same, "{what}: {yaml}");
    }
    let coloured = on_a_terminal(&namespace, "explain pod p").ok();
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    // The same words all the same, colours taken away.
    let line = wait_for("the line of the network", || {
        let shown = on_a_terminal(&namespace, "explain pod p").ok();
        shown.lines().find(|line| line.contains("net ") && line.contains(" host ")).map(str::to_owned)
    });
    assert!(line.contains('!') && line.contains("\u{1b}["), "the node's stand out in colour too: {line:?}");
}
