//! Many sandboxes. Times are printed for who runs this to see them, not asserted: they are the machine's.

mod lab;

use std::time::Instant;

use lab::{Lab, Netns, cidr};
use skiff_network::{Config, Error, LocalNetwork, Network, Protocol};

#[test]
fn a_hundred_sandboxes_come_and_go() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let sandboxes: Vec<Netns> = (0..100).map(|_| Netns::new()).collect();
    let begin = Instant::now();
    for (index, netns) in sandboxes.iter().enumerate() {
        node.block_on(node.network.attach(&format!("sandbox-{index}"), &netns.path())).unwrap();
    }
    println!("100 sandboxes attached: {:?}", begin.elapsed());
    let attached = node.block_on(node.network.attachments()).unwrap();
    let addresses: std::collections::BTreeSet<_> = attached.iter().map(|this| this.ip).collect();
    assert_eq!(addresses.len(), 100);
    let _server = sandboxes[99].serve_tcp("0.0.0.0:80", "last");
    sandboxes[0].tcp("10.244.1.101:80");
    let begin = Instant::now();
    for index in 0..100 {
        node.block_on(node.network.detach(&format!("sandbox-{index}"))).unwrap();
    }
    println!("100 sandboxes detached: {:?}", begin.elapsed());
    assert_eq!(node.netns.links().links().unwrap().len(), 3);
}

#[test]
fn a_full_range_is_an_error_that_names_it() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let state = tempfile::tempdir().unwrap();
    let config = Config {
        bridge: "small".into(),
        pod_cidr: cidr("10.244.9.0/29"),
        state_dir: state.path().to_owned(),
        own_ports: vec![(Protocol::Tcp, 10250)],
        ..node.config.clone()
    };
    let network = node.block_on(LocalNetwork::start(config, node.ruleset.clone())).unwrap();
    let sandboxes: Vec<Netns> = (0..6).map(|_| Netns::new()).collect();
    let attach = |index: usize| node.block_on(network.attach(&index.to_string(), &sandboxes[index].path()));
    (0..5).for_each(|index| drop(attach(index).unwrap()));
    let Err(Error::Exhausted(range)) = attach(5) else { panic!("there are five addresses") };
    assert_eq!(range.to_string(), "10.244.9.0/29");
    node.block_on(network.detach("3")).unwrap();
    assert_eq!(attach(5).unwrap().ip, lab::ip("10.244.9.5"));
}
