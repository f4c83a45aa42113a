//! Links, IPv4 addresses and IPv4 routes of one network namespace.
//!
//! Every call is blocking and says what it did in its error. Deleting what is not there succeeds, adding
//! what is there already succeeds: callers state what they want.

mod neighbours;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{
    ACK, CREATE, DUMP, EXCLUSIVE, Family, Message, REPLACE, Socket, Writer, attribute, attributes, settled,
    text, was_interrupted,
};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_XDP: u16 = 43;
const XDP_ATTACHED: u16 = 2;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const BR_VLAN_FILTERING: u16 = 7;
const BR_MCAST_SNOOPING: u16 = 23;
const BRPORT_STATE: u16 = 1;
const BRPORT_LEARNING: u16 = 8;
const BRPORT_ISOLATED: u16 = 33;
const BRPORT_LOCKED: u16 = 39;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Neither asked for nor forgotten: an entry that was set by hand.
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// The entry is the bridge's, not the port's own.
const NTF_MASTER: u8 = 4;

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MARK: u16 = 16;
/// Asks for the table's entry instead of the outcome (RTM_F_FIB_MATCH).
const FIB_MATCH: u32 = 0x2000;

/// Routes that Skiff wrote carry this originator number, so that it can find them again
/// (rtnetlink(7), rtm_protocol; 88 is not assigned in linux/rtnetlink.h).
pub const ORIGIN: u8 = 88;
const ORIGIN_BOOT: u8 = 3;

#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct Error {
    pub action: String,
    #[source]
    pub source: io::Error,
}

impl Error {
    fn new(action: impl Into<String>, source: io::Error) -> Error {
        Error { action: action.into(), source }
    }

    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A link as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// The other end is there and up too.
    pub carrier: bool,
    pub mtu: u32,
    pub address: Vec<u8>,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// `veth`, `bridge`, …; empty for a device of the machine.
    pub kind: String,
    /// A program (XDP) sees what comes in before anybody else, and may do with it what it likes.
    pub programmed: bool,
    /// Of a bridge: it looks at the VLANs of frames.
    pub filters_vlans: bool,
    /// Of a bridge's port.
    pub port: Option<PortState>,
}

/// What a bridge does with frames that come in by a port, or are to go out by it (linux/if_bridge.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    Disabled,
    Listening,
    Learning,
    Forwarding,
    Blocking,
}

impl PortState {
    fn of(number: u8) -> Option<PortState> {
        Some(match number {
            0 => PortState::Disabled,
            1 => PortState::Listening,
            2 => PortState::Learning,
            3 => PortState::Forwarding,
            4 => PortState::Blocking,
            _ => return None,
        })
    }

    /// As `ip` and `bridge` say it.
    pub fn name(self) -> &'static str {
        match self {
            PortState::Disabled => "disabled",
            PortState::Listening => "listening",
            PortState::Learning => "learning",
            PortState::Forwarding => "forwarding",
            PortState::Blocking => "blocking",
        }
    }
}

/// Which hardware address an address is reached at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub link: u32,
    pub ip: Ipv4Addr,
    pub hardware: [u8; 6],
}

/// An IPv4 address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: Ipv4Addr,
    pub prefix: u8,
}

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

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Default)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    /// The namespace that it is born in; none is the connection's own.
    pub netns: Option<BorrowedFd<'a>>,
    pub mac: Option<[u8; 6]>,
    /// The bridge that it becomes a port of, by index (in the connection's namespace).
    pub bridge: Option<u32>,
}

/// A connection to the kernel for one network namespace.
#[derive(Debug)]
pub struct Connection {
    pub(super) socket: Socket,
}

impl Connection {
    /// For the namespace of the calling thread.
    pub fn open() -> Result<Connection> {
        let socket = Socket::open(Family::Route, 0).map_err(|e| Error::new("open a netlink socket", e))?;
        Ok(Connection { socket })
    }

