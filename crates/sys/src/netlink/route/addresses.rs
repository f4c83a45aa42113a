//! IPv4 addresses of links.

use std::net::Ipv4Addr;

use super::{ACK, CREATE, Connection, DUMP, Error, REPLACE, Result, Writer, attribute};

const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;

/// An IPv4 address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: Ipv4Addr,
    pub prefix: u8,
}

impl Connection {
    pub fn addresses(&self) -> Result<Vec<Address>> {
        let mut request = Writer::new();
        request.message(GETADDR, DUMP, 1, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]).end();
        self.list(&request, |message| read_address(message.body)).map_err(|e| Error::new("list addresses", e))
    }

    pub fn add_address(&self, link: u32, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = address_request(NEWADDR, ACK | CREATE | REPLACE, link, ip, prefix);
        self.one(&request, &[libc::EEXIST], || format!("add address {ip}/{prefix}"))
    }

    pub fn delete_address(&self, link: u32, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = address_request(DELADDR, ACK, link, ip, prefix);
        self.one(&request, &[libc::EADDRNOTAVAIL, libc::ENODEV], || format!("delete address {ip}/{prefix}"))
    }
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

pub(super) fn read_address(body: &[u8]) -> Option<Address> {
    const IFA_LOCAL: u16 = 2;
    let (header, rest) = body.split_at_checked(8)?;
    let ip: [u8; 4] = attribute(rest, IFA_LOCAL)?.try_into().ok()?;
    let link = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    Some(Address { link, ip: ip.into(), prefix: header[1] })
}
