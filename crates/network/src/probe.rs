//! One real connection, and what becomes of its packets: the test of what a walk told.
//!
//! They are known by what no translation changes: a TCP connection by the sequence number that it begins with,
//! a datagram by the token that it carries. Both are chosen before anything is sent, so that everybody listens
//! for just these.

mod listen;

use std::fs::File;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skiff_sys::netlink::in_netns;
use skiff_sys::packets::begin_with;

use crate::Protocol;

pub use listen::listen;

/// No longer than that an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What the listening told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    pub sights: Vec<Sight>,
    pub rules: Vec<MetRule>,
    pub tracked: Vec<Tracked>,
    /// Where rules could not be observed, and why.
    pub blind: Vec<Blind>,
    /// Where rules were observed too that packets meet before they are routed.
    #[serde(default)]
    pub frames: Vec<Frames>,
}

/// A packet on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// Whose namespace: the name that was given.
    pub place: String,
    pub device: String,
    /// It answers the first packet.
    pub answer: bool,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// A rule of the packet filter that a packet met, or a chain's policy, whose handle is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetRule {
    pub place: String,
    pub table: String,
    pub chain: String,
    pub handle: u64,
    /// As `nft` says it.
    pub verdict: String,
    pub answer: bool,
    /// It was sent again, or follows.
    pub again: bool,
    /// When it came to the base chain.
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// The entry of connection tracking: what began the connection and what answers it, as each comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracked {
    pub place: String,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub answer_source: SocketAddrV4,
    pub answer_destination: SocketAddrV4,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blind {
    pub place: String,
    pub why: String,
}

/// One family of rules, `bridge` or `netdev`, of one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    pub place: String,
    pub family: String,
    /// Also what answers the first packet was observed there.
    pub answers: bool,
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
    /// What a datagram carries. The lower half is a TCP connection's first sequence number, and not zero.
    pub token: u64,
}

impl Heard {
    fn sequence(self) -> u32 {
        self.token as u32
    }
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

/// Makes the connection, from a namespace or the calling thread's own.
pub fn connect(netns: Option<&Path>, to: SocketAddrV4, heard: Heard, patience: Duration) -> Outcome {
    let patience = patience.min(ANSWER_MAX);
    let work = || match heard.protocol {
        Protocol::Tcp => connect_tcp(to, heard.sequence(), patience),
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

/// By hand, since its first packet has to be known among others, and its port also where it does not come about.
fn connect_tcp(to: SocketAddrV4, sequence: u32, patience: Duration) -> io::Result<Outcome> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, getsockopt, socket,
        sockopt,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    begin_with(fd.as_fd(), sequence)?;
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
