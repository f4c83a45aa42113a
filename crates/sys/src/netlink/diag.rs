//! Sockets that wait for peers, as the kernel filters them (sock_diag(7)).
//!
//! `/proc/PID/net/tcp` tells the same, but passes by every connection of the machine for each namespace, which
//! takes milliseconds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DUMP, Socket, Writer, attribute};

// linux/sock_diag.h and inet_diag.h; states by net/tcp_states.h.
const BY_FAMILY: u16 = 20;
const REQUEST_BYTES: usize = 56;
const ANSWER_BYTES: usize = 72;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
/// Told of IPv6 sockets that listen or are unconnected, whatever is asked for.
const SIX_ONLY: u16 = 11;
const LISTEN: u32 = 1 << 10;
/// Of UDP: bound, and connected to nobody.
const CLOSE: u32 = 1 << 7;

/// A socket that listens, or is bound and connected to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub address: IpAddr,
    pub port: u16,
    pub inode: u64,
    /// The link that it is bound to, by its number; 0 for all.
    pub link: u32,
    /// What is for an IPv4 address never gets to it.
    pub six_only: bool,
}

/// Those of a protocol, by its IP number, in the namespace that the socket (of `Family::SockDiag`) is of.
pub fn waiting(socket: &Socket, protocol: u8) -> io::Result<Vec<Waiting>> {
    let mut found = Vec::new();
    for family in [INET, INET6] {
        let mut header = [0; REQUEST_BYTES];
        header[0] = family;
        header[1] = protocol;
        let states = if protocol == TCP { LISTEN } else { CLOSE };
        header[4..8].copy_from_slice(&states.to_ne_bytes());
        let mut request = Writer::new();
        request.message(BY_FAMILY, DUMP, 1, &header).end();
        socket.dump(request.as_bytes(), |message| found.extend(read(message.body)))?;
    }
    Ok(found)
}

/// `struct inet_diag_msg`, and its attributes.
fn read(body: &[u8]) -> Option<Waiting> {
    let (head, rest) = body.split_at_checked(ANSWER_BYTES)?;
    let head: &[u8; ANSWER_BYTES] = head.try_into().ok()?;
    let address = match head[0] {
        INET => Ipv4Addr::new(head[8], head[9], head[10], head[11]).into(),
        INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(&head[8..24]).ok()?).into(),
        _ => return None,
    };
    let number = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
    Some(Waiting {
        address,
        port: u16::from_be_bytes([head[4], head[5]]),
        inode: number(68)?.into(),
        link: number(40)?,
        six_only: attribute(rest, SIX_ONLY).is_some_and(|value| value.first() == Some(&1)),
    })
}
