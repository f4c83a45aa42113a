//! Listed rules in words: near to how `nft list ruleset` prints them, so that a reader finds them there.

use std::net::Ipv4Addr;

use super::Verdict;
use super::listing::{Expression, ListedRule, RouteAsks, RouteResult, Side, Span, VERDICT_REGISTER};
use super::passage::{End, Packet};

const REGISTERS: usize = 32;
/// As much as a map may give.
const VALUE_WORDS: usize = 4;
/// Of a link's name, with what ends it.
const NAME_BYTES: usize = 16;

/// What a register holds, in words, with how to print a constant that it is compared with.
#[derive(Clone, Default)]
struct Held {
    words: String,
    kind: Kind,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    Address,
    Port,
    Protocol,
    EthernetType,
    Name,
    /// A link by its number.
    Link,
    AddressType,
    Presence,
    /// Seconds since midnight.
    Hour,
    State,
    Status,
    /// In host order.
    Number,
    #[default]
    Bytes,
}

/// What links are called, by number.
type Names<'a> = &'a dyn Fn(u32) -> Option<String>;

/// The rule in one line. `names` is what links are called, by number.
pub fn rule(rule: &ListedRule, names: Names<'_>) -> String {
    let mut held: Vec<Held> = vec![Held::default(); REGISTERS];
    let mut words: Vec<String> = Vec::new();
    for expression in &rule.expressions {
        if let Some(said) = say(expression, &mut held, names) {
            words.push(said);
        }
    }
    words.join(" ")
}

