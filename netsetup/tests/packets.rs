// SPDX-License-Identifier: Apache-2.0
//! Packets through the rules: a node with a pod, a client in the host network, an agent and a CoreDNS
//! that say who they are, and kube-proxy's translation.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail, and wait"
)]

mod netns;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netns::{Pod, run, run_words, within};
use nodens_netsetup::plan::Family;
use nodens_netsetup::{Active, Plan, Proto, Settings, fallback};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 53;
const LOCAL: [&str; 2] = ["169.254.20.10", "fd00:20::a"];
const SERVICES: [&str; 3] = ["10.96.0.10", "10.96.0.9", "fd10::a"];
const AGE: Duration = Duration::from_secs(60);

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|one| one.parse().unwrap()).collect()
}

fn plan() -> Plan {
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: ips(&LOCAL),
        port: PORT,
        services: ips(&SERVICES),
        redirect_to: None,
        fallback: ips(&["10.96.0.51", "fd10::51"]),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}

/// A server over UDP and TCP that answers with its name and what it was asked; it ends with the drop.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves in the namespace of the calling thread.
    fn new(name: &'static str, addresses: &[IpAddr]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for &address in addresses {
            let socket = UdpSocket::bind((address, PORT)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            let listener = TcpListener::bind((address, PORT)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let stops = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let mut buffer = [0; 512];
                while !stops.load(Ordering::Relaxed) {
                    if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                        let reply = [name.as_bytes(), b" ", &buffer[..length]].concat();
                        socket.send_to(&reply, client).unwrap();
                    }
                }
            }));
            let stops = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let mut clients: Vec<TcpStream> = Vec::new();
                let mut buffer = [0; 512];
                while !stops.load(Ordering::Relaxed) {
                    if let Ok((client, _)) = listener.accept() {
                        client.set_nonblocking(true).unwrap();
                        clients.push(client);
                    }
                    clients.retain_mut(|client| match client.read(&mut buffer) {
                        Ok(0) => false,
                        Ok(length) => {
                            let reply = [name.as_bytes(), b" ", &buffer[..length]].concat();
                            client.write_all(&reply).is_ok()
                        }
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                    });
                    thread::sleep(Duration::from_millis(2));
                }
            }));
        }
        Self { stop, threads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The node, in whose namespace the test's thread is: a pod, CoreDNS in another, the agent, and the
/// Service addresses translated as kube-proxy's nftables mode does it.
struct Node {
    pod: Pod,
    _agent: Server,
    _coredns: Server,
    _coredns_pod: Pod,
}

impl Node {
    fn new(plan: &Plan) -> Self {
        let pod = Pod::new(1);
        let coredns_pod = Pod::new(2);
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        // A router asks for its neighbours from its link-local address (RFC 4861 section 4.3).
        run("ip address add fe80::1/64 dev veth1 nodad");
        run("ip address add fe80::1/64 dev veth2 nodad");
        // The way to everywhere that every node has, and that leads to no Service.
        run("ip route add default via 10.9.1.2");
        run("ip -6 route add default via fd09:1::2");
        for address in plan.interface_addresses() {
            match address {
                IpAddr::V4(_) => run(&format!("ip address add {address}/32 dev lo")),
                IpAddr::V6(_) => run(&format!("ip address add {address}/128 dev lo nodad")),
            };
        }
        for address in plan.interface_addresses() {
            is_reached(address);
        }
        for (number, pod) in [(1, &pod), (2, &coredns_pod)] {
            is_reached(format!("fd09:{number}::1").parse().unwrap());
            pod.within(|| is_reached(format!("fd09:{number}::2").parse().unwrap()));
        }
        let mut services = String::new();
        for chain in ["prerouting", "output"] {
            services.push_str(&format!(
                "chain {chain} {{ type nat hook {chain} priority -100;\n\
                 ip daddr {{ 10.96.0.10, 10.96.0.9, 10.96.0.51 }} meta l4proto {{ tcp, udp }} \
                   th dport 53 dnat ip to 10.9.2.2\n\
                 ip6 daddr {{ fd10::a, fd10::51 }} meta l4proto {{ tcp, udp }} \
                   th dport 53 dnat ip6 to fd09:2::2\n}}\n"
            ));
        }
        run_words(
            &["nft", "-f", "-"],
            &format!("table inet kube-proxy {{\n{services}}}\n"),
        );
        let coredns =
            coredns_pod.within(|| Server::new("coredns", &ips(&["10.9.2.2", "fd09:2::2"])));
        Self {
            pod,
            _agent: Server::new("agent", &plan.interface_addresses()),
            _coredns: coredns,
            _coredns_pod: coredns_pod,
        }
    }

    /// Asks from the pod and from the host network; both must be told the same.
    #[track_caller]
    fn expect(&self, who: &str, address: IpAddr, proto: Proto) {
        let ask = || ask(address, proto);
        let pod = self.pod.within(ask);
        assert_eq!(pod, who, "a pod asked {address} over {proto}");
        let host = ask();
        assert_eq!(
            host, who,
            "a host-network client asked {address} over {proto}"
        );
    }
}

/// Waits until the address is one of this host's own: the kernel makes the route to an IPv6 address
/// some time after `ip` has ended.
#[track_caller]
fn is_reached(address: IpAddr) {
    wait_for(|| run(&format!("ip route get {address}")).contains("local "));
}

/// Lets the agent end. The table goes at once, but for a program that another test begins in that
/// very moment: until it runs, it has a copy of every socket.
fn end(active: Active) {
    drop(active);
    wait_for(|| !run("nft list tables").contains("inet nodens\n"));
}

#[track_caller]
fn wait_for(is_so: impl Fn() -> bool) {
    // The kernel does it for all namespaces one after the other.
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("not in 20 s");
}

/// Connections to port 53 that the node tracks.
fn tracked() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let table = run(&format!("conntrack -L -f {family}"));
        let is_dns = |line: &&str| line.contains("port=53 ");
        lines.extend(table.lines().filter(is_dns).map(str::to_owned));
    }
    lines
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Who answers, or why nobody does. The socket takes an answer of the address asked alone.
fn ask(address: IpAddr, proto: Proto) -> String {
    match proto {
        Proto::Udp => ask_udp(any(address), address),
        Proto::Tcp => match Connection::new(address) {
            Ok(mut connection) => connection.ask(),
            Err(error) => format!("no connection: {error}"),
        },
    }
}

