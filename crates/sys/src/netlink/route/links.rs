//! Links: bridges and their ports, pairs of veth, and what is known of each.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::neighbours::{NDA_LLADDR, NEWNEIGH};
use super::{
    ACK, CREATE, Connection, DUMP, EXCLUSIVE, Error, REPLACE, Result, Writer, attribute, attributes, text,
};
use crate::netlink::messages;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;

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

/// Neither asked for nor forgotten: an entry that was set by hand.
const NUD_NOARP: u16 = 0x40;
/// The entry is the bridge's, not the port's own.
const NTF_MASTER: u8 = 4;

const UP: u32 = libc::IFF_UP as u32;
const LOWER_UP: u32 = 1 << 16;

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

impl Connection {
    pub fn links(&self) -> Result<Vec<Link>> {
        let mut request = Writer::new();
        request.message(GETLINK, DUMP, 1, &link_header(0, 0, 0)).end();
        self.list(&request, |message| read_link(message.body)).map_err(|e| Error::new("list links", e))
    }

    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut request = Writer::new();
        request.message(GETLINK, 0, 1, &link_header(0, 0, 0)).string(IFLA_IFNAME, name).end();
        let action = || format!("look up link {name}");
        self.socket.send(request.as_bytes()).map_err(|e| Error::new(action(), e))?;
        let mut buffer = Vec::new();
        let datagram = self.socket.receive(&mut buffer, true).map_err(|e| Error::new(action(), e))?;
        let Some(message) = messages(datagram).next() else { return Ok(None) };
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
}

/// struct ifinfomsg
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

pub(super) fn read_link(body: &[u8]) -> Option<Link> {
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
}
