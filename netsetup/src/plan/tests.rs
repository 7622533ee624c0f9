// SPDX-License-Identifier: Apache-2.0
//! Tests of the plan.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(ip).collect()
}

fn settings(listen: &str, services: &str, fallback: &str) -> Settings {
    Settings {
        interface: "nodens0".to_owned(),
        listen: ips(listen),
        port: 53,
        services: ips(services),
        redirect_to: None,
        fallback: ips(fallback),
        tcp_idle: Duration::from_secs(10),
    }
}

fn problems(settings: &Settings) -> Vec<PlanError> {
    Plan::new(settings).unwrap_err()
}

#[test]
fn each_service_gets_the_next_free_address_behind_the_last_listen_address_of_its_family() {
    let plan = Plan::new(&settings(
        "169.254.20.10 169.254.20.12 127.0.0.1 fd00:20::a",
        "10.96.0.10 10.96.0.9 fd10::a",
        "fd10::51",
    ))
    .unwrap();
    assert_eq!(
        plan.addresses,
        ips("169.254.20.10 169.254.20.12 fd00:20::a")
    );
    let locals: Vec<_> = plan.captures.iter().map(|capture| capture.local).collect();
    assert_eq!(locals, ips("169.254.20.13 169.254.20.14 fd00:20::b"));
    assert_eq!(
        plan.local_addresses(),
        ips("169.254.20.10 169.254.20.12 fd00:20::a 169.254.20.13 169.254.20.14 fd00:20::b")
    );
    // Behind them all, where the agent's own questions come from.
    assert_eq!(plan.probes, ips("169.254.20.15 fd00:20::c"));
    assert!(plan.interface_addresses().ends_with(&plan.probes));
    assert_eq!(plan.lanes().len(), 2 * 6);
    assert_eq!(plan.served_by(ip("10.96.0.9")), Some(ip("169.254.20.14")));
    assert_eq!(plan.served_by(ip("fd00:20::a")), Some(ip("fd00:20::a")));
    assert_eq!(plan.served_by(ip("127.0.0.1")), None);
    assert_eq!(plan.remember_tcp, Duration::from_secs(70));
}

#[test]
fn what_is_taken_or_reserved_is_passed_over() {
    let plan = Plan::new(&settings("169.254.20.11 169.254.20.10", "10.96.0.10", "")).unwrap();
    assert_eq!(plan.captures[0].local, ip("169.254.20.12"));
    let plan = Plan::new(&settings("169.254.169.252", "10.96.0.10", "")).unwrap();
    assert_eq!(plan.captures[0].local, ip("169.254.169.255"));
}

#[test]
fn named_redirect_addresses_are_paired_family_by_family() {
    let mut settings = settings("169.254.20.10", "fd10::a 10.96.0.10 10.96.0.9", "");
    settings.redirect_to = Some(ips("169.254.30.1 fd00::1 169.254.30.2"));
    let plan = Plan::new(&settings).unwrap();
    assert_eq!(plan.served_by(ip("10.96.0.10")), Some(ip("169.254.30.1")));
    assert_eq!(plan.served_by(ip("10.96.0.9")), Some(ip("169.254.30.2")));
    assert_eq!(plan.served_by(ip("fd10::a")), Some(ip("fd00::1")));
}

#[test]
fn nothing_to_steer_is_a_plan_too() {
    let plan = Plan::new(&settings("127.0.0.1 0.0.0.0", "", "")).unwrap();
    assert!(plan.local_addresses().is_empty() && plan.lanes().is_empty());
}

#[test]
fn every_problem_is_told_in_one_go_with_its_remedy() {
    let mut wrong = settings(
        "169.254.20.10 169.254.20.10 fe80::1 10.96.0.10 169.254.169.254",
        "10.96.0.10 10.96.0.10 fd10::a 127.0.0.1",
        "10.96.0.10 10.96.0.52 fd10::51",
    );
    wrong.interface = "a name that is too long".to_owned();
    wrong.port = 0;
    let problems = problems(&wrong);
    assert_eq!(
        problems,
        [
            PlanError::InterfaceName(wrong.interface),
            PlanError::NoPort,
            PlanError::Duplicate {
                of: "the listen addresses",
                address: ip("169.254.20.10")
            },
            PlanError::LinkLocal6("fe80::1".parse().unwrap()),
            PlanError::Reserved {
                address: ip("169.254.169.254"),
                why: "clouds answer their machines there"
            },
            PlanError::Duplicate {
                of: "the Service addresses",
                address: ip("10.96.0.10")
            },
            PlanError::NoServiceAddress {
                of: "the Service addresses",
                address: ip("127.0.0.1")
            },
            PlanError::ServiceIsListen(ip("10.96.0.10")),
            PlanError::NoListenAddress(ip("fd10::a")),
            PlanError::FallbackIsService(ip("10.96.0.10")),
            PlanError::FallbackIsListen(ip("10.96.0.10")),
            PlanError::SecondFallback(ip("10.96.0.52")),
            PlanError::FallbackAlone(ip("fd10::51")),
        ]
    );
    for problem in problems {
        let text = problem.to_string();
        assert!(
            ["take", "add", "name", "listen on", "must be that of"]
                .iter()
                .any(|remedy| text.contains(remedy)),
            "no remedy: {text}"
        );
    }
}

#[test]
fn redirect_addresses_that_cannot_be_are_refused() {
    let mut settings = settings(
        "169.254.20.10",
        "10.96.0.10 10.96.0.9 10.96.0.8 fd10::a",
        "",
    );
    settings.redirect_to = Some(ips("169.254.20.10 192.0.2.1 fd10::a"));
    assert_eq!(
        problems(&settings),
        [
            PlanError::RedirectIsListen(ip("169.254.20.10")),
            PlanError::RedirectNotNodeLocal(ip("192.0.2.1")),
            PlanError::RedirectIsService(ip("fd10::a")),
            PlanError::Unpaired {
                family: Family::V4,
                services: 3,
                locals: 2
            },
        ]
    );
}

#[test]
fn a_fallback_answers_for_one_address_of_its_family() {
    let wrong = settings("169.254.20.10 169.254.20.11", "", "10.96.0.51");
    assert_eq!(
        problems(&wrong),
        [PlanError::FallbackForMany {
            address: ip("10.96.0.51"),
            number: 2
        }]
    );
}

#[test]
fn the_range_can_be_full() {
    let last = ip("169.254.254.255");
    assert_eq!(
        problems(&settings("169.254.254.255", "", "")),
        [PlanError::NoProbeAddress(last)]
    );
    assert_eq!(
        problems(&settings("169.254.254.255", "10.96.0.10", "")),
        [PlanError::NoFreeAddress {
            service: ip("10.96.0.10"),
            last
        }]
    );
    let last = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(
        problems(&settings(last, "fd10::a", "")),
        [PlanError::NoFreeAddress {
            service: ip("fd10::a"),
            last: ip(last)
        }]
    );
}

#[test]
fn more_addresses_than_every_packet_should_pass_are_refused() {
    let listen: Vec<_> = (1..=17).map(|last| format!("169.254.20.{last}")).collect();
    assert_eq!(
        problems(&settings(&listen.join(" "), "", "")),
        [PlanError::TooMany {
            family: Family::V4,
            number: 17
        }]
    );
}