fn ask_udp(from: IpAddr, address: IpAddr) -> String {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.connect((address, PORT)).unwrap();
    let mut buffer = [0; 512];
    match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => who(&buffer[..length]),
        Err(error) => format!("no answer: {error}"),
    }
}

fn who(reply: &[u8]) -> String {
    let text = String::from_utf8(reply.to_vec()).unwrap();
    text.strip_suffix(" ?").unwrap_or(&text).to_owned()
}

/// A client's TCP connection.
struct Connection(TcpStream);

impl Connection {
    fn new(address: IpAddr) -> std::io::Result<Self> {
        Self::from(0, address)
    }

    /// A connection from this port, which may have been used a moment ago.
    fn from(port: u16, address: IpAddr) -> std::io::Result<Self> {
        let to = SocketAddr::new(address, PORT);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any(address), port).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self(stream))
    }

    fn ask(&mut self) -> String {
        let mut buffer = [0; 512];
        match self
            .0
            .write_all(b"?")
            .and_then(|()| self.0.read(&mut buffer))
        {
            Ok(length) => who(&buffer[..length]),
            Err(error) => format!("no answer: {error}"),
        }
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Ends it so that its port can be used again at once.
    fn reset(self) {
        let socket = Socket::from(self.0);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Both tables, as an agent makes them; nothing is steered yet.
fn apply(plan: &Plan) -> Active {
    fallback::apply(plan).unwrap();
    Active::apply(Active::open().unwrap(), plan).unwrap()
}

#[test]
fn queries_are_answered_by_the_agent_and_never_tracked() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        active.refresh(&lanes, &lanes, AGE).unwrap();
        for lane in &lanes {
            node.expect("agent", lane.address, lane.proto);
        }
        assert_eq!(tracked(), [""; 0]);
        // That tracking is at work is seen when the agent goes.
        end(active);
        for lane in &lanes {
            node.expect("coredns", lane.address, lane.proto);
        }
        assert!(tracked().len() >= lanes.len());
    });
}

#[test]
fn lanes_are_steered_each_by_itself_and_fall_back_to_coredns() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        for lane in &lanes {
            node.expect("coredns", lane.address, lane.proto);
        }
        for (number, lane) in lanes.iter().enumerate() {
            active.refresh(&[*lane], &[*lane], AGE).unwrap();
            let next = lanes[(number + 1) % lanes.len()];
            node.expect("agent", lane.address, lane.proto);
            node.expect("coredns", next.address, next.proto);
            active.clear(&[*lane]).unwrap();
            node.expect("coredns", lane.address, lane.proto);
        }
    });
}

