//! Addresses and ranges in text: which forms there are, and which of them are taken.
//!
//! Upstream's fields were read leniently for years. Since 1.36 what other programs may read differently is
//! refused: zeros before a decimal part, which some take for octal, IPv4 in IPv6's clothes, and bits beyond a
//! prefix. What is stored in such a form may stay, and is warned of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::At;
use crate::status::Cause;

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const ZEROS: &str = "must not have leading 0s";
const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
const ZEROS_IN_RANGE: &str = "must not have leading 0s in IP or prefix length";
const MAPPED_IN_RANGE: &str = "must not have an IPv4-mapped IPv6 address";
const BITS_BEYOND: &str = "must not have bits set beyond the prefix length";
const FORMS: [&str; 5] = [ZEROS, MAPPED, ZEROS_IN_RANGE, MAPPED_IN_RANGE, BITS_BEYOND];

/// Whether a fault is about how an address is written, and not about which one it is.
pub(super) fn is_about_form(fault: &Cause) -> bool {
    FORMS.iter().any(|form| fault.message.ends_with(form))
}

/// An address of either family, whatever its form.
fn lenient(text: &str) -> Option<IpAddr> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(['.', ':']).unwrap_or(rest.len());
        if end == 0 {
            plain.push(first);
            rest = &rest[1..];
            continue;
        }
        let part = &rest[..end];
        let digits = part.trim_start_matches('0');
        plain.push_str(if digits.is_empty() { "0" } else { digits });
        rest = &rest[end..];
    }
    plain.parse().ok()
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// Whether a text is no address, or is one in no form that is taken.
pub(super) fn fault(text: &str) -> Option<&'static str> {
    let ip = match (text.parse::<IpAddr>(), lenient(text)) {
        (Ok(ip), _) => ip,
        (Err(_), Some(_)) => return Some(ZEROS),
        (Err(_), None) => return Some(NO_ADDRESS),
    };
    is_mapped(ip).then_some(MAPPED)
}

/// An address in a field of its own.
pub(super) fn address(place: &At<'_>, faults: &mut Vec<Cause>) {
    if let Some(fault) = fault(place.text()) {
        faults.push(Cause::invalid(place.path.clone(), place.text(), fault));
    }
}

/// A range as it is written.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) address: IpAddr,
    pub(super) prefix: u32,
}

impl Range {
    /// Whatever its form.
    fn lenient(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address = lenient(address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| digits && *prefix <= bits)?;
        Some(Self { address, prefix })
    }

    /// The first address.
    fn base(self) -> IpAddr {
        match self.address {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & high_bits_of_32(self.prefix)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & high_bits(self.prefix)).into(),
        }
    }

    /// As it should be written: IPv4 where it is IPv4 by another name.
    fn preferred(self) -> String {
        let base = self.base();
        match base.to_canonical() {
            IpAddr::V4(ip) if base.is_ipv6() => format!("{ip}/{}", self.prefix.saturating_sub(96)),
            ip => format!("{ip}/{}", self.prefix),
        }
    }
}

fn high_bits(count: u32) -> u128 {
    u128::MAX.checked_shl(128 - count).unwrap_or(0)
}

fn high_bits_of_32(count: u32) -> u32 {
    u32::MAX.checked_shl(32 - count).unwrap_or(0)
}

fn range_fault(text: &str, range: Range) -> Option<&'static str> {
    let (address, prefix) = text.split_once('/')?;
    if address.parse::<IpAddr>().is_err() || (prefix.len() > 1 && prefix.starts_with('0')) {
        Some(ZEROS_IN_RANGE)
    } else if is_mapped(range.address) {
        Some(MAPPED_IN_RANGE)
    } else {
        (range.base() != range.address).then_some(BITS_BEYOND)
    }
}

/// A range in a field of its own; `None` where it is none.
pub(super) fn range(place: &At<'_>, faults: &mut Vec<Cause>) -> Option<Range> {
    range_of(place, place.text(), faults)
}

/// The same where spaces may stand around it.
pub(super) fn range_of(place: &At<'_>, text: &str, faults: &mut Vec<Cause>) -> Option<Range> {
    let found = Range::lenient(text);
    let fault = match found {
        None => Some(NO_RANGE),
        Some(range) => range_fault(text, range),
    };
    if let Some(fault) = fault {
        faults.push(Cause::invalid(place.path.clone(), text, fault));
    }
    found
}

/// Whether the one is a part of the other, and not all of it.
pub(super) fn is_strict_subset(part: Range, whole: Range) -> bool {
    let (part_bits, whole_bits) = match (part.address, whole.address) {
        (IpAddr::V4(part), IpAddr::V4(whole)) => {
            (u128::from(part.to_bits()) << 96, u128::from(whole.to_bits()) << 96)
        }
        (IpAddr::V6(part), IpAddr::V6(whole)) => (part.to_bits(), whole.to_bits()),
        _ => return false,
    };
    let mask = high_bits(whole.prefix);
    part.prefix > whole.prefix && part_bits & mask == whole_bits & mask
}

/// What is to be said of an address in another form than the usual one. A text that is none says nothing.
pub(super) fn address_warning(path: &str, text: &str) -> Option<String> {
    let ip = lenient(text)?;
    if text.parse::<IpAddr>().is_err() || is_mapped(ip) {
        let preferred = ip.to_canonical();
        return Some(format!(
            "{path}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes \
             release: use \"{preferred}\""
        ));
    }
    (ip.is_ipv6() && ip.to_string() != text)
        .then(|| format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")"))
}

