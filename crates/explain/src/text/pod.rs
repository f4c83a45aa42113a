//! `explain pod` as text.

use std::fmt::Write as _;

use super::{Paint, heading, missing, warned, wrapped};
use crate::devices::NodeDevices;
use crate::namespaces::Word;
use crate::pod::{Container, Endpoint, Listener, Namespace, PodExplanation, Process, Security, ServicePort};
use crate::{counted, listed};

/// The whole explanation. One line a namespace, `net   own   4026532201   …`, and no other line begins with
/// a namespace's name.
pub fn pod(told: &PodExplanation, paint: Paint) -> String {
    let mut out = String::new();
    head(&mut out, told, paint);
    for namespace in &told.namespaces {
        line(&mut out, namespace, paint);
    }
    sandbox(&mut out, told);
    network(&mut out, told, paint);
    listeners(&mut out, told, paint);
    for container in &told.containers {
        self::container(&mut out, container, paint);
    }
    security(&mut out, told, paint);
    missing(&mut out, paint, &told.missing);
    out
}

fn head(out: &mut String, told: &PodExplanation, paint: Paint) {
    let place = match (&*told.node, &told.pod_ip) {
        ("", _) => ", on no node yet".to_owned(),
        (node, None) => format!(" on {node}"),
        (node, Some(ip)) => format!(" on {node}, address {ip}"),
    };
    let name = format!("{}/{}", told.metadata.namespace, told.metadata.name);
    wrapped(out, "", &format!("Pod {}{place}", paint.bold(&name)));
    if let Some(past) = &told.past {
        wrapped(out, "  ", &format!("PAST: {past}; this is how it was"));
    }
    if !told.namespaces.is_empty() {
        out.push('\n');
        out.push_str("NAMESPACE WORD    INODE        WHO HOLDS IT, AND WHAT A SHARED ONE EXPOSES\n");
    }
}

pub(super) fn line(out: &mut String, own: &Namespace, paint: Paint) {
    let mark = match own.word {
        Word::Own => ' ',
        Word::Host | Word::Shared => '!',
    };
    let head = format!("{:<9} {:<7} {:<10} {mark} ", own.namespace, own.word, own.inode);
    match own.word {
        Word::Own => wrapped(out, &head, &own.sentence),
        Word::Host | Word::Shared => warned(out, paint, &head, &own.sentence),
    }
}

/// What `pause` has for itself alone.
fn sandbox(out: &mut String, told: &PodExplanation) {
    let Some(pause) = &told.sandbox else { return };
    let seen = |own: &&Namespace| !told.namespaces.iter().any(|other| other.inode == own.inode);
    let (mut own, mut host) = (Vec::new(), Vec::new());
    for namespace in pause.namespaces.iter().filter(seen) {
        let name = format!("{} {}", namespace.namespace, namespace.inode);
        if namespace.word == Word::Host { host.push(name) } else { own.push(name) }
    }
    let mut text = format!("PID {} on the node", pause.pid);
    if !own.is_empty() {
        let _ = write!(text, "; it alone is in {}", listed(&own));
    }
    if !host.is_empty() {
        let _ = write!(text, "; of the node's it is in {}", listed(&host));
    }
    wrapped(out, "(pause)   ", &text);
    if told.nested {
        let text =
            format!("whether its processes around {} are in any of these is not seen from there", told.node);
        wrapped(out, "(machine) ", &text);
    }
}

fn network(out: &mut String, told: &PodExplanation, paint: Paint) {
    if told.interfaces.is_empty() {
        return;
    }
    heading(out, paint, "Interfaces and routes");
    for link in &told.interfaces {
        let addresses = match link.addresses.as_slice() {
            [] => "no address".to_owned(),
            some => some.join(" "),
        };
        let kind = if link.kind.is_empty() { String::new() } else { format!("{}, ", link.kind) };
        let state = if link.up { "up" } else { "down" };
        let head = format!("  dev {:<15} ", link.name);
        wrapped(out, &head, &format!("{addresses} ({kind}{state}, MTU {})", link.mtu));
    }
    for route in &told.routes {
        let via = route.via.as_ref().map(|via| format!(" via {via}")).unwrap_or_default();
        wrapped(out, "  ", &format!("route to {}{via} by {}", route.destination, route.device));
    }
}