#[test]
fn who_asks_the_fallbacks_service_itself_is_answered_by_it() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        let active = apply(&plan);
        for &service in &plan.fallback {
            for proto in [Proto::Udp, Proto::Tcp] {
                node.expect("coredns", service, proto);
            }
        }
        end(active);
        for &address in plan.fallback.iter().chain(&plan.addresses) {
            for proto in [Proto::Udp, Proto::Tcp] {
                node.expect("coredns", address, proto);
            }
        }
    });
}

#[test]
fn the_fallback_gives_way_to_a_program_that_keeps_its_queries_from_tracking() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        end(apply(&plan));
        let say = |who: &str| {
            for &address in &plan.addresses {
                for proto in [Proto::Udp, Proto::Tcp] {
                    node.expect(who, address, proto);
                }
            }
        };
        say("coredns");
        // As node-cache's.
        let [v4, v6] = LOCAL;
        let mut rules = Vec::new();
        for chain in ["prerouting", "output"] {
            let hook = format!("type filter hook {chain} priority raw;");
            let rule = |word: &str, ip: &str| format!("{word} daddr {ip} th dport {PORT} notrack");
            let [v4, v6] = [rule("ip", v4), rule("ip6", v6)];
            rules.push(format!("chain {chain} {{ {hook}\n{v4}\n{v6}\n}}\n"));
        }
        let table = format!("table inet other {{\n{}}}\n", rules.concat());
        run_words(&["nft", "-f", "-"], &table);
        say("agent");
        run("nft delete table inet other");
        say("coredns");
    });
}

#[test]
fn without_a_fallback_a_service_still_falls_back_to_kube_proxy() {
    within(|| {
        let mut plan = plan();
        plan.fallback.clear();
        let node = Node::new(&plan);
        let mut active = Active::apply(Active::open().unwrap(), &plan).unwrap();
        let lanes = plan.lanes();
        active
            .refresh(&lanes, &lanes, Duration::from_millis(300))
            .unwrap();
        let service = plan.captures[0].service;
        node.expect("agent", service, Proto::Udp);
        thread::sleep(Duration::from_millis(400));
        for proto in [Proto::Udp, Proto::Tcp] {
            node.expect("coredns", service, proto);
        }
    });
}

#[test]
fn probes_reach_the_agent_also_while_nothing_is_steered_and_through_the_firewall_of_kubelet() {
    within(|| {
        let plan = plan();
        let _node = Node::new(&plan);
        // What kube-proxy's iptables mode has in KUBE-FIREWALL: untracked answers to 127.0.0.0/8 end here.
        run(
            "iptables-nft -A INPUT ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack \
             ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        );
        let _active = apply(&plan);
        for address in plan.local_addresses() {
            let from = plan.probe(Family::of(address)).unwrap();
            assert_eq!(ask_udp(from, address), "agent", "{address} over UDP");
            let to = SocketAddr::new(address, PORT);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            socket
                .connect_timeout(&to.into(), Duration::from_secs(2))
                .unwrap();
            let mut connection = Connection(TcpStream::from(socket));
            assert_eq!(connection.ask(), "agent", "{address} over TCP");
        }
        assert_eq!(tracked(), [""; 0]);
    });
}

#[test]
fn a_connection_stays_where_it_began() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        let mut addresses = plan.addresses.clone();
        addresses.extend(plan.captures.iter().map(|capture| capture.service));
        let connect = || -> Vec<Connection> {
            let all = addresses
                .iter()
                .map(|&address| Connection::new(address).unwrap());
            all.collect()
        };
        let everywhere = || [node.pod.within(connect), connect()].into_iter().flatten();
        let all_say = |connections: &mut [Connection], who: &str| {
            for connection in connections {
                assert_eq!(connection.ask(), who, "{:?}", connection.0);
            }
        };
        let mut before: Vec<_> = everywhere().collect();
        all_say(&mut before, "coredns");
        active.refresh(&lanes, &lanes, AGE).unwrap();
        let mut during: Vec<_> = everywhere().collect();
        all_say(&mut during, "agent");
        all_say(&mut before, "coredns");
        active.clear(&lanes).unwrap();
        let mut after: Vec<_> = everywhere().collect();
        all_say(&mut after, "coredns");
        all_say(&mut during, "agent");
        all_say(&mut before, "coredns");
        // The agent hangs: nothing is refreshed.
        active
            .refresh(&[], &lanes, Duration::from_millis(50))
            .unwrap();
        thread::sleep(Duration::from_millis(100));
        for lane in &lanes {
            node.expect("coredns", lane.address, lane.proto);
        }
        all_say(&mut before, "coredns");
        all_say(&mut after, "coredns");
    });
}

