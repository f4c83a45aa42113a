//! The kernel's table of tracked connections: enough of it to forget flows whose translation is stale, and to
//! see how one was translated.
//!
//! A UDP flow keeps the destination of its first packet for as long as packets follow each other, so a
//! changed rule alone does not move it. Deleting its entry does.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{ACK, DUMP, Family, Socket, Writer, attribute, was_interrupted};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

/// A tracked IPv4 flow: where its first packet wanted to go, and who really answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
    /// Differs from `destination` where that was translated.
    pub answers: (Ipv4Addr, u16),
}

/// Deletes every tracked flow that `stale` names, and says how many.
pub fn forget(socket: &Socket, mut stale: impl FnMut(&Flow) -> bool) -> io::Result<usize> {
    let mut request = Writer::new();
    request.message(GET, DUMP, 1, &HEADER).end();
    let mut doomed = Vec::new();
    let listed = socket.dump(request.as_bytes(), |message| {
        if message.kind != NEW {
            return;
        }
        let body = message.body.get(4..).unwrap_or(&[]);
        if let Some((flow, tuple)) = read(body)
            && stale(&flow)
        {
            doomed.push((tuple.to_vec(), attribute(body, ID).map(<[u8]>::to_vec)));
        }
    });
    match listed {
        // Flows come and go all the time; those that were there before are all told.
        Err(error) if was_interrupted(&error) => {}
        result => result?,
    }
    for (tuple, id) in &doomed {
        let mut request = Writer::new();
        request.message(DELETE, ACK, 1, &HEADER).attribute(TUPLE_ORIGINAL | 0x8000, tuple);
        if let Some(id) = id {
            request.attribute(ID, id);
        }
        request.end();
        // Gone by itself meanwhile is as good.
        match socket.transact(request.as_bytes(), 1)?.first() {
            Some(0 | &libc::ENOENT) => {}
            Some(error) => return Err(io::Error::from_raw_os_error(*error)),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(doomed.len())
}

/// Source and destination of a packet.
pub type Ends = (SocketAddrV4, SocketAddrV4);

/// An entry of the table: what comes from who began the connection, and what answers it, each as it is before
/// this machine translates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub original: Ends,
    pub reply: Ends,
}

/// The entry that a packet with these ends belongs to, whichever way it goes.
pub fn find(socket: &Socket, protocol: u8, ends: Ends) -> io::Result<Option<Entry>> {
    let (source, destination) = ends;
    let mut request = Writer::new();
    request.message(GET, ACK, 1, &HEADER);
    let tuple = request.open(TUPLE_ORIGINAL);
    let ip = request.open(TUPLE_IP);
    request.attribute(1, &source.ip().octets()).attribute(2, &destination.ip().octets()).close(ip);
    let transport = request.open(TUPLE_PROTOCOL);
    request.u8(1, protocol).attribute(2, &source.port().to_be_bytes());
    request.attribute(3, &destination.port().to_be_bytes()).close(transport);
    request.close(tuple).end();
    let mut found = None;
    let told = socket.dump(request.as_bytes(), |message| {
        if message.kind == NEW {
            found = message.body.get(4..).and_then(read_entry);
        }
    });
    match told {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result.map(|()| found),
    }
}

fn read_entry(body: &[u8]) -> Option<Entry> {
    let ends = |kind| {
        let (_, source, destination) = read_tuple(attribute(body, kind)?)?;
        let address = |(ip, port)| SocketAddrV4::new(ip, port);
        Some((address(source), address(destination)))
    };
    Some(Entry { original: ends(TUPLE_ORIGINAL)?, reply: ends(TUPLE_REPLY)? })
}

/// Opens the socket that [`forget`] and [`find`] need, in the calling thread's namespace.
pub fn open() -> io::Result<Socket> {
    Socket::open(Family::Netfilter, 0)
}

/// struct nfgenmsg: family, version, resource
const HEADER: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

fn read(body: &[u8]) -> Option<(Flow, &[u8])> {
    let original = attribute(body, TUPLE_ORIGINAL)?;
    let (protocol, source, destination) = read_tuple(original)?;
    let (_, answers, _) = read_tuple(attribute(body, TUPLE_REPLY)?)?;
    Some((Flow { protocol, source, destination, answers }, original))
}

type Tuple = (u8, (Ipv4Addr, u16), (Ipv4Addr, u16));

fn read_tuple(tuple: &[u8]) -> Option<Tuple> {
    let (ip, protocol) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTOCOL)?);
    let address = |kind| {
        let value: [u8; 4] = attribute(ip, kind)?.try_into().ok()?;
        Some(Ipv4Addr::from(value))
    };
    let port = |kind| {
        attribute(protocol, kind).and_then(|value| value.try_into().ok()).map_or(0, u16::from_be_bytes)
    };
    let number = *attribute(protocol, 1)?.first()?;
    Some((number, (address(1)?, port(2)), (address(2)?, port(3))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_answers_never_panic() {
        crate::netlink::random::bodies(0, |body| {
            let _ = (read(body), read_entry(body));
        });
    }
}
