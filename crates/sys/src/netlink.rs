//! Netlink without ceremony: a blocking socket, a message writer and an attribute reader.
//!
//! Links, addresses and routes ([`route`]), connection tracking ([`conntrack`]) and nftables
//! ([`crate::nft`]) are written on top of it. A socket belongs to the network namespace in which it was
//! opened, whichever thread uses it later; [`in_netns`] opens one in another namespace.
//!
//! The kernel answers a request before `sendmsg` returns, so a blocking call here takes microseconds.

pub mod conntrack;
pub mod diag;
pub mod hooks;
pub mod queues;
#[cfg(test)]
pub(crate) mod random;
pub mod route;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};

/// The kernel's families of netlink that Skiff speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Route,
    Netfilter,
    SockDiag,
}

// Header flags and control types, linux/netlink.h.
pub const REQUEST: u16 = 0x001;
pub const ACK: u16 = 0x004;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;
/// On the messages of a dump during which what is told was changed.
const DUMP_INTERRUPTED: u16 = 0x10;
const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// One or more messages in the making. Attributes may be nested; lengths are filled in on closing.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    message: usize,
}

/// Where an open nested attribute started.
#[must_use]
pub struct Nest(usize);

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Starts a message. `flags` gets `REQUEST` added. The sequence number counts messages.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: &[u8]) -> &mut Writer {
        self.message = self.bytes.len();
        self.bytes.extend_from_slice(&(HEADER as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.raw(body)
    }

    /// Bytes that are no attribute: the fixed part of a message, also inside a nested attribute.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self.align()
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Writer {
        let length = u16::try_from(value.len() + 4).expect("attribute values are far below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// A string with the final zero that the kernel expects.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Writer {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Writer {
        self.attribute(kind, &[value])
    }

    /// In host order, as rtnetlink has its numbers.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Writer {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// In network order, as nfnetlink has its numbers.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Writer {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub fn open(&mut self, kind: u16) -> Nest {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&4u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Nest(start)
    }

    pub fn close(&mut self, nest: Nest) -> &mut Writer {
        let length =
            u16::try_from(self.bytes.len() - nest.0).expect("nested attributes are split before 64 KiB");
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Sets flags on the message started last.
    pub fn flag_last(&mut self, flags: u16) {
        let at = self.message + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// The bytes of the message started last, so far.
    pub fn message_length(&self) -> usize {
        self.bytes.len() - self.message
    }

    /// Closes the message: writes its length into its header.
    pub fn end(&mut self) -> &mut Writer {
        let length = (self.bytes.len() - self.message) as u32;
        self.bytes[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn align(&mut self) -> &mut Writer {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        self
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    flags: u16,
    pub sequence: u32,
    /// The port of the socket whose request caused the message.
    pub port: u32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The error number of an acknowledgement or of a dump's end: `Some(0)` says done.
    fn error(&self) -> Option<i32> {
        if self.kind != MSG_ERROR && self.kind != MSG_DONE {
            return None;
        }
        let bytes = self.body.get(..4)?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?).wrapping_neg())
    }
}

/// The messages in one received datagram. Stops at the first that does not hold together.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        if length < HEADER || length > datagram.len() {
            return None;
        }
        let (this, rest) = datagram.split_at(length);
        datagram = rest.get(length.next_multiple_of(4) - length..).unwrap_or(&[]);
        let word = |at: usize| u32::from_ne_bytes([this[at], this[at + 1], this[at + 2], this[at + 3]]);
        Some(Message {
            kind: u16::from_ne_bytes([this[4], this[5]]),
            flags: u16::from_ne_bytes([this[6], this[7]]),
            sequence: word(8),
            port: word(12),
            body: &this[HEADER..],
        })
    })
}

/// The attributes in `bytes`, without their flags. Stops at the first that does not hold together.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        if length < 4 || length > bytes.len() {
            return None;
        }
        let (this, rest) = bytes.split_at(length);
        bytes = rest.get(length.next_multiple_of(4) - length..).unwrap_or(&[]);
        Some((kind & TYPE_MASK, &this[4..]))
    })
}

/// The value of the first attribute of this kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(this, _)| *this == kind).map(|(_, value)| value)
}

/// A string attribute's value without its final zero.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or(&[])).into_owned()
}

/// A netlink socket of one network namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
}