fn say(expression: &Expression, held: &mut [Held], names: Names<'_>) -> Option<String> {
    let value = |kind, bytes: &[u8]| match (kind, <[u8; 4]>::try_from(bytes)) {
        (Kind::Link, Ok(index)) => match names(u32::from_ne_bytes(index)) {
            Some(name) => format!("\"{name}\""),
            None => u32::from_ne_bytes(index).to_string(),
        },
        _ => value(kind, bytes),
    };
    let mut put = |into: usize, words: &str, kind: Kind| {
        if let Some(place) = held.get_mut(into) {
            *place = Held { words: words.into(), kind };
        }
        None
    };
    match expression {
        Expression::Payload { base, offset, length, into } => {
            let (words, kind) = field(*base, *offset, *length);
            put(*into, &words, kind)
        }
        Expression::Meta { key, into } => {
            let (words, kind) = meta(*key);
            put(*into, &words, kind)
        }
        Expression::SetMeta { key, from } => Some(format!("{} set {}", meta(*key).0, held.get(*from)?.words)),
        Expression::SetPayload { base, offset, length, from } => {
            Some(format!("{} set {}", field(*base, *offset, *length).0, held.get(*from)?.words))
        }
        Expression::Connection { key, reply, into } => {
            let side = match reply {
                None => "",
                Some(false) => " original",
                Some(true) => " reply",
            };
            let (name, kind) = match key {
                0 => ("state", Kind::State),
                1 => ("direction", Kind::Number),
                2 => ("status", Kind::Status),
                3 => ("mark", Kind::Number),
                8 | 19 => ("ip saddr", Kind::Address),
                9 | 20 => ("ip daddr", Kind::Address),
                10 => ("protocol", Kind::Protocol),
                11 => ("proto-src", Kind::Port),
                12 => ("proto-dst", Kind::Port),
                _ => ("?", Kind::Bytes),
            };
            put(*into, &format!("ct{side} {name}"), kind)
        }
        Expression::Constant { bytes, into } => {
            let kind = match bytes.len() {
                4 => Kind::Address,
                2 => Kind::Port,
                _ => Kind::Bytes,
            };
            put(*into, &value(kind, bytes), Kind::Bytes)
        }
        Expression::Number { modulus, offset, into } => {
            let offset = if *offset == 0 { String::new() } else { format!(" offset {offset}") };
            put(*into, &format!("numgen random mod {modulus}{offset}"), Kind::Number)
        }
        Expression::AddressType { source, into } => {
            let side = if *source { "saddr" } else { "daddr" };
            put(*into, &format!("fib {side} type"), Kind::AddressType)
        }
        Expression::Route { asks, into } => {
            let (words, kind) = fib(*asks);
            put(*into, &words, kind)
        }
        Expression::SetMark { from } => Some(format!("ct mark set {}", held.get(*from)?.words)),
        Expression::Verdict(verdict) => Some(verdict_words(verdict)),
        Expression::Compare { from, operator, bytes } => {
            let this = held.get(*from)?;
            let operator = ["", "!= ", "< ", "<= ", "> ", ">= "].get(*operator as usize).unwrap_or(&"? ");
            // A mask leaves its own words, to which the constant is the rest.
            match (this.words.split_once(" & "), this.kind) {
                (Some((words, mask)), Kind::Address) => {
                    Some(format!("{words} {operator}{}/{}", value(Kind::Address, bytes), prefix(mask)))
                }
                (Some((words, mask)), Kind::Status) if bytes.iter().all(|byte| *byte == 0) => {
                    Some(format!("{words} {mask}"))
                }
                (Some((words, mask)), Kind::State) if bytes.iter().all(|byte| *byte == 0) => {
                    Some(format!("{words} {mask}"))
                }
                _ => Some(format!("{} {operator}{}", this.words, value(this.kind, bytes))),
            }
        }
        Expression::Range { from, unequal, first, last } => {
            let this = held.get(*from)?;
            let not = if *unequal { "!= " } else { "" };
            Some(format!("{} {not}{}-{}", this.words, value(this.kind, first), value(this.kind, last)))
        }
        Expression::Bitwise { from, into, mask, .. } => {
            let this = held.get(*from)?.clone();
            let words = format!("{} & {}", this.words, value(this.kind, mask));
            if let Some(place) = held.get_mut(*into) {
                *place = Held { words, kind: this.kind };
            }
            None
        }
        Expression::Lookup { set, from, into, inverted } => {
            // The neighbours that were loaded make up the key.
            let parts: Vec<&str> = held[*from..]
                .iter()
                .map(|this| this.words.as_str())
                .take_while(|words| !words.is_empty())
                .collect();
            let key = parts.join(" . ");
            match into {
                None => Some(format!("{key} {}@{set}", if *inverted { "!= " } else { "" })),
                Some(VERDICT_REGISTER) => Some(format!("{key} vmap @{set}")),
                Some(into) => {
                    let words = format!("{key} map @{set}");
                    // What was there before is overwritten as far as the value goes.
                    held.iter_mut().skip(*into).take(VALUE_WORDS).for_each(|this| *this = Held::default());
                    if let Some(place) = held.get_mut(*into) {
                        *place = Held { words, kind: Kind::Bytes };
                    }
                    None
                }
            }
        }
        Expression::Translate { source, address, port, prefix } => {
            let name = if *source { "snat" } else { "dnat" };
            let words = |span: &Span| {
                let word = |register: usize| held.get(register).map_or("", |this| this.words.as_str());
                let (first, last) = (word(span.first), word(span.last));
                let range = span.first != span.last && !last.is_empty() && last != first;
                if range { format!("{first}-{last}") } else { first.to_owned() }
            };
            let to = address.as_ref().map(words).unwrap_or_default();
            // The port of a map that gives both stands in its words already.
            let port = port.as_ref().map(words).filter(|port| !port.is_empty());
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            Some(format!("{name} {}to {to}{port}", if *prefix { "prefix " } else { "" }))
        }
        Expression::Masquerade => Some("masquerade".into()),
        Expression::Redirect { port } => Some(match port.and_then(|register| held.get(register)) {
            Some(port) => format!("redirect to :{}", port.words),
            None => "redirect".into(),
        }),
        Expression::Reject { reset: true } => Some("reject with tcp reset".into()),
        Expression::Reject { reset: false } => Some("reject".into()),
        Expression::Aside(name) => Some(name.clone()),
        Expression::Unknown(name) => Some(format!("[{name}: not known here]")),
    }
}

