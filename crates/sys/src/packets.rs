//! Packets as they pass the devices of a network namespace, and connections that are known among them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

/// Hears every packet of every device of the namespace in which it was opened, both ways.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

/// Which packets are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Those of a connection that began with this sequence number: its first segment, and what answers that.
    Tcp { sequence: u32 },
    /// All datagrams: what answers one can be told only by who has seen it.
    Udp,
}

/// Enough for a burst of some thousand small packets.
const BUFFER_BYTES: usize = 4 << 20;

impl PacketSocket {
    /// In the calling thread's namespace. Needs CAP_NET_RAW there.
    pub fn open() -> io::Result<PacketSocket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
        // Beyond the machine's limit, where that is allowed. A smaller buffer only loses packets sooner.
        let forced = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES);
        let _ = forced.or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &BUFFER_BYTES));
        Ok(PacketSocket { fd })
    }

    /// Hears only what may be of one connection, so that all else that passes does not fill the buffer, and
    /// nothing is lost however late it is read.
    pub fn of(connection: Connection) -> io::Result<PacketSocket> {
        let socket = Self::open()?;
        attach(socket.fd.as_fd(), &filter(connection))?;
        Ok(socket)
    }

    /// The next IPv4 packet: the index of its device, and its bytes from the IP header on. `WouldBlock` if
    /// none is there.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(u32, &'a [u8])> {
        const IPV4: u16 = 0x0800;
        loop {
            let (length, from) = recvfrom::<LinkAddr>(self.fd.as_raw_fd(), buffer)?;
            let Some(from) = from.filter(|from| u16::from_be(from.protocol()) == IPV4) else { continue };
            return Ok((from.ifindex() as u32, &buffer[..length.min(buffer.len())]));
        }
    }
}

const fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Classic BPF (linux/filter.h), on a packet from its IP header on. Jumps count from the next line.
fn filter(connection: Connection) -> Vec<libc::sock_filter> {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET};
    use libc::{BPF_W, SKF_AD_OFF, SKF_AD_PROTOCOL};
    const IPV4: u32 = 0x0800;
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    let of_protocol = |protocol| {
        [
            op(BPF_LD | BPF_H | BPF_ABS, (SKF_AD_OFF + SKF_AD_PROTOCOL) as u32, 0, 0),
            op(BPF_JMP | BPF_JEQ | BPF_K, IPV4, 1, 0),
            op(BPF_RET | BPF_K, 0, 0, 0),
            op(BPF_LD | BPF_B | BPF_ABS, 9, 0, 0),
            op(BPF_JMP | BPF_JEQ | BPF_K, protocol, 1, 0),
            op(BPF_RET | BPF_K, 0, 0, 0),
        ]
    };
    let whole = op(BPF_RET | BPF_K, u32::MAX, 0, 0);
    match connection {
        Connection::Udp => [&of_protocol(UDP)[..], &[whole]].concat(),
        Connection::Tcp { sequence } => [
            &of_protocol(TCP)[..],
            &[
                // The length of the IP header, then TCP's sequence number, and what it acknowledges.
                op(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0),
                op(BPF_LD | BPF_W | BPF_IND, 4, 0, 0),
                op(BPF_JMP | BPF_JEQ | BPF_K, sequence, 3, 0),
                op(BPF_LD | BPF_W | BPF_IND, 8, 0, 0),
                op(BPF_JMP | BPF_JEQ | BPF_K, sequence.wrapping_add(1), 1, 0),
                op(BPF_RET | BPF_K, 0, 0, 0),
                whole,
            ],
        ]
        .concat(),
    }
}

fn attach(fd: BorrowedFd<'_>, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, whose pointer and length are of one slice that outlives the call,
    // and does not write to it; the size is that of the structure.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the connection that this TCP socket will make begin with a sequence number that is known beforehand; not
/// zero, with which the kernel chooses. Needs CAP_NET_ADMIN in the socket's namespace.
pub fn begin_with(socket: BorrowedFd<'_>, sequence: u32) -> io::Result<()> {
    // linux/tcp.h
    const REPAIR: i32 = 19;
    const REPAIR_QUEUE: i32 = 20;
    const QUEUE_SEQUENCE: i32 = 21;
    const SEND_QUEUE: u32 = 2;
    for (option, value) in [(REPAIR, 1), (REPAIR_QUEUE, SEND_QUEUE), (QUEUE_SEQUENCE, sequence), (REPAIR, 0)]
    {
        // SAFETY: the kernel reads four bytes from `value`, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                (&raw const value).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
