// SPDX-License-Identifier: Apache-2.0
//! Any octets as a client's query.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nodens_tests::oracle::check_query;

fuzz_target!(|octets: &[u8]| {
    if let Err(error) = check_query(octets) {
        panic!("{error:#}");
    }
});
