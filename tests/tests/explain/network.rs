//! I1: interfaces, addresses, routes and listening sockets, as `ip` and `ss` tell them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_tests::Cluster;

use super::truth::text;

fn same<T: PartialEq + std::fmt::Debug>(said: T, shown: T, what: &str) -> Result<(), String> {
    if said == shown { Ok(()) } else { Err(format!("{what}: told {said:?}, shown {shown:?}")) }
}

/// What `ss` shows of a socket.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// The link that it is bound to, or nothing.
    device: String,
    /// It takes IPv6 alone.
    six_only: bool,
    /// Who holds it.
    pids: BTreeSet<u64>,
}

/// Those of `users:(("peer",pid=7,fd=3),("peer",pid=8,fd=0))`.
fn pids(line: &str) -> BTreeSet<u64> {
    let parts = line.split("pid=").skip(1);
    parts.filter_map(|part| part.split(',').next()?.parse().ok()).collect()
}

/// Interfaces, addresses, routes and listening sockets, against `ip` and `ss` in the pod's own network. In the
/// node's network other pods come and go between the question and the look, so that what differs may be theirs.
pub(crate) fn check_network(cluster: &Cluster, node: &str, told: &Value) -> Result<(), String> {
    let pid = told["sandbox"]["pid"].as_u64().expect("pause runs").to_string();
    let enter = |command: &[&str]| {
        let mut all = vec!["nsenter", "--net", "--target", &pid];
        all.extend(command);
        cluster.on_node(node, &all)
    };
    let inside = |command: &[&str]| enter(command).ok();
    let shown: BTreeSet<(String, String)> = inside(&["ip", "-o", "addr", "show"])
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((words.get(1)?.to_string(), words.get(3)?.to_string()))
        })
        .collect();
    let mut said = BTreeSet::new();
    for link in told["interfaces"].as_array().expect("interfaces") {
        for address in link["addresses"].as_array().expect("addresses") {
            said.insert((text(&link["name"]), text(address)));
        }
    }
    same(said, shown, "addresses")?;
    let shown: BTreeSet<(String, String, bool)> = inside(&["ip", "-o", "link", "show"])
        .lines()
        .filter_map(|line| {
            let name = line.split(": ").nth(1)?.split('@').next()?.to_owned();
            let mut words = line.split_whitespace().skip_while(|word| *word != "mtu");
            let flags = line.split_once('<')?.1.split_once('>')?.0;
            Some((name, words.nth(1)?.to_owned(), flags.split(',').any(|flag| flag == "UP")))
        })
        .collect();
    let links = told["interfaces"].as_array().expect("interfaces");
    let said: BTreeSet<(String, String, bool)> =
        links.iter().map(|link| (text(&link["name"]), link["mtu"].to_string(), link["up"] == true)).collect();
    same(said, shown, "links")?;
    for link in links.iter().filter(|link| link["kind"] == "veth" || link["kind"] == "bridge") {
        let shown = enter(&["ip", "-d", "-o", "link", "show", "dev", &text(&link["name"])]);
        if !shown.stdout.split_whitespace().any(|word| link["kind"] == word) {
            return Err(format!("{link}: {shown:?}"));
        }
    }
    let shown: BTreeSet<[String; 3]> = inside(&["ip", "-4", "route", "show"])
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| {
                let at = words.iter().position(|word| *word == name)?;
                words.get(at + 1).map(|word| (*word).to_owned())
            };
            Some([words.first()?.to_string(), after("dev")?, after("via").unwrap_or_default()])
        })
        .collect();
    let said: BTreeSet<[String; 3]> = told["routes"]
        .as_array()
        .expect("routes")
        .iter()
        .map(|route| {
            // `ip` leaves the length of a host's route out.
            let to = text(&route["destination"]).trim_end_matches("/32").to_owned();
            [to, text(&route["device"]), text(&route["via"])]
        })
        .collect();
    same(said, shown, "routes")?;
    for (flag, protocol) in [("-t", "TCP"), ("-u", "UDP")] {
        let shown: BTreeMap<(String, String), Shown> = inside(&["ss", "-H", "-l", "-n", "-p", "-e", flag])
            .lines()
            .filter_map(|line| {
                let local = line.split_whitespace().nth(3)?;
                let (address, port) = local.rsplit_once(':')?;
                let (address, device) = address.split_once('%').unwrap_or((address, ""));
                let address = address.trim_matches(['[', ']']);
                let address = if address == "*" { "::" } else { address };
                let shown = Shown {
                    device: device.to_owned(),
                    six_only: line.contains(" v6only:1"),
                    pids: pids(line),
                };
                Some(((address.to_owned(), port.to_owned()), shown))
            })
            .collect();
        let listeners =
            ["listeners", "otherListeners"].iter().filter_map(|list| told[*list].as_array()).flatten();
        let mut said = BTreeSet::new();
        for own in listeners.filter(|own| own["protocol"] == protocol) {
            let at = (text(&own["address"]), own["port"].to_string());
            let found = shown.get(&at).ok_or_else(|| format!("{at:?} listens not: {shown:?}"))?;
            let held = own["alsoHeldBy"].as_array().into_iter().flatten().chain([&own["process"]]);
            let told = Shown {
                device: text(&own["device"]),
                six_only: own["ipv6Only"] == true,
                pids: held.filter_map(|process| process["pid"].as_u64()).collect(),
            };
            if told != *found {
                return Err(format!("{own}: {found:?}"));
            }
            said.insert(at);
        }
        same(said, shown.into_keys().collect::<BTreeSet<_>>(), &format!("listening {protocol} sockets"))?;
    }
    Ok(())
}
