//! What one network namespace has, read off the kernel: links, addresses, routes, sockets that wait.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use skiff_sys::netlink::route::Connection;
use skiff_sys::netlink::{Family, Socket, diag};

use crate::{Error, Protocol};

/// A link with its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFact {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub mtu: u32,
    /// `veth`, `bridge`, …; empty for a device of the machine.
    pub kind: String,
    /// Each with its prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// An IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFact {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub via: Option<Ipv4Addr>,
    /// The name of the link.
    pub link: String,
}

/// A socket that listens (TCP), or is bound and connected to nobody (UDP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFact {
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
    pub inode: u64,
    /// The link that it is bound to, by its number; 0 for all.
    pub link: u32,
    /// What is for an IPv4 address never gets to it. Nothing where the kernel does not tell.
    pub six_only: Option<bool>,
}

impl SocketFact {
    /// How well a packet to the address that came in by the link suits it: the kernel gives a packet to the
    /// one that it suits best. Nothing where it never gets it.
    pub fn suits(&self, to: Ipv4Addr, link: Option<u32>) -> Option<u8> {
        let of_address = match self.address.to_canonical() {
            IpAddr::V4(own) if own == to => 4,
            IpAddr::V4(own) if own.is_unspecified() => 1,
            IpAddr::V6(own) if own.is_unspecified() && self.six_only != Some(true) => 0,
            _ => return None,
        };
        match (self.link, link) {
            (0, _) => Some(of_address),
            (own, link) => (Some(own) == link).then_some(of_address + 2),
        }
    }
}

/// Everything of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub links: Vec<LinkFact>,
    pub routes: Vec<RouteFact>,
    pub sockets: Vec<SocketFact>,
}

/// Reads the namespace that a process is in. Blocking, a few netlink requests.
pub fn read(pid: u32) -> Result<Facts, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kernel {
        action: format!("read the network of process {pid}"),
        source,
    };
    let netns = fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| failed(error.into()))?;
    let kernel = Connection::open_in(netns.as_fd()).map_err(|error| failed(error.into()))?;
    let links = kernel.links().map_err(|error| failed(error.into()))?;
    let addresses = kernel.addresses().map_err(|error| failed(error.into()))?;
    let six = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
    let six: Vec<(u32, IpAddr, u8)> = six.lines().filter_map(parse_inet6).collect();
    let facts = links.iter().map(|link| {
        let four =
            addresses.iter().filter(|own| own.link == link.index).map(|own| (own.ip.into(), own.prefix));
        let six = six.iter().filter(|own| own.0 == link.index).map(|own| (own.1, own.2));
        LinkFact {
            index: link.index,
            name: link.name.clone(),
            up: link.up,
            mtu: link.mtu,
            kind: link.kind.clone(),
            addresses: four.chain(six).collect(),
        }
    });
    let name = |index: Option<u32>| {
        let found = links.iter().find(|link| Some(link.index) == index);
        found.map(|link| link.name.clone()).unwrap_or_default()
    };
    let routes =
        kernel.routes(None).map_err(|error| failed(error.into()))?.into_iter().map(|route| RouteFact {
            destination: route.destination,
            prefix: route.prefix,
            via: route.via,
            link: name(route.link),
        });
    Ok(Facts { links: facts.collect(), routes: routes.collect(), sockets: sockets(pid) })
}

/// The sockets that wait for peers in a process's network namespace.
pub fn sockets(pid: u32) -> Vec<SocketFact> {
    let there = || {
        let netns = fs::File::open(format!("/proc/{pid}/ns/net"))?;
        asked(&Socket::open_in(netns.as_fd(), Family::SockDiag)?)
    };
    sorted(there(), &format!("/proc/{pid}/net"))
}

/// Those of the calling thread's.
pub(crate) fn sockets_here() -> Vec<SocketFact> {
    let here = || asked(&Socket::open(Family::SockDiag, 0)?);
    // Through the thread: its namespace is what counts, also where the process began in another.
    sorted(here(), "/proc/thread-self/net")
}

