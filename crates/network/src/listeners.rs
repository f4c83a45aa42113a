//! Which process of a network namespace listens on a port, and which gets what comes in there.

use std::fs;
use std::net::IpAddr;

use crate::facts::{SocketFact, sockets_here};
use crate::{HostPort, HostPortConflict};

/// The process whose socket is in the way of one for the port in the calling thread's namespace. A process
/// that this one may not look into is number 0.
pub(crate) fn find(port: &HostPort) -> Option<HostPortConflict> {
    let listener = sockets_here().into_iter().find(|this| overlaps(this, port))?;
    Some(conflict(&listener, *port))
}

/// The process that gets what comes in by the link, by its number, to the address and port of the calling
/// thread's namespace.
pub(crate) fn taker(port: &HostPort, link: Option<u32>) -> Option<HostPortConflict> {
    let all = sockets_here();
    let here = all.iter().filter(|own| own.protocol == port.protocol && own.port == port.host_port);
    let taker = here.filter_map(|own| Some((own.suits(port.host_ip, link)?, own)));
    let (_, listener) = taker.max_by_key(|(how_well, _)| *how_well)?;
    Some(conflict(listener, *port))
}

fn conflict(listener: &SocketFact, port: HostPort) -> HostPortConflict {
    let (pid, command) = owner(listener.inode).unwrap_or((0, "unknown".into()));
    HostPortConflict { port, pid, command }
}

/// SCTP sockets are told in a format of their own, and none was ever seen to matter here.
fn overlaps(listener: &SocketFact, port: &HostPort) -> bool {
    let same = listener.protocol == port.protocol && listener.port == port.host_port;
    same && match listener.address.to_canonical() {
        IpAddr::V4(own) => own == port.host_ip || own.is_unspecified() || port.host_ip.is_unspecified(),
        IpAddr::V6(own) => own.is_unspecified() && listener.six_only != Some(true),
    }
}

fn owner(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids {
        let pid: u32 = pid;
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        if fds
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
        {
            return Some((pid, command(pid)));
        }
    }
    None
}

fn command(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
    if !line.is_empty() {
        return line;
    }
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn a_listener_of_one_address_is_in_the_way_of_that_and_of_all() {
        let listener = |address: &str| SocketFact {
            protocol: Protocol::Tcp,
            address: address.trim_end_matches('!').parse().unwrap(),
            port: 80,
            inode: 1,
            link: 0,
            six_only: Some(address.ends_with('!')),
        };
        let port = |address: &str, host_port| HostPort {
            host_ip: address.parse().unwrap(),
            host_port,
            protocol: Protocol::Tcp,
            container_port: 1,
        };
        for (has, wants, clash) in [
            ("0.0.0.0", "10.0.0.1", true),
            ("10.0.0.1", "0.0.0.0", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::", "10.0.0.1", true),
            // One of IPv6 alone, which `ss` shows as `[::]` too.
            ("::!", "0.0.0.0", false),
            ("::1", "0.0.0.0", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(overlaps(&listener(has), &port(wants, 80)), clash, "{has} {wants}");
            assert!(!overlaps(&listener(has), &port(wants, 81)));
        }
    }
}