impl Socket {
    /// In the network namespace of the calling thread. `groups` is a mask of multicast groups (bit n-1
    /// for group n), zero for none.
    pub fn open(family: Family, groups: u32) -> io::Result<Socket> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
            Family::SockDiag => SockProtocol::NetlinkSockDiag,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        // Answers of a large dump or a burst of notices must fit. Without the capability the limit is
        // the system's, and an overflow is noticed as ENOBUFS.
        if setsockopt(&fd, sockopt::RcvBufForce, &(4 << 20)).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &(4 << 20));
        }
        Ok(Socket { fd, port })
    }

    /// In the namespace that `netns` refers to.
    pub fn open_in(netns: BorrowedFd<'_>, family: Family) -> io::Result<Socket> {
        in_netns(netns, || Socket::open(family, 0))?
    }

    /// The port by which the kernel knows this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Leaves out notices of changes that the socket with this port asked for.
    pub fn ignore_port(&self, port: u32) -> io::Result<()> {
        const PORT_OFFSET: u32 = 12;
        // Filters load words in network order, the header has them in host order.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, PORT_OFFSET),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: `filter` and the `program` that it points to live until the call returns, and the kernel
        // copies both; the length is that of a `sock_fprog`.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        nix::Error::result(result).map(drop).map_err(Into::into)
    }

    /// Sends all messages in one datagram, which the kernel works off in order before this returns.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let wanted = bytes.len() * 2 + 65_536;
        if bytes.len() > 100_000 && setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &wanted);
        }
        let sent = sendmsg(
            self.fd.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[],
            MsgFlags::empty(),
            Some(&NetlinkAddr::new(0, 0)),
        )?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The next datagram, cut to what was received. `WouldBlock` if `wait` is false and none is there.
    pub fn receive<'a>(&self, buffer: &'a mut Vec<u8>, wait: bool) -> io::Result<&'a [u8]> {
        buffer.resize(65_536, 0);
        let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        let length = loop {
            let mut parts = [IoSliceMut::new(buffer)];
            match recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut parts, None, flags) {
                Ok(received) => break received.bytes,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(&buffer[..length])
    }

    /// Sends messages that each ask for an acknowledgement, and waits for all of them. Answers the error
    /// number of each, zero for success.
    pub fn transact(&self, bytes: &[u8], count: usize) -> io::Result<Vec<i32>> {
        self.send(bytes)?;
        let mut results = Vec::with_capacity(count);
        let mut buffer = Vec::new();
        while results.len() < count {
            results.extend(messages(self.receive(&mut buffer, true)?).filter_map(|message| message.error()));
        }
        Ok(results)
    }

    /// Sends one dump request and hands every message of the answer to `each`. `Interrupted` says that what
    /// was told changed meanwhile, so that some of it may be missing or told twice: see [`settled`].
    pub fn dump(&self, bytes: &[u8], mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.send(bytes)?;
        let mut buffer = Vec::new();
        let mut interrupted = false;
        loop {
            for message in messages(self.receive(&mut buffer, true)?) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match (message.kind, message.error()) {
                    (MSG_DONE, None) | (_, Some(0)) if interrupted => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    (MSG_DONE, None) | (_, Some(0)) => return Ok(()),
                    (_, Some(error)) => return Err(io::Error::from_raw_os_error(error)),
                    _ => each(message),
                }
            }
        }
    }

    /// Answers already queued: the error number and sequence of each acknowledgement. For batches, whose
    /// acknowledgements are there once `send` has returned.
    pub fn queued(&self) -> io::Result<Vec<(u32, i32)>> {
        let mut buffer = Vec::new();
        let mut results = Vec::new();
        loop {
            match self.receive(&mut buffer, false) {
                Ok(datagram) => {
                    results.extend(
                        messages(datagram)
                            .filter_map(|message| message.error().map(|error| (message.sequence, error))),
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(results),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads again as long as what is read changes meanwhile; gives up when it never stands still.
pub fn settled<T, E>(mut read: impl FnMut() -> Result<T, E>, changed: impl Fn(&E) -> bool) -> Result<T, E> {
    const ATTEMPTS: usize = 16;
    let mut result = read();
    for _ in 1..ATTEMPTS {
        match &result {
            Err(error) if changed(error) => result = read(),
            _ => break,
        }
    }
    result
}

/// A dump whose subject changed meanwhile.
pub(crate) fn was_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

/// Runs `work` on a thread of its own inside a network namespace. What it opens there stays there.
pub fn in_netns<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
            io::Result::Ok(work())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::new();
        writer.message(7, ACK, 3, &[1, 2, 3, 4]).string(1, "cbr0");
        let nest = writer.open(2);
        writer.u32(5, 9).u8(6, 1);
        writer.close(nest).end();
        let all: Vec<_> = messages(writer.as_bytes()).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (7, 3));
        let body = &all[0].body[4..];
        assert_eq!(text(attribute(body, 1).unwrap()), "cbr0");
        let inner = attribute(body, 2).unwrap();
        assert_eq!(attribute(inner, 5).unwrap(), 9u32.to_ne_bytes());
        assert_eq!(attribute(inner, 6).unwrap(), [1]);
        assert_eq!(attribute(inner, 7), None);
    }

    #[test]
    fn what_changes_meanwhile_is_read_again_but_not_for_ever() {
        let read = |fails: usize| {
            let mut count = 0;
            let result = settled(
                || {
                    count += 1;
                    if count > fails { Ok(count) } else { Err(io::Error::from(io::ErrorKind::Interrupted)) }
                },
                was_interrupted,
            );
            result.map_err(|_| count)
        };
        assert_eq!([read(0), read(3), read(100)], [Ok(1), Ok(4), Err(16)]);
    }

    #[test]
    fn a_truncated_datagram_ends_the_reading() {
        let mut writer = Writer::new();
        writer.message(7, 0, 3, &[]).string(1, "long enough").end();
        let bytes = writer.as_bytes();
        for length in 0..bytes.len() {
            assert_eq!(messages(&bytes[..length]).count(), 0, "{length}");
            let _ = attributes(&bytes[..length]).count();
        }
    }
}
