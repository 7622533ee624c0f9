// SPDX-License-Identifier: Apache-2.0
//! The tables and the kernel, each test in a network namespace of its own. What the kernel has is
//! read back with nft, which shares no code with us.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests fail, and wait"
)]

mod netns;

use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netns::{run, run_words, within};
use nodens_netsetup::{Active, Difference, Error, Lane, Plan, Proto, Settings, Watch};
use nodens_netsetup::{active, fallback};
use serde_json::Value;

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace()
        .map(|one| one.parse().unwrap())
        .collect()
}

/// Two Services and an address of their own in each family, and a fallback in each.
fn plan() -> Plan {
    planned(
        "169.254.20.10 fd00:20::a",
        "10.96.0.10 10.96.0.9 fd10::a",
        "10.96.0.51 fd10::51",
    )
}

fn planned(listen: &str, services: &str, fallback: &str) -> Plan {
    Plan::new(&Settings {
        interface: "nodens0".to_owned(),
        listen: ips(listen),
        port: 53,
        services: ips(services),
        redirect_to: None,
        fallback: ips(fallback),
        tcp_idle: Duration::from_secs(10),
    })
    .unwrap()
}

fn apply(plan: &Plan) -> Active {
    Active::apply(Active::open().unwrap(), plan).unwrap()
}

/// The objects of the tables as nft tells them, without what the kernel numbers.
fn nft(table: &str) -> Vec<Value> {
    objects(&run(&format!("nft -j list table inet {table}")))
}

fn objects(json: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(json).unwrap();
    let mut objects = document["nftables"].as_array().unwrap().clone();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        let inner = object.as_object_mut().unwrap().values_mut().next().unwrap();
        let inner = inner.as_object_mut().unwrap();
        inner.remove("handle");
        // nft 1.0.6 writes no `dynamic` for a set, and for a table a word of another list.
        inner.remove("flags");
        inner.remove("elem");
    }
    objects.sort_by_key(|object| {
        // Rules stay in their order.
        let kinds = ["table", "set", "chain", "rule"];
        let kind = kinds
            .iter()
            .position(|kind| object.get(kind).is_some())
            .unwrap();
        let inner = &object[kinds[kind]];
        let name = inner.get("name").map(Value::to_string);
        (
            kind,
            name,
            if kind == 3 {
                inner["chain"].to_string()
            } else {
                String::new()
            },
        )
    });
    objects
}

/// Another program's rules, of every family and kind that nodens has too.
const FOREIGN: &str = "
table ip nodens {
  chain prerouting { type filter hook prerouting priority -310; counter; }
}
table inet filter {
  set live { type ipv4_addr; flags timeout; timeout 1h; elements = { 192.0.2.1 }; }
  chain input {
    type filter hook input priority 0; policy drop;
    ct state established accept
    ip saddr @live accept
  }
}
table ip6 nat {
  chain postrouting { type nat hook postrouting priority 100; masquerade; }
}
";

/// What `nft list ruleset` says, without what runs by itself.
fn ruleset() -> String {
    let text = run("nft --stateless list ruleset");
    assert!(!text.contains("expires"), "{text}");
    text
}

fn handles(table: &str) -> String {
    run(&format!("nft -a list table inet {table}"))
}

fn tables() -> String {
    run("nft list tables")
}

fn load(rules: &str) {
    run_words(&["nft", "-f", "-"], rules);
}

