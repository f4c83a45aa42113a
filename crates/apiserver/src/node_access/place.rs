//! Where an agent says that its node is. Others send there what is for the node's pods, and the API server asks
//! there; so an agent takes no address that is a pod's, a service's, the API's or another node's. An address that
//! the agent's connections come from is its own, whoever else says that it is theirs: a machine that has taken
//! the place of one that is gone need not wait for anybody.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::Range;
use crate::resources::find;
use crate::server::Inner;

/// What is known of addresses, none of it from the agent that writes.
pub(super) struct Known<'a> {
    pub(super) pods: Range,
    pub(super) services: Range,
    /// Where the API server is.
    pub(super) api: Ipv4Addr,
    /// It is on the node of the agent that writes.
    pub(super) has_api: bool,
    /// Where the agent's connections come from.
    pub(super) comes_from: &'a dyn Fn() -> Vec<IpAddr>,
    /// Which other node has this address, if any.
    pub(super) holder: &'a dyn Fn(IpAddr) -> Option<String>,
}

/// The field with an address that is told anew and is not the node's to take, and why not.
pub(super) fn fault(known: &Known<'_>, old: Option<&Value>, new: &Value) -> Option<String> {
    let before = old.map(internal).unwrap_or_default();
    let all = internal(new);
    let mut told = all.iter().filter(|(_, text)| before.iter().all(|(_, former)| former != text));
    told.find_map(|(index, text)| {
        Some(format!("set status.addresses[{index}].address to {text:?}: {}", wrong(known, text)?))
    })
}

fn wrong(known: &Known<'_>, text: &str) -> Option<String> {
    let Ok(ip) = text.parse::<IpAddr>() else { return Some("it is no IP address".into()) };
    let ip = ip.to_canonical();
    if let IpAddr::V4(ip) = ip {
        if known.pods.contains(ip) {
            return Some(format!("it is of the pods' range {}", known.pods));
        }
        if known.services.contains(ip) {
            return Some(format!("it is of the services' range {}", known.services));
        }
    }
    let why = if ip == known.api && !known.has_api {
        "it is the API server's".to_owned()
    } else if is_another_place_everywhere(ip) {
        "it is another place on each node".to_owned()
    } else {
        format!("it is node {:?}'s", (known.holder)(ip)?)
    };
    (!(known.comes_from)().contains(&ip)).then_some(why)
}

/// Loopback, link, multicast and the like: who is sent there is sent to itself, or to many.
fn is_another_place_everywhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()
        }
    }
}

/// Which node beside this one has an address, by what is stored.
pub(super) fn holder(server: &Inner, own: &str, ip: IpAddr) -> Option<String> {
    let nodes = find("", "nodes").expect("nodes are in the table");
    let view = server.caches.of(nodes).view(0);
    let has = |text: &String| text.parse::<IpAddr>().is_ok_and(|theirs| theirs.to_canonical() == ip);
    let mut others = view.objects.values().filter(|other| other.name() != own);
    let other = others.find(|other| {
        let stored = &mut serde_json::Deserializer::from_slice(&other.body);
        read_internal(stored).iter().any(|(_, text)| has(text))
    })?;
    Some(other.name().to_owned())
}

/// The addresses that others use, each with its place in the list.
fn internal(node: &Value) -> Vec<(usize, String)> {
    read_internal(node)
}

fn read_internal<'de>(node: impl Deserializer<'de>) -> Vec<(usize, String)> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Stored {
        status: Option<Status>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        addresses: Option<Vec<Option<Address>>>,
    }
    #[derive(Deserialize)]
    struct Address {
        #[serde(rename = "type", default)]
        kind: String,
        #[serde(default)]
        address: String,
    }
    let all = Stored::deserialize(node).unwrap_or_default().status.unwrap_or_default().addresses;
    let all = all.unwrap_or_default().into_iter().enumerate();
    all.filter_map(|(index, address)| Some((index, address?)))
        .filter(|(_, address)| address.kind == "InternalIP")
        .map(|(index, address)| (index, address.address))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(addresses: &[&str]) -> Value {
        let mut all = vec![json!({"type": "Hostname", "address": "a"})];
        all.extend(addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})));
        json!({"metadata": {"name": "a"}, "status": {"addresses": all}})
    }

    fn said(old: &[&str], new: &[&str], has_api: bool, comes_from: &str) -> String {
        let comes_from = || vec![comes_from.parse().expect("an address")];
        let holder = |ip: IpAddr| (ip == Ipv4Addr::new(10, 0, 0, 3)).then(|| "b".to_owned());
        let known = Known {
            pods: "10.244.0.0/16".parse().expect("a range"),
            services: "10.96.0.0/16".parse().expect("a range"),
            api: Ipv4Addr::new(10, 0, 0, 1),
            has_api,
            comes_from: &comes_from,
            holder: &holder,
        };
        fault(&known, Some(&node(old)), &node(new)).unwrap_or_default()
    }

    #[test]
    fn an_address_is_a_nodes_own_or_nobodys() {
        let told = |ip: &str| said(&["10.0.0.2"], &[ip], false, "10.0.0.2");
        let refused = |ip: &str, why: &str| {
            assert_eq!(told(ip), format!("set status.addresses[1].address to {ip:?}: {why}"));
            // Beside its own, too; what stands already is not asked again.
            let second = said(&["10.0.0.2"], &["10.0.0.2", ip], false, "10.0.0.2");
            assert_eq!(second, format!("set status.addresses[2].address to {ip:?}: {why}"));
            assert_eq!(said(&[ip], &[ip, "10.0.0.2"], false, "10.0.0.2"), "", "{ip}");
        };
        for ip in ["10.0.0.2", "10.0.0.9", "192.0.2.7", "2001:db8::7"] {
            assert_eq!(told(ip), "", "it may move to {ip}");
        }
        refused("10.244.2.7", "it is of the pods' range 10.244.0.0/16");
        refused("::ffff:10.244.2.7", "it is of the pods' range 10.244.0.0/16");
        refused("10.96.0.1", "it is of the services' range 10.96.0.0/16");
        refused("10.0.0.1", "it is the API server's");
        refused("10.0.0.3", "it is node \"b\"'s");
        refused("::ffff:10.0.0.3", "it is node \"b\"'s");
        for ip in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "fe80::1"] {
            refused(ip, "it is another place on each node");
        }
        for none in ["", "node.example", "010.0.0.2", "10.0.0.2/24"] {
            refused(none, "it is no IP address");
        }
    }

    #[test]
    fn what_its_connections_come_from_is_a_nodes_own_but_no_pods_address_is() {
        for ip in ["10.0.0.1", "10.0.0.3", "127.0.0.1"] {
            assert_eq!(said(&[], &[ip], false, ip), "");
        }
        assert_eq!(said(&[], &["10.0.0.1"], true, "127.0.0.1"), "", "the API server is there");
        for ip in ["10.244.2.7", "10.96.0.1"] {
            assert_ne!(said(&[], &[ip], true, ip), "");
        }
    }

    #[test]
    fn addresses_are_read_alike_of_an_object_and_of_what_is_stored() {
        for node in [
            node(&["10.0.0.2"]),
            json!({"status": {"addresses": [null, {}, {"type": "InternalIP"}]}}),
            json!({"status": {"addresses": null}}),
            json!({"status": null}),
            json!({}),
        ] {
            let text = node.to_string();
            let stored = read_internal(&mut serde_json::Deserializer::from_str(&text));
            assert_eq!(internal(&node), stored, "{text}");
        }
        assert_eq!(internal(&node(&["10.0.0.2"])), [(1, "10.0.0.2".to_owned())]);
    }
}
