//! Packets as they pass the devices of a network namespace.

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

    /// Hears only what may begin something: IPv4's datagrams, and of TCP connections the SYN. So that all
    /// else that passes does not fill the buffer, and nothing is lost however late it is read.
    pub fn of_beginnings() -> io::Result<PacketSocket> {
        let socket = Self::open()?;
        attach(socket.fd.as_fd(), &BEGINNINGS)?;
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
static BEGINNINGS: [libc::sock_filter; 11] = {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX};
    use libc::{BPF_MSH, BPF_RET, SKF_AD_OFF, SKF_AD_PROTOCOL};
    const IPV4: u32 = 0x0800;
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    const SYN: u32 = 0x02;
    const SYN_ACK: u32 = 0x12;
    [
        op(BPF_LD | BPF_H | BPF_ABS, (SKF_AD_OFF + SKF_AD_PROTOCOL) as u32, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, IPV4, 0, 8),
        op(BPF_LD | BPF_B | BPF_ABS, 9, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, UDP, 5, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, TCP, 0, 5),
        // The length of the header, then TCP's flags.
        op(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0),
        op(BPF_LD | BPF_B | BPF_IND, 13, 0, 0),
        op(BPF_ALU | BPF_AND | BPF_K, SYN_ACK, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        op(BPF_RET | BPF_K, u32::MAX, 0, 0),
        op(BPF_RET | BPF_K, 0, 0, 0),
    ]
};

fn attach(fd: BorrowedFd<'_>, filter: &'static [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, whose pointer and length are of one static array, and does not
    // write to it; the size is that of the structure.
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

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