/// Waits for what comes to be without our doing; fails after 3 s.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "not in 3 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Elements of a set, as nft writes them.
fn elements(set: &str) -> Vec<String> {
    let json = run(&format!("nft -j list set inet nodens {set}"));
    let document: Value = serde_json::from_str(&json).unwrap();
    let elements = &document["nftables"][1]["set"]["elem"];
    let elements = elements.as_array().cloned().unwrap_or_default();
    let mut keys: Vec<String> = elements
        .iter()
        .map(|element| {
            let parts = element["elem"]["val"]["concat"].as_array().unwrap();
            let words = parts.iter().map(|part| part.to_string().replace('"', ""));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    keys.sort();
    keys
}

fn lane(address: &str, proto: Proto) -> Lane {
    let address = address.parse().unwrap();
    Lane { address, proto }
}

/// The word that tells a test that it is the child of itself.
const CHILD: &str = "NODENS_TEST_CHILD";

/// Begins the test of this name anew in a process of its own, within the namespace of the calling
/// thread, behind the words of `before`.
fn child(test: &str, before: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<_> = before.iter().map(std::ffi::OsStr::new).collect();
    words.extend([program.as_os_str(), test.as_ref()]);
    Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A child that owns the table until it is killed.
fn owner(test: &str) -> Child {
    let mut child = child(test, &[]);
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("owns the table")));
    child
}

/// What the child of [`owner`] does.
fn own_until_killed() {
    let active = apply(&plan());
    assert!(active.is_owned());
    // The harness prints the name of the test without ending the line.
    #[expect(clippy::disallowed_macros, reason = "what the parent waits for")]
    {
        println!("owns the table");
    }
    let _ = std::io::stdin().read(&mut [0]);
}

fn differences(plan: &Plan) -> Vec<Difference> {
    let mut all = active::check(plan).unwrap();
    all.extend(fallback::check(plan).unwrap());
    all
}

#[test]
fn the_kernel_has_the_rules_that_print_says() {
    within(|| {
        let plan = plan();
        fallback::apply(&plan).unwrap();
        let active = apply(&plan);
        assert!(active.is_owned());
        let printed = objects(&nodens_netsetup::print_json(&plan));
        let mut found = nft("nodens");
        found.extend(nft("nodens-fallback"));
        found.sort_by_key(|object| object.get("rule").is_some());
        let of = |objects: &[Value], table: &str| -> Vec<Value> {
            let is_of = |object: &&Value| {
                let inner = object.as_object().unwrap().values().next().unwrap();
                [inner.get("table"), inner.get("name")]
                    .into_iter()
                    .flatten()
                    .next()
                    .unwrap()
                    == table
            };
            objects.iter().filter(is_of).cloned().collect()
        };
        for table in ["nodens", "nodens-fallback"] {
            let (printed, found) = (of(&printed, table), of(&found, table));
            for (printed, found) in printed.iter().zip(&found) {
                assert_eq!(printed, found);
            }
            assert_eq!(printed.len(), found.len());
        }
        assert!(run("nft list table inet nodens").contains("flags owner"));
    });
}

#[test]
fn nft_makes_the_same_of_what_is_printed_in_both_forms() {
    for plan in [plan(), plan().standing_in(|_| true)] {
        is_printed_as_it_is_made(&plan);
    }
}

fn is_printed_as_it_is_made(plan: &Plan) {
    let (active, fallback) = within(|| {
        fallback::apply(plan).unwrap();
        let _active = apply(plan);
        (nft("nodens"), nft("nodens-fallback"))
    });
    let text = nodens_netsetup::print_text(plan);
    within(|| {
        // The owner of the table would be nft, which ends.
        load(&text.replacen("\tflags owner\n", "", 1));
        assert_eq!(nft("nodens"), active);
        assert_eq!(nft("nodens-fallback"), fallback);
        assert_eq!(differences(plan), []);
    });
    within(|| {
        let json = nodens_netsetup::print_json(plan);
        run_words(&["nft", "-j", "-f", "-"], &json);
        assert_eq!(nft("nodens"), active);
        assert_eq!(nft("nodens-fallback"), fallback);
        assert_eq!(differences(plan), []);
    });
    within(|| {
        assert!(text.contains("flags owner"));
        load(&text);
        assert_eq!(tables(), "table inet nodens-fallback\n");
    });
}

#[test]
fn what_was_applied_does_not_differ_from_the_plan() {
    // As many as there can be.
    let list = |address: fn(usize) -> String| (1..=8).map(address).collect::<Vec<_>>().join(" ");
    let listen = [
        list(|n| format!("169.254.20.{n}")),
        list(|n| format!("fd00:20::{n}")),
    ];
    let services = [
        list(|n| format!("10.96.0.{n}")),
        list(|n| format!("fd10::{n}")),
    ];
    for plan in [
        plan(),
        plan().standing_in(|_| true),
        planned("169.254.20.10", "10.96.0.10", "10.96.0.51"),
        planned("fd00:20::a", "fd10::a", ""),
        planned("127.0.0.1", "", ""),
        planned(&listen.join(" "), &services.join(" "), ""),
    ] {
        within(|| {
            fallback::apply(&plan).unwrap();
            let mut active = apply(&plan);
            assert_eq!(differences(&plan), []);
            let lanes = plan.lanes();
            active
                .refresh(&lanes, &lanes, Duration::from_secs(1))
                .unwrap();
            assert_eq!(differences(&plan), []);
        });
    }
}

#[test]
fn every_difference_is_told_in_words_and_mended_in_one_go() {
    within(|| {
        let plan = plan();
        let table = "table inet nodens-fallback";
        let missing = fallback::check(&plan).unwrap();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].place, table);
        assert_eq!(missing[0].found, "none");
        let made: &[(&[&str], &str, &str, &str)] = &[
            (
                &["delete chain inet nodens-fallback fix_in"],
                "chain fix_in",
                "the chain",
                "none",
            ),
            (
                &["insert rule inet nodens-fallback output counter drop"],
                "chain output",
                "no other rule",
                "a rule that nodens did not write (counter, drop)",
            ),
            (
                &["flush chain inet nodens-fallback nat_post"],
                "chain nat_post",
                "the rule `ip saddr 169.254.20.10 ct original ip daddr 10.96.0.51 masquerade`",
                "none like it",
            ),
            (
                &["add chain inet nodens-fallback other"],
                "",
                "no other chain",
                "chain other",
            ),
            (
                &["add set inet nodens-fallback other { type ipv4_addr; }"],
                "",
                "no other set",
                "set other",
            ),
            (
                &["add chain inet nodens-fallback output { policy drop; }"],
                "chain output",
                "type route, hook number 3, priority -250, policy accept",
                "type route, hook number 3, priority -250, policy drop",
            ),
            (
                &["add rule inet nodens-fallback output ct state untracked accept"],
                "chain output",
                "no other rule",
                "`ct state untracked accept` once more",
            ),
            (
                &[
                    "delete rule inet nodens-fallback output handle FIRST",
                    "add rule inet nodens-fallback output ct state untracked accept",
                ],
                "chain output",
                "the rules in their order",
                "the same rules in another order",
            ),
        ];
        for (commands, place, wanted, found) in made {
            let _ = run_words(
                &["nft", "-f", "-"],
                "add table inet nodens-fallback\ndelete table inet nodens-fallback\n",
            );
            fallback::apply(&plan).unwrap();
            assert_eq!(fallback::check(&plan).unwrap(), []);
            for command in *commands {
                let mut command = (*command).to_owned();
                if command.contains("FIRST") {
                    let chain = run("nft -a list chain inet nodens-fallback output");
                    let rule = chain
                        .lines()
                        .find(|line| line.contains("untracked"))
                        .unwrap();
                    let handle = rule.rsplit_once(' ').unwrap().1;
                    command = command.replace("FIRST", handle);
                }
                load(&command);
            }
            let differ = fallback::check(&plan).unwrap();
            let told = differ
                .iter()
                .find(|one| one.wanted == *wanted && one.found == *found);
            let told = told.unwrap_or_else(|| panic!("{commands:?}: {differ:#?}"));
            let separator = if place.is_empty() { "" } else { ", " };
            assert_eq!(told.place, format!("{table}{separator}{place}"));
            assert!(told.to_string().contains("netsetup up"), "{told}");
            // What somebody put into it is theirs: it is not deleted with ours.
            if found.ends_with("other") {
                let error = fallback::apply(&plan).unwrap_err();
                assert!(matches!(error, Error::TableForeign { .. }), "{error}");
            } else {
                fallback::apply(&plan).unwrap();
                assert_eq!(fallback::check(&plan).unwrap(), []);
            }
        }
    });
}

