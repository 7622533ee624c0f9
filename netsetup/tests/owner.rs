// SPDX-License-Identifier: Apache-2.0
//! Whose netlink socket it is, found from its port id, with a real program that has one.
#![expect(clippy::disallowed_methods, reason = "a test waits")]

mod netns;

use std::process::{Command, Stdio};
use std::time::Duration;

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use netns::within;
use nodens_netsetup::owner::process_of;

#[test]
fn another_process_is_found_by_the_port_id_of_its_netfilter_socket() {
    within(|| {
        let mut monitor = Command::new("nft")
            .arg("monitor")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The kernel gives the first socket of a process the process' own id as its port id.
        let pid = monitor.id();
        let found = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            process_of(pid)
        });
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        let found = found.unwrap();
        assert_eq!((found.pid, found.name.as_str()), (pid, "nft"));
        assert_eq!(process_of(pid), None, "it has ended");
    });
}

#[test]
fn a_port_id_that_is_no_process_id_leads_to_its_process() {
    within(|| {
        let mut sockets = [(); 2].map(|()| Socket::new(NETLINK_NETFILTER).unwrap());
        let ports = sockets
            .each_mut()
            .map(|socket| socket.bind_auto().unwrap().port_number());
        assert_ne!(ports[0], ports[1]);
        for port in ports {
            assert_eq!(process_of(port).unwrap().pid, std::process::id());
        }
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(process_of(ports[1]).unwrap().name, name.trim_end());
    });
}

#[test]
fn sockets_of_other_protocols_and_of_nobody_lead_nowhere() {
    within(|| {
        let mut route = Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        let port = route.bind_auto().unwrap().port_number();
        assert_eq!(process_of(port), None);
        assert_eq!(process_of(u32::MAX), None);
        assert_eq!(process_of(0), None);
    });
}
