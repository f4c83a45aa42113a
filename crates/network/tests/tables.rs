//! Tables in short tell every change that somebody makes, and none that happens by itself.

mod lab;

use lab::Netns;
use skiff_sys::nft::tables::{self, Table};

#[test]
fn a_change_of_a_rule_is_told_and_what_counts_is_not() {
    let netns = Netns::new();
    let nft = |text: &str| netns.command("nft", &[text]);
    let read = || netns.run(|| tables::read().unwrap());
    assert_eq!(read(), []);
    nft("add table ip one");
    nft("add chain ip one in { type filter hook input priority 0; policy accept; }");
    nft("add set ip one seen { type ipv4_addr; flags timeout; }");
    nft("add rule ip one in counter accept");
    nft("add table ip6 two");
    let before = read();
    let told = |table: &Table| {
        format!("{} {} {} {} {}", table.family, table.name, table.chains, table.rules, table.sets)
    };
    assert_eq!(before.iter().map(told).collect::<Vec<_>>(), ["ip one 1 1 1", "ip6 two 0 0 0"]);

    // A packet is counted, and an element comes.
    let server = netns.serve_tcp("127.0.0.1:7000", "here");
    netns.run(|| std::net::TcpStream::connect("127.0.0.1:7000").unwrap());
    drop(server);
    nft("add element ip one seen { 192.0.2.1 timeout 1h }");
    assert_ne!(netns.command("nft", &["list", "chain", "ip", "one", "in"]).matches("packets 0 ").count(), 1);
    assert_eq!(read(), before);

    // Each of these leaves the numbers of chains and rules as they are.
    let mut last = before;
    for change in [
        "replace rule ip one in handle 3 counter drop",
        "flush chain ip one in; add rule ip one in counter drop",
        "chain ip one in { policy drop; }",
        "delete table ip6 two; add table ip6 two",
    ] {
        let handle = rule_handle(&netns);
        nft(&change.replace("handle 3", &format!("handle {handle}")));
        let now = read();
        assert_ne!(now, last, "{change}");
        assert_eq!(now.iter().map(told).collect::<Vec<_>>(), ["ip one 1 1 1", "ip6 two 0 0 0"], "{change}");
        last = now;
    }
}

/// Of the one rule there is.
fn rule_handle(netns: &Netns) -> String {
    let listing = netns.command("nft", &["-a", "list", "chain", "ip", "one", "in"]);
    let rule = listing.lines().find(|line| line.contains("counter")).expect(&listing);
    rule.rsplit(' ').next().expect("a number").to_owned()
}
