//! Address blocks such as `10.0.0.0/8`, for trusted proxies and for counting connections by source.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::diagnose::{Diagnose, Fault};

/// A block of addresses. IPv4 addresses in IPv6 clothes (`::ffff:10.0.0.1`) count as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// A text that is no address block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address block")]
pub struct CidrError {
    text: String,
}

impl Diagnose for CidrError {
    fn fault(&self) -> Fault {
        Fault::Usage
    }

    fn hint(&self) -> Option<String> {
        Some("write one address or a block, such as 10.0.0.0/8 or fd00::/8".to_owned())
    }
}

impl Cidr {
    /// A block of the first `bits` bits of an address; more bits than the address has count as all.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Self {
        let address = address.to_canonical();
        let bits = bits.min(width(address));
        Self { address: mask(address, bits), bits }
    }

    /// Parses `ADDRESS/BITS` or one address.
    ///
    /// # Errors
    /// When the address or the number of bits is wrong.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let fault = || CidrError { text: text.to_owned() };
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| fault())?;
        let bits = match bits {
            None => width(address),
            Some(bits) => bits.trim().parse().map_err(|_| fault())?,
        };
        if bits > width(address) {
            return Err(fault());
        }
        Ok(Self::new(address, bits))
    }

    /// Whether an address lies in the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.bits) == self.address
    }

    /// The block that counts as one source: the address itself for IPv4, its /64 for IPv6.
    ///
    /// Whoever has one IPv6 address commonly has 2⁶⁴ of them.
    #[must_use]
    pub fn source_prefix(address: IpAddr) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) => Self::new(v4, 32),
            v6 @ IpAddr::V6(_) => Self::new(v6, 64),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        Self::parse(text)
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & keep))
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & keep))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_contains_its_addresses_and_no_others() {
        assert!(block("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!block("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(block("127.0.0.1").contains(ip("127.0.0.1")));
        assert!(!block("127.0.0.1").contains(ip("127.0.0.2")));
        assert!(block("fd00::/8").contains(ip("fd12::1")));
        assert!(block("0.0.0.0/0").contains(ip("8.8.8.8")));
        assert!(!block("0.0.0.0/0").contains(ip("::1")));
    }

    #[test]
    fn a_mapped_address_counts_as_version_4() {
        assert!(block("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
    }

    #[test]
    fn a_block_is_shown_by_its_first_address() {
        assert_eq!(block("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(block("::1").to_string(), "::1/128");
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a/8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_source_is_an_address_in_version_4_and_a_64_block_in_version_6() {
        assert_eq!(Cidr::source_prefix(ip("10.0.0.1")).to_string(), "10.0.0.1/32");
        assert_eq!(Cidr::source_prefix(ip("2001:db8::1")), Cidr::source_prefix(ip("2001:db8::2")));
    }

    proptest! {
        #[test]
        fn a_block_contains_the_address_it_was_made_of(bits in any::<u32>(), length in 0u8..=40) {
            let address = IpAddr::V4(Ipv4Addr::from_bits(bits));
            let block = Cidr::new(address, length);
            prop_assert!(block.contains(address));
            prop_assert_eq!(Cidr::parse(&block.to_string()), Ok(block));
        }
    }

    /// The first bits of an address as text.
    fn bits(address: IpAddr, length: u8) -> String {
        let all = match address {
            IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
            IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
        };
        all[..usize::from(length)].to_owned()
    }

    proptest! {
        #[test]
        fn addresses_of_a_block_share_its_first_bits(a in any::<u32>(), flip in any::<u32>(), length in 0u8..=32) {
            // Addresses that differ late are the interesting ones.
            let b = a ^ (flip >> (length.min(31)));
            let (a, b) = (IpAddr::V4(Ipv4Addr::from_bits(a)), IpAddr::V4(Ipv4Addr::from_bits(b)));
            prop_assert_eq!(Cidr::new(a, length).contains(b), bits(a, length) == bits(b, length));
        }

        #[test]
        fn and_so_they_do_in_version_6(a in any::<u128>(), flip in any::<u128>(), length in 0u8..=128) {
            let a = a | (1 << 127);
            let b = a ^ (flip >> (length.min(127)) >> 1);
            let (a, b) = (IpAddr::V6(Ipv6Addr::from_bits(a)), IpAddr::V6(Ipv6Addr::from_bits(b)));
            prop_assert_eq!(Cidr::new(a, length).contains(b), bits(a, length) == bits(b, length));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Cidr::parse(&text);
        }
    }
}
