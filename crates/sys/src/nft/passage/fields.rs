//! What a rule can load of a packet, in the kernel's bytes.

use super::super::listing::Layer;
use super::Packet;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    Bytes(Vec<u8>),
    /// They are there, and nobody knows what they are.
    Unknown,
    Absent,
}

/// Bytes of the headers, as far as they are known: addresses, protocol and ports.
pub(super) fn payload(layer: Layer, packet: &Packet, base: u32, offset: usize, length: usize) -> Loaded {
    const LINK: u32 = 0;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    const UDP: u8 = 17;
    let asked = offset..offset + length;
    let touches = |part: std::ops::Range<usize>| asked.start < part.end && part.start < asked.end;
    let mut header = [0u8; 28];
    match base {
        LINK => {
            let nobody = packet.sender_hardware == [0; 6];
            if touches(0..6) || nobody && touches(6..12) {
                return Loaded::Unknown;
            }
            header[6..12].copy_from_slice(&packet.sender_hardware);
            header[12..14].copy_from_slice(&ethernet_type(layer).to_be_bytes());
        }
        // A question who has an address: of Ethernet, for IPv4 (RFC 826).
        NETWORK if layer == Layer::Neighbour => {
            if touches(8..14) || touches(18..24) {
                return Loaded::Unknown;
            }
            header[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, if packet.connection.reply { 2 } else { 1 }]);
            header[14..18].copy_from_slice(&packet.source.octets());
            header[24..28].copy_from_slice(&packet.destination.octets());
        }
        // Length and time to live are of the packet that will come, and of the way so far.
        NETWORK if touches(2..4) || touches(8..9) => return Loaded::Unknown,
        NETWORK => {
            header[0] = 0x45;
            header[9] = packet.protocol;
            header[12..16].copy_from_slice(&packet.source.octets());
            header[16..20].copy_from_slice(&packet.destination.octets());
        }
        TRANSPORT if layer == Layer::Neighbour => return Loaded::Absent,
        TRANSPORT if packet.protocol == UDP && touches(4..6) => return Loaded::Unknown,
        TRANSPORT => {
            header[..2].copy_from_slice(&packet.source_port.to_be_bytes());
            header[2..4].copy_from_slice(&packet.destination_port.to_be_bytes());
            const SYN: u8 = 2;
            const ACK: u8 = 0x10;
            header[13] = if packet.connection.new { SYN } else { ACK };
        }
        _ => return Loaded::Absent,
    }
    // What follows the headers is not known.
    let known = match base {
        LINK => 14,
        NETWORK if layer == Layer::Neighbour => header.len(),
        _ => 20,
    };
    header[..known].get(asked).map_or(Loaded::Unknown, |bytes| Loaded::Bytes(bytes.to_vec()))
}

fn ethernet_type(layer: Layer) -> u16 {
    if layer == Layer::Neighbour { 0x0806 } else { 0x0800 }
}

pub(super) fn meta(layer: Layer, packet: &Packet, key: u32) -> Option<Vec<u8>> {
    const PROTOCOL: u32 = 1;
    const MARK: u32 = 3;
    const INPUT_NAME: u32 = 6;
    const OUTPUT_NAME: u32 = 7;
    const FAMILY: u32 = 15;
    const TRANSPORT: u32 = 16;
    let name = |name: &str| {
        let mut bytes = [0u8; 16];
        bytes[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
        bytes.to_vec()
    };
    Some(match key {
        PROTOCOL => ethernet_type(layer).to_be_bytes().to_vec(),
        MARK => packet.mark.to_ne_bytes().to_vec(),
        INPUT_NAME => name(&packet.input),
        OUTPUT_NAME => name(&packet.output),
        FAMILY if layer == Layer::Network => vec![libc::AF_INET as u8],
        TRANSPORT if layer != Layer::Neighbour => vec![packet.protocol],
        _ => return None,
    })
}

pub(super) fn connection(packet: &Packet, key: u32, reply: Option<bool>) -> Option<Vec<u8>> {
    const STATE: u32 = 0;
    const DIRECTION: u32 = 1;
    const STATUS: u32 = 2;
    const MARK: u32 = 3;
    const L3_PROTOCOL: u32 = 7;
    const ANY_SOURCE: u32 = 8;
    const ANY_DESTINATION: u32 = 9;
    const PROTOCOL: u32 = 10;
    const SOURCE_PORT: u32 = 11;
    const DESTINATION_PORT: u32 = 12;
    const SOURCE: u32 = 19;
    const DESTINATION: u32 = 20;
    const ESTABLISHED: u32 = 2;
    const NEW: u32 = 8;
    const CONFIRMED: u32 = 8;
    const SEEN_REPLY: u32 = 2;
    const SOURCE_TRANSLATED: u32 = 16;
    const DESTINATION_TRANSLATED: u32 = 32;
    let this = &packet.connection;
    let (source, source_port, destination, destination_port) =
        if reply.unwrap_or(this.reply) { this.answered } else { this.original };
    match key {
        STATE => Some((if this.new { NEW } else { ESTABLISHED }).to_ne_bytes().to_vec()),
        DIRECTION => Some(vec![u8::from(this.reply)]),
        STATUS => {
            let mut bits = if this.new { 0 } else { CONFIRMED | SEEN_REPLY };
            if this.source_translated {
                bits |= SOURCE_TRANSLATED;
            }
            if this.destination_translated {
                bits |= DESTINATION_TRANSLATED;
            }
            Some(bits.to_ne_bytes().to_vec())
        }
        MARK => Some(this.mark.to_ne_bytes().to_vec()),
        L3_PROTOCOL => Some(vec![libc::AF_INET as u8]),
        PROTOCOL => Some(vec![packet.protocol]),
        SOURCE | ANY_SOURCE => Some(source.octets().to_vec()),
        DESTINATION | ANY_DESTINATION => Some(destination.octets().to_vec()),
        SOURCE_PORT => Some(source_port.to_be_bytes().to_vec()),
        DESTINATION_PORT => Some(destination_port.to_be_bytes().to_vec()),
        _ => None,
    }
}
