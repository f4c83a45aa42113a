//! What was told beside what was seen: one real connection against the ways of the model.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::walk::Start;
use super::{Live, Protocol, Sighting, Verdict, Way};

/// What agents listen for. They write and read these values as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    pub protocol: WireProtocol,
    /// What a datagram carries.
    pub token: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireProtocol {
    Tcp,
    Udp,
}

impl From<Protocol> for WireProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

/// Asks a node to listen, in itself and in these of its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    pub sandboxes: Vec<Ipv4Addr>,
    pub heard: Heard,
    pub millis: u64,
}

/// Asks a node to make the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub sandbox: Option<Ipv4Addr>,
    pub to: SocketAddrV4,
    pub heard: Heard,
    pub millis: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub outcome: String,
    pub source: Option<SocketAddrV4>,
}

/// A first packet on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    pub place: String,
    pub device: String,
    pub mark: u64,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// The pod that a start is in; `None` for a node. Nobody sends from outside.
pub fn sender(start: &Start) -> Option<Option<Ipv4Addr>> {
    match start {
        Start::Node => Some(None),
        Start::Sandbox { ip } => Some(Some(*ip)),
        Start::Link { .. } | Start::Outside => None,
    }
}

/// Judges one connection to `to`.
///
/// `own` is where the sender is: a pod, or a node.
pub fn judge(
    ways: &[Way],
    protocol: Protocol,
    to: SocketAddrV4,
    outcome: &Outcome,
    sights: &[Sight],
    own: &str,
) -> Live {
    // By its port, or where the sender's node has translated that before any device saw it, by where it goes.
    let meant = |sight: &&Sight| {
        let told = |hop: &super::Hop| {
            hop.place == own
                && hop.device.as_ref() == Some(&sight.device)
                && hop.source == sight.source.ip().to_string()
                && hop.destination == sight.destination.to_string()
        };
        sight.place == own && (sight.destination == to || ways.iter().any(|way| way.hops.iter().any(told)))
    };
    // Elsewhere somebody else's connection may have the same port.
    let sent = |sight: &&Sight| {
        sight.place == own && outcome.source.is_some_and(|source| sight.source.port() == source.port())
    };
    let first = sights.iter().find(sent).or_else(|| sights.iter().find(meant));
    let sights: Vec<&Sight> = match first {
        Some(first) => sights.iter().filter(|sight| sight.mark == first.mark).collect(),
        None => Vec::new(),
    };
    let saw = |(place, device): &(String, String)| {
        sights.iter().copied().find(|sight| sight.place == *place && sight.device == *device)
    };
    // The draw was the kernel's: the way that fits best is the one that was gone.
    let fit = |way: &&Way| {
        let (seen, missed): (Vec<_>, Vec<_>) = devices(way).into_iter().partition(|at| saw(at).is_some());
        seen.len() as i64 - 2 * missed.len() as i64
    };
    let Some(way) = ways.iter().max_by_key(fit) else {
        let outcome = outcome.outcome.clone();
        return Live { outcome, seen: Vec::new(), differences: Vec::new(), unseen: Vec::new() };
    };
    let expected = devices(way);
    let seen: Vec<Sighting> = expected
        .iter()
        .map(|at| {
            let sight = saw(at);
            Sighting {
                place: at.0.clone(),
                device: at.1.clone(),
                seen: sight.is_some(),
                packet: sight.map(|sight| format!("{} to {}", sight.source, sight.destination)),
            }
        })
        .collect();
    // What is not judged may have ended it before.
    let doubt = way.hops.iter().position(|hop| hop.doubtful).unwrap_or(way.hops.len());
    let beyond_doubt: Vec<(&String, &String)> =
        way.hops[doubt..].iter().filter_map(|hop| Some((&hop.place, hop.device.as_ref()?))).collect();
    let mut differences: Vec<String> = seen
        .iter()
        .filter(|sighting| !sighting.seen && !beyond_doubt.contains(&(&sighting.place, &sighting.device)))
        .map(|sighting| format!("it should have passed {} of {}", sighting.device, sighting.place))
        .collect();
    let threshold = threshold(way);
    for sight in sights.iter().filter(|sight| !threshold.contains(&(&sight.place, &sight.device))) {
        let at = (sight.place.clone(), sight.device.clone());
        let difference = format!("it was seen on {} of {}, where it should not come", at.1, at.0);
        if at.1 != "lo" && !expected.contains(&at) && !differences.contains(&difference) {
            differences.push(difference);
        }
    }
    if !agrees(way.verdict, protocol, &outcome.outcome) {
        differences.push(format!("told was {:?}, but the connection was {}", way.verdict, outcome.outcome));
    }
    if let (Some(told), Some(last)) = (&way.source_seen, expected.last().and_then(saw))
        && way.verdict == Verdict::Delivered
        && *told != last.source.ip().to_string()
    {
        differences.push(format!("the receiver saw {} as the sender, not {told}", last.source.ip()));
    }
    let unseen = unseen(way, protocol, &outcome.outcome);
    Live { outcome: outcome.outcome.clone(), seen, differences, unseen }
}

