//! Listens for the packets of one connection: on the devices of namespaces, in their packet filters, and in
//! what connection tracking has kept.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skiff_sys::netlink::route::{Connection, Link};
use skiff_sys::netlink::{Socket, conntrack, in_netns};
use skiff_sys::nft::tracer::{Met, Signature, Tracer};
use skiff_sys::packets::{self, PacketSocket};

use super::{Blind, Ear, Frames, Heard, MetRule, Observed, Sight, Tracked};
use crate::{Error, Protocol};

/// No longer than that is listened: until the slowest of all that are to listen does so, and the connection
/// has come about or not.
const LISTEN_MAX: Duration = Duration::from_secs(15);
/// How soon one who is told to stop does so.
const LOOK_UP: Duration = Duration::from_millis(20);
const SIGHTS_MAX: usize = 4_096;

/// Listens in the namespaces until told to stop, at most `patience`. `ready` is called when nothing can be
/// missed any more. What it put into the namespaces for that is gone when it returns, or when the process ends.
pub fn listen(
    ears: &[Ear],
    heard: Heard,
    patience: Duration,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> Result<Observed, Error> {
    let mut observed = Observed::default();
    let mut open = Vec::new();
    for ear in ears {
        let enter = || Listener::open(ear, heard);
        let listener = match &ear.netns {
            None => enter(),
            Some(path) => File::open(path).and_then(|netns| in_netns(netns.as_fd(), enter)?),
        }
        .map_err(failed)?;
        if let Err(error) = &listener.tracer {
            observed.blind.push(Blind { place: ear.place.clone(), why: error.to_string() });
        }
        let families = listener.tracer.iter().flat_map(Tracer::families);
        observed.frames.extend(families.map(|family| Frames {
            place: ear.place.clone(),
            family: (*family).to_owned(),
            answers: heard.protocol == Protocol::Tcp,
        }));
        open.push(listener);
    }
    ready();
    let end = Instant::now() + patience.min(LISTEN_MAX);
    let mut stopped = false;
    while !stopped && Instant::now() < end && observed.sights.len() < SIGHTS_MAX {
        // What came before is still read.
        stopped = stop.load(Ordering::Acquire);
        wait(&open, end.min(Instant::now() + LOOK_UP)).map_err(failed)?;
        for listener in &mut open {
            listener.hear(heard, &mut observed).map_err(failed)?;
        }
    }
    Ok(observed)
}

fn failed(source: io::Error) -> Error {
    Error::Kernel { action: "listen to packets".into(), source: source.into() }
}

/// One namespace.
struct Listener<'a> {
    place: &'a str,
    packets: PacketSocket,
    links: Vec<Link>,
    /// Without it, rules are not observed.
    tracer: io::Result<Tracer>,
    connections: Socket,
    /// The first packet's ends as they were here, each with whether its connection is found.
    ends: Vec<(conntrack::Ends, bool)>,
}

impl<'a> Listener<'a> {
    /// In the calling thread's namespace.
    fn open(ear: &'a Ear, heard: Heard) -> io::Result<Self> {
        let links = Connection::open().and_then(|kernel| kernel.links()).map_err(io::Error::other)?;
        let (connection, signature) = match heard.protocol {
            Protocol::Udp => (packets::Connection::Udp, Signature::Udp(heard.token.to_be_bytes())),
            _ => {
                let sequence = heard.sequence();
                (packets::Connection::Tcp { sequence }, Signature::Tcp(sequence))
            }
        };
        Ok(Self {
            place: &ear.place,
            packets: PacketSocket::of(connection)?,
            links,
            tracer: Tracer::start(signature),
            connections: conntrack::open()?,
            ends: Vec::new(),
        })
    }

