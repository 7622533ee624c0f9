// SPDX-License-Identifier: Apache-2.0
//! A query's way through the real program, from the client's socket to the upstream and back.
//!
//! | file | proves |
//! |---|---|
//! | names | every name is answered as CoreDNS answers it, and costs it one query |
//! | sharing | identical misses cost one upstream query, and who shares what with whom |
//! | echo | what a client sent comes back to it: ID, letter case, flags, EDNS, size |
//! | lifetime | how long an answer is kept |
//! | streams | clients over TCP |
//! | search_lists | what `ndots:5` costs the upstream |
//! | twins | A and AAAA in one burst |
//! | outage | upstreams that go, names that are always asked for |
//! | upstream | connections to the upstreams, and which upstream is asked |
//! | pipeline | several queries on one upstream connection |
//! | zone_rules | what a zone makes of its names: other ones, addresses, answers |
//! | figures | the metrics say what happened |
//! | dashboards | they say it under CoreDNS's names too |
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests own their clock and their waits"
)]

mod dashboards;
mod echo;
mod figures;
mod lifetime;
mod names;
mod outage;
mod pipeline;
mod search_lists;
mod sharing;
mod streams;
mod support;
mod twins;
mod upstream;
mod zone_rules;
