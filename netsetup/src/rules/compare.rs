// SPDX-License-Identifier: Apache-2.0
//! Whether two rules mean the same to the kernel. It gives back more than it was given (flags of
//! zero, operations by default) and in another order: what is the same is compared by meaning.

use std::collections::BTreeMap;

use netlink_packet_core::parse_string;

use crate::nfnetlink::attributes;

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// Attributes that hold a value within: `NFTA_CMP_DATA`, `NFTA_BITWISE_MASK`, `_XOR`, `_DATA`,
/// `NFTA_IMMEDIATE_DATA`. The kernel does not mark them as such.
const DATA: [(&str, u16); 5] = [
    ("bitwise", 4),
    ("bitwise", 5),
    ("bitwise", 7),
    ("cmp", 3),
    ("immediate", 2),
];

/// A rule as the kernel executes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meaning(Vec<Expression>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expression {
    name: String,
    attributes: BTreeMap<u16, Vec<u8>>,
}

impl Meaning {
    /// Reads what an attribute `NFTA_RULE_EXPRESSIONS` holds.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let expressions = attributes(bytes).map(|element| Expression::read(element.value()));
        Self(expressions.collect())
    }

    /// What a rule does that we did not write, in the kernel's words.
    pub(crate) fn words(&self) -> String {
        let words: Vec<_> = self.0.iter().map(Expression::word).collect();
        format!("a rule that nodens did not write ({})", words.join(", "))
    }
}

impl Expression {
    fn read(bytes: &[u8]) -> Self {
        let mut name = String::new();
        let mut found = BTreeMap::new();
        for attribute in attributes(bytes) {
            match attribute.kind() {
                EXPRESSION_NAME => name = parse_string(attribute.value()).unwrap_or_default(),
                EXPRESSION_DATA => {
                    for inner in attributes(attribute.value()) {
                        let (kind, value) = (inner.kind(), inner.value());
                        if DATA.contains(&(name.as_str(), kind)) {
                            found.insert(kind, data(value));
                        } else if !is_default(value) {
                            found.insert(kind, value.to_vec());
                        }
                    }
                }
                _ => {}
            }
        }
        Self {
            name,
            attributes: found,
        }
    }

    fn word(&self) -> &str {
        let data = self.attributes.get(&2).map(Vec::as_slice);
        match (self.name.as_str(), data) {
            ("immediate", Some([2, 0, 0, 0, 0, ..])) => "drop",
            ("immediate", Some([2, 0, 0, 0, 1, ..])) => "accept",
            (name, _) => name,
        }
    }
}

/// A value with what kind it is: the octets to compare or load, or a verdict.
fn data(bytes: &[u8]) -> Vec<u8> {
    let mut flat = Vec::new();
    for attribute in attributes(bytes) {
        let kind = attribute.kind();
        flat.extend(u8::try_from(kind));
        if kind == DATA_VERDICT {
            for inner in attributes(attribute.value()) {
                // The number first, then the chain's name, if any; never its number in a batch.
                if inner.kind() <= VERDICT_CODE + 1 {
                    flat.extend(inner.value());
                }
            }
        } else {
            flat.extend(attribute.value());
        }
    }
    flat
}

/// A number of zero is what an attribute that is not there means.
fn is_default(value: &[u8]) -> bool {
    matches!(value.len(), 4 | 8) && value.iter().all(|&octet| octet == 0)
}