/// The same of a range.
pub(super) fn range_warnings(path: &str, text: &str) -> Vec<String> {
    let Some(range) = Range::lenient(text) else { return Vec::new() };
    let mut warnings = Vec::new();
    let preferred = range.preferred();
    if range.base() != range.address {
        let (ip, bits) = (range.address.to_canonical(), if range.address.is_ipv4() { 32 } else { 128 });
        warnings.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {preferred:?} or \"{ip}/{bits}\"?)"
        ));
    }
    if matches!(range_fault(text, range), Some(ZEROS_IN_RANGE | MAPPED_IN_RANGE)) {
        warnings.push(format!(
            "{path}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: \
             use {preferred:?}"
        ));
    }
    if warnings.is_empty() && range.address.is_ipv6() && preferred != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({preferred:?})"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_has_one_form_but_for_letters() {
        for (text, expected) in [
            ("10.9.8.7", None),
            ("2001:db8::1", None),
            ("2001:DB8:0:0:0:0:0:1", None),
            ("::1.2.3.4", None),
            ("10.9.8", Some(NO_ADDRESS)),
            ("", Some(NO_ADDRESS)),
            ("0x10.9.8.7", Some(NO_ADDRESS)),
            ("fe80::1%eth0", Some(NO_ADDRESS)),
            ("010.9.8.7", Some(ZEROS)),
            ("10.9.8.00", Some(ZEROS)),
            ("2001:00db8::1", Some(ZEROS)),
            ("::ffff:1.2.3.4", Some(MAPPED)),
            ("::ffff:102:304", Some(MAPPED)),
        ] {
            assert_eq!(fault(text), expected, "{text}");
        }
    }

    #[test]
    fn a_range_has_nothing_beyond_its_prefix() {
        for (text, expected) in [
            ("10.0.0.0/8", None),
            ("0.0.0.0/0", None),
            ("10.1.2.3/32", None),
            ("2001:DB8::/32", None),
            ("::/0", None),
            ("2001:db8::1/128", None),
            ("10.0.0.0", Some(NO_RANGE)),
            ("10.0.0.0/", Some(NO_RANGE)),
            ("10.0.0.0/33", Some(NO_RANGE)),
            ("10.0.0.0/+8", Some(NO_RANGE)),
            ("2001:db8::/129", Some(NO_RANGE)),
            ("x/8", Some(NO_RANGE)),
            ("010.0.0.0/8", Some(ZEROS_IN_RANGE)),
            ("10.0.0.0/08", Some(ZEROS_IN_RANGE)),
            ("::ffff:1.2.3.4/104", Some(MAPPED_IN_RANGE)),
            ("10.0.0.5/8", Some(BITS_BEYOND)),
            ("10.0.0.1/0", Some(BITS_BEYOND)),
            ("2001:db8::1/64", Some(BITS_BEYOND)),
        ] {
            let value = json!(text);
            let mut faults = Vec::new();
            let found = range(&At::root(&value), &mut faults);
            assert_eq!(found.is_none(), expected == Some(NO_RANGE), "{text}");
            let messages: Vec<String> = faults.iter().map(|fault| fault.message.clone()).collect();
            let expected: Vec<String> =
                expected.iter().map(|why| format!("Invalid value: {text:?}: {why}")).collect();
            assert_eq!(messages, expected);
            assert!(faults.iter().all(|fault| is_about_form(fault) == (found.is_some())), "{text}");
        }
    }

    #[test]
    fn what_may_be_read_differently_is_warned_of() {
        let (future, usual) = (
            "will be considered invalid in a future Kubernetes release: use",
            "should be in RFC 5952 canonical format",
        );
        for (text, expected) in [
            ("10.9.8.7", String::new()),
            ("2001:db8::1", String::new()),
            ("None", String::new()),
            ("010.9.8.7", format!("p: non-standard IP address \"010.9.8.7\" {future} \"10.9.8.7\"")),
            ("::ffff:1.2.3.4", format!("p: non-standard IP address \"::ffff:1.2.3.4\" {future} \"1.2.3.4\"")),
            ("FD00:0::1", format!("p: IPv6 address \"FD00:0::1\" {usual} (\"fd00::1\")")),
        ] {
            assert_eq!(address_warning("p", text).unwrap_or_default(), expected, "{text}");
        }
        let odd = "non-standard CIDR value";
        let unclear = "is ambiguous in this context (should be";
        for (text, expected) in [
            ("10.0.0.0/8", vec![]),
            ("nothing", vec![]),
            (
                "10.0.0.5/8",
                vec![format!("p: CIDR value \"10.0.0.5/8\" {unclear} \"10.0.0.0/8\" or \"10.0.0.5/32\"?)")],
            ),
            ("010.0.0.0/8", vec![format!("p: {odd} \"010.0.0.0/8\" {future} \"10.0.0.0/8\"")]),
            (
                "::ffff:1.2.3.4/104",
                vec![
                    format!(
                        "p: CIDR value \"::ffff:1.2.3.4/104\" {unclear} \"1.0.0.0/8\" or \"1.2.3.4/128\"?)"
                    ),
                    format!("p: {odd} \"::ffff:1.2.3.4/104\" {future} \"1.0.0.0/8\""),
                ],
            ),
            ("FD00:0::/64", vec![format!("p: IPv6 CIDR value \"FD00:0::/64\" {usual} (\"fd00::/64\")")]),
        ] {
            assert_eq!(range_warnings("p", text), expected, "{text}");
        }
    }
}