fn sorted(asked: io::Result<Vec<SocketFact>>, tables: &str) -> Vec<SocketFact> {
    // A kernel may lack this, and then has the tables still.
    let mut found = asked.unwrap_or_else(|_| self::tables(tables));
    found.sort_by_key(|socket| (socket.port, socket.protocol, socket.address));
    found
}

fn asked(socket: &Socket) -> io::Result<Vec<SocketFact>> {
    let mut found = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let waiting = diag::waiting(socket, protocol.number())?.into_iter();
        found.extend(waiting.map(|own| SocketFact {
            protocol,
            address: own.address,
            port: own.port,
            inode: own.inode,
            link: own.link,
            six_only: Some(own.six_only),
        }));
    }
    Ok(found)
}

fn tables(dir: &str) -> Vec<SocketFact> {
    let mut found = Vec::new();
    for (file, protocol, state) in [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ] {
        let table = fs::read_to_string(format!("{dir}/{file}")).unwrap_or_default();
        found.extend(table.lines().skip(1).filter_map(|line| parse_socket(line, protocol, state)));
    }
    found
}

/// The tables tell neither links nor whether IPv4 is left out.
fn parse_socket(line: &str, protocol: Protocol, state: &str) -> Option<SocketFact> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != state {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let address = parse_address(address)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let six_only = address.is_ipv4().then_some(false);
    Some(SocketFact { protocol, address, port, inode, link: 0, six_only })
}

/// Hexadecimal words in the machine's byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(IpAddr::from(four));
    }
    Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

/// `/proc/net/if_inet6`: address, index, prefix, scope, flags, name.
fn parse_inet6(line: &str) -> Option<(u32, IpAddr, u8)> {
    let mut fields = line.split_ascii_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let index = u32::from_str_radix(fields.next()?, 16).ok()?;
    let prefix = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some((index, Ipv6Addr::from(address).into(), prefix))
}

