//! What really stops a packet, or may, and is not judged is told where it is, and nothing is promised: so no real
//! connection can differ from what was told.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use skiff_tests::{Output, peer_path, skiff_path, wait_until};

use crate::damage::{Scene, agrees, live, scene};

impl Scene {
    fn on(&self, node: &str, command: &[&str]) -> Output {
        self.cluster.on_node(node, command)
    }

    /// Told with doubt, on that node; `outcome` is what becomes of a real connection.
    #[track_caller]
    fn doubts(&self, node: &str, what: &str, outcome: &str) {
        self.doubts_at(&format!("node {node}"), what, outcome);
    }

    #[track_caller]
    fn doubts_at(&self, place: &str, what: &str, outcome: &str) {
        let told = live(self);
        let way = &told["ways"][0];
        assert_eq!(
            (&way["verdict"], &told["live"]["outcome"]),
            (&"Unknown".into(), &outcome.into()),
            "{told:#}"
        );
        let summary = way["summary"].as_str().unwrap_or_default();
        assert!(summary.starts_with("not known: "), "{summary}");
        let hops = way["hops"].as_array().cloned().unwrap_or_default();
        let text =
            |hop: &Value| [&hop["text"], &hop["rule"]].map(|own| own.as_str().unwrap_or("").to_owned());
        let here =
            hops.iter().find(|hop| text(hop).iter().any(|own| own.contains(what)) && hop["place"] == place);
        assert_eq!(here.map(|hop| &hop["doubtful"]), Some(&Value::Bool(true)), "{what}: {told:#}");
        agrees(&told);
    }

    #[track_caller]
    fn certain(&self) -> Value {
        let told = live(self);
        assert_eq!(told["ways"][0]["verdict"], "Delivered", "{told:#}");
        let answer = told["ways"][0]["answerVerdict"].as_str().unwrap_or_default();
        assert!(answer.starts_with("the answer reaches"), "{told:#}");
        agrees(&told);
        told
    }