    /// For another namespace.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Connection> {
        let socket = Socket::open_in(netns, Family::Route)
            .map_err(|e| Error::new("open a netlink socket in a network namespace", e))?;
        Ok(Connection { socket })
    }

    pub fn links(&self) -> Result<Vec<Link>> {
        let mut request = Writer::new();
        request.message(GETLINK, DUMP, 1, &link_header(0, 0, 0)).end();
        self.list(&request, |message| read_link(message.body)).map_err(|e| Error::new("list links", e))
    }

    fn list<T>(&self, request: &Writer, read: impl Fn(Message<'_>) -> Option<T>) -> io::Result<Vec<T>> {
        let once = || {
            let mut all = Vec::new();
            self.socket.dump(request.as_bytes(), |message| all.extend(read(message))).map(|()| all)
        };
        settled(once, was_interrupted)
    }

    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut request = Writer::new();
        request.message(GETLINK, 0, 1, &link_header(0, 0, 0)).string(IFLA_IFNAME, name).end();
        let action = || format!("look up link {name}");
        self.socket.send(request.as_bytes()).map_err(|e| Error::new(action(), e))?;
        let mut buffer = Vec::new();
        let datagram = self.socket.receive(&mut buffer, true).map_err(|e| Error::new(action(), e))?;
        let Some(message) = super::messages(datagram).next() else { return Ok(None) };
        match message.error() {
            None => Ok(read_link(message.body)),
            Some(libc::ENODEV) => Ok(None),
            Some(error) => Err(Error::new(action(), io::Error::from_raw_os_error(error))),
        }
    }

    /// A bridge, with its hardware address fixed: otherwise it would take over that of its lowest port,
    /// and neighbours would know an address that is gone.
    pub fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> Result<()> {
        let mut request = Writer::new();
        request.message(NEWLINK, ACK | CREATE | EXCLUSIVE, 1, &link_header(0, UP, UP));
        request.string(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac);
        if mtu > 0 {
            request.u32(IFLA_MTU, mtu);
        }
        let info = request.open(IFLA_LINKINFO);
        request.string(INFO_KIND, "bridge");
        let data = request.open(INFO_DATA);
        // There is no multicast router to listen for, and its timers cost wake-ups on an idle node.
        request.u8(BR_MCAST_SNOOPING, 0);
        request.close(data).close(info).end();
        self.one(&request, &[libc::EEXIST], || format!("create bridge {name}"))
    }

    /// Creates a veth pair, both ends up, each in its namespace and the near one on its bridge. `near` is
    /// in this connection's namespace, whatever its `netns` says.
    pub fn add_veth(&self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) -> Result<()> {
        let mut request = Writer::new();
        request.message(NEWLINK, ACK | CREATE | EXCLUSIVE, 1, &link_header(0, UP, UP));
        let end = |request: &mut Writer, end: &VethEnd<'_>| {
            request.string(IFLA_IFNAME, end.name);
            if mtu > 0 {
                request.u32(IFLA_MTU, mtu);
            }
            if let Some(mac) = end.mac {
                request.attribute(IFLA_ADDRESS, &mac);
            }
        };
        end(&mut request, near);
        if let Some(bridge) = near.bridge {
            request.u32(IFLA_MASTER, bridge);
        }
        let info = request.open(IFLA_LINKINFO);
        request.string(INFO_KIND, "veth");
        let data = request.open(INFO_DATA);
        let peer = request.open(VETH_PEER);
        request.raw(&link_header(0, 0, 0));
        end(&mut request, far);
        if let Some(netns) = far.netns {
            request.u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        }
        request.close(peer).close(data).close(info).end();
        self.one(&request, &[], || format!("create the veth pair {} and {}", near.name, far.name))?;
        // Within the request this would fail: at that moment it has no other end yet.
        match far.netns {
            Some(netns) => Connection::open_in(netns)?.set_up(far.name),
            None => self.set_up(far.name),
        }
    }

    /// An isolated port of a bridge exchanges frames with the bridge itself only, never with another
    /// isolated port: what passes between them is then routed, and so translated and filtered.
    pub fn isolate_port(&self, name: &str) -> Result<()> {
        let mut request = Writer::new();
        request.message(NEWLINK, ACK, 1, &link_header(0, 0, 0)).string(IFLA_IFNAME, name);
        let info = request.open(IFLA_LINKINFO);
        request.string(INFO_SLAVE_KIND, "bridge");
        let data = request.open(INFO_SLAVE_DATA);
        request.u8(BRPORT_ISOLATED, 1);
        request.close(data).close(info).end();
        self.one(&request, &[], || format!("isolate bridge port {name}"))
    }

    /// A locked port of a bridge takes frames of this hardware address alone (bridge(8), `locked`; kernels
    /// before 5.18 don't know it, and take all).
    pub fn lock_port(&self, name: &str, mac: [u8; 6]) -> Result<()> {
        let action = || format!("lock bridge port {name}");
        let index = self.link(name)?.map_or(0, |link| link.index);
        let mut request = Writer::new();
        // struct ndmsg: family, padding, interface, state, flags, type
        let mut header = [0; 12];
        header[0] = libc::AF_BRIDGE as u8;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_NOARP.to_ne_bytes());
        header[10] = NTF_MASTER;
        request.message(NEWNEIGH, ACK | CREATE | REPLACE, 1, &header).attribute(NDA_LLADDR, &mac).end();
        self.one(&request, &[], action)?;
        let mut request = Writer::new();
        request.message(NEWLINK, ACK, 1, &link_header(0, 0, 0)).string(IFLA_IFNAME, name);
        let info = request.open(IFLA_LINKINFO);
        request.string(INFO_SLAVE_KIND, "bridge");
        let data = request.open(INFO_SLAVE_DATA);
        request.u8(BRPORT_LEARNING, 0).u8(BRPORT_LOCKED, 1);
        request.close(data).close(info).end();
        self.one(&request, &[], action)
    }

    pub fn set_up(&self, name: &str) -> Result<()> {
        let mut request = Writer::new();
        request.message(NEWLINK, ACK, 1, &link_header(0, UP, UP)).string(IFLA_IFNAME, name).end();
        self.one(&request, &[], || format!("bring up link {name}"))
    }

    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let mut request = Writer::new();
        request
            .message(NEWLINK, ACK, 1, &link_header(0, 0, 0))
            .string(IFLA_IFNAME, name)
            .u32(IFLA_MTU, mtu)
            .end();
        self.one(&request, &[], || format!("set the MTU of link {name} to {mtu}"))
    }

    /// Makes an existing link a port of a bridge of the same namespace.
    pub fn set_master(&self, name: &str, bridge: u32) -> Result<()> {
        let mut request = Writer::new();
        request
            .message(NEWLINK, ACK, 1, &link_header(0, 0, 0))
            .string(IFLA_IFNAME, name)
            .u32(IFLA_MASTER, bridge)
            .end();
        self.one(&request, &[], || format!("make link {name} a bridge port"))
    }

    /// Also removes a veth's other end. Succeeds where there is none.
    pub fn delete_link(&self, name: &str) -> Result<()> {
        let mut request = Writer::new();
        request.message(DELLINK, ACK, 1, &link_header(0, 0, 0)).string(IFLA_IFNAME, name).end();
        self.one(&request, &[libc::ENODEV], || format!("delete link {name}"))
    }

    pub fn addresses(&self) -> Result<Vec<Address>> {
        let mut request = Writer::new();
        request.message(GETADDR, DUMP, 1, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]).end();
        self.list(&request, |message| read_address(message.body)).map_err(|e| Error::new("list addresses", e))
    }

    /// The neighbours that somebody wrote down for good.
    pub fn fixed_neighbours(&self) -> Result<Vec<Neighbour>> {
        let mut request = Writer::new();
        let mut header = [0u8; 12];
        header[0] = libc::AF_INET as u8;
        request.message(GETNEIGH, DUMP, 1, &header).end();
        self.list(&request, |message| read_fixed_neighbour(message.body))
            .map_err(|e| Error::new("list neighbours", e))
    }

    /// Writes down for good where a neighbour is: what anybody claims by ARP changes it no more.
    pub fn fix_neighbour(&self, neighbour: &Neighbour) -> Result<()> {
        let request = neighbour_request(NEWNEIGH, ACK | CREATE | REPLACE, neighbour);
        self.one(&request, &[], || format!("write down the neighbour {}", neighbour.ip))
    }

    /// Succeeds where nothing is known of it.
    pub fn forget_neighbour(&self, neighbour: &Neighbour) -> Result<()> {
        let request = neighbour_request(DELNEIGH, ACK, neighbour);
        self.one(&request, &[libc::ENOENT, libc::ENODEV], || format!("forget the neighbour {}", neighbour.ip))
    }

    pub fn add_address(&self, link: u32, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = address_request(NEWADDR, ACK | CREATE | REPLACE, link, ip, prefix);
        self.one(&request, &[libc::EEXIST], || format!("add address {ip}/{prefix}"))
    }

    pub fn delete_address(&self, link: u32, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = address_request(DELADDR, ACK, link, ip, prefix);
        self.one(&request, &[libc::EADDRNOTAVAIL, libc::ENODEV], || format!("delete address {ip}/{prefix}"))
    }

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
            let Some(message) = super::messages(datagram).next() else {
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

    /// What a fresh sandbox needs inside, in one request: loopback up, its address, and the default route.
    pub fn configure_sandbox(&self, link: &str, ip: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<()> {
        self.set_up("lo")?;
        let index = self
            .link(link)?
            .ok_or_else(|| Error::new(format!("find {link} in the sandbox"), io::ErrorKind::NotFound.into()))?
            .index;
        self.add_address(index, ip, prefix)?;
        let default = Route {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            via: Some(gateway),
            link: Some(index),
            source: None,
        };
        self.add_route(&default, ORIGIN_BOOT)
    }

    fn one(&self, request: &Writer, fine: &[i32], action: impl Fn() -> String) -> Result<()> {
        let results = self.socket.transact(request.as_bytes(), 1).map_err(|e| Error::new(action(), e))?;
        match results.first() {
            Some(0) => Ok(()),
            Some(error) if fine.contains(error) => Ok(()),
            Some(error) => Err(Error::new(action(), io::Error::from_raw_os_error(*error))),
            None => Err(Error::new(action(), io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

const UP: u32 = libc::IFF_UP as u32;
const LOWER_UP: u32 = 1 << 16;

/// struct ifinfomsg
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn read_link(body: &[u8]) -> Option<Link> {
    let (header, rest) = body.split_at_checked(16)?;
    let number = |value: &[u8]| value.try_into().ok().map(u32::from_ne_bytes);
    let mut link = Link {
        index: number(&header[4..8])?,
        name: String::new(),
        up: number(&header[8..12])? & UP != 0,
        carrier: number(&header[8..12])? & LOWER_UP != 0,
        mtu: 0,
        address: Vec::new(),
        master: None,
        kind: String::new(),
        programmed: false,
        filters_vlans: false,
        port: None,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.address = value.to_vec(),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_MASTER => link.master = number(value),
            IFLA_LINKINFO => {
                link.kind = attribute(value, INFO_KIND).map(text).unwrap_or_default();
                let of = |what: &str, kind, data, number| {
                    let own = attribute(value, kind).is_some_and(|kind| text(kind) == what);
                    attribute(attribute(value, data).filter(|_| own)?, number)?.first().copied()
                };
                let filters = of("bridge", INFO_KIND, INFO_DATA, BR_VLAN_FILTERING);
                link.filters_vlans = filters.is_some_and(|filters| filters != 0);
                link.port =
                    of("bridge", INFO_SLAVE_KIND, INFO_SLAVE_DATA, BRPORT_STATE).and_then(PortState::of);
            }
            // Zero is no mode.
            IFLA_XDP => {
                let mode = attribute(value, XDP_ATTACHED).and_then(<[u8]>::first);
                link.programmed = mode.is_some_and(|mode| *mode != 0);
            }
            _ => {}
        }
    }
    Some(link)
}

/// struct ifaddrmsg and its attributes
fn address_request(kind: u16, flags: u16, link: u32, ip: Ipv4Addr, prefix: u8) -> Writer {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_BROADCAST: u16 = 4;
    let mut header = [libc::AF_INET as u8, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    let mut request = Writer::new();
    request.message(kind, flags, 1, &header);
    request.attribute(IFA_LOCAL, &ip.octets()).attribute(IFA_ADDRESS, &ip.octets());
    if kind == NEWADDR && prefix < 31 {
        let broadcast = u32::from(ip) | (u32::MAX >> prefix);
        request.attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
    }
    request.end();
    request
}

/// struct ndmsg and its attributes; of permanent entries with a hardware address alone
fn read_fixed_neighbour(body: &[u8]) -> Option<Neighbour> {
    let (header, rest) = body.split_at_checked(12)?;
    let state = u16::from_ne_bytes(header[8..10].try_into().ok()?);
    let ip: [u8; 4] = attribute(rest, NDA_DST)?.try_into().ok()?;
    let hardware = attribute(rest, NDA_LLADDR)?.try_into().ok()?;
    let link = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    (state & NUD_PERMANENT != 0).then_some(Neighbour { link, ip: ip.into(), hardware })
}

fn neighbour_request(kind: u16, flags: u16, neighbour: &Neighbour) -> Writer {
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4..8].copy_from_slice(&neighbour.link.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let mut request = Writer::new();
    request.message(kind, flags, 1, &header).attribute(NDA_DST, &neighbour.ip.octets());
    if kind == NEWNEIGH {
        request.attribute(NDA_LLADDR, &neighbour.hardware);
    }
    request.end();
    request
}

fn read_address(body: &[u8]) -> Option<Address> {
    const IFA_LOCAL: u16 = 2;
    let (header, rest) = body.split_at_checked(8)?;
    let ip: [u8; 4] = attribute(rest, IFA_LOCAL)?.try_into().ok()?;
    let link = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    Some(Address { link, ip: ip.into(), prefix: header[1] })
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

fn read_found(body: &[u8]) -> Option<Found> {
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

fn read_route(body: &[u8], origin: Option<u8>) -> Option<Route> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_and_its_ports_tell_what_they_let_pass() {
        let link = |kind: (u16, &str), data: (u16, u16, u8)| {
            let mut message = Writer::new();
            message.message(NEWLINK, 0, 1, &link_header(7, UP, 0)).string(IFLA_IFNAME, "it");
            let info = message.open(IFLA_LINKINFO);
            message.string(kind.0, kind.1);
            let values = message.open(data.0);
            message.u8(data.1, data.2);
            message.close(values).close(info).end();
            let link = read_link(&message.as_bytes()[16..]).unwrap();
            (link.filters_vlans, link.port)
        };
        let bridge = |filters| link((INFO_KIND, "bridge"), (INFO_DATA, BR_VLAN_FILTERING, filters));
        assert_eq!((bridge(0), bridge(1)), ((false, None), (true, None)));
        let port = |state| link((INFO_SLAVE_KIND, "bridge"), (INFO_SLAVE_DATA, BRPORT_STATE, state)).1;
        assert_eq!((port(3), port(4)), (Some(PortState::Forwarding), Some(PortState::Blocking)));
        // The same numbers are something else of other devices.
        assert_eq!(link((INFO_KIND, "vxlan"), (INFO_DATA, BR_VLAN_FILTERING, 1)), (false, None));
    }

    #[test]
    fn random_answers_never_panic() {
        crate::netlink::random::bodies(16, |body| {
            let _ = (read_link(body), read_address(body), read_route(body, None), read_found(body));
            let _ = neighbours::read_probed(body, ORIGIN);
        });
    }
}
