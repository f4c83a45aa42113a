//! Rules as values: a list of the kernel's expressions, built left to right.
//!
//! A rule loads fields of the packet into registers, compares or looks them up, and ends in a verdict;
//! an expression that does not match ends the rule, and the next one is tried. Registers are four bytes
//! wide and lie side by side, so fields loaded into neighbours make up a concatenated key.

use std::net::Ipv4Addr;

use super::wire;
use crate::netlink::Writer;

/// One of sixteen registers of four bytes; a rule must not read what it did not load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Register(pub u8);

/// What can be loaded of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    SourceAddress,
    DestinationAddress,
    SourcePort,
    DestinationPort,
    Protocol,
    /// The last four of the six bytes of the hardware address that it came from.
    SenderHardware,
    /// Of an ARP message, whose address its sender says is theirs.
    Speaker,
    /// The name of the interface that it came from, 16 bytes.
    InputName,
    /// The name of the interface that it leaves by, 16 bytes.
    OutputName,
    /// Bits: see `CONNTRACK_*`.
    ConnectionStatus,
    ConnectionState,
    ConnectionMark,
    /// One byte: 0 in a packet of the side that began the connection, 1 in one of the other's.
    ConnectionDirection,
    /// The connection's protocol; a packet that reports an error of it is of another.
    ConnectionProtocol,
    /// Who began the connection, as it was before any translation.
    Initiator,
    /// Who really answers: where the connection leads after translation.
    Answerer,
    /// The port of who really answers.
    AnswererPort,
    /// Of a TCP segment, four bytes.
    Sequence,
    /// Of a TCP segment, four bytes.
    Acknowledgement,
    /// The first eight bytes that a UDP datagram carries.
    DatagramStart,
}

/// The connection's destination was translated (linux/netfilter/nf_conntrack_common.h).
pub const CONNTRACK_DESTINATION_TRANSLATED: u32 = 1 << 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    Equal = 0,
    Unequal = 1,
    /// As bytes in network order, like all of these.
    AtMost = 3,
    AtLeast = 5,
}

/// The connection tracking state of a packet that belongs to no connection, or whose connections are not
/// tracked (linux/netfilter/nf_conntrack_common.h).
pub const CONNTRACK_STRAY: u32 = 1 | 1 << 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    PortUnreachable,
    HostUnreachable,
    TcpReset,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    /// Back to the calling chain.
    Return,
    /// Into a chain and back.
    Jump(String),
    /// Into a chain, and from its end to where the present one would return.
    Goto(String),
}

/// An expression: the kernel's name of it and its attributes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Expression {
    name: &'static str,
    attributes: Vec<u8>,
}

/// A rule in the making, or made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    expressions: Vec<Expression>,
    /// For who lists the table.
    comment: String,
}

/// The longest comment that `nft` takes, without the zero byte at its end.
const COMMENT_BYTES_MAX: usize = 127;

impl Rule {
    pub fn new() -> Rule {
        Rule::default()
    }

