//! The IPv4 routes of the main table, and where the kernel would send a packet.

use std::io;
use std::net::Ipv4Addr;

use super::{ACK, CREATE, Connection, DUMP, Error, REPLACE, Result, Writer, attribute};
use crate::netlink::messages;

const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MARK: u16 = 16;

/// Asks for the table's entry instead of the outcome (RTM_F_FIB_MATCH).
const FIB_MATCH: u32 = 0x2000;

/// A unicast IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub via: Option<Ipv4Addr>,
    pub link: Option<u32>,
    pub source: Option<Ipv4Addr>,
}

/// What the kernel says of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// To this machine itself.
    pub local: bool,
    /// It is delivered or sent on; otherwise a route forbids it.
    pub passes: bool,
    /// For everybody on the link, or for whoever joined the group.
    pub to_many: bool,
    pub via: Option<Ipv4Addr>,
    pub link: Option<u32>,
    pub source: Option<Ipv4Addr>,
    /// Destination of the table's entry.
    pub entry: (Ipv4Addr, u8),
}

impl Connection {
    /// The routes of the main table with this originator, or all unicast ones.
    pub fn routes(&self, origin: Option<u8>) -> Result<Vec<Route>> {
        let mut request = Writer::new();
        let mut header = [0u8; 12];
        header[0] = libc::AF_INET as u8;
        request.message(GETROUTE, DUMP, 1, &header).end();
        self.list(&request, |message| read_route(message.body, origin))
            .map_err(|e| Error::new("list routes", e))
    }

    /// Asks the kernel where a packet goes: one of this machine's own where `input` is none, else one that
    /// came in by that link. The error number where it goes nowhere.
    pub fn look_up(&self, to: Ipv4Addr, from: Option<Ipv4Addr>, input: Option<u32>) -> Result<Found> {
        self.look_up_marked(to, from, input, 0)
    }

    /// The same of a packet that bears a mark.
    pub fn look_up_marked(
        &self,
        to: Ipv4Addr,
        from: Option<Ipv4Addr>,
        input: Option<u32>,
        mark: u32,
    ) -> Result<Found> {
        let action = || format!("look up the route to {to}");
        let ask = |flags: u32| {
            let mut request = Writer::new();
            let mut header = [0u8; 12];
            header[0] = libc::AF_INET as u8;
            header[1] = 32;
            header[2] = if from.is_some() { 32 } else { 0 };
            header[8..12].copy_from_slice(&flags.to_ne_bytes());
            request.message(GETROUTE, 0, 1, &header).attribute(RTA_DST, &to.octets());
            if let Some(from) = from {
                request.attribute(RTA_SRC, &from.octets());
            }
            if let Some(input) = input {
                request.u32(RTA_IIF, input);
            }
            if mark != 0 {
                request.u32(RTA_MARK, mark);
            }
            request.end();
            self.socket.send(request.as_bytes()).map_err(|e| Error::new(action(), e))?;
            let mut buffer = Vec::new();
            let datagram = self.socket.receive(&mut buffer, true).map_err(|e| Error::new(action(), e))?;
            let Some(message) = messages(datagram).next() else {
                return Err(Error::new(action(), io::ErrorKind::UnexpectedEof.into()));
            };
            match message.error() {
                Some(error) => Err(Error::new(action(), io::Error::from_raw_os_error(error))),
                None => read_found(message.body)
                    .ok_or_else(|| Error::new(action(), io::ErrorKind::InvalidData.into())),
            }
        };
        let mut found = ask(0)?;
        // The entry of the table that it was found by, where the kernel tells it.
        if let Ok(entry) = ask(FIB_MATCH) {
            found.entry = entry.entry;
        }
        Ok(found)
    }

    /// Adds the route, or replaces the one to the same destination.
    pub fn add_route(&self, route: &Route, origin: u8) -> Result<()> {
        let request = route_request(NEWROUTE, ACK | CREATE | REPLACE, route, origin);
        self.one(&request, &[], || format!("add the route to {}/{}", route.destination, route.prefix))
    }

    pub fn delete_route(&self, route: &Route) -> Result<()> {
        let request = route_request(DELROUTE, ACK, route, 0);
        self.one(&request, &[libc::ESRCH, libc::ENODEV], || {
            format!("delete the route to {}/{}", route.destination, route.prefix)
        })
    }
}

/// struct rtmsg and its attributes
fn route_request(kind: u16, flags: u16, route: &Route, origin: u8) -> Writer {
    const TABLE_MAIN: u8 = 254;
    const SCOPE_LINK: u8 = 253;
    const SCOPE_NOWHERE: u8 = 255;
    const TYPE_UNICAST: u8 = 1;
    let adds = kind == NEWROUTE;
    let scope = match (adds, route.via) {
        (false, _) => SCOPE_NOWHERE,
        (true, Some(_)) => 0,
        (true, None) => SCOPE_LINK,
    };
    let mut request = Writer::new();
    let header = [
        libc::AF_INET as u8,
        route.prefix,
        0,
        0,
        TABLE_MAIN,
        origin,
        scope,
        if adds { TYPE_UNICAST } else { 0 },
        0,
        0,
        0,
        0,
    ];
    request.message(kind, flags, 1, &header);
    if route.prefix > 0 {
        request.attribute(RTA_DST, &route.destination.octets());
    }
    if let Some(via) = route.via {
        request.attribute(RTA_GATEWAY, &via.octets());
    }
    if let Some(link) = route.link {
        request.u32(RTA_OIF, link);
    }
    if let Some(source) = route.source {
        request.attribute(RTA_PREFSRC, &source.octets());
    }
    request.end();
    request
}

pub(super) fn read_found(body: &[u8]) -> Option<Found> {
    const UNICAST: u8 = 1;
    const LOCAL: u8 = 2;
    const BROADCAST: u8 = 3;
    const MULTICAST: u8 = 5;
    let (header, rest) = body.split_at_checked(12)?;
    let address = |kind| {
        let value: [u8; 4] = attribute(rest, kind)?.try_into().ok()?;
        Some(Ipv4Addr::from(value))
    };
    Some(Found {
        local: header[7] == LOCAL,
        passes: matches!(header[7], UNICAST | LOCAL | BROADCAST | MULTICAST),
        to_many: matches!(header[7], BROADCAST | MULTICAST),
        via: address(RTA_GATEWAY),
        link: attribute(rest, RTA_OIF).and_then(|value| value.try_into().ok()).map(u32::from_ne_bytes),
        source: address(RTA_PREFSRC),
        entry: (address(RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED), header[1]),
    })
}

pub(super) fn read_route(body: &[u8], origin: Option<u8>) -> Option<Route> {
    let (header, rest) = body.split_at_checked(12)?;
    let (table, protocol, kind) = (header[4], header[5], header[7]);
    if table != 254 || kind != 1 || origin.is_some_and(|origin| origin != protocol) {
        return None;
    }
    let address = |kind| {
        let value: [u8; 4] = attribute(rest, kind)?.try_into().ok()?;
        Some(Ipv4Addr::from(value))
    };
    Some(Route {
        destination: address(RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED),
        prefix: header[1],
        via: address(RTA_GATEWAY),
        link: attribute(rest, RTA_OIF).and_then(|value| value.try_into().ok()).map(u32::from_ne_bytes),
        source: address(RTA_PREFSRC),
    })
}