#[test]
fn the_active_table_of_another_plan_differs_in_rules_and_sets() {
    within(|| {
        let _active = apply(&planned("169.254.20.10", "10.96.0.10", ""));
        let other = planned("169.254.20.10 fd00:20::a", "10.96.0.10", "");
        let differ = active::check(&other).unwrap();
        let places: Vec<_> = differ.iter().map(|one| one.place.as_str()).collect();
        assert_eq!(
            places[..3],
            ["live6", "serve6", "began6"].map(|set| { format!("table inet nodens, set {set}") })
        );
        let rule = "the rule `ip6 daddr fd00:20::a udp dport 53 \
                    ip6 daddr . meta l4proto . udp dport @live6 notrack accept`";
        assert!(differ.iter().any(|one| one.wanted == rule), "{differ:#?}");
        let mut longer = planned("169.254.20.10", "10.96.0.10", "");
        longer.remember_tcp = Duration::from_secs(3660);
        let differ = active::check(&longer).unwrap();
        assert_eq!(differ.len(), 1);
        assert!(
            differ[0].wanted.contains("timeout 3660000 ms"),
            "{}",
            differ[0]
        );
        assert!(
            differ[0].found.contains("timeout 70000 ms"),
            "{}",
            differ[0]
        );
    });
}

#[test]
fn the_fallback_is_left_alone_where_it_is_right_and_replaced_where_it_is_not() {
    within(|| {
        let plan = plan();
        fallback::apply(&plan).unwrap();
        let before = handles("nodens-fallback");
        fallback::apply(&plan).unwrap();
        assert_eq!(handles("nodens-fallback"), before);
        let other = planned("169.254.20.10", "", "10.96.0.52");
        fallback::apply(&other).unwrap();
        assert_eq!(fallback::check(&other).unwrap(), []);
        assert!(!run("nft list ruleset").contains("10.96.0.51"));
        // A plan without a fallback wants none.
        let none = planned("169.254.20.10", "", "");
        let differ = fallback::check(&none).unwrap();
        assert_eq!(differ.len(), 1);
        fallback::apply(&none).unwrap();
        assert_eq!(tables(), "");
        assert_eq!(fallback::check(&none).unwrap(), []);
    });
}

