// SPDX-License-Identifier: Apache-2.0
//! Names that are asked for once, each with an address that follows from it, and the CoreDNS that
//! gives it.
//!
//! `x0a1b2c3d-0-4-210.miss.example` is number 1,234 of a flow: the address ends in 0.4.210, and its
//! first octet says which pod has answered.

use std::net::Ipv4Addr;

use crate::query::wire_name;

/// The zone of all names.
pub const ZONE: &str = "miss.example";
/// The first octet of the addresses that pod 0 gives; pod 1 has the next.
const FIRST_OCTET: u8 = 11;
/// How many names a flow has: 24 bits of address.
pub const NAMES: u32 = 1 << 24;

/// Name `number` of the flow with this salt, on the wire.
#[must_use]
pub fn wire(salt: u32, number: u32) -> Vec<u8> {
    wire_name(&text(salt, number))
}

/// The same as text.
#[must_use]
pub fn text(salt: u32, number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("x{salt:08x}-{a}-{b}-{c}.{ZONE}")
}

/// The address that `pod` gives name `number`.
#[must_use]
pub fn address(pod: u8, number: u32) -> Ipv4Addr {
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(FIRST_OCTET + pod, a, b, c)
}

/// The pod that has given this address to name `number`; `None` where nobody has.
#[must_use]
pub fn pod(address: [u8; 4], number: u32) -> Option<u8> {
    let [first, rest @ ..] = address;
    let [_, right @ ..] = number.to_be_bytes();
    let pod = first.checked_sub(FIRST_OCTET)?;
    (rest == right && usize::from(pod) < super::fleet::PODS).then_some(pod)
}

/// The number in a name on the wire, letter case aside.
#[must_use]
pub fn number(wire: &[u8]) -> Option<u32> {
    let (&length, rest) = wire.split_first()?;
    let label = str::from_utf8(rest.get(..usize::from(length))?).ok()?;
    let mut parts = label.split('-').skip(1).map(str::parse::<u8>);
    let octets = [
        0,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    ];
    parts.next().is_none().then(|| u32::from_be_bytes(octets))
}

/// The lines of a Corefile by which `pod` gives every name its address, and a TXT record of about
/// a thousand octets, which fills a cache quickly.
#[must_use]
pub fn plugin(pod: u8) -> String {
    let first = FIRST_OCTET + pod;
    let zone = ZONE.replace('.', "[.]");
    let filling = "x".repeat(240);
    format!(
        "\x20template IN A {ZONE} {{\n\
         \x20 match \"(?i)^x[0-9a-f]+-(?P<a>[0-9]+)-(?P<b>[0-9]+)-(?P<c>[0-9]+)[.]{zone}[.]$\"\n\
         \x20 answer \"{{{{ .Name }}}} 3600 IN A {first}.{{{{ .Group.a }}}}.{{{{ .Group.b }}}}.{{{{ .Group.c }}}}\"\n\
         \x20}}\n\
         \x20template IN TXT {ZONE} {{\n\
         \x20 answer \"{{{{ .Name }}}} 3600 IN TXT {filling} {filling} {filling} {filling}\"\n\
         \x20}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_number_and_an_address_its_pod() {
        for of in [0, 255, 256, 1_234, NAMES - 1] {
            assert_eq!(number(&wire(0x0a1b_2c3d, of)), Some(of));
            for by in 0..6 {
                assert_eq!(pod(address(by, of).octets(), of), Some(by));
            }
            assert_eq!(pod(address(0, of).octets(), of ^ 1), None);
            assert_eq!(pod([10, 0, 0, 0], of), None);
            assert_eq!(pod([200, 0, 0, 0], 0), None);
        }
        assert_eq!(number(&wire_name("web.prod.svc.cluster.local")), None);
        assert_eq!(number(&wire_name("x-1-2-3-4.miss.example")), None);
        assert_eq!(number(b"\x3fshort"), None);
    }

    #[test]
    fn letter_case_changes_no_number() {
        let upper = text(0xabc, 77).to_ascii_uppercase();
        assert_eq!(number(&wire_name(&upper)), Some(77));
    }
}