    /// Loads a field into the register (and the following ones, for names).
    #[must_use]
    pub fn load(self, field: Field, into: Register) -> Rule {
        const LINK: u32 = 0;
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        let payload = |base: u32, offset: u32, length: u32| {
            let mut w = Writer::new();
            w.be32(1, into.number()).be32(2, base).be32(3, offset).be32(4, length);
            Expression { name: "payload", attributes: w.as_bytes().to_vec() }
        };
        let keyed = |name: &'static str, register: u16, key: u16, number: u32| {
            let mut w = Writer::new();
            w.be32(register, into.number()).be32(key, number);
            Expression { name, attributes: w.as_bytes().to_vec() }
        };
        // Directions of a connection: original, reply.
        let of = |direction: u8, key: u32| {
            let mut w = Writer::new();
            w.be32(1, into.number()).be32(2, key).u8(3, direction);
            Expression { name: "ct", attributes: w.as_bytes().to_vec() }
        };
        self.push(match field {
            Field::SourceAddress => payload(NETWORK, 12, 4),
            Field::DestinationAddress => payload(NETWORK, 16, 4),
            Field::SourcePort => payload(TRANSPORT, 0, 2),
            Field::DestinationPort => payload(TRANSPORT, 2, 2),
            Field::Protocol => keyed("meta", 1, 2, 16),
            Field::SenderHardware => payload(LINK, 8, 4),
            Field::Speaker => payload(NETWORK, 14, 4),
            Field::InputName => keyed("meta", 1, 2, 6),
            Field::OutputName => keyed("meta", 1, 2, 7),
            Field::ConnectionState => keyed("ct", 1, 2, 0),
            Field::ConnectionStatus => keyed("ct", 1, 2, 2),
            Field::ConnectionMark => keyed("ct", 1, 2, 3),
            Field::ConnectionDirection => keyed("ct", 1, 2, 1),
            Field::ConnectionProtocol => of(0, 10),
            Field::Initiator => of(0, 19),
            Field::Answerer => of(1, 19),
            Field::AnswererPort => of(1, 11),
            Field::Sequence => payload(TRANSPORT, 4, 4),
            Field::Acknowledgement => payload(TRANSPORT, 8, 4),
            Field::DatagramStart => payload(TRANSPORT, 8, 8),
        })
    }

    /// Loads a constant.
    #[must_use]
    pub fn constant(self, bytes: &[u8], into: Register) -> Rule {
        let mut w = Writer::new();
        w.be32(1, into.number());
        let data = w.open(2);
        w.attribute(1, bytes).close(data);
        self.add("immediate", w)
    }

    /// Loads a random number below `modulus`, in host order.
    #[must_use]
    pub fn random(self, modulus: u32, into: Register) -> Rule {
        let mut w = Writer::new();
        w.be32(1, into.number()).be32(2, modulus).be32(3, 1);
        self.add("numgen", w)
    }

    #[must_use]
    pub fn compare(self, register: Register, comparison: Comparison, bytes: &[u8]) -> Rule {
        let mut w = Writer::new();
        w.be32(1, register.number()).be32(2, comparison as u32);
        let data = w.open(3);
        w.attribute(1, bytes).close(data);
        self.add("cmp", w)
    }

    /// Keeps the bits of `mask`.
    #[must_use]
    pub fn mask(self, register: Register, mask: &[u8]) -> Rule {
        let mut w = Writer::new();
        w.be32(1, register.number()).be32(2, register.number()).be32(3, mask.len() as u32);
        let data = w.open(4);
        w.attribute(1, mask).close(data);
        let data = w.open(5);
        w.attribute(1, &vec![0; mask.len()]).close(data);
        self.add("bitwise", w)
    }

    /// Matches where the key that starts in `key` is in the set.
    #[must_use]
    pub fn within(self, set: &str, key: Register) -> Rule {
        self.lookup(set, key, None)
    }

    /// Matches where the key that starts in `key` is not in the set.
    #[must_use]
    pub fn outside(self, set: &str, key: Register) -> Rule {
        const INVERTED: u32 = 1;
        let mut w = Writer::new();
        w.string(1, set).be32(2, key.number()).be32(5, INVERTED);
        self.add("lookup", w)
    }

    /// Matches where the key is in the map, and loads what it leads to.
    #[must_use]
    pub fn find(self, map: &str, key: Register, into: Register) -> Rule {
        self.lookup(map, key, Some(into.number()))
    }

    /// Does what the map says for the key; goes on where it says nothing.
    #[must_use]
    pub fn dispatch(self, map: &str, key: Register) -> Rule {
        self.lookup(map, key, Some(0))
    }

    /// Matches where the field is an address in the range.
    #[must_use]
    pub fn range(self, address: Address, comparison: Comparison, base: Ipv4Addr, prefix: u8) -> Rule {
        let register = Register(0);
        self.load(address.field(), register).in_range(register, comparison, base, prefix)
    }

    /// Matches where the address is one of this machine's.
    #[must_use]
    pub fn local(self, address: Address, comparison: Comparison) -> Rule {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const TYPE_LOCAL: u32 = 2;
        let register = Register(0);
        let mut w = Writer::new();
        let flags = match address {
            Address::Source => 1,
            Address::Destination => 2,
        };
        w.be32(1, register.number()).be32(2, RESULT_ADDRESS_TYPE).be32(3, flags);
        self.add("fib", w).compare(register, comparison, &TYPE_LOCAL.to_ne_bytes())
    }

    /// Matches by the interface; `field` is one of the names.
    #[must_use]
    pub fn interface(self, field: Field, comparison: Comparison, name: &str) -> Rule {
        let register = Register(0);
        let mut bytes = [0u8; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.load(field, register).compare(register, comparison, &bytes)
    }

    /// Matches connections with one of these status bits.
    #[must_use]
    pub fn connection_status(self, bits: u32) -> Rule {
        let register = Register(0);
        self.load(Field::ConnectionStatus, register).mask(register, &bits.to_ne_bytes()).compare(
            register,
            Comparison::Unequal,
            &[0; 4],
        )
    }

    /// Matches packets in one of these tracking states (bits).
    #[must_use]
    pub fn connection_state(self, bits: u32) -> Rule {
        let register = Register(0);
        self.load(Field::ConnectionState, register).mask(register, &bits.to_ne_bytes()).compare(
            register,
            Comparison::Unequal,
            &[0; 4],
        )
    }

    /// Matches where the address in the register is in the range, or is not.
    #[must_use]
    pub fn in_range(self, register: Register, comparison: Comparison, base: Ipv4Addr, prefix: u8) -> Rule {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        self.mask(register, &mask.to_be_bytes()).compare(
            register,
            comparison,
            &(u32::from(base) & mask).to_be_bytes(),
        )
    }

    /// Marks the connection with what the register holds.
    #[must_use]
    pub fn mark_connection(self, from: Register) -> Rule {
        const MARK: u32 = 3;
        let mut w = Writer::new();
        w.be32(2, MARK).be32(4, from.number());
        self.add("ct", w)
    }

    /// From here on the kernel tells of each rule that the packet meets: see [`super::tracer`].
    #[must_use]
    pub(super) fn traced(self, register: Register) -> Rule {
        const TRACE: u32 = 12;
        let mut w = Writer::new();
        w.be32(2, TRACE).be32(3, register.number());
        self.constant(&[1], register).add("meta", w)
    }

    /// Puts the key that starts in `key` into a set that rules fill.
    #[must_use]
    pub(super) fn note(self, set: &str, key: Register) -> Rule {
        const ADD: u32 = 0;
        let mut w = Writer::new();
        w.string(1, set).be32(3, ADD).be32(4, key.number());
        self.add("dynset", w)
    }

    /// What `nft list` shows beside the rule; cut off where it is too long.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Rule {
        let end = (0..=text.len().min(COMMENT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
        self.comment = text[..end.unwrap_or(0)].to_owned();
        self
    }

    #[must_use]
    pub fn protocol(self, comparison: Comparison, protocol: u8) -> Rule {
        let register = Register(0);
        self.load(Field::Protocol, register).compare(register, comparison, &[protocol])
    }

    /// Translates the destination to the address and port in these registers.
    #[must_use]
    pub fn translate_destination(self, address: Register, port: Register) -> Rule {
        const DESTINATION: u32 = 1;
        let mut w = Writer::new();
        w.be32(1, DESTINATION).be32(2, libc::AF_INET as u32);
        w.be32(3, address.number()).be32(4, address.number());
        w.be32(5, port.number()).be32(6, port.number());
        self.add("nat", w)
    }

    /// Translates the source to this machine's address on the way out.
    #[must_use]
    pub fn masquerade(self) -> Rule {
        const FULLY_RANDOM: u32 = 1 << 4;
        let mut w = Writer::new();
        w.be32(1, FULLY_RANDOM);
        self.add("masq", w)
    }

    #[must_use]
    pub fn reject(self, how: Reject) -> Rule {
        let mut w = Writer::new();
        match how {
            Reject::PortUnreachable => w.be32(1, 0).u8(2, 3),
            Reject::HostUnreachable => w.be32(1, 0).u8(2, 1),
            Reject::TcpReset => w.be32(1, 1).u8(2, 0),
        };
        self.add("reject", w)
    }

    #[must_use]
    pub fn verdict(self, verdict: &Verdict) -> Rule {
        let mut w = Writer::new();
        w.be32(1, 0);
        let data = w.open(2);
        wire::write_verdict(&mut w, verdict);
        w.close(data);
        self.add("immediate", w)
    }

    /// The rule's attributes.
    pub(super) fn write(&self, w: &mut Writer) {
        const EXPRESSIONS: u16 = 4;
        const USER_DATA: u16 = 7;
        let list = w.open(EXPRESSIONS);
        for expression in &self.expressions {
            let element = w.open(1);
            w.string(1, expression.name);
            let data = w.open(2);
            w.raw(&expression.attributes);
            w.close(data).close(element);
        }
        w.close(list);
        if !self.comment.is_empty() {
            // Of user data, `nft` knows entries of a kind, a length and that many bytes (libnftnl, udata.h).
            let text = self.comment.as_bytes();
            let entry = [&[0, text.len() as u8 + 1], text, &[0]].concat();
            w.attribute(USER_DATA, &entry);
        }
    }

    fn lookup(self, set: &str, key: Register, into: Option<u32>) -> Rule {
        let mut w = Writer::new();
        w.string(1, set).be32(2, key.number());
        if let Some(into) = into {
            w.be32(3, into);
        }
        self.add("lookup", w)
    }

    fn add(self, name: &'static str, attributes: Writer) -> Rule {
        self.push(Expression { name, attributes: attributes.as_bytes().to_vec() })
    }

    fn push(mut self, expression: Expression) -> Rule {
        self.expressions.push(expression);
        self
    }
}

impl Register {
    /// The kernel counts the four-byte registers from eight.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

impl Address {
    fn field(self) -> Field {
        match self {
            Address::Source => Field::SourceAddress,
            Address::Destination => Field::DestinationAddress,
        }
    }
}
