// SPDX-License-Identifier: Apache-2.0
//! The one table of directives: what nodens does with each. The names that are known, the nearest one
//! to a misspelt one, and docs/corefile.md all come from it.

use crate::config::nearest::nearest;

/// What becomes of a directive or an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Done as it says.
    Honoured,
    /// Accepted, and a warning says what is different.
    Warned,
    /// Refused by name.
    Refused,
}

/// A directive, or an option within the braces of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) fate: Fate,
    /// What nodens does, in Markdown.
    pub(super) doc: &'static str,
    /// Its own options.
    pub(super) options: &'static [Self],
}

const fn entry(name: &'static str, fate: Fate, doc: &'static str) -> Entry {
    Entry {
        name,
        fate,
        doc,
        options: &[],
    }
}

const fn block(
    name: &'static str,
    fate: Fate,
    doc: &'static str,
    options: &'static [Entry],
) -> Entry {
    Entry {
        name,
        fate,
        doc,
        options,
    }
}

use Fate::{Honoured, Refused, Warned};

/// Every directive that is known.
pub(super) const DIRECTIVES: &[Entry] = &[
    block(
        "bind",
        Honoured,
        "`listen.addresses`. Interfaces stand for their addresses at start. A cluster address (see above) is \
         captured. All blocks must have the same",
        &[entry("except", Honoured, "addresses that are left out")],
    ),
    block(
        "cache",
        Honoured,
        "`zones[].maxTtl` and `zones[].maxNegativeTtl`, 7 days and 3 hours at most; a block without it keeps nothing. `cache 3600s`, which CoreDNS takes \
         for a zone's name, is read as 3600 seconds, with a warning",
        &[
            entry(
                "success",
                Honoured,
                "the TTL is `zones[].maxTtl`. Capacities become bytes: 512 for each entry of all blocks together is \
                 `cache.size`. A MINTTL that is written is `zones[].minTtl`; where none is, short TTLs stay as they are (CoreDNS: 5 s)",
            ),
            entry(
                "denial",
                Honoured,
                "the TTL is `zones[].maxNegativeTtl`, MINTTL `zones[].minNegativeTtl`; otherwise as `success`",
            ),
            entry(
                "prefetch",
                Honoured,
                "`cache.prefetch`. What is popular and when it is due nodens decides itself: hit twice, in the last \
                 tenth of its life. Where no block has it, it stays on",
            ),
            entry(
                "serve_stale",
                Honoured,
                "`cache.staleFor`. `immediate` is `zones[].staleAfter: 0s`, `verify` 1.8 s or the time that is written; where the upstreams are \
                 known to be down it comes at once. Where no block has it, stale answers are served for 1 h",
            ),
            entry(
                "servfail",
                Honoured,
                "`zones[].maxFailureTtl`, 1 s at least (RFC 9520): with `0` there is a warning. A failure never hides a good answer",
            ),
            entry("disable", Honoured, "`0s` for the lifetime of these zones"),
            entry(
                "keepttl",
                Warned,
                "TTLs always age (RFC 1035 section 3.2.1)",
            ),
            entry(
                "serve_stale_policy",
                Honoured,
                "a good answer is preferred in any case",
            ),
        ],
    ),
    block(
        "forward",
        Honoured,
        "`zones[].upstreams`, `resolv.conf` for a file. The names of FROM get a zone of their own. Addresses as in CoreDNS: \
         `IP`, `IP:PORT`, `dns://`, `tls://IP%NAME`; not both kinds in one line",
        &[
            entry(
                "except",
                Honoured,
                "these names go to the next `forward` of the block that takes them; where there is none they get SERVFAIL, with a warning",
            ),
            entry("force_tcp", Honoured, "`transport: tcp`"),
            entry(
                "prefer_udp",
                Honoured,
                "`transport: udp`; so it is, too, where neither is written. TCP answers truncation",
            ),
            entry(
                "expire",
                Honoured,
                "`limits.upstreamIdle`, the least of all blocks",
            ),
            entry(
                "max_fails",
                Warned,
                "nodens' own: a server that fails is left alone for 0.2 to 10 s, and asked all the same where all do",
            ),
            entry(
                "health_check",
                Warned,
                "nodens' own: one query after each pause; no probe beside it",
            ),
            entry(
                "policy",
                Honoured,
                "`sequential` is `zones[].order: written`; else the better of two servers drawn by chance",
            ),
            entry(
                "max_concurrent",
                Honoured,
                "`limits.inFlight`, the sum of all blocks; where a `forward` is without it, not less than the default. Above it: a stale answer \
                 or SERVFAIL, in place of REFUSED",
            ),
            entry(
                "tls",
                Honoured,
                "`tls` alone, or `tls CA` for `caFile`; certificates of a client are refused",
            ),
            entry("tls_servername", Honoured, "`zones[].serverName`"),
            entry(
                "failover",
                Honoured,
                "SERVFAIL, REFUSED and NOTIMP always go to the next server; other codes are refused",
            ),
            entry("next", Refused, "answers do not choose another `forward`"),
            entry(
                "next_on_nodata",
                Refused,
                "answers do not choose another `forward`",
            ),
            entry(
                "failfast_all_unhealthy_upstreams",
                Honoured,
                "a stale answer, or SERVFAIL",
            ),
            entry(
                "max_connect_attempts",
                Warned,
                "nodens' own: `limits.queryTimeout` bounds the attempts",
            ),
            entry("max_age", Warned, "nodens' own: 30 s ± 20 %"),
            entry(
                "max_idle_conns",
                Warned,
                "nodens' own: `limits.upstreamConnections`",
            ),
            entry(
                "read_timeout",
                Honoured,
                "`limits.attemptTimeout`, the most of all blocks",
            ),
            entry("source_address", Refused, "the kernel chooses"),
            entry("resolver", Refused, "servers are addresses"),
            entry("doh_method", Refused, "there is no DNS over HTTPS"),
        ],
    ),
    block(
        "errors",
        Honoured,
        "failures are counted (docs/metrics.md), and each upstream that fails is logged once",
        &[
            entry("consolidate", Honoured, "nothing is logged for each query"),
            entry("stacktrace", Honoured, "nothing is logged for each query"),
            entry("show_first", Honoured, "nothing is logged for each query"),
        ],
    ),
    block(
        "log",
        Warned,
        "queries are not logged; `log.level: debug` writes a line for each miss",
        &[entry("class", Warned, "as `log`")],
    ),
    entry(
        "reload",
        Honoured,
        "a changed Corefile takes effect within 2 s, with this directive or without it; the interval is not needed",
    ),
    entry(
        "loop",
        Honoured,
        "each upstream is asked for a random name at start and every `limits.loopProbes`; one that sends it back is left out, and \
         the process goes on",
    ),
    block(
        "health",
        Honoured,
        "`admin.health`; `/health` answers there. Where blocks name different addresses, at each (`admin.also`)",
        &[entry(
            "lameduck",
            Honoured,
            "`limits.drainTimeout` where it is longer than 5 s; the drain ends as soon as all is answered",
        )],
    ),
    entry(
        "ready",
        Honoured,
        "`admin.also`, `:8181` where no address is written; `/ready` answers there",
    ),
    entry(
        "prometheus",
        Honoured,
        "`admin.metrics`, `localhost:9153` where no address is written, with the series of CoreDNS and node-cache (`admin.corednsNames`). Where blocks name different addresses, at each (`admin.also`)",
    ),
    block(
        "hosts",
        Honoured,
        "`zones[].answers`: addresses and reverse names, those of the file (`/etc/hosts` where none is named) and those in the \
         braces, as far as names are in the zones behind it. A name that is not there is asked upstream where the block has `fallthrough`, else gets SERVFAIL; a reverse name \
         that is not there is asked upstream in any case. Of more than 64 addresses or names the first 64 are answered, with a warning. \
         The file is followed. All answers of `hosts` and `template` are 65,536 rules at most, in all blocks",
        &[
            entry(
                "ttl",
                Honoured,
                "of these answers; those of `cache` bound it, as they do in CoreDNS",
            ),
            entry("no_reverse", Honoured, "no reverse names"),
            entry(
                "reload",
                Honoured,
                "not needed: a changed file takes effect at once",
            ),
            entry(
                "fallthrough",
                Honoured,
                "zones may be named, 100 at most: the name that is asked for decides, behind a `rewrite` the new one",
            ),
        ],
    ),
    block(
        "template",
        Honoured,
        "`zones[].answers`, where no answer depends on the name that is asked for: `{{ .Name }}` as the owner is the one \
         variable. Each is tried in turn before upstreams are asked; there may be 64 in a block",
        &[
            entry(
                "match",
                Honoured,
                "`.*`, or a name's end or whole: `(^|[.])example[.]org[.]$`; other expressions are refused",
            ),
            entry(
                "answer",
                Honoured,
                "`{{ .Name }} TTL IN A|AAAA ADDRESS`; other records are refused. The TTLs of `cache` bound that of the answer, as they do in CoreDNS; of several the least counts",
            ),
            entry("additional", Refused, "only answers can be written"),
            entry("authority", Refused, "only answers can be written"),
            entry("rcode", Honoured, "NOERROR, NXDOMAIN, REFUSED or SERVFAIL"),
            entry("ederror", Warned, "no Extended DNS Error is sent with it"),
            entry(
                "fallthrough",
                Honoured,
                "zones may be named, 100 at most: the name that is asked for decides, behind a `rewrite` the new one",
            ),
        ],
    ),
    entry(
        "whoami",
        Warned,
        "names of the block get NOERROR without a record",
    ),
    block(
        "loadbalance",
        Honoured,
        "`zones[].rotate`: addresses take turns. `weighted` is refused",
        &[
            entry("prefer", Warned, "no subnet is preferred"),
            entry("reload", Honoured, "not needed: there is no file"),
        ],
    ),
    entry(
        "bufsize",
        Honoured,
        "`listen.udpSize`, the least of all blocks",
    ),
    block(
        "timeouts",
        Honoured,
        "of clients' connections",
        &[
            entry("read", Warned, "nodens' own"),
            entry("write", Warned, "nodens' own"),
            entry("idle", Honoured, "`listen.tcpIdle`, the most of all blocks"),
            entry("maxtcpqueries", Warned, "there is no such bound"),
        ],
    ),
    entry("debug", Warned, "ignored"),
    block(
        "pprof",
        Warned,
        "ignored",
        &[entry("block", Warned, "ignored")],
    ),
    entry("nsid", Warned, "ignored: no server identifier is sent"),
    entry(
        "rewrite",
        Honoured,
        "`zones[].rewrites`: `name` with `exact`, `prefix`, `suffix` or `substring`, the first that fits. Clients always get the name that they \
         asked for (`answer auto`), and no signatures. `template`, `hosts` and the servers of the block get the new name; a block with \
         another `forward` for the new names is refused. `continue`, `regex` and other fields are refused",
    ),
    block(
        "dns64",
        Honoured,
        "`zones[].dns64`, `64:ff9b::/96` where no prefix is written. Addresses of `hosts` and `template` are translated, too",
        &[
            entry("prefix", Honoured, "as the prefix behind it"),
            entry("translate_all", Honoured, "` all` behind the prefix"),
            entry(
                "allow_ipv4",
                Honoured,
                "always: without it there is a warning",
            ),
        ],
    ),
];