/// linux/netfilter/nf_tables.h, `enum nft_meta_keys`
fn meta(key: u32) -> (String, Kind) {
    let (name, kind) = match key {
        0 => ("meta length", Kind::Number),
        1 => ("meta protocol", Kind::EthernetType),
        2 => ("meta priority", Kind::Number),
        3 => ("meta mark", Kind::Number),
        4 => ("iif", Kind::Link),
        5 => ("oif", Kind::Link),
        6 => ("iifname", Kind::Name),
        7 => ("oifname", Kind::Name),
        8 => ("iiftype", Kind::Number),
        9 => ("oiftype", Kind::Number),
        10 => ("meta skuid", Kind::Number),
        11 => ("meta skgid", Kind::Number),
        12 => ("meta nftrace", Kind::Number),
        13 => ("rtclassid", Kind::Number),
        14 => ("meta secmark", Kind::Number),
        15 => ("meta nfproto", Kind::Number),
        16 => ("meta l4proto", Kind::Protocol),
        17 => ("meta ibrname", Kind::Name),
        18 => ("meta obrname", Kind::Name),
        19 => ("meta pkttype", Kind::Number),
        20 => ("meta cpu", Kind::Number),
        21 => ("iifgroup", Kind::Number),
        22 => ("oifgroup", Kind::Number),
        23 => ("meta cgroup", Kind::Number),
        24 => ("meta random", Kind::Number),
        25 => ("meta secpath", Kind::Number),
        26 => ("iifkind", Kind::Name),
        27 => ("oifkind", Kind::Name),
        28 => ("meta ibrpvid", Kind::Number),
        29 => ("meta ibrvproto", Kind::EthernetType),
        30 => ("meta time", Kind::Bytes),
        31 => ("meta day", Kind::Number),
        32 => ("meta hour", Kind::Hour),
        33 => ("meta sdif", Kind::Link),
        34 => ("meta sdifname", Kind::Name),
        other => return (format!("meta {other}"), Kind::Bytes),
    };
    (name.into(), kind)
}

fn fib(asks: RouteAsks) -> (String, Kind) {
    let address = if asks.source { "saddr" } else { "daddr" };
    let mark = if asks.by_mark { " . mark" } else { "" };
    let on = match asks.on {
        Side::Any => "",
        Side::Input => " . iif",
        Side::Output => " . oif",
    };
    let (result, kind) = match asks.result {
        RouteResult::Kind => ("type", Kind::AddressType),
        RouteResult::Index => ("oif", Kind::Link),
        RouteResult::Name => ("oifname", Kind::Name),
    };
    let kind = if asks.presence { Kind::Presence } else { kind };
    (format!("fib {address}{mark}{on} {result}"), kind)
}

fn field(base: u32, offset: usize, length: usize) -> (String, Kind) {
    let (name, kind) = match (base, offset, length) {
        (0, 12, 2) => ("ether type", Kind::EthernetType),
        (1, 12, 4) => ("ip saddr", Kind::Address),
        (1, 16, 4) => ("ip daddr", Kind::Address),
        (1, 9, 1) => ("ip protocol", Kind::Protocol),
        (2, 0, 2) => ("th sport", Kind::Port),
        (2, 2, 2) => ("th dport", Kind::Port),
        _ => return (format!("@{base},{offset},{length}"), Kind::Bytes),
    };
    (name.into(), kind)
}