fn listeners(out: &mut String, told: &PodExplanation, paint: Paint) {
    heading(out, paint, "Listening sockets, and from where each is reachable");
    if told.listeners.is_empty() {
        // Every network that was looked at has an interface, its loopback.
        let nothing_runs = !told.containers.is_empty()
            && told.sandbox.is_none()
            && told.containers.iter().all(|own| own.process.is_none());
        out.push_str(match (told.interfaces.is_empty(), told.node.is_empty()) {
            (false, _) => "  none of this pod's\n",
            (true, true) => "  none: the pod is on no node\n",
            (true, false) if nothing_runs => "  none: nothing of the pod runs\n",
            (true, false) => "  not known\n",
        });
    }
    for listener in &told.listeners {
        let head = format!("  {:<22} ", socket(listener));
        wrapped(out, &head, &owner(listener.process.as_ref()));
        for reach in &listener.reachable {
            let head = format!("    from {:<12} {:<5} ", reach.from, reach.answer);
            wrapped(out, &head, &reach.reason);
        }
    }
    if !told.policies.is_empty() {
        wrapped(out, "  policies for what comes in: ", &told.policies.join(" "));
    }
    if !told.other_listeners.is_empty() {
        let ports: Vec<String> = told.other_listeners.iter().map(socket).collect();
        wrapped(out, "  and of others there: ", &ports.join(" "));
    }
    for port in &told.host_ports {
        let listens = told.listeners.iter().any(|own| {
            own.port == port.container_port && own.protocol == port.protocol && !own.reachable.is_empty()
        });
        let note = if listens { "" } else { "; nothing listens there" };
        let from = format!("{}:{}/{}", port.host_ip, port.host_port, port.protocol);
        let text = format!("{from} leads to port {} of the pod{note}", port.container_port);
        wrapped(out, "  host port ", &text);
    }
    for port in &told.services {
        wrapped(out, "  service ", &service(port, &told.node));
    }
}

fn service(port: &ServicePort, node: &str) -> String {
    let door = port.node_port.map(|door| format!(", NodePort {door}")).unwrap_or_default();
    let name = match port.cluster_ip.as_str() {
        "" | "None" if port.port != port.target_port => {
            // Its name stands for the pod itself, where nobody translates a port.
            format!("{}, which has no address of its own and translates no port,", port.service)
        }
        "" | "None" => format!("{}, which has no address of its own,", port.service),
        ip => format!("{} at {ip}:{}/{}{door}", port.service, port.port, port.protocol),
    };
    let target = format!("port {} of the pod", port.target_port);
    let leads = match port.endpoint {
        Some(Endpoint::Ready) => format!("{name} leads to {target}"),
        Some(Endpoint::Ending) => {
            format!("{name} leads to {target}, which ends, while no other endpoint is ready")
        }
        Some(Endpoint::NotReady) => {
            format!("{name} would lead to {target}; its endpoint is not ready")
        }
        Some(Endpoint::Absent) => format!("{name} would lead to {target}; the pod is no endpoint of it"),
        None => format!("{name} leads to {target} while the pod is a ready endpoint, which is not known"),
    };
    let mut only = Vec::new();
    if port.internal_traffic_policy == "Local" && !matches!(port.cluster_ip.as_str(), "" | "None") {
        only.push(format!("at its own address for {node} and its pods alone (internalTrafficPolicy Local)"));
    }
    if let Some(door) = port.node_port.filter(|_| port.external_traffic_policy == "Local") {
        only.push(format!("at {door} from outside on {node} alone (externalTrafficPolicy Local)"));
    }
    if only.is_empty() { leads } else { format!("{leads}: {}", only.join(", and ")) }
}

fn socket(listener: &Listener) -> String {
    let address = match listener.address.contains(':') {
        true => format!("[{}]", listener.address),
        false => listener.address.clone(),
    };
    let device = listener.device.as_ref().map(|device| format!("%{device}")).unwrap_or_default();
    format!("{address}{device}:{}/{}", listener.port, listener.protocol)
}

