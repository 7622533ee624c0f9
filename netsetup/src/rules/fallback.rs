// SPDX-License-Identifier: Apache-2.0
//! The fallback table: with no agent alive, what is asked of a node-local address is sent to a
//! Service address F of CoreDNS's own, and kube-proxy does the rest. It lies behind the active table
//! and sees only packets that are still tracked, so it is idle while the agent takes them.
//!
//! F is nobody else's, so that the answers are known by their source alone: no packet or connection
//! mark is needed, whose bits other programs take.

use std::net::IpAddr;

use super::{Base, Chain, ChainKind, Hook, Presence, Rule, Side, Statement, Table};
use crate::plan::{Family, Plan, Proto};

/// The table's name.
pub(crate) const NAME: &str = "nodens-fallback";

/// Behind the active table, before connection tracking (-200) and kube-proxy's translation (-100).
const BEFORE_TRACKING: i32 = -305;

/// Before kube-proxy masquerades at `srcnat` (100).
const BEFORE_SRCNAT: i32 = 90;

/// Behind `srcnat`: answers have their source back, F, and are given the one that was asked.
const BEHIND_SRCNAT: i32 = 110;

/// Its chains, with where the kernel calls them.
pub(crate) const CHAINS: [(&str, Option<Base>); 5] = [
    (
        "prerouting",
        base(ChainKind::Filter, Hook::Prerouting, BEFORE_TRACKING),
    ),
    (
        "output",
        base(ChainKind::Route, Hook::Output, BEFORE_TRACKING),
    ),
    (
        "nat_post",
        base(ChainKind::Nat, Hook::Postrouting, BEFORE_SRCNAT),
    ),
    (
        "fix_post",
        base(ChainKind::Filter, Hook::Postrouting, BEHIND_SRCNAT),
    ),
    (
        "fix_in",
        base(ChainKind::Filter, Hook::Input, BEHIND_SRCNAT),
    ),
];

const fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base {
        kind,
        hook,
        priority,
    })
}

/// The table that the plan wants, if it wants one.
pub(crate) fn table(plan: &Plan) -> Option<Table> {
    let detours = detours(plan);
    if detours.is_empty() {
        return None;
    }
    let each =
        |rules: fn(&Detour) -> Vec<Rule>| -> Vec<Rule> { detours.iter().flat_map(rules).collect() };
    let others = |side| Rule {
        statements: vec![
            Statement::AnyPort(side, Presence::NotIn, plan.port),
            Statement::Accept,
        ],
        why: "what else there is leaves here, at little cost",
    };
    let mut there = vec![
        others(Side::Destination),
        Rule {
            statements: vec![Statement::IsUntracked, Statement::Accept],
            why: "the agent has it",
        },
    ];
    there.extend(each(Detour::there));
    let mut back = vec![others(Side::Source)];
    back.extend(each(Detour::back));
    let masquerade = each(Detour::masquerade);
    let rules = [there.clone(), there, masquerade, back.clone(), back];
    let chains = CHAINS.into_iter().zip(rules);
    Some(Table {
        name: NAME,
        is_owned: false,
        sets: Vec::new(),
        chains: chains
            .map(|((name, base), rules)| Chain { name, base, rules })
            .collect(),
    })
}

/// A node-local address, and the Service address that answers for it.
struct Detour {
    asked: IpAddr,
    service: IpAddr,
    port: u16,
}

fn detours(plan: &Plan) -> Vec<Detour> {
    let mut detours = Vec::new();
    for &asked in &plan.addresses {
        let mut fallback = plan.fallback.iter();
        if let Some(&service) = fallback.find(|&&one| Family::of(one) == Family::of(asked)) {
            let port = plan.port;
            detours.push(Detour {
                asked,
                service,
                port,
            });
        }
    }
    detours
}

impl Detour {
    fn there(&self) -> Vec<Rule> {
        self.each(|proto| Rule {
            statements: vec![
                Statement::Address(Side::Destination, self.asked),
                Statement::Port(proto, Side::Destination, self.port),
                Statement::Rewrite(Side::Destination, self.service),
                Statement::Accept,
            ],
            why: "no agent has it: CoreDNS answers, through kube-proxy",
        })
    }

    fn masquerade(&self) -> Vec<Rule> {
        vec![Rule {
            statements: vec![
                Statement::Address(Side::Source, self.asked),
                Statement::OriginalDestination(self.service),
                Statement::Masquerade,
            ],
            why: "a host-network client chose the node-local source, to which no answer comes back",
        }]
    }

    fn back(&self) -> Vec<Rule> {
        self.each(|proto| Rule {
            statements: vec![
                Statement::Address(Side::Source, self.service),
                Statement::Port(proto, Side::Source, self.port),
                Statement::Rewrite(Side::Source, self.asked),
                Statement::Accept,
            ],
            why: "an answer comes from the address that was asked",
        })
    }

    fn each(&self, rule: impl Fn(Proto) -> Rule) -> Vec<Rule> {
        [Proto::Udp, Proto::Tcp].map(rule).into()
    }
}
