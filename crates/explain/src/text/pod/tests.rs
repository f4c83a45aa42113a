//! `explain pod` as text: its lines, and what is said of what is not known.

use super::*;
use crate::Metadata;
use crate::namespaces::Kind;
use crate::pod::{Member, WritablePath};
use crate::text::COLUMNS;

fn told() -> PodExplanation {
    let own = |namespace, word, inode, sentence: &str| Namespace {
        namespace,
        word,
        inode,
        sentence: sentence.into(),
        holder: String::new(),
        containers: Vec::new(),
        others: Vec::new(),
    };
    let mut told =
        PodExplanation::empty(Metadata { name: "web".into(), namespace: "default".into(), uid: "u".into() });
    told.node = "skiff-worker-1".into();
    told.pod_ip = Some("10.244.1.5".into());
    told.namespaces = vec![
        own(Kind::Net, Word::Own, 4_026_532_201, "held by pause, used by container web"),
        own(
            Kind::Pid,
            Word::Host,
            4_026_531_836,
            "sees and can signal all 37 processes of skiff-worker-1, the node agent among them",
        ),
    ];
    let pause = own(Kind::Mnt, Word::Own, 4_026_532_300, "held by pause");
    told.sandbox = Some(Member { name: "pause".into(), pid: 44, namespaces: vec![pause] });
    told.containers.push(Container {
        name: "web".into(),
        state: "running".into(),
        process: None,
        security: Some(Security {
            capabilities: vec!["CHOWN".into(), "NET_ADMIN".into()],
            beyond_default: vec!["NET_ADMIN".into()],
            supplementary_groups: vec![0, 3000, 4000],
            seccomp: "disabled".into(),
            ..Security::default()
        }),
        writable_host_paths: vec![WritablePath { mount: "/logs".into(), path: "/var/log".into() }],
        writable_devices: Some(NodeDevices {
            count: 90,
            disks: vec!["vda".into(), "vda1".into()],
            telling: vec!["mem".into(), "kvm".into()],
        }),
    });
    told
}

