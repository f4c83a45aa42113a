//! One real connection, and who sees its first packet: the test of what a walk told.
//!
//! A packet is known again by what no translation changes: a TCP connection by the first packet's sequence
//! number, a datagram by the token that it carries.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skiff_sys::netlink::in_netns;
use skiff_sys::netlink::route::Connection;
use skiff_sys::packets::PacketSocket;

use crate::{Error, Protocol};

/// No longer than that an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// No longer than that is listened: until the slowest of all that are to listen does so, and the connection
/// has come about or not.
const LISTEN_MAX: Duration = Duration::from_secs(15);
/// How soon one who is told to stop does so.
const LOOK_UP: Duration = Duration::from_millis(20);
const SIGHTS_MAX: usize = 4_096;

/// A first packet on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// Whose namespace: the name that was given.
    pub place: String,
    pub device: String,
    /// The same for one connection everywhere.
    pub mark: u64,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ear {
    pub place: String,
    /// None is the calling thread's.
    pub netns: Option<PathBuf>,
}

/// What to listen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    pub protocol: Protocol,
    /// What a datagram carries.
    pub token: u64,
}

/// How a connection went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// `answered`, `refused`, `silent`, or the error's text.
    pub outcome: String,
    /// The sender's own address and port; the address may be of no kind yet.
    pub source: Option<SocketAddrV4>,
}

/// Listens on all devices of the namespaces until told to stop, at most `patience`. `ready` is called when
/// nothing can be missed any more.
pub fn listen(
    ears: &[Ear],
    heard: Heard,
    patience: Duration,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> Result<Vec<Sight>, Error> {
    let failed =
        |source: io::Error| Error::Kernel { action: "listen to packets".into(), source: source.into() };
    let mut open = Vec::new();
    for ear in ears {
        let enter = || -> io::Result<_> {
            let links = Connection::open().and_then(|kernel| kernel.links()).map_err(io::Error::other)?;
            Ok((PacketSocket::of_beginnings()?, links))
        };
        let (socket, links) = match &ear.netns {
            None => enter(),
            Some(path) => File::open(path).and_then(|netns| in_netns(netns.as_fd(), enter)?),
        }
        .map_err(failed)?;
        open.push((&ear.place, socket, links));
    }
    ready();
    let end = Instant::now() + patience.min(LISTEN_MAX);
    let (mut sights, mut buffer) = (Vec::new(), vec![0u8; 2_048]);
    let mut stopped = false;
    while !stopped && Instant::now() < end && sights.len() < SIGHTS_MAX {
        // What came before is still read.
        stopped = stop.load(Ordering::Acquire);
        let sockets: Vec<_> = open.iter().map(|(_, socket, _)| socket.as_fd()).collect();
        wait(&sockets, end.min(Instant::now() + LOOK_UP)).map_err(failed)?;
        for (place, socket, links) in &open {
            loop {
                let (index, packet) = match socket.receive(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(failed(error)),
                };
                let Some((mark, source, destination)) = first_packet(packet, heard) else { continue };
                let device = links.iter().find(|link| link.index == index).map(|link| link.name.clone());
                let device = device.unwrap_or_else(|| format!("link {index}"));
                let place = (*place).clone();
                let sight = Sight { place, device, mark, source, destination };
                // What comes again was not answered; a device tells it once on the way in and once out.
                if !sights.contains(&sight) {
                    sights.push(sight);
                }
            }
        }
    }
    Ok(sights)
}

fn wait(sockets: &[std::os::fd::BorrowedFd<'_>], end: Instant) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds: Vec<_> = sockets.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let left = end.saturating_duration_since(Instant::now()).as_millis();
    let timeout = PollTimeout::try_from(left as u64 + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The mark and the addresses of a packet that begins a connection.
fn first_packet(packet: &[u8], heard: Heard) -> Option<(u64, SocketAddrV4, SocketAddrV4)> {
    const SYN_ALONE: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || *packet.get(9)? != heard.protocol.number() {
        return None;
    }
    let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let transport = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    let mark = match heard.protocol {
        Protocol::Tcp => {
            if transport.get(13)? & SYN_ACK != SYN_ALONE {
                return None;
            }
            u64::from(u32::from_be_bytes(transport.get(4..8)?.try_into().ok()?))
        }
        Protocol::Udp => {
            let token = heard.token.to_be_bytes();
            if transport.get(8..)?.windows(8).all(|window| window != token) {
                return None;
            }
            heard.token
        }
        Protocol::Sctp => return None,
    };
    let address = |ip: Ipv4Addr, port: u16| SocketAddrV4::new(ip, port);
    Some((mark, address(ip(12)?, port(0)?), address(ip(16)?, port(2)?)))
}

/// Makes the connection, from a namespace or the calling thread's own.
pub fn connect(netns: Option<&Path>, to: SocketAddrV4, heard: Heard, patience: Duration) -> Outcome {
    let patience = patience.min(ANSWER_MAX);
    let work = || match heard.protocol {
        Protocol::Tcp => connect_tcp(to, patience),
        Protocol::Udp => connect_udp(to, heard.token, patience),
        Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
    };
    let result = match netns {
        None => work(),
        Some(path) => {
            File::open(path).and_then(|netns| in_netns(netns.as_fd(), work)).and_then(|result| result)
        }
    };
    result.unwrap_or_else(|error| Outcome { outcome: error.to_string(), source: None })
}

fn v4(address: io::Result<SocketAddr>) -> Option<SocketAddrV4> {
    match address {
        Ok(SocketAddr::V4(address)) => Some(address),
        _ => None,
    }
}

/// By hand, since the port has to be known also of a connection that does not come about.
fn connect_tcp(to: SocketAddrV4, patience: Duration) -> io::Result<Outcome> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, getsockopt, socket,
        sockopt,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 0))?;
    let own = |fd: &OwnedFd| {
        let own: SockaddrIn = getsockname(fd.as_raw_fd()).ok()?;
        Some(SocketAddrV4::new(own.ip(), own.port()))
    };
    let bound = own(&fd);
    let [a, b, c, d] = to.ip().octets();
    let mut error = match connect(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, to.port())) {
        Ok(()) => 0,
        Err(nix::Error::EINPROGRESS) => {
            let mut waits = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
            let timeout = PollTimeout::try_from(patience.as_millis() as u64).unwrap_or(PollTimeout::MAX);
            match poll(&mut waits, timeout)? {
                0 => libc::ETIMEDOUT,
                _ => getsockopt(&fd, sockopt::SocketError)?,
            }
        }
        Err(error) => error as i32,
    };
    if error == libc::EAGAIN {
        error = libc::ETIMEDOUT;
    }
    let outcome = match error {
        0 => "answered".to_owned(),
        libc::ECONNREFUSED => "refused".into(),
        libc::ETIMEDOUT => "silent".into(),
        other => io::Error::from_raw_os_error(other).to_string(),
    };
    Ok(Outcome { outcome, source: own(&fd).or(bound) })
}

