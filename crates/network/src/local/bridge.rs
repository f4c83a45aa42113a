//! The bridge that a node's sandboxes hang on, and what the kernel is told beside it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use skiff_sys::netlink::route::{self, Connection, Neighbour, ORIGIN};

use super::{Config, failure};
use crate::Error;

pub(super) fn set_up(links: &Connection, config: &Config, gateway: Ipv4Addr, mtu: u32) -> Result<(), Error> {
    let name = &config.bridge;
    links.add_bridge(name, mac(gateway), mtu)?;
    links.set_up(name)?;
    let bridge = link_index(links, name)?;
    // An address of an earlier range would make the node answer for others.
    for old in links.addresses()?.into_iter().filter(|this| this.link == bridge && this.ip != gateway) {
        links.delete_address(bridge, old.ip, old.prefix)?;
    }
    links.add_address(bridge, gateway, config.pod_cidr.prefix)?;

    sysctl("ipv4/ip_forward", "1")?;
    sysctl(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
    sysctl(&format!("ipv4/conf/{name}/proxy_arp_pvlan"), "1")?;
    // Answers on behalf of others are delayed by up to 0.8 s unless told otherwise.
    sysctl(&format!("ipv4/neigh/{name}/proxy_delay"), "0")?;
    // The kernel would tell sandboxes that they are neighbours; it listens to either setting.
    sysctl("ipv4/conf/all/send_redirects", "0")?;
    sysctl(&format!("ipv4/conf/{name}/send_redirects"), "0")?;
    // Sandboxes have no IPv6 address, and must not reach the node by one that no rule looks at.
    if Path::new("/proc/sys/net/ipv6").exists() {
        sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    // Where bridged frames go through the IP hooks as well, they are translated before they are routed,
    // and then meant for an isolated port.
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        sysctl("bridge/bridge-nf-call-iptables", "0")?;
    }

    // So that the node itself can open connections to services, which are then translated; with its own
    // address as the sender, to which everybody knows the way.
    let source = links.addresses()?.iter().any(|this| this.ip == config.node_ip).then_some(config.node_ip);
    let services = route::Route {
        destination: config.service_cidr.address,
        prefix: config.service_cidr.prefix,
        via: None,
        link: Some(bridge),
        source,
    };
    Ok(links.add_route(&services, ORIGIN)?)
}

pub(super) fn uplink_mtu(links: &Connection, node_ip: Ipv4Addr) -> Result<u32, Error> {
    const ETHERNET: u32 = 1500;
    let Some(address) = links.addresses()?.into_iter().find(|this| this.ip == node_ip) else {
        return Ok(ETHERNET);
    };
    let link = links.links()?.into_iter().find(|this| this.index == address.link);
    Ok(link.map_or(ETHERNET, |link| link.mtu.min(ETHERNET * 6)))
}

pub(super) fn link_index(links: &Connection, name: &str) -> Result<u32, Error> {
    let link = links.link(name)?;
    link.map(|link| link.index).ok_or_else(|| Error::Invalid(format!("the link {name} is gone")))
}

/// A hardware address that follows from the IP address: an address that is used again is then also the
/// same one in everybody's neighbour table.
pub(crate) fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Where a sandbox is, as seen from the bridge.
pub(super) fn neighbour(bridge: u32, ip: Ipv4Addr) -> Neighbour {
    Neighbour { link: bridge, ip, hardware: mac(ip) }
}

fn sysctl(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{name}");
    // Where settings may not be written, it is enough that they are right.
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| failure(format!("write {value} to {path}"), e))
}