    /// A program that is not read, for as long as what is given lives.
    fn attach(&self, node: &str, program: &[&str]) -> Attached {
        let mut command = Command::new(skiff_path());
        command.args(["node", "shell", "--name", &self.cluster.name, node, "--"]);
        command.arg(peer_path().with_file_name("hinder")).args(program);
        Attached(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts"))
    }
}

/// It ends, and what it attached with it, when its standard input does.
struct Attached(Child);

impl Attached {
    /// `None` where the kernel has no such place.
    fn waits(mut self) -> Option<Self> {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        let said = BufReader::new(self.0.stdout.take().expect("piped")).read_line(&mut line);
        if said.is_ok_and(|length| length > 0) {
            return Some(self);
        }
        assert_eq!(self.0.wait().expect("it ends").code(), Some(3));
        None
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The device of the first hop of a kind, or of the last one.
fn device(told: &Value, kind: &str, last: bool) -> String {
    let hops = told["ways"][0]["hops"].as_array().cloned().unwrap_or_default();
    let mut devices: Vec<_> =
        hops.iter().filter(|hop| hop["kind"] == kind).filter_map(|hop| hop["device"].as_str()).collect();
    if last {
        devices.reverse();
    }
    (*devices.first().expect("it goes over one")).to_owned()
}

#[test]
fn what_is_not_judged_is_told_with_doubt_and_is_no_fault() {
    let scene = scene("trace-unjudged");
    let (one, two) = (scene.cluster.worker(1), scene.cluster.worker(2));
    let told = scene.certain();
    let (sender, receiver) = (device(&told, "veth", false), device(&told, "veth", true));

    // A program that takes what comes in before anybody sees it; at the receiver's, the answer.
    let running = scene.attach(&one, &["xdp", &sender]).waits().expect("every kernel has them");
    scene.doubts(&one, &format!("an XDP program is attached to {sender}"), "silent");
    drop(running);
    scene.certain();
    let running = scene.attach(&two, &["xdp", &receiver]).waits().expect("every kernel has them");
    let told = live(&scene);
    let answer = told["ways"][0]["answerVerdict"].as_str().unwrap_or_default();
    assert!(answer.starts_with("not known: "), "{told:#}");
    assert_eq!(told["live"]["outcome"], "silent", "{told:#}");
    agrees(&told);
    drop(running);
    scene.certain();
    if let Some(running) = scene.attach(&one, &["tcx", &sender]).waits() {
        scene.doubts(&one, &format!("a program (tcx) looks at what comes in by {sender}"), "silent");
        drop(running);
    }

    // At all sockets of a node, those of its pods too.
    if let Some(running) = scene.attach(&one, &["cgroup"]).waits() {
        let pod = format!("pod {}/c1", scene.namespace.name);
        scene.doubts_at(&pod, "a program of the cgroup looks at what process ", "answered");
        drop(running);
        scene.certain();
    }

    // tc: a place for filters is none; a filter is, whatever it does; a discipline that limits is told.
    scene.on(&one, &["tc", "qdisc", "add", "dev", &sender, "clsact"]).ok();
    scene.certain();
    let filter = ["protocol", "ip", "u32", "match", "u32", "0", "0", "flowid", "1:1"];
    scene.on(&one, &[&["tc", "filter", "add", "dev", &sender, "ingress"], filter.as_slice()].concat()).ok();
    scene.doubts(&one, &format!("tc filters look at what comes in by {sender}"), "answered");
    scene.on(&one, &["tc", "qdisc", "del", "dev", &sender, "clsact"]).ok();
    let limit = ["rate", "100mbit", "burst", "100k", "latency", "100ms"];
    scene.on(&one, &[&["tc", "qdisc", "add", "dev", "eth0", "root", "tbf"], limit.as_slice()].concat()).ok();
    scene.doubts(&one, "tc has tbf at eth0", "answered");
    scene.on(&one, &["tc", "qdisc", "del", "dev", "eth0", "root"]).ok();

    // The packet filter before nftables: a rule that drops, then a table that does nothing.
    let hinder = peer_path().with_file_name("hinder").display().to_string();
    let made = scene.on(&one, &[&hinder, "xtables", &scene.namespace.pod_ip("s2")]);
    assert!(matches!(made.code, 0 | 3), "{made:?}");
    if made.code == 0 {
        scene.doubts(&one, "table filter of iptables-legacy", "silent");
        scene.on(&one, &[&hinder, "xtables", "none"]).ok();
        scene.certain();
    }

    // A neighbour that somebody wrote down, and wrongly: the bridge hands it to nobody, or to everybody.
    let (ip, hardware) = (scene.namespace.pod_ip("s2"), "02:00:00:00:00:99");
    let entry = |lladdr: &str| {
        let entry = ["ip", "neigh", "replace", &ip, "lladdr", lladdr, "dev", "cbr0", "nud", "permanent"];
        scene.on(&two, &entry).ok();
    };
    let known = scene.on(&two, &["ip", "neigh", "show", &ip, "dev", "cbr0"]).ok();
    let right = known.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).expect("written down");
    entry(hardware);
    scene.doubts(&two, &format!("a permanent neighbour entry has {ip} at {hardware}"), "silent");
    entry(right);
    scene.certain();

    // A bridge that looks at VLANs, of which its own is then none. Some kernels' bridges know none.
    let vlans = |on: &str| {
        let bridge = ["ip", "link", "set", "cbr0", "type", "bridge", "vlan_filtering", on];
        scene.on(&two, &bridge).code == 0
    };
    if vlans("1") {
        scene.on(&two, &["bridge", "vlan", "del", "dev", "cbr0", "vid", "1", "self"]).ok();
        scene.doubts(&two, "cbr0 filters by VLAN", "silent");
        scene
            .on(&two, &["bridge", "vlan", "add", "dev", "cbr0", "vid", "1", "pvid", "untagged", "self"])
            .ok();
        assert!(vlans("0"));
        scene.certain();
    }

    // A rule that rewrites the packet itself, where connection tracking has not seen it yet.
    let nft = |text: &str| scene.on(&one, &["nft", text]).ok();
    nft("add table ip alien; add chain ip alien early { type filter hook prerouting priority -310; }");
    nft(&format!("add rule ip alien early ip daddr {ip} tcp dport 7000 ip daddr set 10.255.255.9"));
    scene.doubts(&one, "ip daddr set 10.255.255.9", "silent");
    nft("delete table ip alien");
    wait_until("all is as before", || live(&scene)["ways"][0]["verdict"] == "Delivered");
    scene.certain();
}