/// Other plugins of CoreDNS, for a message that says more than "unknown".
const OTHERS: [&str; 37] = [
    "acl",
    "any",
    "auto",
    "autopath",
    "azure",
    "cancel",
    "chaos",
    "clouddns",
    "dnssec",
    "dnstap",
    "erratic",
    "etcd",
    "file",
    "geoip",
    "grpc",
    "grpc_server",
    "header",
    "https",
    "https3",
    "k8s_external",
    "kubernetes",
    "local",
    "metadata",
    "minimal",
    "multisocket",
    "nomad",
    "on",
    "quic",
    "root",
    "route53",
    "secondary",
    "sign",
    "tls",
    "trace",
    "transfer",
    "tsig",
    "view",
];

/// The entry of a directive.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    DIRECTIVES.iter().find(|entry| entry.name == name)
}

impl Entry {
    /// The entry of an option.
    pub(super) fn option(&self, name: &str) -> Option<&'static Self> {
        self.options.iter().find(|entry| entry.name == name)
    }

    /// All options, for a message.
    pub(super) fn list(&self) -> String {
        let names: Vec<_> = self.options.iter().map(|entry| entry.name).collect();
        names.join(", ")
    }
}

/// What to do about a directive that nobody knows.
pub(super) fn remedy_for_unknown(name: &str) -> String {
    if OTHERS.contains(&name) {
        return format!(
            "remove it: nodens has no {name}; keep it in the Corefile of the cluster's CoreDNS, which is \
             asked for what is not in the cache"
        );
    }
    let known = DIRECTIVES.iter().map(|entry| entry.name);
    match nearest(name, known.chain(["import"])) {
        Some(near) => format!("did you mean {near}?"),
        None => "remove it; docs/corefile.md lists the directives".to_owned(),
    }
}

/// What to do about an option that nobody knows.
pub(super) fn remedy_for_option(entry: &Entry, name: &str) -> String {
    match nearest(name, entry.options.iter().map(|entry| entry.name)) {
        Some(near) => format!("did you mean {near}?"),
        None => "remove it; docs/corefile.md lists the options".to_owned(),
    }
}
