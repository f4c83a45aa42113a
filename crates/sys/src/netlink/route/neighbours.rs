//! Where neighbours are: written down for good, or looked for by the kernel itself, again and again, so that it
//! always knows.

use std::net::Ipv4Addr;

use super::{ACK, CREATE, Connection, DUMP, Error, REPLACE, Result, Writer, attribute};

pub(super) const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;

const NDA_DST: u16 = 1;
pub(super) const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;
const NDA_FLAGS_EXT: u16 = 15;
const NUD_PERMANENT: u16 = 0x80;
/// Whoever wrote it takes care of it: the kernel does not drop it for want of room.
const NTF_EXT_LEARNED: u8 = 0x10;
/// The kernel looks for it by itself (since Linux 5.16; earlier ones look when something is sent).
const NTF_EXT_MANAGED: u32 = 1;

/// Which hardware address an address is reached at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub link: u32,
    pub ip: Ipv4Addr,
    pub hardware: [u8; 6],
}

impl Connection {
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

    /// Has the kernel see to it that it knows the neighbour, and keep it when its table is full. `origin` tells
    /// whose doing that is.
    pub fn probe_neighbour(&self, link: u32, ip: Ipv4Addr, origin: u8) -> Result<()> {
        let mut request = Writer::new();
        request.message(NEWNEIGH, ACK | CREATE | REPLACE, 1, &header(link, NTF_EXT_LEARNED));
        request.attribute(NDA_DST, &ip.octets()).u8(NDA_PROTOCOL, origin);
        request.u32(NDA_FLAGS_EXT, NTF_EXT_MANAGED).end();
        self.one(&request, &[], || format!("have the neighbour {ip} looked for"))
    }

    /// Those for which this was asked, by link and address.
    pub fn probed_neighbours(&self, origin: u8) -> Result<Vec<(u32, Ipv4Addr)>> {
        let mut request = Writer::new();
        request.message(GETNEIGH, DUMP, 1, &header(0, 0)).end();
        self.list(&request, |message| read_probed(message.body, origin))
            .map_err(|e| Error::new("list neighbours", e))
    }

    /// Succeeds where nothing is known of it.
    pub fn forget_probed(&self, link: u32, ip: Ipv4Addr) -> Result<()> {
        let mut request = Writer::new();
        request.message(DELNEIGH, ACK, 1, &header(link, 0)).attribute(NDA_DST, &ip.octets()).end();
        self.one(&request, &[libc::ENOENT, libc::ENODEV], || format!("forget the neighbour {ip}"))
    }
}

/// struct ndmsg, of no state: what is known of it already stays.
fn header(link: u32, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[10] = flags;
    header
}

pub(super) fn read_probed(body: &[u8], origin: u8) -> Option<(u32, Ipv4Addr)> {
    let (header, rest) = body.split_at_checked(12)?;
    let link = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let ip: [u8; 4] = attribute(rest, NDA_DST)?.try_into().ok()?;
    let own = header[10] & NTF_EXT_LEARNED != 0 && attribute(rest, NDA_PROTOCOL)? == [origin];
    own.then_some((link, ip.into()))
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
