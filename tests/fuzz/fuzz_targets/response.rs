// SPDX-License-Identifier: Apache-2.0
//! Any octets as an upstream's response: to the question that they hold, and to another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens_tests::oracle::{Asked, check_response};

fuzz_target!(|octets: &[u8]| {
    let claimed = Asked::claimed_by(octets);
    let other = Asked {
        id: claimed.id,
        question: b"\x05other\x00\x00\x1c\x00\x01".to_vec(),
    };
    for asked in [claimed, other] {
        if let Err(error) = check_response(octets, &asked) {
            panic!("{error:#}");
        }
    }
});