#[test]
fn a_connection_that_begins_while_the_agent_drains_is_not_taken_for_an_earlier_one() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        for address in [
            plan.addresses[0],
            plan.captures[0].service,
            plan.captures[2].service,
        ] {
            active.refresh(&lanes, &lanes, AGE).unwrap();
            let port = node.pod.within(|| {
                let mut connection = Connection::new(address).unwrap();
                assert_eq!(connection.ask(), "agent");
                let port = connection.port();
                connection.reset();
                port
            });
            active.clear(&lanes).unwrap();
            node.pod.within(|| {
                let mut connection = Connection::from(port, address).unwrap();
                assert_eq!(connection.ask(), "coredns");
                connection.reset();
            });
            // And back.
            active.refresh(&lanes, &lanes, AGE).unwrap();
            node.pod.within(|| {
                let mut connection = Connection::from(port, address).unwrap();
                assert_eq!(connection.ask(), "agent");
            });
        }
    });
}

#[test]
fn a_connection_is_remembered_as_long_as_it_is_used() {
    within(|| {
        let mut plan = plan();
        plan.remember_tcp = Duration::from_secs(2);
        let node = Node::new(&plan);
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        active.refresh(&lanes, &lanes, AGE).unwrap();
        node.pod.within(|| {
            let mut connections = [
                Connection::new(plan.addresses[0]).unwrap(),
                Connection::new(plan.captures[0].service).unwrap(),
                Connection::new(plan.captures[2].service).unwrap(),
            ];
            for _ in 0..8 {
                for connection in &mut connections {
                    assert_eq!(connection.ask(), "agent");
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
    });
}

/// A UDP datagram by hand: as a sender that counts no checksum, or one that does and whose network
/// card does not do it for it.
fn datagram(from: SocketAddr, to: SocketAddr, with_checksum: bool) -> Vec<u8> {
    let payload = b"?";
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = Vec::new();
    for number in [from.port(), to.port(), length, 0] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(payload);
    if with_checksum {
        // RFC 768: a sum over addresses, protocol, length and the datagram (RFC 1071).
        let mut covered = Vec::new();
        for address in [from.ip(), to.ip()] {
            match address {
                IpAddr::V4(v4) => covered.extend(v4.octets()),
                IpAddr::V6(v6) => covered.extend(v6.octets()),
            }
        }
        covered.extend([0, 17]);
        covered.extend(length.to_be_bytes());
        covered.extend(&bytes);
        covered.resize(covered.len().next_multiple_of(2), 0);
        let words = covered
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // None at all is what a 0 would say.
        let sum = match !u16::try_from(sum).unwrap() {
            0 => u16::MAX,
            sum => sum,
        };
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Sends such a datagram from the namespace of the calling thread; who answers?
fn ask_by_hand(from: IpAddr, address: IpAddr, with_checksum: bool) -> String {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let to = SocketAddr::new(address, PORT);
    let bytes = datagram(socket.local_addr().unwrap(), to, with_checksum);
    let raw = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::UDP)).unwrap();
    raw.send_to(&bytes, &SocketAddr::new(address, 0).into())
        .unwrap();
    let mut buffer = [0; 512];
    match socket.recv_from(&mut buffer) {
        Ok((length, client)) if client == to => who(&buffer[..length]),
        Ok((_, client)) => format!("an answer of {client}"),
        Err(error) => format!("no answer: {error}"),
    }
}

#[test]
fn checksums_are_mended_and_those_that_are_not_there_are_not_missed() {
    within(|| {
        let plan = plan();
        let node = Node::new(&plan);
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        active.refresh(&lanes, &lanes, AGE).unwrap();
        let each = |who: &str| {
            for lane in lanes.iter().filter(|lane| lane.proto == Proto::Udp) {
                let (pod, kinds): (IpAddr, &[bool]) = match lane.address {
                    IpAddr::V4(_) => ("10.9.1.2".parse().unwrap(), &[false, true]),
                    // Over IPv6 there is always one (RFC 8200 section 8.1).
                    IpAddr::V6(_) => ("fd09:1::2".parse().unwrap(), &[true]),
                };
                for &kind in kinds {
                    let said = node.pod.within(|| ask_by_hand(pod, lane.address, kind));
                    assert_eq!(said, who, "{lane}, checksum: {kind}");
                }
            }
        };
        each("agent");
        assert_eq!(tracked(), [""; 0]);
        end(active);
        each("coredns");
    });
}
