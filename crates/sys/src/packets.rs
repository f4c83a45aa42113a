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
        // A smaller buffer only loses packets sooner.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &BUFFER_BYTES);
        Ok(PacketSocket { fd })
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

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
