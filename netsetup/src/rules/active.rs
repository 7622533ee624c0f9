// SPDX-License-Identifier: Apache-2.0
//! The active table: what steers queries to the agent while it lives.
//!
//! Packets are rewritten without state, before connection tracking, and never tracked: kube-proxy's
//! translation does not see them. Only addresses are rewritten, never ports: each Service address has
//! a node-local address of its own, so that an answer finds its way back by its source alone.

use std::net::IpAddr;

use super::{
    Base, Chain, ChainKind, Dynamic, Field, Hook, KeyType, Presence, Rule, Set, Side, Statement,
    Table, began, elsewhere, live, serve,
};
use crate::plan::{Family, Plan, Proto};

/// The table's name.
pub(crate) const NAME: &str = "nodens";

/// Its chains, with where the kernel calls them: before everybody else's rules at `raw` (-300),
/// which then see the packet as we leave it. `output` is for clients in the host network and for our
/// answers.
pub(crate) const CHAINS: [(&str, Option<Base>); 4] = [
    ("queries", None),
    ("answers", None),
    ("prerouting", base(ChainKind::Filter, Hook::Prerouting)),
    ("output", base(ChainKind::Route, Hook::Output)),
];

const fn base(kind: ChainKind, hook: Hook) -> Option<Base> {
    Some(Base {
        kind,
        hook,
        priority: -310,
    })
}

/// Most TCP flows that are remembered, of one family: 64 Ki of some 100 bytes.
const MOST_FLOWS: u32 = 0x1_0000;

/// The table that the plan wants.
pub(crate) fn table(plan: &Plan) -> Table {
    let families: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .filter(|&family| {
            plan.lanes()
                .iter()
                .any(|lane| Family::of(lane.address) == family)
        })
        .collect();
    let routes: Vec<_> = families
        .iter()
        .flat_map(|&family| routes(plan, family))
        .collect();
    // Every packet of the node comes by here, and next to none of them is ours: one look at the
    // port tells. An answer is seen again in prerouting when it goes to this very node, and stays
    // what it was made in output.
    let of_port = |side, chain, why| Rule {
        statements: vec![
            Statement::AnyPort(side, Presence::In, plan.port),
            Statement::Jump(chain),
        ],
        why,
    };
    let to_queries = of_port(
        Side::Destination,
        "queries",
        "what goes to the port can be a query",
    );
    let to_answers = of_port(
        Side::Source,
        "answers",
        "what comes from the port can be an answer",
    );
    let rules = [
        queries(plan, &routes),
        answers(plan, &routes),
        vec![to_queries.clone()],
        vec![to_queries, to_answers],
    ];
    let chains = CHAINS.into_iter().zip(rules);
    Table {
        name: NAME,
        is_owned: true,
        sets: families
            .into_iter()
            .flat_map(|family| sets(plan, family))
            .collect(),
        chains: chains
            .map(|((name, base), rules)| Chain { name, base, rules })
            .collect(),
    }
}

/// What clients ask, and which address answers it: the same, or another that it is rewritten to.
#[derive(Clone, Copy)]
struct Route {
    asked: IpAddr,
    local: IpAddr,
}

impl Route {
    fn is_rewritten(self) -> bool {
        self.asked != self.local
    }
}

fn routes(plan: &Plan, family: Family) -> Vec<Route> {
    let own = plan.addresses.iter().map(|&address| Route {
        asked: address,
        local: plan.stands_for(address),
    });
    let captured = plan.captures.iter().map(|capture| Route {
        asked: capture.service,
        local: capture.local,
    });
    own.chain(captured)
        .filter(|route| Family::of(route.asked) == family)
        .collect()
}

fn sets(plan: &Plan, family: Family) -> Vec<Set> {
    let lanes = |name| Set {
        name,
        key: vec![KeyType::Address(family), KeyType::Proto, KeyType::Port],
        dynamic: None,
    };
    let flows = |name| Set {
        name,
        key: vec![
            KeyType::Address(family),
            KeyType::Port,
            KeyType::Address(family),
        ],
        dynamic: Some(Dynamic {
            size: MOST_FLOWS,
            timeout: plan.remember_tcp,
        }),
    };
    let mut sets = vec![
        lanes(live(family)),
        lanes(serve(family)),
        flows(began(family)),
    ];
    let mut stand_ins = plan.stand_ins.iter();
    if stand_ins.any(|one| Family::of(one.service) == family) {
        sets.push(flows(elsewhere(family)));
    }
    sets
}

