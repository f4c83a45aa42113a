//! Whatever the facts are: an explanation fits 100 columns, has one line a namespace, and no other line that
//! begins with a namespace's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skiff_explain::devices::Device;
use skiff_explain::facts::{Container, Elsewhere, Holder, Node, OtherNode, Pod, Process, Protocol, Socket};
use skiff_explain::namespaces::{Inodes, Kind, Word};
use skiff_explain::node::node;
use skiff_explain::pending::{
    Change, FilterVerdict, NodeVerdict, PendingExplanation, PortHolder, Preemption, Use,
};
use skiff_explain::pod::{
    Answer, Endpoint, HostPort, Interface, Obstacle, PodSecurity, Route, Security, ServicePort, WritablePath,
};
use skiff_explain::text::{self, Paint};
use skiff_explain::waits::Wait;
use skiff_explain::{Metadata, Missing, judge};

/// How many explanations of each kind are made; each is another by its number.
const ROUNDS: u64 = 200;

/// Numbers that follow from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A name of an object: short, or as long as it may be; often one that begins like a namespace.
    fn name(&mut self) -> String {
        let begin = ["web", "net", "pid-1", "ipc", "uts", "mnt", "user", "cgroup", "time", "own", "host"];
        let begin = begin[self.below(begin.len())];
        let rest = [0, 1, 20, 63, 240][self.below(5)];
        format!("{begin}{}", "x".repeat(rest))
    }

    /// Words as a program, a kernel or a person may say them.
    fn words(&mut self) -> String {
        let some = ["net", "pid", "error:", "/usr/bin/peer", "파드는", "网络命名空间", "a", "--flag=1"];
        let count = self.below(30);
        let mut words: Vec<String> = (0..count).map(|_| some[self.below(some.len())].to_owned()).collect();
        if self.coin() {
            words.push("x".repeat(self.below(400)));
        }
        words.join(" ")
    }

    fn some<T>(&mut self, bound: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(bound)).map(|_| make(self)).collect()
    }

    fn inodes(&mut self) -> Inodes {
        // Some are the node's, which are 1 to 8; time is not everywhere.
        Inodes(std::array::from_fn(|at| match self.below(4) {
            0 => at as u64 + 1,
            1 if at == 7 => 0,
            2 => 4_026_531_840 + at as u64,
            _ => 4_026_532_000 + self.below(40) as u64,
        }))
    }

    fn ip(&mut self) -> IpAddr {
        match self.below(3) {
            0 => Ipv4Addr::UNSPECIFIED.into(),
            1 => Ipv4Addr::new(192, 168, 255, 254).into(),
            _ => Ipv6Addr::new(0xfe80, 0, 0, 1, 0xabcd, 0xabcd, 0xabcd, 0xabcd).into(),
        }
    }

    fn process(&mut self) -> Process {
        Process {
            pid: u32::try_from(self.below(4_194_304)).expect("it is small"),
            command: self.words(),
            pod: self.coin().then(|| format!("{}/{}", self.name(), self.name())),
            container: self.coin().then(|| self.name()),
        }
    }

    fn socket(&mut self) -> Socket {
        Socket {
            protocol: if self.coin() { Protocol::Tcp } else { Protocol::Udp },
            address: self.ip(),
            port: self.port(),
            process: self.coin().then(|| self.process()),
            also: self.some(5, Self::process),
            device: self.coin().then(|| "abcdefghijklmno".into()),
            six_only: self.coin().then(|| self.coin()),
        }
    }

    fn port(&mut self) -> u16 {
        u16::try_from(self.below(65_536)).expect("it is below")
    }

    fn container(&mut self) -> Container {
        let holder = self.coin().then(|| Holder { name: "c".into(), pid: 4_194_303, inodes: self.inodes() });
        let capabilities = ["CHOWN", "NET_ADMIN", "CHECKPOINT_RESTORE", "SYS_TTY_CONFIG", "KILL"];
        let capabilities: Vec<String> =
            (0..self.below(41)).map(|at| capabilities[at % capabilities.len()].to_owned()).collect();
        Container {
            name: self.name(),
            state: "ended with exit code 137".into(),
            holder,
            security: self.coin().then(|| Security {
                effective_user: u32::MAX,
                effective_group: u32::MAX,
                beyond_default: capabilities.clone(),
                capabilities: capabilities.clone(),
                seccomp: "disabled".into(),
                no_new_privileges: false,
                supplementary_groups: (0..40).map(|group| group * 1_000_003).collect(),
                gainable: capabilities.clone(),
                own_users: self.coin(),
                inside_user: self.coin().then_some(u32::MAX),
                inside_group: self.coin().then_some(u32::MAX),
            }),
            writable_paths: self.some(3, |dice| WritablePath { mount: dice.words(), path: dice.words() }),
            devices: self.some(90, |dice| Device {
                name: dice.name(),
                block: dice.coin(),
                major: u32::from(dice.port()),
            }),
        }
    }

    fn metadata(&mut self) -> Metadata {
        Metadata { name: self.name(), namespace: self.name(), uid: String::new() }
    }

    fn pod(&mut self) -> Pod {
        let containers = self.some(11, Self::container);
        let sandbox = (self.below(8) > 0).then(|| Holder {
            name: "pause".into(),
            pid: 4_194_304,
            inodes: self.inodes(),
        });
        let held: Vec<Inodes> = containers
            .iter()
            .filter_map(|own| own.holder.as_ref())
            .chain(&sandbox)
            .map(|holder| holder.inodes)
            .collect();
        let mut outsiders = std::collections::BTreeMap::new();
        for inodes in held {
            for kind in Kind::ALL {
                if inodes.of(kind) > 8 && self.below(3) == 0 {
                    outsiders.insert((kind, inodes.of(kind)), self.some(6, Self::process));
                }
            }
        }
        Pod {
            metadata: self.metadata(),
            node: Node {
                name: self.name(),
                inodes: Inodes([1, 2, 3, 4, 5, 6, 7, 8]),
                processes: self.below(100_000),
                links: self.below(1_000),
                ipc_objects: self.below(1_000),
                others: self.some(3, |_| OtherNode {
                    ip: Ipv4Addr::new(192, 168, 255, 253),
                    pods: (Ipv4Addr::new(10, 244, 255, 0), 24),
                }),
                sandboxes: self.some(3, |_| Ipv4Addr::new(192, 168, 255, 254)),
                nested: self.coin(),
            },
            node_ip: "192.168.255.253".into(),
            pod_ip: self.coin().then(|| "192.168.255.254".into()),
            sandbox,
            containers,
            outsiders,
            interfaces: self.some(5, |dice| Interface {
                name: "abcdefghijklmno".into(),
                up: dice.coin(),
                mtu: u32::MAX,
                kind: "loopback".into(),
                addresses: dice.some(5, |dice| format!("{}/128", dice.ip())),
            }),
            routes: self.some(4, |dice| Route {
                destination: "192.168.255.255/32".into(),
                via: dice.coin().then(|| dice.ip().to_string()),
                device: "abcdefghijklmno".into(),
            }),
            sockets: self.some(12, Self::socket),
            elsewhere: self.some(3, |dice| Elsewhere {
                inode: 4_026_533_000,
                word: [Word::Own, Word::Host, Word::Shared][dice.below(3)],
                others: dice.some(3, Self::process),
                processes: dice.some(6, Self::process),
                sockets: dice.some(4, Self::socket),
            }),
            obstacles: self.some(9, |dice| Obstacle {
                from: ["pod network", "node", "other nodes", "outside"][dice.below(4)].into(),
                at: format!("192.168.255.254:{}/TCP", dice.port()),
                answer: if dice.coin() { Answer::No } else { Answer::Some },
                why: dice.words(),
            }),
            host_ports: self.some(3, |dice| HostPort {
                host_ip: dice.ip().to_string(),
                host_port: dice.port(),
                protocol: "SCTP".into(),
                container_port: dice.port(),
            }),
            services: self.some(3, |dice| ServicePort {
                service: format!("{}/{}", dice.name(), dice.name()),
                cluster_ip: if dice.coin() { "None".into() } else { dice.ip().to_string() },
                port: dice.port(),
                protocol: "TCP".into(),
                target_port: dice.port(),
                node_port: dice.coin().then(|| dice.port()),
                external_traffic_policy: "Local".into(),
                internal_traffic_policy: if dice.coin() { String::new() } else { "Local".into() },
                endpoint: [
                    None,
                    Some(Endpoint::Ready),
                    Some(Endpoint::Ending),
                    Some(Endpoint::NotReady),
                    Some(Endpoint::Absent),
                ][dice.below(5)],
            }),
            missing: self.some(3, |dice| Missing::new("facts of its node", dice.words())),
            past: self.coin().then(|| self.words()),
        }
    }

    fn change(&mut self) -> Change {
        Change {
            of: "pod".into(),
            node: self.name(),
            text: self.words(),
            how: self.words(),
            checked: self.coin(),
        }
    }

    fn pending(&mut self) -> PendingExplanation {
        let mut told = PendingExplanation::new(self.metadata(), "waiting for a node", self.words());
        told.message = self.words();
        told.nodes = self.some(4, |dice| NodeVerdict {
            node: dice.name(),
            fits: dice.coin(),
            filters: dice.some(9, |dice| FilterVerdict {
                filter: "PodTopologySpread".into(),
                passes: dice.coin(),
                reasons: Vec::new(),
                compared: dice.words(),
                used_by: dice.some(3, |dice| Use {
                    pod: format!("{}/{}", dice.name(), dice.name()),
                    amount: dice.words(),
                }),
            }),
            change: dice.coin().then(|| dice.change()),
            port_holders: dice.some(3, |dice| PortHolder {
                address: dice.ip().to_string(),
                port: dice.port(),
                protocol: "TCP".into(),
                pid: 4_194_304,
                command: dice.words(),
                pod: dice.coin().then(|| dice.name()),
            }),
        });
        told.smallest_change = self.coin().then(|| self.change());
        told.preemption = self.coin().then(|| Preemption {
            considered: self.coin(),
            why: self.words(),
            victims: self.some(9, |dice| format!("{}/{}", dice.name(), dice.name())),
        });
        told.waits = self.some(3, |dice| Wait {
            what: "container".into(),
            container: dice.coin().then(|| dice.name()),
            reason: dice.words(),
            since: dice.coin().then(|| "2026-01-01T00:00:00Z".into()),
            last_error: dice.coin().then(|| dice.words()),
            next_try: dice.coin().then(|| dice.words()),
        });
        told.missing = self.some(3, |dice| Missing::new(dice.name(), dice.words()));
        told
    }
}

