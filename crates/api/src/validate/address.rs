//! Addresses that traffic may be led to by objects of the API.

use std::net::{IpAddr, Ipv6Addr};

use super::cursor::At;
use super::ip;
use crate::status::Cause;

/// What may not stand behind a Service, nor lead to one: addresses that mean something else on each node
/// (its loopback, its link), so that a node would be made to speak to itself on a client's behalf.
pub(super) fn not_special(place: &At<'_>, faults: &mut Vec<Cause>) {
    let text = place.text();
    let mut invalid = |why: String| faults.push(Cause::invalid(place.path.clone(), text, why));
    let ip = match (ip::fault(text), text.parse::<IpAddr>()) {
        (None, Ok(ip)) => ip,
        (why, _) => return invalid(why.unwrap_or_default().to_owned()),
    };
    if ip.is_unspecified() {
        invalid(format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    if is_link_local(ip) {
        invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if is_link_local_multicast(ip) {
        invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => first(ip) & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => first(ip) & 0xff0f == 0xff02,
    }
}

fn first(ip: Ipv6Addr) -> u16 {
    ip.segments()[0]
}