#[test]
fn one_line_a_namespace_and_nothing_else_begins_so() {
    let text = pod(&told(), Paint::Plain);
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let first = |line: &&str| line.split_whitespace().next().is_some_and(|word| names.contains(&word));
    assert_eq!(text.lines().filter(first).count(), 2, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn as_text() {
    expect_test::expect![[r#"
        Pod default/web on skiff-worker-1, address 10.244.1.5

        NAMESPACE WORD    INODE        WHO HOLDS IT, AND WHAT A SHARED ONE EXPOSES
        net       own     4026532201   held by pause, used by container web
        pid       host    4026531836 ! sees and can signal all 37 processes of skiff-worker-1, the node
                                       … agent among them
        (pause)   PID 44 on the node; it alone is in mnt 4026532300

        Listening sockets, and from where each is reachable
          not known

        Container web (running)
          runs as              UID 0, GID 0, also groups 3000 4000
          capabilities         CHOWN
            beyond the default ! NET_ADMIN
          system call filter   disabled; no-new-privileges not set
          may write          ! /var/log of the node, at /logs
          may write          ! 90 devices of the node, among them the disks vda vda1 and mem kvm

        Pod Security
          the strictest level that it meets is not known
    "#]]
    .assert_eq(&pod(&told(), Paint::Plain));
}

#[test]
fn what_was_not_looked_at_is_not_denied() {
    let sockets = |told: &PodExplanation| {
        let text = pod(told, Paint::Plain);
        let mut lines = text.lines().skip_while(|line| !line.starts_with("Listening"));
        lines.nth(1).unwrap_or_default().trim().to_owned()
    };
    let mut own = told();
    assert_eq!(sockets(&own), "not known", "its node told of no interface, and each has one");
    own.interfaces.push(crate::pod::Interface {
        name: "lo".into(),
        up: true,
        mtu: 65_536,
        kind: "loopback".into(),
        addresses: Vec::new(),
    });
    assert_eq!(sockets(&own), "none of this pod's");
    own.interfaces.clear();
    own.sandbox = None;
    assert_eq!(sockets(&own), "none: nothing of the pod runs", "of which its node told");
    own.containers.clear();
    assert_eq!(sockets(&own), "not known", "its node told nothing");
    let nowhere = PodExplanation::empty(Metadata::default());
    assert_eq!(sockets(&nowhere), "none: the pod is on no node");
}

#[test]
fn a_service_leads_where_its_endpoints_say() {
    let port = |ip: &str, endpoint| ServicePort {
        service: "d/s".into(),
        cluster_ip: ip.into(),
        port: 80,
        protocol: "TCP".into(),
        target_port: 8080,
        node_port: Some(30080),
        external_traffic_policy: String::new(),
        internal_traffic_policy: String::new(),
        endpoint,
    };
    let told = |ip: &str, endpoint| service(&port(ip, endpoint), "n1");
    let at = "d/s at 10.96.0.9:80/TCP, NodePort 30080";
    assert_eq!(told("10.96.0.9", Some(Endpoint::Ready)), format!("{at} leads to port 8080 of the pod"));
    assert_eq!(
        told("10.96.0.9", Some(Endpoint::NotReady)),
        format!("{at} would lead to port 8080 of the pod; its endpoint is not ready")
    );
    assert_eq!(
        told("None", Some(Endpoint::Ready)),
        "d/s, which has no address of its own and translates no port, leads to port 8080 of the pod"
    );
    let same = ServicePort { port: 8080, ..port("None", Some(Endpoint::Ready)) };
    assert_eq!(service(&same, "n1"), "d/s, which has no address of its own, leads to port 8080 of the pod");
    // Where its traffic policies keep to the node.
    let local = |ip: &str| {
        let (external_traffic_policy, internal_traffic_policy) = ("Local".into(), "Local".into());
        let port = port(ip, Some(Endpoint::Ready));
        service(&ServicePort { external_traffic_policy, internal_traffic_policy, ..port }, "n1")
    };
    assert_eq!(
        local("10.96.0.9"),
        format!(
            "{at} leads to port 8080 of the pod: at its own address for n1 and its pods alone \
             (internalTrafficPolicy Local), and at 30080 from outside on n1 alone \
             (externalTrafficPolicy Local)"
        )
    );
    assert!(!local("None").contains("internalTrafficPolicy"), "{}", local("None"));
}

fn process(pid: u32, command: &str) -> Process {
    Process {
        pid: Some(pid),
        command: command.into(),
        pod: Some("default/web".into()),
        container: Some("web".into()),
    }
}

fn listener(port: u16, held: &[Process]) -> Listener {
    Listener {
        protocol: "TCP".into(),
        address: "0.0.0.0".into(),
        port,
        device: None,
        six_only: None,
        process: held.first().cloned(),
        also_held_by: held.iter().skip(1).cloned().collect(),
        reachable: Vec::new(),
    }
}

/// The text in one line, however it is broken.
fn unbroken(told: &PodExplanation) -> String {
    let text = pod(told, Paint::Plain);
    text.split_whitespace().filter(|word| *word != "…").collect::<Vec<_>>().join(" ")
}

#[test]
fn everybody_who_holds_a_socket_is_named() {
    let mut own = told();
    own.listeners.push(listener(80, &[process(7, "one"), process(8, "two")]));
    let said = "0.0.0.0:80/TCP one (PID 7 on the node), container web; two (PID 8 on the node), container web, \
                each of which may take what comes";
    assert!(unbroken(&own).contains(said), "{}", unbroken(&own));
    let many: Vec<Process> = (1..=9).map(|pid| process(pid, "x")).collect();
    own.listeners = vec![listener(80, &many)];
    assert!(unbroken(&own).contains("x (PID 4 on the node), container web; 5 more, each of which may"));
}

#[test]
fn a_network_that_a_process_went_to_is_told_with_what_it_listens_at() {
    let said = |word, others: &[Process], processes: &[Process], ports: &[u16]| {
        let mut own = told();
        own.other_networks.push(OtherNetwork {
            word,
            inode: 4_026_533_001,
            others: others.to_vec(),
            processes: processes.to_vec(),
            listeners: ports.iter().map(|port| listener(*port, processes)).collect(),
        });
        let text = unbroken(&own);
        let (_, rest) = text.split_once("in another network: ").expect("it is told");
        rest.split_once(" Container web").expect("it is before that").0.to_owned()
    };
    let (one, two) = (process(7, "one"), process(8, "two"));
    let (first, second) =
        ("one (PID 7 on the node), container web", "two (PID 8 on the node), container web");
    assert_eq!(
        said(Word::Own, &[], std::slice::from_ref(&one), &[7777, 7778]),
        format!(
            "{first} is in number 4026533001, one that nobody else is in; it listens there at \
             0.0.0.0:7777/TCP and 0.0.0.0:7778/TCP, from where that is reached is not judged"
        )
    );
    assert_eq!(
        said(Word::Host, &[], &[one.clone(), two.clone()], &[80]),
        format!(
            "{first}; {second} are in number 4026533001, the node's own; they listen there at \
             0.0.0.0:80/TCP, from where that is reached is not judged"
        )
    );
    let stranger = Process { pid: Some(9), command: "x".into(), pod: None, container: None };
    assert_eq!(
        said(Word::Shared, &[stranger], std::slice::from_ref(&one), &[]),
        format!(
            "{first} is in number 4026533001, one that others are in too: x (PID 9 on the node); it does \
             not listen there"
        )
    );
    assert!(
        said(Word::Shared, &[], &[one, two], &[]).ends_with("others are in too; they do not listen there")
    );
}

#[test]
fn whose_users_are_its_own_has_other_numbers_inside() {
    let said = |inside: (Option<u32>, Option<u32>), own_users| {
        let mut own = told();
        let security = own.containers[0].security.as_mut().expect("it has some");
        (security.inside_user, security.inside_group) = inside;
        (security.effective_user, security.effective_group) = (8_454_144, 8_454_145);
        security.supplementary_groups.clear();
        security.own_users = own_users;
        let text = unbroken(&own);
        let (_, rest) = text.split_once("runs as ").expect("it is told");
        rest.split_once(" system call").expect("it is before that").0.to_owned()
    };
    let caps = "capabilities CHOWN beyond the default ! NET_ADMIN";
    assert_eq!(said((None, None), false), format!("UID 8454144, GID 8454145 {caps}"));
    let hold = "they hold in the pod's own user namespace alone, for what belongs to it";
    assert_eq!(
        said((Some(0), Some(1)), true),
        format!("UID 8454144, GID 8454145; inside UID 0, GID 1 {caps} {hold}")
    );
}
