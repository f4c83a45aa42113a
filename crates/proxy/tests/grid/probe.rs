//! Many connections at once, each with its question answered: did it come about?
//!
//! All sockets are made inside their namespaces and then driven by one thread. What is expected to come
//! about is waited for; what is not is looked for when all of that is there, and a little later.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Netns, PATIENCE};

/// How long after the last expected answer an unexpected one is looked for.
const AFTERWARDS: Duration = Duration::from_millis(15);
/// How often a datagram is repeated while its answer is expected.
const REPEAT: Duration = Duration::from_millis(200);

const SCTP: i32 = 132;

/// A connection to be tried: from a namespace (by its number) to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    pub from: usize,
    pub protocol: &'static str,
    pub to: Ipv4Addr,
    pub port: u16,
}

/// What listens in a namespace. Connections are completed by the kernel alone; datagrams are sent back.
pub struct Listeners {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    /// Sees SCTP packets as they come, since not every kernel speaks it.
    observer: Socket,
}

/// A socket of the round before may live a moment longer in the child that another test is just starting: it
/// has all descriptors until it is another program.
fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match bind() {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && std::time::Instant::now() < end =>
            {
                std::thread::yield_now();
            }
            bound => return bound.unwrap(),
        }
    }
}

impl Listeners {
    pub fn open(netns: &Netns, address: Ipv4Addr, tcp: &[u16], udp: &[u16]) -> Listeners {
        netns.run(|| {
            let tcp = tcp.iter().map(|port| {
                let listener = bound(|| TcpListener::bind((address, *port)));
                listener.set_nonblocking(true).unwrap();
                listener
            });
            let udp = udp.iter().map(|port| {
                let socket = bound(|| UdpSocket::bind((address, *port)));
                socket.set_nonblocking(true).unwrap();
                socket
            });
            Listeners { tcp: tcp.collect(), udp: udp.collect(), observer: raw_socket() }
        })
    }

    /// Answers what is there; tells destination and ports of SCTP packets seen.
    fn serve(&self) -> Vec<(Ipv4Addr, u16, u16)> {
        for listener in &self.tcp {
            while listener.accept().is_ok() {}
        }
        let mut buffer = [0; 256];
        for socket in &self.udp {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
        let mut packets = Vec::new();
        while let Ok(length) = (&self.observer).read(&mut buffer) {
            let header = usize::from(buffer[0] & 15) * 4;
            if length >= header + 4 {
                let to = Ipv4Addr::new(buffer[16], buffer[17], buffer[18], buffer[19]);
                let port = |at: usize| u16::from_be_bytes([buffer[at], buffer[at + 1]]);
                packets.push((to, port(header), port(header + 2)));
            }
        }
        packets
    }
}

enum Attempt {
    Tcp(Socket),
    Udp(UdpSocket, Instant),
    Sctp(u16),
}

/// Makes all these connections at once; answers with those that came about.
pub fn probe(
    places: &[&Netns],
    listeners: &[(Ipv4Addr, &Listeners)],
    probes: &[Probe],
    expected: impl Fn(&Probe) -> bool,
) -> BTreeSet<Probe> {
    let mut attempts: BTreeMap<Probe, Attempt> = BTreeMap::new();
    for (from, netns) in places.iter().enumerate() {
        let own: Vec<Probe> = probes.iter().filter(|probe| probe.from == from).copied().collect();
        // Numbers by which a packet's receiver knows which probe it was.
        let begun: Vec<(Probe, Attempt)> = netns.run(|| {
            let raw = raw_socket();
            let begin = |(number, probe): (usize, Probe)| {
                (probe, begin(&probe, &raw, 20_000 + (from * 200 + number) as u16))
            };
            own.into_iter().enumerate().map(begin).collect()
        });
        attempts.extend(begun);
    }
    let mut reached = BTreeSet::new();
    let wanted: BTreeSet<Probe> = probes.iter().filter(|probe| expected(probe)).copied().collect();
    let end = Instant::now() + PATIENCE;
    let mut settled: Option<Instant> = None;
    loop {
        for (at, listener) in listeners {
            for (to, source, port) in listener.serve() {
                let found = attempts.iter().find(|(probe, attempt)| {
                    to == *at
                        && probe.to == to
                        && probe.port == port
                        && matches!(attempt, Attempt::Sctp(own) if *own == source)
                });
                reached.extend(found.map(|(probe, _)| *probe));
            }
        }
        for (probe, attempt) in &mut attempts {
            if !reached.contains(probe) && is_through(probe, attempt, wanted.contains(probe)) {
                reached.insert(*probe);
            }
        }
        let now = Instant::now();
        if settled.is_none() && (wanted.is_subset(&reached) || now > end) {
            settled = Some(now);
        }
        if settled.is_some_and(|since| now > since + AFTERWARDS) {
            return reached;
        }
        std::thread::yield_now();
    }
}

fn begin(probe: &Probe, raw: &Socket, number: u16) -> Attempt {
    let to = SocketAddrV4::new(probe.to, probe.port).into();
    match probe.protocol {
        "TCP" => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Gone without a trace when closed.
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            match socket.connect(&to) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                Err(error) => panic!("{probe:?}: {error}"),
            }
            Attempt::Tcp(socket)
        }
        "UDP" => {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect((probe.to, probe.port)).unwrap();
            let _ = socket.send(b"?");
            Attempt::Udp(socket, Instant::now())
        }
        "SCTP" => {
            raw.send_to(&sctp_init(number, probe.port), &SocketAddrV4::new(probe.to, 0).into()).unwrap();
            Attempt::Sctp(number)
        }
        other => panic!("{other} is no protocol"),
    }
}

fn is_through(probe: &Probe, attempt: &mut Attempt, wanted: bool) -> bool {
    match attempt {
        Attempt::Tcp(socket) => {
            // The other end is there, or has already closed again.
            if socket.peer_addr().is_ok() {
                return true;
            }
            let error = socket.take_error().unwrap();
            let is_reset = error.as_ref().is_some_and(|error| error.kind() == ErrorKind::ConnectionReset);
            assert!(is_reset || error.is_none() || !wanted, "{probe:?}: {error:?}");
            is_reset
        }
        Attempt::Udp(socket, sent) => {
            let mut buffer = [0; 16];
            if socket.recv(&mut buffer).is_ok() {
                return true;
            }
            if wanted && sent.elapsed() > REPEAT {
                let _ = socket.send(b"?");
                *sent = Instant::now();
            }
            false
        }
        Attempt::Sctp(_) => false,
    }
}

/// Packets of the protocol as they are, whether the kernel speaks it or not.
fn raw_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(SCTP))).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// An INIT chunk (RFC 9260 §3.3.2), which begins an association.
fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(1u32.to_be_bytes());
    packet.extend(65_535u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1u32.to_be_bytes());
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
            },
        )
    };
    !bytes.iter().fold(u32::MAX, step)
}