/// Queries on their way to the agent.
fn queries(plan: &Plan, routes: &[Route]) -> Vec<Rule> {
    let port = plan.port;
    let mut rules = Vec::new();
    for route in routes {
        let why = "the agent's own probes reach its sockets also while nothing is steered";
        let probe = plan.probe(Family::of(route.local));
        rules.extend(probe.map(|probe| pass(probe, route.local, why)));
    }
    for &route in routes {
        let mut statements = asked(route, Proto::Udp, port);
        statements.push(lane(route, Proto::Udp, live, Presence::In));
        rules.push(Rule {
            statements: steered(statements, route),
            why: "a query over UDP is the agent's while the lane is live",
        });
    }
    for &route in routes {
        let flow = || flow(Family::of(route.asked), Side::Source);
        let began = began(Family::of(route.asked));
        let begins = |presence| {
            let mut statements = asked(route, Proto::Tcp, port);
            statements.push(Statement::Begins);
            statements.push(lane(route, Proto::Tcp, live, presence));
            statements
        };
        let is_held = plan.stand_ins.iter().any(|one| one.service == route.asked);
        let elsewhere = elsewhere(Family::of(route.asked));
        let mut statements = begins(Presence::NotIn);
        statements.push(Statement::Forget(flow(), began));
        if is_held {
            statements.push(Statement::Update(flow(), elsewhere));
        }
        rules.push(Rule {
            statements,
            why: "a connection that begins elsewhere is no longer ours, though its ports were",
        });
        let mut statements = begins(Presence::In);
        statements.push(Statement::Update(flow(), began));
        rules.push(Rule {
            statements,
            why: "a connection that begins while the lane is live is remembered",
        });
        let mut statements = asked(route, Proto::Tcp, port);
        statements.push(Statement::Lookup(flow(), began, Presence::In));
        statements.push(lane(route, Proto::Tcp, serve, Presence::In));
        statements.push(Statement::Update(flow(), began));
        rules.push(Rule {
            statements: steered(statements, route),
            why: "a connection stays where it began: here, until it ends or the agent hangs",
        });
        if is_held {
            let mut statements = asked(route, Proto::Tcp, port);
            statements.push(Statement::Lookup(flow(), elsewhere, Presence::In));
            statements.push(Statement::Update(flow(), elsewhere));
            statements.push(Statement::Accept);
            rules.push(Rule {
                statements,
                why: "a connection that began with CoreDNS stays there",
            });
            let mut statements = asked(route, Proto::Tcp, port);
            statements.push(Statement::Lookup(flow(), began, Presence::NotIn));
            statements.push(Statement::Notrack);
            statements.push(Statement::Accept);
            rules.push(Rule {
                statements,
                why: "a connection older than the agent stays with whoever else has the address",
            });
        }
    }
    rules
}

/// Answers on their way to clients. They ask no switch: what is under way still leaves.
fn answers(plan: &Plan, routes: &[Route]) -> Vec<Rule> {
    let port = plan.port;
    let mut rules = Vec::new();
    for route in routes {
        let why = "answers to the agent's own probes keep their source";
        let probe = plan.probe(Family::of(route.local));
        rules.extend(probe.map(|probe| pass(route.local, probe, why)));
    }
    for &route in routes {
        let answer = |proto| {
            vec![
                Statement::Address(Side::Source, route.local),
                Statement::Port(proto, Side::Source, port),
            ]
        };
        for proto in [Proto::Udp, Proto::Tcp] {
            let mut statements = answer(proto);
            if route.is_rewritten() {
                statements.push(Statement::Notrack);
                statements.push(Statement::Rewrite(Side::Source, route.asked));
                statements.push(Statement::Accept);
                rules.push(Rule {
                    statements,
                    why: "an answer comes from the address that was asked",
                });
                continue;
            }
            if proto == Proto::Tcp {
                let family = Family::of(route.asked);
                let flow = flow(family, Side::Destination);
                statements.push(Statement::Lookup(flow, began(family), Presence::In));
            }
            statements.push(Statement::Notrack);
            statements.push(Statement::Accept);
            rules.push(Rule {
                statements,
                why: "an answer is no more tracked than its query was",
            });
        }
    }
    rules
}

/// What goes from one of these to the other passes as it is.
fn pass(source: IpAddr, destination: IpAddr, why: &'static str) -> Rule {
    Rule {
        statements: vec![
            Statement::Address(Side::Source, source),
            Statement::Address(Side::Destination, destination),
            Statement::Notrack,
            Statement::Accept,
        ],
        why,
    }
}

fn asked(route: Route, proto: Proto, port: u16) -> Vec<Statement> {
    vec![
        Statement::Address(Side::Destination, route.asked),
        Statement::Port(proto, Side::Destination, port),
    ]
}

fn lane(
    route: Route,
    proto: Proto,
    set: fn(Family) -> &'static str,
    presence: Presence,
) -> Statement {
    let family = Family::of(route.asked);
    let key = vec![
        Field::Address(family, Side::Destination),
        Field::Proto,
        Field::Port(proto, Side::Destination),
    ];
    Statement::Lookup(key, set(family), presence)
}

/// The client's address and port, and the address it asked; `client` is the side it is on.
fn flow(family: Family, client: Side) -> Vec<Field> {
    vec![
        Field::Address(family, client),
        Field::Port(Proto::Tcp, client),
        Field::Address(family, client.other()),
    ]
}

fn steered(mut statements: Vec<Statement>, route: Route) -> Vec<Statement> {
    statements.push(Statement::Notrack);
    if route.is_rewritten() {
        statements.push(Statement::Rewrite(Side::Destination, route.local));
    }
    // No other rule here is about it.
    statements.push(Statement::Accept);
    statements
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}
