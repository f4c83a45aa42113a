//! Watches for other programs that change the tables: a flush by an administrator's script, say.
//!
//! The kernel tells every change with the port of the socket that asked for it, so our own are known: a
//! filter on the socket keeps them out, and writing ten thousand services neither wakes this thread nor
//! overflows its queue.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Ruleset, Traffic, wire};
use crate::netlink::{Family, Socket, messages};

/// NFNLGRP_NFTABLES as a bit of the group mask.
const GROUP: u32 = 1 << (7 - 1);

/// Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Monitor {
    _stop: OwnedFd,
}

impl Monitor {
    pub(super) fn start(own: u32, ruleset: Weak<Ruleset>) -> io::Result<Monitor> {
        let socket = Socket::open(Family::Netfilter, GROUP)?;
        socket.ignore_port(own)?;
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        std::thread::Builder::new()
            .name("nft-monitor".into())
            .spawn(move || watch(&socket, own, &stopped, &ruleset))?;
        Ok(Monitor { _stop: stop })
    }
}

fn watch(socket: &Socket, own: u32, stopped: &OwnedFd, ruleset: &Weak<Ruleset>) {
    let mut buffer = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return tracing::error!(%error, "cannot watch the packet filter"),
        }
        if fds[1].any() != Some(false) {
            return;
        }
        // All that is there, so that a flush of many objects is answered once.
        let (mut touched, mut lost) =
            ([Traffic::Packets, Traffic::Neighbours].map(|own| (own, false)), false);
        loop {
            match socket.receive(&mut buffer, false) {
                Ok(datagram) => {
                    for message in messages(datagram).filter(|message| message.port != own) {
                        for (table, touched) in &mut touched {
                            *touched |= wire::touches_table(*table, message.kind, message.body);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(error) => return tracing::error!(%error, "cannot watch the packet filter"),
            }
        }
        let Some(ruleset) = ruleset.upgrade() else { return };
        for (table, touched) in touched {
            // Lost notices may have been about us.
            if touched || (lost && !ruleset.holds(table)) {
                ruleset.touched(table);
            }
        }
    }
}
