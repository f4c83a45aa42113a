//! `skiff up --uplink`: pods reach what the machine reaches, under the machine's address; and not without.

use std::fs::File;
use std::path::PathBuf;

use serde_json::Value;
use skiff_tests::{Background, Output, peer_path, skiff, wait_for, wait_until};

use super::network::Network;

/// The outside's address and the machine's on the link to it, from the range kept for documentation.
const OUTSIDE: &str = "192.0.2.2";
const MACHINE: &str = "192.0.2.1";

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: out}
spec:
  containers:
  - {name: main, image: skiff/peer:v1, command: [peer, tcp, '7000']}
";

/// A cluster inside a network of the test's, taken down when the value ends.
struct Inside<'a> {
    machine: &'a Network,
    name: &'static str,
    data_dir: PathBuf,
}

impl<'a> Inside<'a> {
    fn up(machine: &'a Network, name: &'static str, flags: &[&str]) -> Self {
        let data_dir = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
        let own = Self { machine, name, data_dir };
        let images = std::env::var("SKIFF_IMAGES").expect("SKIFF_IMAGES is not set");
        let dir = own.data_dir.to_str().expect("UTF-8");
        let mut args = vec!["up", "--detach", "--port", "0", "--name", name, "--data-dir", dir];
        args.extend(["--images", &images]);
        args.extend(flags);
        machine.skiff(&args).ok();
        own.kubectl(&["apply", "-f", own.write_pod().to_str().expect("UTF-8")]).ok();
        own.kubectl(&["wait", "pod", "out", "--for=condition=Ready", "--timeout=120s"]).ok();
        own
    }

    fn write_pod(&self) -> PathBuf {
        let path = self.data_dir.join("pod.yaml");
        std::fs::write(&path, POD).expect("it is written");
        path
    }

    fn kubectl(&self, args: &[&str]) -> Output {
        self.machine.kubectl(&self.data_dir, args)
    }

    /// What the pod hears from the outside.
    fn ask(&self) -> Output {
        self.kubectl(&["exec", "out", "--", "peer", "get", &format!("{OUTSIDE}:7100"), "1500"])
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let output = self.machine.skiff(&["down", "--name", self.name]);
        if !std::thread::panicking() {
            assert_eq!(output.code, 0, "{output:?}");
        }
    }
}

#[test]
fn pods_get_out_by_the_uplink_under_the_machines_address_and_only_by_it() {
    let (machine, outside) = (Network::start(), Network::start());
    let far = outside.pid();
    machine.run(&["ip", "link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", &far]).ok();
    for (network, link, address) in [(&machine, "out0", MACHINE), (&outside, "in0", OUTSIDE)] {
        network.run(&["ip", "address", "add", &format!("{address}/24"), "dev", link]).ok();
        network.run(&["ip", "link", "set", link, "up"]).ok();
        // Nothing leads further than that link.
        assert_eq!(network.run(&["ip", "route", "show", "default"]).ok(), "");
    }
    let mut server = outside.command(&peer_path());
    let log = std::env::temp_dir().join(format!("skiff-test-uplink-{}", std::process::id()));
    let _server = Background(
        server.args(["tcp", "7100"]).stdout(File::create(&log).expect("a file")).spawn().expect("it starts"),
    );
    let get = || machine.run(&[peer_path().to_str().expect("UTF-8"), "get", &format!("{OUTSIDE}:7100")]);
    wait_until("the outside", || get().code == 0);

    let closed = Inside::up(&machine, "lc-closed", &[]);
    assert_ne!(closed.ask().code, 0, "there is no way out without --uplink");
    drop(closed);
    let forwarding = || machine.run(&["cat", "/proc/sys/net/ipv4/ip_forward"]).ok();
    let before = forwarding();

    let open = Inside::up(&machine, "lc-open", &["--uplink"]);
    let answer =
        wait_for("the outside is reached", || Some(open.ask()).filter(|answer| answer.code == 0)).stdout;
    // The outside has no route to pods or nodes: it could answer no other address.
    assert_eq!(answer.trim().rsplit(' ').next(), Some(MACHINE), "{answer}");
    let pod: Value =
        serde_json::from_str(&open.kubectl(&["get", "pod", "out", "-o", "json"]).ok()).expect("JSON");
    assert_ne!(pod["status"]["podIP"], MACHINE);
    drop(open);
    assert_eq!(forwarding(), before, "the machine forwards no more than before");
    assert!(!machine.run(&["ip", "link"]).ok().contains("skf-"), "no link is left");
    assert!(!skiff(&["node", "ls", "--name", "lc-open"]).err().is_empty(), "the cluster is gone");
    std::fs::remove_file(log).expect("it is there");
}
