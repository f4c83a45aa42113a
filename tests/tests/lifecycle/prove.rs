//! What `skiff down --prove` tells of what is neither ours nor as it was: the packet filter that others have on the
//! machine, and what hostPath volumes made there.

use std::fs;

use skiff_tests::{Cluster, Output, skiff};

use super::network::Network;

/// Puts a cluster up and down in a network, with something done meanwhile, and returns what the proof says.
fn proof(machine: &Network, meanwhile: &[&str]) -> String {
    let name = "lc-table";
    let data_dir = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
    let data_dir = data_dir.to_str().expect("UTF-8");
    let up = ["up", "--detach", "--uplink", "--port", "0", "--name", name, "--data-dir", data_dir];
    machine.skiff(&up).ok();
    for change in meanwhile {
        machine.run(&["nft", change]).ok();
    }
    let proof = machine.skiff(&["down", "--prove", "--name", name, "--data-dir", data_dir]).ok();
    assert!(proof.ends_with("Nothing of ours is left.\n"), "{proof}");
    proof
}

#[test]
fn a_rule_that_others_changed_meanwhile_is_told_by_its_table() {
    let machine = Network::start();
    machine.run(&["nft", "add table ip foreign"]).ok();
    machine.run(&["nft", "add chain ip foreign in { type filter hook input priority 0; }"]).ok();
    machine.run(&["nft", "add rule ip foreign in tcp dport 9 counter drop"]).ok();
    let of_tables = |proof: &str| -> Vec<String> {
        let lines = proof.lines().filter(|line| line.contains("by others meanwhile: nftables: "));
        lines.map(str::to_owned).collect()
    };
    let untouched = proof(&machine, &[]);
    assert_eq!(of_tables(&untouched), Vec::<String>::new(), "{untouched}");

    // As many rules as before, and the table has the name of before.
    let changed =
        proof(&machine, &["flush chain ip foreign in", "add rule ip foreign in tcp dport 9 counter drop"]);
    let told = of_tables(&changed);
    let begins = "changed by others meanwhile: nftables: ip foreign: 1 chains, 1 rules, 0 sets, digest ";
    assert!(told.len() == 1 && told[0].starts_with(begins), "{changed}");
    assert!(told[0].contains(" (before: ip foreign: 1 chains, 1 rules, 0 sets, digest "), "{changed}");
}

/// A pod whose volumes make a directory with one above it, a file and, in a directory that is there, another.
pub(crate) fn maker(node: &str, dir: &str) -> String {
    let volume = |name: &str, path: &str, kind: &str| {
        format!("{{name: {name}, hostPath: {{path: {dir}/{path}, type: {kind}}}}}")
    };
    let volumes = [
        volume("made", "made/deep", "DirectoryOrCreate"),
        volume("file", "file", "FileOrCreate"),
        volume("there", "there", "DirectoryOrCreate"),
        volume("gone", "gone", "DirectoryOrCreate"),
    ];
    let mount = |name: &str, more: &str| format!("{{name: {name}, mountPath: /{name}{more}}}");
    let mounts = [mount("made", ""), mount("file", ""), mount("there", ", subPath: part"), mount("gone", "")];
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: maker}}, spec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 1, containers: [{{name: main, image: 'skiff/peer:v1', \
         command: [peer, tcp, '7001'], volumeMounts: [{}]}}], volumes: [{}]}}}}",
        mounts.join(", "),
        volumes.join(", ")
    )
}

/// What is told of that pod's paths by a proof that holds but for them.
pub(crate) fn check_made(proof: &Output, dir: &str, namespace: &str) {
    assert_eq!(proof.code, 1, "{proof:?}");
    let begin = "made for pods by hostPath, still there: ";
    let told: Vec<&str> = proof.stdout.lines().filter_map(|line| line.strip_prefix(begin)).collect();
    let made = ["file", "made", "made/deep", "there/part"];
    assert_eq!(told, made.map(|own| format!("{dir}/{own} (for {namespace}/maker)")), "{proof:?}");
    let end = "\nNothing else of ours is left; 4 paths that were made for pods are there, yours to keep or to \
               remove.\n";
    assert!(proof.stdout.ends_with(end) && !proof.stdout.contains("of ours: "), "{proof:?}");
    assert!(!proof.stdout.contains(&format!("meanwhile: files: {dir}")), "{proof:?}");
}

#[test]
fn what_volumes_made_on_the_machine_stays_and_is_told_apart() {
    let name = "lc-made";
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    fs::create_dir(dir.path().join("there")).expect("makes");
    // So that the kubeconfig has two directories to be made first.
    let kubeconfig = dir.path().join("config/deep/kubeconfig");
    let flags = ["--kubeconfig", kubeconfig.to_str().expect("UTF-8")];
    let cluster = Cluster::start_with(name, 1, &flags);
    assert!(kubeconfig.is_file());
    let namespace = cluster.namespace("made");
    namespace.apply(&maker(name, path)).ok();
    namespace.ready("maker");
    fs::write(dir.path().join("made/deep/letter"), "mine").expect("the user's data");
    namespace.delete("pod", "maker");
    // Another of the same name, which nobody made for a pod; the first stays, so that its number is not given again.
    fs::rename(dir.path().join("gone"), dir.path().join("aside")).expect("it was made too");
    fs::create_dir(dir.path().join("gone")).expect("makes");
    let proof = skiff(&["down", "--prove", "--name", name]);
    check_made(&proof, path, "made");
    assert!(!dir.path().join("config").exists(), "{proof:?}");
    assert_eq!(fs::read_to_string(dir.path().join("made/deep/letter")).expect("it stays"), "mine");
    drop(cluster);
}