#[test]
fn the_rules_of_others_survive_byte_for_byte() {
    within(|| {
        load(FOREIGN);
        let before = ruleset();
        let plan = plan();
        fallback::apply(&plan).unwrap();
        fallback::apply(&planned("169.254.20.10", "", "10.96.0.52")).unwrap();
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        active
            .refresh(&lanes, &lanes, Duration::from_secs(1))
            .unwrap();
        active.clear(&lanes).unwrap();
        assert_eq!(tables().lines().count(), 5);
        drop(active);
        fallback::revert().unwrap();
        wait_for("the owned table goes", || tables().lines().count() == 3);
        assert_eq!(ruleset(), before);
        fallback::revert().unwrap();
        active::revert().unwrap();
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn the_table_of_another_program_is_named_and_left_as_it_is() {
    for rules in [
        "table inet NAME { chain mine { type filter hook prerouting priority -310; counter; }; }",
        "table inet NAME { chain prerouting { type filter hook prerouting priority 0; counter; }; }",
        "table inet NAME { chain prerouting { }; }",
        "table inet NAME { set mine { type ipv4_addr; }; }",
        "table inet NAME { map serve { type ipv4_addr : verdict; }; chain x { ip saddr vmap { 192.0.2.1 : drop }; }; }",
    ] {
        within(|| {
            load(&rules.replace("NAME", "nodens"));
            load(&rules.replace("NAME", "nodens-fallback"));
            let before = ruleset();
            let plan = plan();
            let errors = [
                Active::apply(Active::open().unwrap(), &plan).unwrap_err(),
                fallback::apply(&plan).unwrap_err(),
                active::revert().unwrap_err(),
                fallback::revert().unwrap_err(),
            ];
            for error in errors {
                let text = error.to_string();
                assert!(
                    text.contains("was not made by nodens (it has ")
                        && text.contains("`nft delete table inet nodens"),
                    "{text}"
                );
            }
            assert_eq!(ruleset(), before);
        });
    }
}

#[test]
fn a_plain_table_that_an_earlier_agent_left_is_replaced() {
    within(|| {
        let old = nodens_netsetup::print_text(&planned("169.254.30.10", "10.96.0.77", ""));
        load(&old.replacen("\tflags owner\n", "", 1));
        let plan = plan();
        let active = apply(&plan);
        assert!(active.is_owned());
        assert_eq!(active::check(&plan).unwrap(), []);
        assert!(!ruleset().contains("10.96.0.77"));
        drop(active);
        wait_for("the owned table goes", || tables().is_empty());
        load(&old.replacen("\tflags owner\n", "", 1));
        active::revert().unwrap();
        assert_eq!(tables(), "");
    });
}

#[test]
fn a_table_goes_with_its_owner_and_nobody_else_can_take_it() {
    if is_child() {
        return own_until_killed();
    }
    within(|| {
        let mut owner = owner("a_table_goes_with_its_owner_and_nobody_else_can_take_it");
        let plan = plan();
        for command in [
            "delete table inet nodens",
            "flush chain inet nodens prerouting",
            "add rule inet nodens prerouting drop",
            "add element inet nodens live { 10.96.0.10 . udp . 53 }",
        ] {
            let refused = Command::new("nft")
                .args(command.split(' '))
                .output()
                .unwrap();
            assert!(!refused.status.success(), "`nft {command}` went through");
        }
        run("nft flush ruleset");
        assert_eq!(active::check(&plan).unwrap(), []);

        let text = "owned by tables-";
        let process = format!("(process {}) (netlink port ", owner.id());
        let errors = [
            Active::apply(Active::open().unwrap(), &plan)
                .unwrap_err()
                .to_string(),
            active::revert().unwrap_err().to_string(),
        ];
        for error in errors {
            assert!(error.contains(text) && error.contains(&process), "{error}");
        }

        // SIGKILL.
        owner.kill().unwrap();
        owner.wait().unwrap();
        wait_for("the table goes with its owner", || tables().is_empty());
    });
}

#[test]
fn an_agent_takes_over_from_one_that_is_being_killed() {
    if is_child() {
        // What takes the kernel time to tear down before it closes the sockets.
        let memory = vec![1_u8; 128 << 20];
        own_until_killed();
        return drop(memory);
    }
    within(|| {
        let mut owner = owner("an_agent_takes_over_from_one_that_is_being_killed");
        owner.kill().unwrap();
        let active = apply(&plan());
        assert!(active.is_owned());
        owner.wait().unwrap();
        assert_eq!(active::check(&plan()).unwrap(), []);
    });
}

#[test]
fn without_the_capability_the_step_and_the_remedy_are_named() {
    if is_child() {
        let plan = plan();
        let errors = [
            Active::apply(Active::open().unwrap(), &plan).unwrap_err(),
            fallback::apply(&plan).unwrap_err(),
            fallback::revert().unwrap_err(),
            active::check(&plan).unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(
                text.starts_with("read table inet nodens")
                    && text.contains("not permitted: run as root with the capability NET_ADMIN"),
                "{text}"
            );
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains("Operation not permitted"), "{source}");
        }
        return;
    }
    within(|| {
        let name = "without_the_capability_the_step_and_the_remedy_are_named";
        let child = child(name, &["setpriv", "--bounding-set=-net_admin"]);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    });
}

#[test]
fn a_refresh_steers_the_lanes_given_and_others_expire() {
    within(|| {
        let plan = plan();
        let mut active = apply(&plan);
        assert_eq!(elements("live"), [""; 0]);
        let udp = lane("10.96.0.10", Proto::Udp);
        let tcp = lane("10.96.0.10", Proto::Tcp);
        let v6 = lane("fd10::a", Proto::Udp);
        // Long enough for a busy machine to run nft meanwhile.
        let age = Duration::from_secs(2);
        active.refresh(&[udp, tcp, v6], &[tcp], age).unwrap();
        assert_eq!(elements("live"), ["10.96.0.10 tcp 53", "10.96.0.10 udp 53"]);
        active.refresh(&[udp, tcp, v6], &[tcp], age).unwrap();
        assert_eq!(elements("live6"), ["fd10::a udp 53"]);
        assert_eq!(elements("serve"), ["10.96.0.10 tcp 53"]);
        assert_eq!(elements("serve6"), [""; 0]);
        // Twice as long as the elements live, one of them is kept.
        let begin = Instant::now();
        while begin.elapsed() < 2 * age {
            active.refresh(&[udp], &[], age).unwrap();
            assert!(elements("live").contains(&"10.96.0.10 udp 53".to_owned()));
            std::thread::sleep(Duration::from_millis(100));
        }
        active.refresh(&[udp], &[], age).unwrap();
        assert_eq!(elements("live"), ["10.96.0.10 udp 53"]);
        assert_eq!(elements("serve"), [""; 0]);
        wait_for("the last one expires", || elements("live").is_empty());
        // What has expired can be refreshed, whether the kernel has swept it away or not.
        for _ in 0..40 {
            let short = Duration::from_millis(20);
            active.refresh(&[udp, tcp, v6], &[tcp], short).unwrap();
            std::thread::sleep(Duration::from_millis(21));
        }
        active.refresh(&[udp, tcp, v6], &[tcp], age).unwrap();
        assert_eq!(elements("live").len(), 2);
    });
}

#[test]
fn clearing_takes_lanes_out_at_once_and_leaves_what_is_established() {
    within(|| {
        let plan = plan();
        let mut active = apply(&plan);
        let lanes = plan.lanes();
        // There or not, expired or not.
        active.clear(&lanes).unwrap();
        active
            .refresh(&lanes, &lanes, Duration::from_millis(20))
            .unwrap();
        std::thread::sleep(Duration::from_millis(30));
        active.clear(&lanes).unwrap();
        active
            .refresh(&lanes, &lanes, Duration::from_secs(10))
            .unwrap();
        let (kept, gone) = lanes.split_at(1);
        active.clear(gone).unwrap();
        assert_eq!(elements("live"), ["169.254.20.10 udp 53"]);
        assert_eq!(elements("live6"), [""; 0]);
        assert_eq!(
            elements("serve").len() + elements("serve6").len(),
            lanes.len()
        );
        active.clear(kept).unwrap();
        assert_eq!(elements("live"), [""; 0]);
    });
}

#[test]
fn a_refused_step_is_named_with_the_kernels_answer_and_nothing_is_changed() {
    within(|| {
        let mut plan = plan();
        let mut active = apply(&plan);
        let before = handles("nodens");
        let unknown = lane("fd10::a", Proto::Udp);
        plan.captures.clear();
        plan.addresses.retain(IpAddr::is_ipv4);
        drop(active);
        wait_for("the owned table goes", || tables().is_empty());
        // A table without sets of the family.
        active = apply(&plan);
        let error = active
            .refresh(&[unknown], &[], Duration::from_secs(1))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("refresh the lanes of table inet nodens: the kernel refused"),
            "{error}"
        );
        assert_ne!(handles("nodens"), before);
    });
}

#[test]
fn the_watch_tells_of_changes_by_others_and_not_of_refreshes() {
    within(|| {
        let plan = plan();
        fallback::apply(&plan).unwrap();
        let mut active = apply(&plan);
        let mut watch = Watch::new(&plan).unwrap();
        let lanes = plan.lanes();
        for _ in 0..20 {
            active
                .refresh(&lanes, &lanes, Duration::from_secs(1))
                .unwrap();
            active.clear(&lanes[..1]).unwrap();
        }
        assert!(!watch.look(active.commits()).rules);
        // Nothing to say is no transaction.
        active.refresh(&[], &[], Duration::from_secs(1)).unwrap();
        assert!(!watch.look(active.commits()).rules);
        load(FOREIGN);
        active
            .refresh(&lanes, &lanes, Duration::from_secs(1))
            .unwrap();
        assert!(watch.look(active.commits()).rules);
        assert!(!watch.look(active.commits()).rules);

        for command in [
            "insert rule inet nodens-fallback output drop",
            "flush chain inet nodens-fallback output",
            "add chain inet nodens-fallback other",
            "delete chain inet nodens-fallback other",
            "delete table inet nodens-fallback",
        ] {
            load(command);
            assert!(watch.look(active.commits()).rules, "{command}");
            assert!(!watch.look(active.commits()).rules);
        }
        run("nft flush ruleset");
        assert!(watch.look(active.commits()).rules);
        assert!(!watch.look(active.commits()).rules);
    });
}
