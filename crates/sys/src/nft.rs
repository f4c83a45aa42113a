//! nftables without an `nft`: one table for packets, one for ARP, with one owner.
//!
//! [`Ruleset`] owns the tables `ip skiff` and `arp skiff` of a network namespace. Each part of the node puts its
//! [`Schema`] (chains with their rules, and the maps that these look into) into it, and then only ever
//! changes elements of the maps: rules stand still, traffic is steered by data. Every change is one
//! atomic transaction of the kernel, of the size of the change.
//!
//! Rules are written with [`Rule`], which knows registers and the kernel's expressions. What a rule says
//! is up to those who write the schemas.

pub mod listing;
mod monitor;
pub mod passage;
mod rule;
mod ruleset;
pub mod tables;
pub mod tracer;
mod wire;
pub mod words;

pub use rule::{
    Address, CONNTRACK_DESTINATION_TRANSLATED, CONNTRACK_STRAY, Comparison, Field, Register, Reject, Rule,
    Verdict,
};
pub use ruleset::{Change, Contents, Elements, Ruleset, Step};

use std::net::Ipv4Addr;

use self::wire::Batch;
use crate::netlink::{Family, Socket};

/// The name of the table, in either family.
pub const TABLE: &str = "skiff";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netfilter socket")]
    Open(#[source] std::io::Error),
    #[error("cannot read the packet filter's {what}")]
    Read {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write the packet filter's {what}")]
    Write {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The kernel was built without what this needs.
    pub fn is_unsupported(&self) -> bool {
        let (Error::Open(source) | Error::Read { source, .. } | Error::Write { source, .. }) = self;
        matches!(source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
    }
}

/// Has the kernel take this chain, in a table of its own in the calling thread's network namespace.
pub(crate) fn try_chain(chain: &Chain) -> std::io::Result<()> {
    let socket = Socket::open(Family::Netfilter, 0)?;
    let mut batch = Batch::of("skiff-try");
    batch.table();
    batch.chain(chain);
    batch.rules(chain, false);
    batch.commit(&socket)
}

/// What one part of the node has in the table, apart from elements.
#[derive(Debug, Clone, Default, Hash)]
pub struct Schema {
    pub traffic: Traffic,
    pub maps: Vec<Map>,
    pub chains: Vec<Chain>,
    /// How the names of chains begin that come and go, if any: see [`Ruleset::add_chains`].
    pub passing: Option<&'static str>,
}

/// What the rules of a part look at. Each is a table of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Traffic {
    /// Packets of IPv4.
    #[default]
    Packets,
    /// ARP: questions who has an address of IPv4, and their answers. They have no hooks but
    /// [`Point::Input`] and [`Point::Output`].
    Neighbours,
}

impl Traffic {
    fn family(self) -> u8 {
        const ARP: u8 = 3;
        match self {
            Traffic::Packets => libc::AF_INET as u8,
            Traffic::Neighbours => ARP,
        }
    }
}

/// A set or map. Its elements are [`Datum`]s by [`Key`].
#[derive(Debug, Clone, Hash)]
pub struct Map {
    pub name: &'static str,
    pub key: &'static [Type],
    /// Empty for a set.
    pub value: Value,
}

#[derive(Debug, Clone, Hash)]
pub enum Value {
    /// A plain set.
    None,
    Data(&'static [Type]),
    Verdict,
}

/// The parts of keys and values, each padded to four bytes. The numbers are those by which `nft list`
/// knows how to print them (nftables, include/datatype.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Address = 7,
    Protocol = 12,
    Port = 13,
    /// A number in host order.
    Number = 19,
}

#[derive(Debug, Clone, Hash)]
pub struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

impl Chain {
    pub fn base(name: &str, hook: Hook, rules: Vec<Rule>) -> Chain {
        Chain { name: name.into(), hook: Some(hook), rules }
    }

    pub fn plain(name: impl Into<String>, rules: Vec<Rule>) -> Chain {
        Chain { name: name.into(), hook: None, rules }
    }
}

/// Where packets enter a chain, and in which order among other chains of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hook {
    pub at: Point,
    pub priority: i32,
    /// `nat` chains see only the first packet of a connection.
    pub nat: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Bytes of a key or value, in the kernel's layout: every part padded to four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    length: u8,
    bytes: [u8; 20],
}

impl Key {
    pub const EMPTY: Key = Key { length: 0, bytes: [0; 20] };

    /// At most five parts fit.
    pub fn part(mut self, bytes: &[u8]) -> Key {
        let start = usize::from(self.length);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.length += 4;
        self
    }

    pub fn address(self, ip: Ipv4Addr) -> Key {
        self.part(&ip.octets())
    }

    /// An IP protocol number.
    pub fn protocol(self, protocol: u8) -> Key {
        self.part(&[protocol])
    }

    pub fn port(self, port: u16) -> Key {
        self.part(&port.to_be_bytes())
    }

    pub fn number(self, number: u32) -> Key {
        self.part(&number.to_ne_bytes())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn read(bytes: &[u8]) -> Option<Key> {
        let mut key = Key::EMPTY;
        key.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        key.length = bytes.len() as u8;
        Some(key)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x?}", self.as_bytes())
    }
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Datum {
    /// Being in a set.
    Member,
    Data(Key),
    Verdict(Verdict),
}