/// What one connection leaves open.
fn unseen(way: &Way, protocol: Protocol, outcome: &str) -> Vec<String> {
    let mut open = vec![
        "rules, routes and translations: packets are seen on devices, before and after those alone"
            .to_owned(),
    ];
    if protocol == Protocol::Udp && outcome == "silent" && way.verdict == Verdict::Delivered {
        open.push(
            "the answer's way: whoever takes a datagram need not answer one that it does not understand"
                .into(),
        );
    }
    if way.hops.iter().any(|hop| hop.doubtful) {
        open.push("what is marked with ? above: no verdict was given that could be compared".into());
    }
    open
}

fn agrees(verdict: Verdict, protocol: Protocol, outcome: &str) -> bool {
    match verdict {
        // Whoever takes a datagram need not answer it.
        Verdict::Delivered => outcome == "answered" || protocol == Protocol::Udp && outcome == "silent",
        Verdict::Refused => outcome == "refused",
        Verdict::Dropped => outcome == "silent",
        Verdict::Unreachable => !matches!(outcome, "answered" | "refused"),
        Verdict::Left | Verdict::Unknown => true,
    }
}

/// The devices that a way passes, in their order.
fn devices(way: &Way) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let last = way.hops.len().saturating_sub(1);
    for (index, hop) in way.hops.iter().enumerate() {
        let Some(device) = &hop.device else { continue };
        // A device that is down ends the way, and nothing passes it.
        let is_end = way.verdict == Verdict::Unreachable && index == last;
        let at = (hop.place.clone(), device.clone());
        if matches!(hop.kind.as_str(), "device" | "veth") && !is_end && !all.contains(&at) {
            all.push(at);
        }
    }
    all
}

