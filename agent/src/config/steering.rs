// SPDX-License-Identifier: Apache-2.0
//! The plan of the node's network, made from the keys that speak of it. What is wrong with it is
//! told where it was written.

use std::net::IpAddr;
use std::time::Duration;

use nodens_netsetup::plan::{Family, Plan, PlanError, Settings};

use super::reader::{Reader, Reading};
use super::source::Spot;
use super::text::Wrong;
use super::zones::ZoneReading;

type Addresses = Reading<Vec<(IpAddr, Spot)>>;

/// The keys that the plan is made from.
pub(super) struct Wishes<'a> {
    pub(super) enabled: &'a Reading<bool>,
    pub(super) interface: &'a Reading<String>,
    pub(super) addresses: &'a Addresses,
    pub(super) port: &'a Reading<u16>,
    pub(super) services: &'a Addresses,
    pub(super) redirect_to: &'a Addresses,
    pub(super) fallback: &'a Addresses,
    pub(super) tcp_idle: &'a Reading<Duration>,
}

/// The plan; `None` where queries are not intercepted, or something is wrong.
pub(super) fn plan(
    reader: &mut Reader<'_>,
    wishes: &Wishes<'_>,
    zones: &[ZoneReading],
) -> Option<Plan> {
    if !wishes.enabled.value || !wishes.are_sound() {
        return None;
    }
    let plan = match Plan::new(&wishes.settings()) {
        Ok(plan) => plan,
        Err(errors) => {
            for error in &errors {
                // Told already, of whatever is listened on.
                let is_told = matches!(error, PlanError::Duplicate { address, .. }
                    if wishes.spot(wishes.addresses, *address).is_some());
                if !is_told {
                    let text = error.to_string();
                    let (message, remedy) = text.split_once(": ").unwrap_or((&text, ""));
                    let problem = wishes.place(error).problem(message.to_owned(), remedy);
                    reader.collected.problems.push(problem);
                }
            }
            return None;
        }
    };
    if plan.lanes().is_empty() {
        let problem = wishes.enabled.spot.problem(
            "there is nothing to intercept: neither a node-local listen address (169.254.0.0/16 \
             or fc00::/7) nor an address in cluster.dnsService"
                .to_owned(),
            "name one of them, or set intercept.enabled to false",
        );
        reader.collected.problems.push(problem);
    }
    ask_no_captured_address(reader, &plan, zones);
    warn_of_addresses_without_fallback(reader, wishes, &plan);
    Some(plan)
}

/// No upstream is an address whose queries are steered to the agent: it would ask itself.
fn ask_no_captured_address(reader: &mut Reader<'_>, plan: &Plan, zones: &[ZoneReading]) {
    let upstreams = zones
        .iter()
        .flat_map(|zone| zone.upstreams.iter().map(move |upstream| (zone, upstream)));
    for (zone, (upstream, spot)) in upstreams {
        let is_captured = plan.served_by(upstream.ip()).is_some() && upstream.port() == plan.port;
        let is_captured = is_captured && !plan.addresses.contains(&upstream.ip());
        if is_captured {
            let wrong = Wrong {
                expected: "a server whose queries are not steered to the agent, which would ask \
                           itself (it is in cluster.dnsService too)"
                    .to_owned(),
                remedy: zone
                    .remedy("write the address of another Service of CoreDNS, made for the agent"),
            };
            reader.problem(spot, &zone.shown(upstream), &wrong);
        }
    }
}

fn warn_of_addresses_without_fallback(reader: &mut Reader<'_>, wishes: &Wishes<'_>, plan: &Plan) {
    let has_fallback = |address: IpAddr| {
        let mut fallback = plan.fallback.iter();
        fallback.any(|&one| Family::of(one) == Family::of(address))
    };
    for &address in plan
        .addresses
        .iter()
        .filter(|&&address| !has_fallback(address))
    {
        let spot = wishes.spot(wishes.addresses, address);
        let spot = spot.unwrap_or_else(|| wishes.addresses.spot.clone());
        let family = Family::of(address);
        reader.collected.warnings.push(spot.problem(
            format!("nothing answers at {address} while the agent is dead"),
            format!("name an {family} address of a Service of CoreDNS in intercept.fallback"),
        ));
    }
}

impl Wishes<'_> {
    fn are_sound(&self) -> bool {
        let lists = [
            self.addresses,
            self.services,
            self.redirect_to,
            self.fallback,
        ];
        lists.iter().all(|list| list.is_sound)
            && self.interface.is_sound
            && self.port.is_sound
            && self.tcp_idle.is_sound
    }

    fn settings(&self) -> Settings {
        let values = |list: &Addresses| list.value.iter().map(|(ip, _)| *ip).collect::<Vec<_>>();
        let redirect_to = values(self.redirect_to);
        Settings {
            interface: self.interface.value.clone(),
            listen: values(self.addresses),
            port: self.port.value,
            services: values(self.services),
            redirect_to: (!redirect_to.is_empty()).then_some(redirect_to),
            fallback: values(self.fallback),
            tcp_idle: self.tcp_idle.value,
        }
    }

    /// Where an address of a list was written last.
    fn spot(&self, list: &Addresses, address: IpAddr) -> Option<Spot> {
        let mut written = list.value.iter().rev();
        let found = written.find(|(one, _)| *one == address);
        found.map(|(_, spot)| spot.clone())
    }

    /// Where to look for what is wrong.
    fn place(&self, error: &PlanError) -> Spot {
        let (list, address) = match error {
            PlanError::InterfaceName(_) => return self.interface.spot.clone(),
            PlanError::NoPort => return self.port.spot.clone(),
            PlanError::TooMany { .. } => return self.services.spot.clone(),
            PlanError::Unpaired { .. } => return self.redirect_to.spot.clone(),
            PlanError::FallbackForMany { address, .. }
            | PlanError::FallbackAlone(address)
            | PlanError::FallbackIsListen(address)
            | PlanError::FallbackIsService(address)
            | PlanError::SecondFallback(address) => (self.fallback, *address),
            PlanError::LinkLocal6(address) => (self.addresses, IpAddr::V6(*address)),
            PlanError::NoProbeAddress(last) => (self.addresses, *last),
            PlanError::NoFreeAddress { service, .. } => (self.services, *service),
            PlanError::NoListenAddress(address) | PlanError::ServiceIsListen(address) => {
                (self.services, *address)
            }
            PlanError::RedirectIsListen(address)
            | PlanError::RedirectIsService(address)
            | PlanError::RedirectNotNodeLocal(address) => (self.redirect_to, *address),
            PlanError::Duplicate { address, .. }
            | PlanError::NoServiceAddress { address, .. }
            | PlanError::Reserved { address, .. } => {
                let lists = [
                    self.redirect_to,
                    self.fallback,
                    self.services,
                    self.addresses,
                ];
                let has = |list: &&&Addresses| self.spot(list, *address).is_some();
                let list = lists.iter().find(has).copied().unwrap_or(self.services);
                (list, *address)
            }
        };
        self.spot(list, address)
            .unwrap_or_else(|| list.spot.clone())
    }
}
