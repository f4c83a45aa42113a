//! Pods as facts, and what is said of them.

use super::*;
use crate::facts::Node;
use crate::namespaces::Inodes;
use crate::pod::Security;

fn container(name: &str, inodes: [u64; 8], capabilities: &[&str]) -> facts::Container {
    facts::Container {
        name: name.into(),
        state: "running".into(),
        holder: Some(Holder { name: name.into(), pid: 20, inodes: Inodes(inodes) }),
        security: Some(Security {
            effective_user: 1000,
            capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            ..Security::default()
        }),
        writable_paths: Vec::new(),
        devices: Vec::new(),
    }
}

fn facts(containers: Vec<facts::Container>, pause: [u64; 8]) -> Pod {
    Pod {
        node: Node {
            name: "n1".into(),
            inodes: Inodes([1, 2, 3, 4, 5, 6, 7, 8]),
            processes: 37,
            links: 4,
            ipc_objects: 0,
            ..facts::Node::default()
        },
        sandbox: Some(Holder { name: "pause".into(), pid: 10, inodes: Inodes(pause) }),
        containers,
        ..Pod::default()
    }
}

fn lines(facts: &Pod) -> Vec<String> {
    let line = |own: &Namespace| format!("{} {} {}: {}", own.namespace, own.word, own.inode, own.sentence);
    pod(facts).namespaces.iter().map(line).collect()
}