/// Where a way ends at a device that is down: that device, and the one that its route leads over, as a bridge
/// over its port. The kernel tells its queues and neighbours of a lost carrier up to a second later (linkwatch),
/// and until then they let a packet come this far, so that it may be seen there or not.
fn threshold(way: &Way) -> Vec<(&String, &String)> {
    let Some((end, before)) = way.hops.split_last() else { return Vec::new() };
    if way.verdict != Verdict::Unreachable || !matches!(end.kind.as_str(), "device" | "bridge") {
        return Vec::new();
    }
    let route = before.iter().rev().find(|hop| hop.kind == "route" && hop.place == end.place);
    [Some(end), route]
        .into_iter()
        .flatten()
        .filter_map(|hop| Some((&hop.place, hop.device.as_ref()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Hop;

    fn way(verdict: Verdict, devices: &[(&str, &str)]) -> Way {
        let hop = |(place, device): &(&str, &str)| Hop {
            place: (*place).into(),
            kind: "device".into(),
            device: Some((*device).into()),
            ..Hop::default()
        };
        Way {
            chance: 1.0,
            verdict,
            summary: String::new(),
            advice: None,
            receiver: None,
            destination: None,
            source_seen: (verdict == Verdict::Delivered).then(|| "10.244.1.2".into()),
            hops: devices.iter().map(hop).collect(),
            answer: Vec::new(),
            answer_verdict: None,
        }
    }

    fn sight(place: &str, device: &str, to: &str) -> Sight {
        Sight {
            place: place.into(),
            device: device.into(),
            mark: 7,
            source: "10.244.1.2:40000".parse().unwrap(),
            destination: to.parse().unwrap(),
        }
    }

    #[test]
    fn the_way_that_was_gone_is_found_among_several_and_differences_are_told() {
        let to = "10.96.0.9:80".parse().unwrap();
        let one = way(Verdict::Delivered, &[("pod a", "eth0"), ("node n1", "veth1"), ("pod b", "eth0")]);
        let other = way(Verdict::Delivered, &[("pod a", "eth0"), ("node n1", "veth1"), ("pod c", "eth0")]);
        let outcome = |outcome: &str| Outcome { outcome: outcome.into(), source: None };
        let sights = [
            sight("pod a", "eth0", "10.96.0.9:80"),
            sight("node n1", "veth1", "10.96.0.9:80"),
            sight("pod c", "eth0", "10.244.1.9:8080"),
            Sight { mark: 8, ..sight("node n1", "eth0", "10.0.0.1:1") },
        ];
        let live = judge(&[one.clone(), other], Protocol::Tcp, to, &outcome("answered"), &sights, "pod a");
        assert_eq!(live.differences, Vec::<String>::new());
        assert!(live.seen.iter().all(|sighting| sighting.seen));
        assert_eq!(live.seen[2].packet.as_deref(), Some("10.244.1.2:40000 to 10.244.1.9:8080"));
        let live = judge(&[one], Protocol::Tcp, to, &outcome("silent"), &sights, "pod a");
        assert_eq!(
            live.differences,
            [
                "it should have passed eth0 of pod b",
                "it was seen on eth0 of pod c, where it should not come",
                "told was Delivered, but the connection was silent",
            ]
        );
        let refused = way(Verdict::Refused, &[("pod a", "eth0"), ("node n1", "veth1")]);
        let live = judge(&[refused], Protocol::Tcp, to, &outcome("answered"), &sights[..2], "pod a");
        assert_eq!(live.differences, ["told was Refused, but the connection was answered"]);
    }

    #[test]
    fn a_device_that_went_down_just_now_and_the_bridge_before_it_may_have_seen_it_or_not() {
        let to = "10.244.2.2:80".parse().unwrap();
        let mut down =
            way(Verdict::Unreachable, &[("pod a", "eth0"), ("node n2", "eth0"), ("node n2", "veth2")]);
        let route = Hop { kind: "route".into(), device: Some("bridge".into()), ..down.hops[1].clone() };
        down.hops.insert(2, route);
        let outcome = Outcome { outcome: "silent".into(), source: Some("10.244.1.2:40000".parse().unwrap()) };
        let judged = |way: &Way, places: &[(&str, &str)]| {
            let sights: Vec<Sight> =
                places.iter().map(|(place, device)| sight(place, device, "10.244.2.2:80")).collect();
            judge(std::slice::from_ref(way), Protocol::Tcp, to, &outcome, &sights, "pod a").differences
        };
        let before = [("pod a", "eth0"), ("node n2", "eth0")];
        let later = [before.as_slice(), &[("node n2", "bridge"), ("node n2", "veth2")]].concat();
        assert_eq!(judged(&down, &before), Vec::<String>::new());
        assert_eq!(judged(&down, &later), Vec::<String>::new());
        let beyond = [later.as_slice(), &[("pod b", "eth0")]].concat();
        assert_eq!(judged(&down, &beyond), ["it was seen on eth0 of pod b, where it should not come"]);
        // What a rule drops does not even come to where its route leads.
        let dropped = Way { verdict: Verdict::Dropped, ..down };
        assert_eq!(
            judged(&dropped, &later)[..1],
            ["it was seen on bridge of node n2, where it should not come"]
        );
    }

    #[test]
    fn another_connection_with_the_same_port_is_not_taken_for_it() {
        let to = "10.244.2.2:80".parse().unwrap();
        let one = way(Verdict::Delivered, &[("pod a", "eth0"), ("node n2", "eth0")]);
        let outcome =
            Outcome { outcome: "answered".into(), source: Some("10.244.1.2:40000".parse().unwrap()) };
        let foreign = Sight { mark: 9, ..sight("node n2", "eth0", "10.100.0.9:6443") };
        let sights =
            [foreign, sight("pod a", "eth0", "10.244.2.2:80"), sight("node n2", "eth0", "10.244.2.2:80")];
        let live = judge(&[one], Protocol::Tcp, to, &outcome, &sights, "pod a");
        assert_eq!(live.differences, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_judged_is_no_fault_and_silence_of_datagrams_is_explained() {
        let to = "10.244.2.2:80".parse().unwrap();
        let outcome = Outcome { outcome: "silent".into(), source: Some("10.244.1.2:40000".parse().unwrap()) };
        let sights = [sight("pod a", "eth0", "10.244.2.2:80")];
        let mut one = way(Verdict::Unknown, &[("pod a", "eth0"), ("node n1", "cbr0"), ("pod b", "eth0")]);
        let table = Hop { kind: "filter".into(), doubtful: true, ..Hop::default() };
        one.hops.insert(1, table);
        let live = judge(std::slice::from_ref(&one), Protocol::Tcp, to, &outcome, &sights, "pod a");
        assert_eq!(live.differences, Vec::<String>::new());
        assert!(live.unseen.iter().any(|open| open.contains("marked with ?")), "{live:?}");
        // What comes before the doubt is still held against what was told.
        let live = judge(std::slice::from_ref(&one), Protocol::Tcp, to, &outcome, &[], "pod a");
        assert_eq!(live.differences, ["it should have passed eth0 of pod a"]);
        one.hops.remove(1);
        let live = judge(std::slice::from_ref(&one), Protocol::Tcp, to, &outcome, &sights, "pod a");
        assert_eq!(live.differences.len(), 2, "{live:?}");

        let datagram = way(Verdict::Delivered, &[("pod a", "eth0")]);
        let live = judge(&[datagram], Protocol::Udp, to, &outcome, &sights, "pod a");
        assert_eq!(live.differences, Vec::<String>::new());
        assert!(live.unseen.iter().any(|open| open.starts_with("the answer's way")), "{live:?}");
    }
}