fn value(kind: Kind, bytes: &[u8]) -> String {
    let word = <[u8; 4]>::try_from(bytes).ok();
    let bits = |names: &[(u32, &str)]| {
        let number = u32::from_ne_bytes(word.unwrap_or_default());
        let set: Vec<&str> =
            names.iter().filter(|(bit, _)| number & bit != 0).map(|(_, name)| *name).collect();
        set.join(",")
    };
    match (kind, word, bytes) {
        (Kind::Address, Some(word), _) => Ipv4Addr::from(word).to_string(),
        (Kind::Port, _, [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        (Kind::Protocol, _, [number]) => protocol(*number).into(),
        (Kind::EthernetType, _, [8, 0]) => "ip".into(),
        (Kind::EthernetType, _, [8, 6]) => "arp".into(),
        // What is shorter than a name with its end is what names begin with.
        (Kind::Name, ..) => {
            let rest = if bytes.len() < NAME_BYTES && !bytes.ends_with(&[0]) { "*" } else { "" };
            format!("\"{}{rest}\"", String::from_utf8_lossy(bytes).trim_end_matches('\0'))
        }
        (Kind::AddressType, Some(word), _) => match u32::from_ne_bytes(word) {
            1 => "unicast".into(),
            2 => "local".into(),
            3 => "broadcast".into(),
            5 => "multicast".into(),
            other => other.to_string(),
        },
        (Kind::State, Some(_), _) => {
            bits(&[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")])
        }
        (Kind::Status, Some(_), _) => bits(&[
            (1, "expected"),
            (2, "seen-reply"),
            (4, "assured"),
            (8, "confirmed"),
            (16, "snat"),
            (32, "dnat"),
        ]),
        (Kind::Presence, _, [first, ..]) => if *first == 0 { "missing" } else { "exists" }.into(),
        (Kind::Hour, Some(word), _) => {
            let seconds = u32::from_ne_bytes(word);
            format!("\"{:02}:{:02}:{:02}\"", seconds / 3600, seconds / 60 % 60, seconds % 60)
        }
        (Kind::Number, _, [low, high]) => u16::from_ne_bytes([*low, *high]).to_string(),
        (Kind::Number, Some(word), _) => u32::from_ne_bytes(word).to_string(),
        (Kind::Number, _, [number]) => number.to_string(),
        _ => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
    }
}

/// The number of leading ones of a mask in words.
fn prefix(mask: &str) -> String {
    match mask.parse::<Ipv4Addr>() {
        Ok(mask) => mask.to_bits().leading_ones().to_string(),
        Err(_) => mask.into(),
    }
}

/// The usual name of an IP protocol number.
pub fn protocol(number: u8) -> &'static str {
    match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        _ => "other",
    }
}

pub(super) fn verdict_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

/// What a rule did to the packet.
pub(super) fn effect(before: &Packet, after: &Packet, end: Option<End>) -> Option<String> {
    match end {
        Some(End::Dropped) => return Some("dropped".into()),
        Some(End::Reset) => return Some("refused with a TCP reset".into()),
        Some(End::Unreachable) => return Some("refused with ICMP port unreachable".into()),
        _ => {}
    }
    if (before.destination, before.destination_port) != (after.destination, after.destination_port) {
        return Some(format!(
            "destination {}:{} becomes {}:{}",
            before.destination, before.destination_port, after.destination, after.destination_port
        ));
    }
    if before.connection.source_translated != after.connection.source_translated {
        return Some(if before.source == after.source {
            format!("source stays {}", after.source)
        } else {
            format!("source {} becomes {}", before.source, after.source)
        });
    }
    (end == Some(End::Accepted)).then(|| "accepted".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_said_as_nft_says_them() {
        let named = |index: u32| (index == 7).then(|| "up0".to_owned());
        let held = |expressions| rule(&ListedRule { handle: 1, comment: None, expressions }, &named);
        let to_pods = held(vec![
            Expression::Payload { base: 1, offset: 16, length: 4, into: 0 },
            Expression::Bitwise { from: 0, into: 0, mask: vec![255, 255, 0, 0], xor: vec![0; 4] },
            Expression::Compare { from: 0, operator: 1, bytes: vec![10, 244, 0, 0] },
            Expression::Verdict(Verdict::Accept),
        ]);
        assert_eq!(to_pods, "ip daddr != 10.244.0.0/16 accept");
        let looked_up = held(vec![
            Expression::Payload { base: 1, offset: 16, length: 4, into: 0 },
            Expression::Meta { key: 16, into: 1 },
            Expression::Payload { base: 2, offset: 2, length: 2, into: 2 },
            Expression::Lookup { set: "host-ports".into(), from: 0, into: Some(4), inverted: false },
            Expression::Translate {
                source: false,
                address: Some(Span { first: 4, last: 4 }),
                port: Some(Span { first: 5, last: 5 }),
                prefix: false,
            },
        ]);
        assert_eq!(looked_up, "dnat to ip daddr . meta l4proto . th dport map @host-ports");
        let status = held(vec![
            Expression::Connection { key: 2, reply: None, into: 0 },
            Expression::Bitwise { from: 0, into: 0, mask: 32u32.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expression::Compare { from: 0, operator: 1, bytes: vec![0; 4] },
            Expression::Masquerade,
        ]);
        assert_eq!(status, "ct status dnat masquerade");
        assert_eq!(held(vec![Expression::Unknown("osf".into())]), "[osf: not known here]");
        let by_name = |bytes: &[u8]| {
            let compare = Expression::Compare { from: 0, operator: 0, bytes: bytes.to_vec() };
            held(vec![Expression::Meta { key: 6, into: 0 }, compare])
        };
        let constant = |bytes: &[u8], into| Expression::Constant { bytes: bytes.to_vec(), into };
        let asked = |load: Expression, bytes: &[u8]| {
            held(vec![load, Expression::Compare { from: 0, operator: 0, bytes: bytes.to_vec() }])
        };
        let meta = |key| Expression::Meta { key, into: 0 };
        assert_eq!(asked(meta(4), &7u32.to_ne_bytes()), "iif \"up0\"");
        assert_eq!(asked(meta(5), &8u32.to_ne_bytes()), "oif 8", "nobody has that number");
        assert_eq!(asked(meta(32), &32_460u32.to_ne_bytes()), "meta hour \"09:01:00\"");
        assert_eq!(asked(meta(8), &772u16.to_ne_bytes()), "iiftype 772");
        let fib = |result, presence| {
            let asks = RouteAsks { source: true, by_mark: false, on: Side::Input, result, presence };
            Expression::Route { asks, into: 0 }
        };
        assert_eq!(asked(fib(RouteResult::Index, true), &[0]), "fib saddr . iif oif missing");
        assert_eq!(asked(fib(RouteResult::Index, false), &7u32.to_ne_bytes()), "fib saddr . iif oif \"up0\"");
        assert_eq!(
            asked(fib(RouteResult::Kind, false), &3u32.to_ne_bytes()),
            "fib saddr . iif type broadcast"
        );
        let address = Expression::Constant { bytes: vec![10, 0, 0, 3], into: 0 };
        let change = Expression::SetPayload { base: 1, offset: 16, length: 4, from: 0 };
        assert_eq!(held(vec![address, change]), "ip daddr set 10.0.0.3");
        let to = |port| held(vec![constant(&[0x1f, 0x40], 2), Expression::Redirect { port }]);
        assert_eq!((to(Some(2)), to(None)), ("redirect to :8000".into(), "redirect".into()));
        assert_eq!(by_name(b"eth"), "iifname \"eth*\"");
        assert_eq!(by_name(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"), "iifname \"eth0\"");
        let translated = |address, port| {
            held(vec![
                constant(&[10, 0, 0, 3], 0),
                constant(&[10, 0, 0, 4], 1),
                constant(&[0x1f, 0x40], 2),
                constant(&[0x1f, 0x41], 3),
                Expression::Translate { source: false, address, port, prefix: false },
            ])
        };
        let span = |first, last| Some(Span { first, last });
        assert_eq!(translated(span(0, 1), span(2, 2)), "dnat to 10.0.0.3-10.0.0.4:8000");
        assert_eq!(translated(span(0, 0), span(2, 3)), "dnat to 10.0.0.3:8000-8001");
        assert_eq!(translated(None, span(2, 2)), "dnat to :8000");
    }
}