#[test]
fn a_plain_pod_of_two_containers() {
    let one = container("one", [11, 12, 13, 14, 15, 6, 17, 8], &["KILL"]);
    let two = container("two", [11, 22, 13, 14, 25, 6, 27, 8], &["KILL"]);
    let told = lines(&facts(vec![one, two], [11, 32, 13, 14, 35, 6, 37, 8]));
    expect_test::expect![[r#"
        net own 11: held by pause, shared by containers one and two
        pid own 12: held by container one, which sees its own processes alone
        pid own 22: held by container two, which sees its own processes alone
        ipc own 13: held by pause, shared by containers one and two
        uts own 14: held by pause, shared by containers one and two
        mnt own 15: held by container one: its root file system and mounts
        mnt own 25: held by container two: its root file system and mounts
        user host 6: UID 0 inside is UID 0 of n1
        cgroup own 17: held by container one, which sees its own group as the root
        cgroup own 27: held by container two, which sees its own group as the root
        time host 8: its clocks are n1's
    "#]]
    .assert_eq(&(told.join("\n") + "\n"));
}

#[test]
fn the_nodes_namespaces_say_what_they_expose() {
    let root = container("c", [1, 2, 3, 4, 15, 6, 17, 8], &["KILL"]);
    let told = lines(&facts(vec![root], [1, 2, 3, 4, 35, 6, 37, 8]));
    assert_eq!(told[1], "pid host 2: sees and can signal all 37 processes of n1, the node agent among them");
    assert_eq!(told[0], "net host 1: uses n1's 4 interfaces, its ports and what listens on its 127.0.0.1");
    let meek = container("c", [1, 2, 3, 4, 15, 6, 17, 8], &[]);
    let told = lines(&facts(vec![meek], [1, 2, 3, 4, 35, 6, 37, 8]));
    assert_eq!(told[1], "pid host 2: sees all 37 processes of n1, can signal those of UID 1000 there");
}

#[test]
fn who_joined_is_named() {
    let own = container("c", [11, 12, 13, 14, 15, 6, 17, 8], &[]);
    let mut facts = facts(vec![own], [11, 32, 13, 14, 35, 6, 37, 8]);
    let stranger = Process { pid: 99, command: "tcpdump".into(), pod: None, container: None };
    facts.outsiders.insert((Kind::Net, 11), vec![stranger]);
    assert_eq!(
        lines(&facts)[0],
        "net shared 11: held by pause, used by container c; process 99 (tcpdump) uses its network too"
    );
}

#[test]
fn before_containers_run_pause_speaks_for_the_pod() {
    let told = lines(&facts(Vec::new(), [11, 32, 13, 14, 35, 6, 37, 8]));
    // What each container has for itself can't be seen on pause.
    assert_eq!(
        told,
        [
            "net own 11: held by pause",
            "ipc own 13: held by pause",
            "uts own 14: held by pause",
            "user host 6: n1's: pause is in it, as containers of the pod are when they run",
            "time host 8: n1's: pause is in it, as containers of the pod are when they run",
        ]
    );
    let said = pod(&facts(Vec::new(), [11, 2, 13, 14, 35, 6, 37, 8])).missing;
    assert_eq!(
        said,
        [Missing::new(
            "namespaces pid, mnt and cgroup of the containers",
            "no container of the pod runs now"
        )]
    );
    let running = container("c", [11, 12, 13, 14, 15, 6, 17, 8], &[]);
    assert_eq!(pod(&facts(vec![running], [11, 2, 13, 14, 35, 6, 37, 8])).missing, []);
}

/// The sentence on one kind of namespace of a pod whose containers are these, on a node whose
/// namespaces are 1 to 8.
fn sentence(kind: Kind, containers: Vec<facts::Container>, pause: [u64; 8]) -> String {
    let told = pod(&facts(containers, pause));
    let own = told.namespaces.iter().find(|own| own.namespace == kind).expect("it is told");
    format!("{}: {}", own.word, own.sentence)
}

#[test]
fn each_namespace_of_the_node_exposes_something_of_its_own() {
    let all = || vec![container("c", [1, 2, 3, 4, 5, 6, 7, 8], &["KILL"])];
    let pause = [1, 2, 3, 4, 5, 6, 7, 8];
    for (kind, expected) in [
        (Kind::Ipc, "host: uses n1's System V objects (none now), POSIX queues and /dev/shm"),
        (Kind::Uts, "host: has n1's host name"),
        (Kind::Mnt, "host: sees n1's files and mounts as they are"),
        (Kind::User, "host: UID 0 inside is UID 0 of n1"),
        (Kind::Cgroup, "host: sees all control groups of n1"),
        (Kind::Time, "host: its clocks are n1's"),
    ] {
        assert_eq!(sentence(kind, all(), pause), expected);
    }
    let mut few = facts(all(), pause);
    (few.node.ipc_objects, few.node.processes, few.node.links) = (1, 1, 1);
    let told = lines(&few);
    assert_eq!(told[0], "net host 1: uses n1's 1 interface, its ports and what listens on its 127.0.0.1");
    assert_eq!(told[1], "pid host 2: sees and can signal the one process of n1, the node agent among them");
    assert_eq!(told[2], "ipc host 3: uses n1's 1 System V object, POSIX queues and /dev/shm");
}

#[test]
fn what_pause_alone_is_in_exposes_nothing() {
    let pause = [1, 32, 13, 14, 35, 6, 37, 8];
    assert_eq!(
        sentence(Kind::Net, Vec::new(), pause),
        "host: n1's: pause is in it, as containers of the pod are when they run"
    );
    let told = pod(&facts(Vec::new(), pause));
    assert_eq!(told.namespaces[0].holder, "", "the node holds it");
    assert_eq!(told.namespaces[1].holder, "pause");
    let of_pause = told.sandbox.expect("it runs").namespaces;
    let user = container("c", [1, 12, 13, 14, 15, 16, 17, 18], &[]);
    let told = pod(&facts(vec![user], [1, 2, 13, 14, 35, 16, 37, 18]));
    let pid = told.sandbox.expect("it runs").namespaces.remove(1);
    assert_eq!(pid.sentence, "n1's: pause is in it, and does nothing there");
    assert_eq!(of_pause.len(), 8);
}

#[test]
fn one_container_that_may_signal_is_enough() {
    let on_node =
        |name: &str, capabilities: &[&str]| container(name, [11, 2, 13, 14, 15, 6, 17, 8], capabilities);
    let pause = [11, 32, 13, 14, 35, 6, 37, 8];
    let pid = |containers| sentence(Kind::Pid, containers, pause);
    let meek = "host: sees all 37 processes of n1, can signal those of UID 1000 there";
    let strong = "host: sees and can signal all 37 processes of n1, the node agent among them";
    assert_eq!(pid(vec![on_node("a", &[]), on_node("b", &["CHOWN"])]), meek);
    assert_eq!(pid(vec![on_node("a", &[]), on_node("b", &["KILL"])]), strong);
    // What is not known to be confined is not said to be.
    let mut unknown = on_node("b", &[]);
    unknown.security = None;
    assert_eq!(pid(vec![on_node("a", &[]), unknown]), strong);
}

#[test]
fn who_holds_a_namespace_is_named() {
    let own = |name: &str, inodes: [u64; 8]| container(name, inodes, &[]);
    let (one, two) = ([11, 12, 13, 14, 15, 16, 17, 18], [11, 12, 13, 14, 25, 16, 27, 18]);
    let both = || vec![own("one", one), own("two", two)];
    let by_pause = [11, 12, 13, 14, 35, 16, 37, 18];
    assert_eq!(
        sentence(Kind::Pid, both(), by_pause),
        "own: held by pause; containers one and two see and can signal each other"
    );
    assert_eq!(
        sentence(Kind::Pid, vec![own("one", one)], by_pause),
        "own: held by pause; container one sees pause beside itself"
    );
    assert_eq!(
        sentence(Kind::User, both(), by_pause),
        "own: held by pause, shared by containers one and two"
    );
    let gone = [91, 92, 93, 94, 95, 96, 97, 98];
    assert_eq!(sentence(Kind::Net, both(), gone), "own: shared by containers one and two");
    assert_eq!(sentence(Kind::Net, vec![own("one", one)], gone), "own: held by container one");
    let told = pod(&facts(both(), gone));
    assert_eq!(told.namespaces[0].holder, "one", "the first that is in it");
    assert_eq!(told.namespaces[0].containers, ["one", "two"]);
    assert_eq!(held(Kind::Net, false, &[]), "held by pause, now gone");
}

#[test]
fn of_many_who_joined_three_are_named() {
    let own = container("c", [11, 12, 13, 14, 15, 16, 17, 18], &[]);
    let stranger = |pid, pod: Option<&str>| Process {
        pid,
        command: "x".into(),
        pod: pod.map(str::to_owned),
        container: None,
    };
    let mut facts = facts(vec![own], [91; 8]);
    facts.outsiders.insert(
        (Kind::Pid, 12),
        vec![
            stranger(7, Some("a/p")),
            stranger(8, Some("a/p")),
            stranger(9, None),
            stranger(10, Some("a/q")),
        ],
    );
    assert!(
        lines(&facts)[1].ends_with("; pod a/p, pod a/q and process 9 (x) sees its processes too"),
        "{:?}",
        lines(&facts)[1]
    );
    for (pid, pod) in [(11, "a/r"), (12, "a/s")] {
        facts.outsiders.get_mut(&(Kind::Pid, 12)).unwrap().push(stranger(pid, Some(pod)));
    }
    assert!(lines(&facts)[1].contains("; pod a/p, pod a/q, pod a/r and 2 more "), "{:?}", lines(&facts)[1]);
    for (kind, inode, what) in [
        (Kind::Ipc, 13, "uses its shared memory and queues too"),
        (Kind::Uts, 14, "has its host name too"),
        (Kind::Mnt, 15, "sees its files too"),
        (Kind::User, 16, "has its user IDs too"),
        (Kind::Cgroup, 17, "sees its control groups too"),
        (Kind::Time, 18, "has its clocks too"),
    ] {
        facts.outsiders.insert((kind, inode), vec![stranger(9, None)]);
        let told = pod(&facts).namespaces.into_iter().find(|own| own.namespace == kind).unwrap();
        assert!(told.sentence.ends_with(&format!("; process 9 (x) {what}")), "{}", told.sentence);
    }
}

#[test]
fn a_kind_that_the_kernel_has_not_is_not_told() {
    let told = pod(&facts(
        vec![container("c", [11, 12, 13, 14, 15, 16, 17, 0], &[])],
        [11, 12, 13, 14, 15, 16, 17, 0],
    ));
    assert!(told.namespaces.iter().all(|own| own.namespace != Kind::Time));
    let member = told.containers[0].process.as_ref().expect("it runs");
    assert_eq!((member.name.as_str(), member.pid, member.namespaces.len()), ("c", 20, 7));
    assert_eq!(told.sandbox.expect("it is there").namespaces.len(), 7);
}

#[test]
fn sockets_of_the_nodes_network_are_the_pods_or_somebody_elses() {
    let listens = |pod: Option<&str>, port| facts::Socket {
        protocol: facts::Protocol::Tcp,
        address: "0.0.0.0".parse().unwrap(),
        port,
        device: None,
        six_only: Some(false),
        process: Some(Process { pid: 5, command: "x".into(), pod: pod.map(str::to_owned), container: None }),
        also: Vec::new(),
    };
    let ports = |net: u64| {
        let inodes = [net, 12, 13, 14, 15, 6, 17, 8];
        let mut facts = facts(vec![container("c", inodes, &[])], [net, 32, 33, 34, 35, 6, 37, 8]);
        facts.metadata.name = "p".into();
        facts.metadata.namespace = "n".into();
        facts.pod_ip = Some("10.244.1.5".into());
        facts.sockets = vec![listens(Some("n/p"), 80), listens(Some("n/q"), 81), listens(None, 82)];
        let told = pod(&facts);
        let of = |list: &[Listener]| -> Vec<(u16, usize)> {
            list.iter().map(|own| (own.port, own.reachable.len())).collect()
        };
        (of(&told.listeners), of(&told.other_listeners))
    };
    // On the node's network those of others are told apart, without a word on how they are reached.
    assert_eq!(ports(1), (vec![(80, 4)], vec![(81, 0), (82, 0)]));
    // In the pod's own network all of them are the pod's door, whoever holds it.
    assert_eq!(ports(11), (vec![(80, 4), (81, 4), (82, 4)], vec![]));
}
