//! What `skiff down --prove` tells of the packet filter that others have on the machine.

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
