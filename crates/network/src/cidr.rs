//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::Cidr;

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 range such as 10.244.0.0/16: {reason}")]
pub struct ParseCidrError {
    text: String,
    reason: &'static str,
}

impl Cidr {
    /// The range of that size in which the address lies.
    ///
    /// # Panics
    /// If `prefix` is over 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        assert!(prefix <= 32, "a prefix has at most 32 bits");
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// The network mask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    /// Whether the address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether an address lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        let prefix = self.prefix.min(other.prefix);
        Self::new(self.address, prefix) == Self::new(other.address, prefix)
    }

    /// How many addresses it has.
    pub fn len(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Never: the smallest range has one address.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Its address number `index`, counted from 0.
    pub fn nth(self, index: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(index).ok().filter(|_| index < self.len())?;
        Some(Ipv4Addr::from_bits(self.address.to_bits() + offset))
    }

    /// The part number `index` of it, in parts of `prefix` bits.
    pub fn subnet(self, prefix: u8, index: u32) -> Option<Self> {
        if prefix < self.prefix || prefix > 32 || u64::from(index) >= 1 << (prefix - self.prefix) {
            return None;
        }
        let offset = u64::from(index) << (32 - prefix);
        self.nth(offset).map(|address| Self { address, prefix })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| ParseCidrError { text: text.to_owned(), reason };
        let (address, prefix) = text.split_once('/').ok_or_else(|| error("it has no /"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| error("the address is malformed"))?;
        let prefix: u8 = prefix.parse().map_err(|_| error("the prefix is no number from 0 to 32"))?;
        if prefix > 32 {
            return Err(error("the prefix is no number from 0 to 32"));
        }
        let range = Self::new(address, prefix);
        if range.address != address {
            return Err(error("bits of the address are set outside the prefix"));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    #[test]
    fn ranges_parse_print_and_compare() {
        assert_eq!(cidr("10.244.0.0/16").to_string(), "10.244.0.0/16");
        for bad in ["10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.244.3.0/24")));
        assert!(!cidr("10.96.0.0/16").overlaps(cidr("10.97.0.0/16")));
        assert!(cidr("0.0.0.0/0").overlaps(cidr("192.0.2.0/24")));
        assert!(cidr("10.244.1.0/24").contains(Ipv4Addr::new(10, 244, 1, 255)));
    }

    #[test]
    fn parts_are_numbered() {
        assert_eq!(cidr("10.244.0.0/16").subnet(24, 3), Some(cidr("10.244.3.0/24")));
        assert_eq!(cidr("10.244.0.0/16").subnet(24, 256), None);
        assert_eq!(cidr("10.244.0.0/16").subnet(8, 0), None);
        assert_eq!(cidr("10.0.0.0/30").nth(3), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(cidr("10.0.0.0/30").nth(4), None);
    }
}