fn connect_udp(to: SocketAddrV4, token: u64, patience: Duration) -> io::Result<Outcome> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    let source = v4(socket.local_addr());
    socket.send(&token.to_be_bytes())?;
    let outcome = match socket.recv(&mut [0; 64]) {
        Ok(_) => "answered",
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused",
            // Whoever takes a datagram need not answer it.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "silent",
            _ => return Err(error),
        },
    };
    Ok(Outcome { outcome: outcome.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_packets_are_told_from_others() {
        let tcp = Heard { protocol: Protocol::Tcp, token: 0 };
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet[20..24].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        packet[24..28].copy_from_slice(&[0, 0, 1, 0]);
        packet[33] = 0x02;
        let seen = first_packet(&packet, tcp).unwrap();
        assert_eq!(
            (seen.0, seen.1.to_string(), seen.2.to_string()),
            (256, "10.0.0.1:40000".into(), "10.0.0.2:80".into())
        );
        packet[33] = 0x12;
        assert_eq!(first_packet(&packet, tcp), None);
        let udp = Heard { protocol: Protocol::Udp, token: 7 };
        packet[9] = 17;
        packet[32..40].copy_from_slice(&7u64.to_be_bytes());
        assert_eq!(first_packet(&packet[..36], udp), None);
        packet.splice(28..40, [0; 0]);
        packet.extend_from_slice(&7u64.to_be_bytes());
        assert_eq!(first_packet(&packet, udp).map(|seen| seen.0), Some(7));
        for length in 0..packet.len() {
            let _ = (first_packet(&packet[..length], udp), first_packet(&packet[..length], tcp));
        }
    }
}
