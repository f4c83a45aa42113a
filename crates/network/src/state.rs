//! Which sandbox has which address and ports: the one thing that must survive a restart.
//!
//! Addresses are handed out in turn, so that one which has just been given back is not reused while
//! others remember it. Written before the kernel is touched: a link without an entry can't come about.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use skiff_sys::private;

use crate::{Cidr, Error, HostPort, Protocol};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The address handed out last.
    last: Option<Ipv4Addr>,
    /// Counts changes of host ports: of two sandboxes that claim one port, the later has it.
    turn: u64,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) ip: Ipv4Addr,
    pub(crate) host_link: String,
    #[serde(default)]
    pub(crate) ports: Vec<HostPort>,
    #[serde(default)]
    turn: u64,
}

/// A port of the node, as packets are matched: address (0.0.0.0 for any), protocol and port.
pub(crate) type PortKey = (Ipv4Addr, Protocol, u16);

impl State {
    /// Nothing where there is no file.
    pub(crate) fn read(path: &Path) -> Result<State, Error> {
        let kernel = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kernel {
            action: format!("read {}", path.display()),
            source,
        };
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| kernel(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(kernel(error.into())),
        }
    }

    /// Replaces the file as a whole; whenever the process ends, there is the old or the new one. It is not
    /// synced to the disk: what it describes does not outlive the machine's memory either, and a sync is
    /// the slowest part of attaching a sandbox.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).expect("plain data can be written as JSON");
        let temporary = path.with_extension("new");
        let write = || {
            let mut file = private::create(&temporary)?;
            file.write_all(&bytes)?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error: io::Error| Error::Kernel {
            action: format!("write {}", path.display()),
            source: error.into(),
        })
    }

    /// Gives the sandbox an address of the range, or says which it has. The first address of the range
    /// is the gateway's, the very first and last are nobody's.
    pub(crate) fn allocate(&mut self, sandbox: &str, range: Cidr) -> Result<Ipv4Addr, Error> {
        if let Some(present) = self.sandboxes.get(sandbox) {
            return Ok(present.ip);
        }
        let used: std::collections::HashSet<Ipv4Addr> = self.sandboxes.values().map(|this| this.ip).collect();
        let (first, end) = (2, range.len().saturating_sub(1));
        let start = self
            .last
            .filter(|last| range.contains(*last))
            .map_or(first, |last| u64::from(last.to_bits() - range.address.to_bits()) + 1);
        let ip = (start..end)
            .chain(first..start.min(end))
            .filter_map(|index| range.nth(index))
            .find(|ip| !used.contains(ip))
            .ok_or(Error::Exhausted(range))?;
        self.last = Some(ip);
        let host_link = link_name(sandbox);
        self.sandboxes.insert(sandbox.into(), Sandbox { ip, host_link, ports: Vec::new(), turn: 0 });
        Ok(ip)
    }

    pub(crate) fn set_ports(&mut self, sandbox: &str, ports: &[HostPort]) -> Result<(), Error> {
        self.turn += 1;
        let this = self.sandboxes.get_mut(sandbox).ok_or_else(|| Error::NotAttached(sandbox.into()))?;
        if this.ports != ports {
            this.ports = ports.to_vec();
            this.turn = self.turn;
        }
        Ok(())
    }

    /// Where each port of the node would lead.
    pub(crate) fn port_targets(&self) -> Targets {
        let mut sandboxes: Vec<&Sandbox> = self.sandboxes.values().collect();
        sandboxes.sort_by_key(|this| this.turn);
        let ports = sandboxes.iter().flat_map(|this| this.ports.iter().map(|port| (this.ip, port)));
        ports.map(|(ip, port)| (key(port), (ip, port.container_port))).collect()
    }
}

/// Where ports of a node lead.
pub(crate) type Targets = BTreeMap<PortKey, (Ipv4Addr, u16)>;

pub(crate) fn key(port: &HostPort) -> PortKey {
    (port.host_ip, port.protocol, port.host_port)
}

/// `veth` and ten digits of a hash: link names have at most 15 characters. (FNV-1a: any even spread will
/// do, and it has to be the same in every release.)
fn link_name(sandbox: &str) -> String {
    let hash = sandbox.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("veth{:010x}", hash >> 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn port(host_port: u16) -> HostPort {
        HostPort { host_ip: Ipv4Addr::UNSPECIFIED, host_port, protocol: Protocol::Tcp, container_port: 80 }
    }

    #[test]
    fn addresses_are_handed_out_in_turn_and_reused_last() {
        let mut state = State::default();
        let range = range("10.0.0.0/29");
        let last_byte = |state: &mut State, name: &str| state.allocate(name, range).unwrap().octets()[3];
        assert_eq!(last_byte(&mut state, "a"), 2);
        assert_eq!(last_byte(&mut state, "a"), 2);
        assert_eq!(last_byte(&mut state, "b"), 3);
        state.sandboxes.remove("a");
        assert_eq!(last_byte(&mut state, "c"), 4);
        assert_eq!(last_byte(&mut state, "d"), 5);
        assert_eq!(last_byte(&mut state, "e"), 6);
        assert_eq!(last_byte(&mut state, "f"), 2);
        assert_eq!(state.allocate("g", range).unwrap_err().to_string(), "no address is free in 10.0.0.0/29");
        state.sandboxes.remove("d");
        assert_eq!(last_byte(&mut state, "g"), 5);
    }

    #[test]
    fn a_range_too_small_for_anyone_is_exhausted() {
        for text in ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32"] {
            let free =
                (0..4).filter(|n| State::default().allocate(&n.to_string(), range(text)).is_ok()).count();
            assert_eq!(free, if text.ends_with("30") { 4 } else { 0 }, "{text}");
        }
    }

    #[test]
    fn state_is_read_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("network.json");
        assert_eq!(State::read(&path).unwrap(), State::default());
        let mut state = State::default();
        state.allocate("a", range("10.0.0.0/24")).unwrap();
        state.set_ports("a", &[port(9000)]).unwrap();
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
        fs::write(&path, b"{").unwrap();
        assert!(State::read(&path).is_err());
    }

    #[test]
    fn the_later_claim_of_a_port_wins_and_the_earlier_returns() {
        let mut state = State::default();
        let range = range("10.0.0.0/24");
        for name in ["z", "a"] {
            state.allocate(name, range).unwrap();
        }
        state.set_ports("a", &[port(9000)]).unwrap();
        state.set_ports("z", &[port(9000)]).unwrap();
        let target = |state: &State| state.port_targets().into_values().next().map(|(ip, _)| ip.octets()[3]);
        assert_eq!(target(&state), Some(2));
        state.sandboxes.remove("z");
        assert_eq!(target(&state), Some(3));
        assert!(matches!(state.set_ports("z", &[]), Err(Error::NotAttached(_))));
    }
}