/// Which of these processes hold each of these sockets, in the order in which they are given: several where one has
/// begun others, or has handed it on. No more than so many of each; a socket that nobody holds is not among them.
pub fn holders(
    pids: impl IntoIterator<Item = u32>,
    sockets: &[SocketFact],
    most: usize,
) -> HashMap<u64, Vec<u32>> {
    let mut held: HashMap<u64, Vec<u32>> = sockets.iter().map(|socket| (socket.inode, Vec::new())).collect();
    for pid in pids {
        if held.is_empty() {
            break;
        }
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in fds.flatten() {
            let Ok(link) = fs::read_link(fd.path()) else { continue };
            let inode = link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            let Some(inode) = inode.and_then(|text| text.parse().ok()) else { continue };
            // A process may hold it by several descriptors.
            if let Some(held) = held.get_mut(&inode)
                && held.len() < most
                && held.last() != Some(&pid)
            {
                held.push(pid);
            }
        }
    }
    held.retain(|_, held| !held.is_empty());
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_s_own_sockets_are_found() {
        let tcp = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let udp = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let pid = std::process::id();
        let facts = read(pid).unwrap();
        // Both ways of asking say the same of them; sockets of other tests come and go.
        let asked = asked(&Socket::open(Family::SockDiag, 0).unwrap()).unwrap();
        for port in [tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port()] {
            let of = |all: &[SocketFact]| all.iter().copied().find(|own| own.port == port);
            assert!(of(&asked).is_some());
            assert_eq!(of(&asked), of(&tables("/proc/thread-self/net")));
        }
        let holders = holders([pid], &facts.sockets, 8);
        for (protocol, port) in [
            (Protocol::Tcp, tcp.local_addr().unwrap().port()),
            (Protocol::Udp, udp.local_addr().unwrap().port()),
        ] {
            let found =
                facts.sockets.iter().find(|own| own.protocol == protocol && own.port == port).unwrap();
            assert_eq!(found.address, IpAddr::from(Ipv4Addr::LOCALHOST));
            assert_eq!(holders.get(&found.inode), Some(&vec![pid]));
        }
        let lo = facts.links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(lo.index, 1);
    }

    #[test]
    fn everybody_who_holds_a_socket_is_found() {
        use std::os::fd::OwnedFd;
        use std::process::{Command, Stdio};
        let listening = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listening.local_addr().unwrap().port();
        let own = std::process::id();
        let socket = sockets(own).into_iter().find(|own| own.port == port).unwrap();
        // Two that have it as their standard output, one of them as its error too.
        let begin = |twice: bool| {
            let handed = || Stdio::from(OwnedFd::from(listening.try_clone().unwrap()));
            let error = if twice { handed() } else { Stdio::null() };
            let mut cat = Command::new("cat");
            cat.stdin(Stdio::piped()).stdout(handed()).stderr(error).spawn().unwrap()
        };
        let mut children = [begin(false), begin(true)];
        let pids = || [own, children[0].id(), children[1].id()];
        let found = holders(pids(), &[socket], 8);
        assert_eq!(found.get(&socket.inode), Some(&pids().to_vec()));
        assert_eq!(holders(pids(), &[socket], 2).get(&socket.inode).map(Vec::len), Some(2));
        assert!(holders([std::process::id()], &[SocketFact { inode: 1, ..socket }], 8).is_empty());
        for child in &mut children {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn who_takes_no_ipv4_or_one_link_alone_is_known_by_it() {
        let own = |address: &str, link, six_only| SocketFact {
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port: 80,
            inode: 1,
            link,
            six_only,
        };
        let to = Ipv4Addr::new(10, 0, 0, 1);
        let suits = |address: &str, link, six_only| own(address, link, six_only).suits(to, Some(2));
        for (address, link, six_only, expected) in [
            ("0.0.0.0", 0, Some(false), Some(1)),
            ("10.0.0.1", 0, Some(false), Some(4)),
            ("10.0.0.2", 0, Some(false), None),
            ("::", 0, Some(false), Some(0)),
            ("::", 0, None, Some(0)),
            ("::", 0, Some(true), None),
            ("::1", 0, Some(false), None),
            ("::ffff:10.0.0.1", 0, Some(false), Some(4)),
            ("::ffff:10.0.0.2", 0, Some(false), None),
            ("0.0.0.0", 2, Some(false), Some(3)),
            ("0.0.0.0", 1, Some(false), None),
        ] {
            assert_eq!(suits(address, link, six_only), expected, "{address} link {link} {six_only:?}");
        }
    }

    #[test]
    fn the_kernel_tells_of_sockets_without_ipv4_and_of_one_link() {
        use nix::sys::socket::{setsockopt, sockopt};
        use socket2::{Domain, SockAddr, Socket, Type};
        let listening = |domain, at: &str, link: Option<&str>| {
            let socket = Socket::new(domain, Type::STREAM, None)?;
            if domain == Domain::IPV6 {
                socket.set_only_v6(true)?;
            }
            if let Some(link) = link {
                setsockopt(&socket, sockopt::BindToDevice, &link.into())?;
            }
            socket.bind(&SockAddr::from(at.parse::<std::net::SocketAddr>().unwrap()))?;
            socket.listen(1)?;
            let port = socket.local_addr()?.as_socket().unwrap().port();
            Ok::<_, io::Error>((socket, port))
        };
        let told = |port: u16| sockets_here().into_iter().find(|own| own.port == port).unwrap();
        let (_bound, port) = listening(Domain::IPV4, "0.0.0.0:0", Some("lo")).unwrap();
        assert_eq!((told(port).link, told(port).six_only), (1, Some(false)));
        // A machine may have no IPv6 at all.
        if let Ok((_six, port)) = listening(Domain::IPV6, "[::]:0", None) {
            assert_eq!((told(port).link, told(port).six_only), (0, Some(true)));
        }
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "00000000000000000000000000000001 01 80 10 80       lo";
        assert_eq!(parse_inet6(line), Some((1, "::1".parse().unwrap(), 128)));
        assert_eq!(parse_inet6("nonsense"), None);
        let line = "   0: 00000000:1F90 00000000:0000 01 0:0 00:0 0 0 0 4711 1";
        assert_eq!(parse_socket(line, Protocol::Tcp, "0A"), None, "it is connected");
    }
}
