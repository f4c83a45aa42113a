//! Which process of the node listens on a port: sockets from `/proc/net`, their owners from `/proc/*/fd`.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{HostPort, HostPortConflict, Protocol};

/// A listening socket as `/proc/net/tcp` and its siblings tell it.
#[derive(Debug, PartialEq, Eq)]
struct Listener {
    /// 0.0.0.0 for every address, also for a socket of both IP versions.
    address: Ipv4Addr,
    port: u16,
    inode: u64,
}

/// The process that listens on the port. A process that this one may not look into is number 0.
pub(crate) fn find(port: &HostPort) -> Option<HostPortConflict> {
    let (files, state) = match port.protocol {
        Protocol::Tcp => (["tcp", "tcp6"], "0A"),
        // An unconnected UDP socket.
        Protocol::Udp => (["udp", "udp6"], "07"),
        // Told in a format of its own, and no such socket was ever seen to matter here.
        Protocol::Sctp => return None,
    };
    // Through the thread: its namespace is what counts, also where the process began in another.
    let tables =
        files.map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default());
    let listener = tables.iter().flat_map(|table| parse(table, state)).find(|this| overlaps(this, port))?;
    let (pid, command) = owner(listener.inode).unwrap_or((0, "unknown".into()));
    Some(HostPortConflict { port: *port, pid, command })
}

fn overlaps(listener: &Listener, port: &HostPort) -> bool {
    listener.port == port.host_port
        && (listener.address == port.host_ip
            || listener.address.is_unspecified()
            || port.host_ip.is_unspecified())
}

fn parse<'a>(table: &'a str, state: &'a str) -> impl Iterator<Item = Listener> + 'a {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        if *fields.get(3)? != state {
            return None;
        }
        Some(Listener {
            address: parse_address(address)?,
            port: u16::from_str_radix(port, 16).ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    })
}

/// Hexadecimal words in the machine's byte order. Nothing for an IPv6 address that no IPv4 packet reaches.
fn parse_address(hex: &str) -> Option<Ipv4Addr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(four.into());
    }
    let six = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    if six.is_unspecified() { Some(Ipv4Addr::UNSPECIFIED) } else { six.to_ipv4_mapped() }
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

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_are_read() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:1F91 0100007F:0001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 00000000000000000000000000000000:1F92 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4713 1
   3: 0000000000000000FFFF00000200640A:1F93 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4714 1
   4: 00000000000000000000000001000000:1F94 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4715 1
";
        let found: Vec<_> =
            parse(table, "0A").map(|this| (this.address.to_string(), this.port, this.inode)).collect();
        let expected = [("127.0.0.1", 8080, 4711), ("0.0.0.0", 8082, 4713), ("10.100.0.2", 8083, 4714)];
        assert_eq!(found, expected.map(|(address, port, inode)| (address.to_string(), port, inode)));
    }

    #[test]
    fn a_listener_of_one_address_is_in_the_way_of_that_and_of_all() {
        let listener = |address: &str| Listener { address: address.parse().unwrap(), port: 80, inode: 1 };
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
        ] {
            assert_eq!(overlaps(&listener(has), &port(wants, 80)), clash, "{has} {wants}");
            assert!(!overlaps(&listener(has), &port(wants, 81)));
        }
    }
}