/// How wide a line is on a terminal: Korean and Chinese characters take two columns.
fn width(line: &str) -> usize {
    line.chars().map(|c| if ('\u{1100}'..='\u{ffe6}').contains(&c) && c != '…' { 2 } else { 1 }).sum()
}

fn begins_like_a_namespace(line: &str) -> bool {
    Kind::ALL.iter().any(|kind| line.trim_start().starts_with(kind.name()))
}

/// Looks at a text, and at the same with colours, which must hide no character.
fn check(seed: u64, show: impl Fn(Paint) -> String) -> String {
    let plain = show(Paint::Plain);
    let wide: Vec<&str> =
        plain.lines().filter(|line| width(line) > 100 && !line.starts_with("  how: ")).collect();
    assert!(wide.is_empty(), "seed {seed}: too wide: {wide:#?}");
    let mut uncoloured = show(Paint::Colour);
    for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[33m"] {
        uncoloured = uncoloured.replace(code, "");
    }
    assert_eq!(uncoloured, plain, "seed {seed}");
    plain
}

#[test]
fn a_pod_fits_the_width_and_has_one_line_a_namespace() {
    for seed in 0..ROUNDS {
        let mut dice = Dice::of(seed);
        let facts = dice.pod();
        let mut told = judge::pod(&facts);
        told.policies = dice.some(4, |dice| format!("{}/{}", dice.name(), dice.name()));
        told.pod_security = PodSecurity {
            level: "baseline".into(),
            next: "restricted".into(),
            kept_from_it_by: dice.some(4, Dice::words),
        };
        let text = check(seed, |paint| text::pod(&told, paint));
        let lines: Vec<&str> = text.lines().filter(|line| begins_like_a_namespace(line)).collect();
        assert_eq!(lines.len(), told.namespaces.len(), "seed {seed}: {lines:#?}");
        for (line, own) in lines.iter().zip(&told.namespaces) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let wanted = [own.namespace.to_string(), own.word.to_string(), own.inode.to_string()];
            assert_eq!(words[..3], wanted, "seed {seed}: {line}");
        }
    }
}

#[test]
fn a_node_fits_the_width() {
    for seed in 0..ROUNDS {
        let mut dice = Dice::of(seed);
        let pods: Vec<_> = dice.some(8, |dice| judge::pod(&dice.pod()));
        let name = dice.name();
        let told = node(&name, Inodes([1, 2, 3, 4, 5, 6, 7, 8]), dice.below(5_000), &pods);
        check(seed, |paint| text::node(&told, paint));
    }
}

#[test]
fn what_is_waited_for_fits_the_width() {
    for seed in 0..ROUNDS {
        let told = Dice::of(seed).pending();
        check(seed, |paint| text::pending(&told, paint));
    }
}