    /// All that is there.
    fn hear(&mut self, heard: Heard, observed: &mut Observed) -> io::Result<()> {
        let mut buffer = [0u8; 2_048];
        loop {
            let (index, packet) = match self.packets.receive(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let Some((answer, ends)) = read(packet, heard, &self.ends) else { continue };
            if !answer && !self.ends.iter().any(|(known, _)| *known == ends) {
                self.ends.push((ends, false));
            }
            let device = self.links.iter().find(|link| link.index == index).map(|link| link.name.clone());
            let device = device.unwrap_or_else(|| format!("link {index}"));
            let (source, destination) = ends;
            let sight = Sight { place: self.place.into(), device, answer, source, destination };
            // What comes again was not answered; a device tells it once on the way in and once out.
            if !observed.sights.contains(&sight) {
                observed.sights.push(sight);
            }
        }
        if let Ok(tracer) = &mut self.tracer {
            let place = self.place;
            for met in tracer.told()? {
                let Met { table, chain, handle, verdict, answer, again, source, destination } = met;
                let place = place.to_owned();
                let met =
                    MetRule { place, table, chain, handle, verdict, answer, again, source, destination };
                if observed.rules.len() < SIGHTS_MAX && !observed.rules.contains(&met) {
                    observed.rules.push(met);
                }
            }
        }
        self.look_up(heard.protocol, observed)
    }

    /// Connection tracking keeps an entry from when the first packet has passed, and a closed one for seconds.
    fn look_up(&mut self, protocol: Protocol, observed: &mut Observed) -> io::Result<()> {
        for ((source, destination), found) in self.ends.iter_mut().filter(|(_, found)| !found) {
            // What came in is as who began it made it, and what answers what went out is that turned.
            for ends in [(*source, *destination), (*destination, *source)] {
                let Some(entry) = conntrack::find(&self.connections, protocol.number(), ends)? else {
                    continue;
                };
                *found = true;
                let tracked = Tracked {
                    place: self.place.into(),
                    source: entry.original.0,
                    destination: entry.original.1,
                    answer_source: entry.reply.0,
                    answer_destination: entry.reply.1,
                };
                if !observed.tracked.contains(&tracked) {
                    observed.tracked.push(tracked);
                }
            }
        }
        Ok(())
    }
}

fn wait(listeners: &[Listener<'_>], end: Instant) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let tracers = listeners.iter().filter_map(|this| this.tracer.as_ref().ok()).map(AsFd::as_fd);
    let all = listeners.iter().map(|this| this.packets.as_fd()).chain(tracers);
    let mut fds: Vec<_> = all.map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let left = end.saturating_duration_since(Instant::now()).as_millis();
    let timeout = PollTimeout::try_from(left as u64 + 1).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a packet answers the first one, and its ends; nothing of packets of other connections. `known` are
/// the ends of the first packet here so far.
fn read(packet: &[u8], heard: Heard, known: &[(conntrack::Ends, bool)]) -> Option<(bool, conntrack::Ends)> {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || *packet.get(9)? != heard.protocol.number() {
        return None;
    }
    let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let transport = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_be_bytes(transport.get(at..at + 4)?.try_into().ok()?));
    let ends = (SocketAddrV4::new(ip(12)?, port(0)?), SocketAddrV4::new(ip(16)?, port(2)?));
    let answer = match heard.protocol {
        Protocol::Tcp => {
            let flags = *transport.get(13)?;
            let answers = flags & ACK != 0 && flags & (SYN | RST) != 0;
            if flags & (SYN | ACK | RST) == SYN && word(4)? == heard.sequence() {
                false
            } else if answers && word(8)? == heard.sequence().wrapping_add(1) {
                true
            } else {
                return None;
            }
        }
        Protocol::Udp if transport.get(8..16) == Some(&heard.token.to_be_bytes()) => false,
        Protocol::Udp if known.iter().any(|(first, _)| *first == (ends.1, ends.0)) => true,
        Protocol::Udp | Protocol::Sctp => return None,
    };
    Some((answer, ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(protocol: Protocol, token: u64) -> Heard {
        Heard { protocol, token }
    }

    #[test]
    fn packets_of_the_connection_are_told_from_others() {
        let tcp = of(Protocol::Tcp, 0xffff_ffff_0000_0100);
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet[20..24].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        packet[24..28].copy_from_slice(&[0, 0, 1, 0]);
        packet[33] = 0x02;
        let ends = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        assert_eq!(read(&packet, tcp, &[]), Some((false, ends)));
        assert_eq!(read(&packet, of(Protocol::Tcp, 7), &[]), None);
        packet[33] = 0x12;
        assert_eq!(read(&packet, tcp, &[]), None, "it acknowledges something else");
        packet[28..32].copy_from_slice(&[0, 0, 1, 1]);
        assert_eq!(read(&packet, tcp, &[]), Some((true, ends)));
        packet[33] = 0x14;
        assert_eq!(read(&packet, tcp, &[]), Some((true, ends)), "a refusal");
        packet[33] = 0x10;
        assert_eq!(read(&packet, tcp, &[]), None, "it goes on");
        let udp = of(Protocol::Udp, 7);
        packet[9] = 17;
        packet[28..36].copy_from_slice(&7u64.to_be_bytes());
        assert_eq!(read(&packet, udp, &[]), Some((false, ends)));
        packet[35] = 8;
        assert_eq!(read(&packet, udp, &[]), None);
        assert_eq!(read(&packet, udp, &[((ends.1, ends.0), true)]), Some((true, ends)));
        for length in 0..packet.len() {
            let _ = (read(&packet[..length], udp, &[]), read(&packet[..length], tcp, &[]));
        }
    }
}