fn owner(process: Option<&Process>) -> String {
    let Some(process) = process else { return "no process could be found".into() };
    let pid = process.pid.map(|pid| format!(" (PID {pid} on the node)")).unwrap_or_default();
    let of = match (&process.pod, &process.container) {
        (_, Some(container)) => format!(", container {container}"),
        (Some(pod), None) => format!(", pod {pod}"),
        (None, None) => String::new(),
    };
    format!("{}{pid}{of}", process.command)
}

fn container(out: &mut String, container: &Container, paint: Paint) {
    let pid = container.process.as_ref().map(|own| format!(", PID {} on the node", own.pid));
    heading(
        out,
        paint,
        &format!("Container {} ({}{})", container.name, container.state, pid.unwrap_or_default()),
    );
    if let Some(security) = &container.security {
        privileges(out, security, paint);
    }
    for path in &container.writable_host_paths {
        let text = format!("{} of the node, at {}", path.path, path.mount);
        warned(out, paint, MAY_WRITE, &text);
    }
    if let Some(devices) = &container.writable_devices {
        warned(out, paint, MAY_WRITE, &self::devices(devices));
    }
    let nothing = container.writable_host_paths.is_empty() && container.writable_devices.is_none();
    if nothing && container.security.is_some() {
        out.push_str("  may write            no path of the node\n");
    }
}

const MAY_WRITE: &str = "  may write          ! ";

fn devices(told: &NodeDevices) -> String {
    let count = counted(told.count, "device of the node", "devices of the node");
    let mut named = Vec::new();
    if !told.disks.is_empty() {
        let disks = if told.disks.len() == 1 { "disk" } else { "disks" };
        named.push(format!("the {disks} {}", told.disks.join(" ")));
    }
    if !told.telling.is_empty() {
        named.push(told.telling.join(" "));
    }
    if named.is_empty() { count } else { format!("{count}, among them {}", listed(&named)) }
}

fn privileges(out: &mut String, security: &Security, paint: Paint) {
    let Security { effective_user, effective_group, .. } = security;
    let further = security.supplementary_groups.iter().filter(|group| **group != *effective_group);
    let further: Vec<String> = further.map(u32::to_string).collect();
    let also = match further.len() {
        0 => String::new(),
        1 => format!(", also group {}", further[0]),
        _ => format!(", also groups {}", further.join(" ")),
    };
    wrapped(out, "  runs as              ", &format!("UID {effective_user}, GID {effective_group}{also}"));
    let usual: Vec<&str> = security
        .capabilities
        .iter()
        .filter(|name| !security.beyond_default.contains(name))
        .map(String::as_str)
        .collect();
    let usual = if usual.is_empty() { "none".to_owned() } else { usual.join(" ") };
    wrapped(out, "  capabilities         ", &usual);
    if !security.beyond_default.is_empty() {
        warned(out, paint, "    beyond the default ! ", &security.beyond_default.join(" "));
    }
    if !security.gainable.is_empty() {
        let text = format!("{}, by a program with the set-user-ID bit", security.gainable.join(" "));
        warned(out, paint, "    may gain           ! ", &text);
    }
    if security.own_users {
        wrapped(out, "    both hold          ", "in the pod's own user namespace alone");
    }
    let gain = if security.no_new_privileges { "set" } else { "not set" };
    let _ = writeln!(out, "  system call filter   {}; no-new-privileges {gain}", security.seccomp);
}

fn security(out: &mut String, told: &PodExplanation, paint: Paint) {
    heading(out, paint, "Pod Security");
    let level = &told.pod_security;
    match &*level.level {
        "unknown" => out.push_str("  the strictest level that it meets is not known\n"),
        level => {
            let _ = writeln!(out, "  {level} is the strictest level that it meets");
        }
    }
    for why in &level.kept_from_it_by {
        wrapped(out, "  ", &format!("not {}: {why}", level.next));
    }
}

#[cfg(test)]
mod tests {
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
        let mut told = PodExplanation::empty(Metadata {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u".into(),
        });
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
        assert_eq!(
            service(&same, "n1"),
            "d/s, which has no address of its own, leads to port 8080 of the pod"
        );
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
}
