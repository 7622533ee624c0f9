// SPDX-License-Identifier: Apache-2.0
//! The fallback table: with no agent alive, what is asked of a node-local address is sent to a
//! Service address F of CoreDNS, and kube-proxy does the rest. It lies behind the active table and
//! behind everybody's rules at `raw`, and sees only packets that are still tracked: so it is idle
//! while the agent takes them, or a node-cache, which keeps its own from tracking.
//!
//! The answers are known by whom they go to: a set has the clients that were sent there. Others, such
//! as the agent, ask F itself and have its answers as they are. No packet or connection mark is
//! needed, whose bits other programs take.

use std::net::IpAddr;
use std::time::Duration;

use super::{
    Base, Chain, ChainKind, Dynamic, Field, Hook, KeyType, Presence, Rule, Set, Side, Statement,
    Table,
};
use crate::plan::{Family, Plan, Proto};

/// The table's name.
pub(crate) const NAME: &str = "nodens-fallback";

/// Behind `raw` (-300), before connection tracking (-200) and kube-proxy's translation (-100).
const BEFORE_TRACKING: i32 = -250;

/// Before kube-proxy masquerades at `srcnat` (100).
const BEFORE_SRCNAT: i32 = 90;

/// Behind `srcnat`: answers have their source back, F, and are given the one that was asked.
const BEHIND_SRCNAT: i32 = 110;

/// Most clients, by address, protocol and port, that are remembered, of one family: 128 Ki of some
/// 100 bytes.
const MOST_CLIENTS: u32 = 0x2_0000;

/// Longer than CoreDNS takes for an answer, or holds a connection that is idle (10 s).
const REMEMBER: Duration = Duration::from_secs(15);

/// The set of clients of a family that were sent to CoreDNS.
pub(crate) const fn detoured(family: Family) -> &'static str {
    match family {
        Family::V4 => "detoured",
        Family::V6 => "detoured6",
    }
}

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
    let mut output = of_a_neighbour(plan);
    output.extend(there.clone());
    let rules = [there, output, masquerade, back.clone(), back];
    let chains = CHAINS.into_iter().zip(rules);
    Some(Table {
        name: NAME,
        is_owned: false,
        sets: sets(&detours),
        chains: chains
            .map(|((name, base), rules)| Chain { name, base, rules })
            .collect(),
    })
}

/// Answers that leave this node with the cluster's address for a source are those of a node-cache
/// that has it on the node, after us. It wants them untracked and says so some 20 ms after it has
/// begun to answer; what kube-proxy has tracked for the same client would have them dropped until then.
fn of_a_neighbour(plan: &Plan) -> Vec<Rule> {
    let answers = plan.captures.iter().flat_map(|capture| {
        [Proto::Udp, Proto::Tcp].map(|proto| Rule {
            statements: vec![
                Statement::Address(Side::Source, capture.service),
                Statement::Port(proto, Side::Source, plan.port),
                Statement::Notrack,
                Statement::Accept,
            ],
            why: "a node-cache that starts answers, and has not put in all its rules yet",
        })
    });
    answers.collect()
}

fn sets(detours: &[Detour]) -> Vec<Set> {
    let is_of = |family| detours.iter().any(|one| Family::of(one.asked) == family);
    let families = [Family::V4, Family::V6].into_iter();
    let set = |family| Set {
        name: detoured(family),
        key: vec![KeyType::Address(family), KeyType::Proto, KeyType::Port],
        dynamic: Some(Dynamic {
            size: MOST_CLIENTS,
            timeout: REMEMBER,
        }),
    };
    families.filter(|&family| is_of(family)).map(set).collect()
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
                Statement::Update(self.client(proto, Side::Source), self.set()),
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
                Statement::Lookup(
                    self.client(proto, Side::Destination),
                    self.set(),
                    Presence::In,
                ),
                Statement::Rewrite(Side::Source, self.asked),
                Statement::Accept,
            ],
            why: "an answer comes from the address that was asked",
        })
    }

    const fn set(&self) -> &'static str {
        detoured(self.family())
    }

    const fn family(&self) -> Family {
        Family::of(self.asked)
    }

    /// The client's address, protocol and port; `side` is the one it is on.
    fn client(&self, proto: Proto, side: Side) -> Vec<Field> {
        vec![
            Field::Address(self.family(), side),
            Field::Proto,
            Field::Port(proto, side),
        ]
    }

    fn each(&self, rule: impl Fn(Proto) -> Rule) -> Vec<Rule> {
        [Proto::Udp, Proto::Tcp].map(rule).into()
    }
}
