// SPDX-License-Identifier: Apache-2.0
//! Addresses that answer in place of a listen address which another program holds: node-cache, while
//! both are on the node. What clients ask of the one is steered to the other, as with a Service's, and
//! the other program hears no more of it; it goes on with the connections that it has.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Capture, Family, Plan, free_behind};

impl Plan {
    /// The stand-in of each listen address, whether it is needed or not: the next free ones behind
    /// all that the plan has. None where there is no such address.
    fn possible(&self) -> impl Iterator<Item = Capture> {
        let services = self.captures.iter().map(|capture| capture.service);
        let mut used: HashSet<IpAddr> = self.interface_addresses().into_iter().collect();
        used.extend(self.addresses.iter().copied());
        used.extend(services.chain(self.fallback.iter().copied()));
        self.addresses.iter().filter_map(move |&service| {
            let probe = self.probe(Family::of(service))?;
            let local = free_behind(probe, &used)?;
            used.insert(local);
            Some(Capture { service, local })
        })
    }

    /// The plan with stand-ins for the listen addresses of which `is_held` says so.
    #[must_use]
    pub fn standing_in(&self, is_held: impl Fn(IpAddr) -> bool) -> Self {
        let stand_ins = self.without_stand_ins();
        let stand_ins = stand_ins.possible().filter(|one| is_held(one.service));
        Self {
            stand_ins: stand_ins.collect(),
            ..self.clone()
        }
    }

    /// The plan with those stand-ins whose addresses `is_there` finds: as an agent left it, or has it.
    #[must_use]
    pub fn as_found(&self, is_there: impl Fn(IpAddr) -> bool) -> Self {
        let bare = self.without_stand_ins();
        let stand_ins = bare.possible().filter(|one| is_there(one.local)).collect();
        Self { stand_ins, ..bare }
    }

    fn without_stand_ins(&self) -> Self {
        Self {
            stand_ins: Vec::new(),
            ..self.clone()
        }
    }

    /// What is listened on for a listen address: its stand-in, or itself.
    #[must_use]
    pub fn stands_for(&self, address: IpAddr) -> IpAddr {
        let mut stand_ins = self.stand_ins.iter();
        let found = stand_ins.find(|one| one.service == address);
        found.map_or(address, |one| one.local)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::Settings;

    fn plan() -> Plan {
        let ip = |text: &str| text.parse().unwrap();
        Plan::new(&Settings {
            interface: "nodens0".to_owned(),
            listen: vec![ip("169.254.20.10"), ip("fd00:20::10")],
            port: 53,
            services: vec![ip("10.96.0.10"), ip("fd96::a")],
            redirect_to: None,
            fallback: vec![ip("10.96.0.51")],
            tcp_idle: Duration::from_secs(10),
        })
        .unwrap()
    }

    #[test]
    fn a_held_address_is_answered_by_the_next_free_one_behind_all_others() {
        let plan = plan();
        assert_eq!(plan.standing_in(|_| false), plan);
        let held = plan.standing_in(|ip| ip.is_ipv4());
        let [stand_in] = held.stand_ins[..] else {
            panic!("{held:?}");
        };
        let of = |last| IpAddr::from([169, 254, 20, last]);
        assert_eq!((stand_in.service, stand_in.local), (of(10), of(13)));
        assert_eq!(held.served_by(of(10)), Some(of(13)));
        assert_eq!(held.stands_for(of(10)), of(13));
        let listens = held.local_addresses();
        assert!(listens.contains(&of(13)) && !listens.contains(&of(10)));
        // The address itself stays on the node when the other program takes its own away.
        let there = held.interface_addresses();
        assert!(there.contains(&of(10)) && there.contains(&of(13)));
        assert_eq!(held.lanes(), plan.lanes());
        // It is known again by what is on the node, and gone when nobody needs it.
        assert_eq!(plan.as_found(|ip| there.contains(&ip)), held);
        assert_eq!(held.standing_in(|_| false), plan);
        assert_eq!(plan.standing_in(|_| true).stand_ins.len(), 2);
    }
}
