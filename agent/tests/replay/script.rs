// SPDX-License-Identifier: Apache-2.0
//! The language of a scenario, after Unbound's `.rpl` files (its doc/README.tests).
//!
//! ```text
//! ; rule: what the scenario proves, in words          These four make a row of docs/rules.md;
//! ; rfc: RFC 2308 section 5                           `;` begins a comment elsewhere.
//! ; setting: zones[].maxNegativeTtl
//! ; part: Cache
//! CONFIG                                              Keys of the configuration, as YAML. UPSTREAM,
//! cache: { prefetch: false }                          UPSTREAM2 … stand for servers of the scenario;
//! CONFIG_END                                          without `zones` the root has one of them.
//! COREFILE                                            A Corefile in its place, with `force_tcp`: the
//! COREFILE_END                                        servers of the scenario speak TCP.
//!
//! SCENARIO_BEGIN A title
//! STEP QUERY [TCP] [FROM who] [flags] [NOEDNS] [DO] [SIZE n] [KEEPALIVE] [OPTION code hex] [ID n]
//!     www.example. IN A                               Several lines: one burst, IDs one apart.
//! STEP QUERY [VERSION n] [OPCODE n] [QDCOUNT n] [QR] [OCTETS n]   What is no query: the last cuts it off.
//! STEP CHECK_OUT_QUERY [SERVER n] [DO] [CD]           The oldest query that has come upstream.
//!     www.example. IN A
//! STEP REPLY RCODE [flags] [AGAIN] [PLAIN]            Answers the oldest that was checked, or that
//!     [TO www.example. IN A]                          of this question; AGAIN: more will follow;
//!                                                     PLAIN: all names in full, as CoreDNS sends
//!                                                     them over TCP. The answer section comes
//!     www.example. 300 IN A 10.0.0.1                  first; SECTION AUTHORITY and ADDITIONAL lead
//!     [3000 TIMES] www.example. 300 IN A 10.0.0.1     over; SECTION QUESTION is another question.
//! STEP EXCHANGE RCODE [flags] [PLAIN]                 CHECK_OUT_QUERY and REPLY in one: first the
//!     www.example. IN A                               question, then the records.
//!     www.example. 300 IN A 10.0.0.1
//! STEP CHECK_ANSWER RCODE [TCP] [FROM who] [flags]    What the client got: response code, flags but
//!     [EDE n] [KEEPALIVE n] [MATCH header] [EXACT [OPT size]]   QR, RD and RA (EXACT: with them, and
//!                                                     with the OPT record), every record with its TTL, in
//!     www.example. 300 IN A 10.0.0.1                  their order. A question picks the answer; else
//! STEP CHECK_NO_ANSWER                                the first one is meant. ID and question must
//! STEP CHECK_NO_QUERY                                 be those that were sent.
//! STEP TIME_PASSES ELAPSE 1.5                         Seconds.
//! STEP SERVER_DOWN [n], STEP SERVER_UP [n]            Refuses connections; takes them again.
//! STEP RELOAD old new                                 A word of the configuration becomes another.
//! STEP CHECK_METRIC name [label="value"] 3
//! SCENARIO_END
//! ```

use std::path::Path;
use std::time::Duration;

use super::message::{Asked, Message, QR, RD, Record, flag, rcode};

/// One file.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) rule: String,
    pub(super) rfc: String,
    pub(super) setting: String,
    pub(super) part: String,
    pub(super) config: String,
    /// The configuration is a Corefile.
    pub(super) is_corefile: bool,
    pub(super) steps: Vec<Step>,
}

/// One step, with its line.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) words: Vec<String>,
    pub(super) questions: Vec<Asked>,
    pub(super) message: Message,
}

impl Step {
    /// What it is about.
    pub(super) fn verb(&self) -> &str {
        &self.words[0]
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    /// What stands behind a word.
    pub(super) fn value(&self, word: &str) -> Option<&str> {
        let at = self.words.iter().position(|known| known == word)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub(super) fn number<T: std::str::FromStr>(&self, word: &str) -> Option<T> {
        self.value(word)?.parse().ok()
    }

    /// Who asks: a name and a transport.
    pub(super) fn client(&self) -> (String, bool) {
        let who = self.value("FROM").unwrap_or("somebody").to_owned();
        (who, self.has("TCP"))
    }

    /// The options of a query's OPT record.
    pub(super) fn options(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if self.has("KEEPALIVE") {
            options.extend([0, 11, 0, 0]);
        }
        if let Some(at) = self.words.iter().position(|word| word == "OPTION") {
            let (code, hex) = (&self.words[at + 1], &self.words[at + 2]);
            let octet = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
            options.extend(code.parse::<u16>().unwrap().to_be_bytes());
            options.extend(u16::try_from(hex.len() / 2).unwrap().to_be_bytes());
            options.extend((0..hex.len() / 2).map(octet));
        }
        options
    }

    /// Makes of a query what is none.
    pub(super) fn spoil(&self, octets: &mut Vec<u8>) {
        octets[2] |= self.number::<u8>("OPCODE").unwrap_or(0) << 3;
        octets[2] |= if self.has("QR") { 0x80 } else { 0 };
        octets[5] = self.number("QDCOUNT").unwrap_or(1);
        octets.truncate(self.number("OCTETS").unwrap_or(octets.len()));
    }

    /// Says how an answer to `asked` differs from what the step wants.
    pub(super) fn compare(&self, asked: &Asked, octets: &[u8]) -> Result<(), String> {
        let (_, got) = Message::read(octets).ok_or("the answer is no message")?;
        // What is wrong before a question is read is answered without one.
        let is_early = matches!(got.rcode, 1 | 4) && got.question.is_none();
        if got.question.as_ref() != Some(asked) && !is_early {
            return Err(format!("the answer's question is {:?}", got.question));
        }
        let mut wanted = self.message.clone();
        wanted.question.clone_from(&got.question);
        let mut shown = got.clone();
        let ra = flag("RA").unwrap();
        // The opcode, which comes back as it was sent: the tests of replies see to it.
        shown.flags &= !0x7800;
        if self.has("EXACT") {
            wanted.flags |= if self.has("RD") { RD } else { 0 };
            wanted.size = self.number("OPT");
        } else {
            // Most scenarios are about something else.
            shown.flags &= !(ra | RD);
            wanted.flags &= !ra;
            shown.size = None;
        }
        if self.value("MATCH") == Some("header") {
            shown.sections = Default::default();
            wanted.sections = Default::default();
        }
        if shown == wanted {
            return Ok(());
        }
        Err(format!("got {shown}\n  wanted {wanted}"))
    }

    /// The server it speaks of, from 0.
    pub(super) fn server(&self, word: &str) -> usize {
        self.number::<usize>(word).unwrap_or(1) - 1
    }

    pub(super) fn elapse(&self) -> Duration {
        Duration::from_secs_f64(self.number("ELAPSE").unwrap())
    }
}

impl Scenario {
    /// Reads a file; a mistake in it is told with its line.
    pub(super) fn read(file: &Path) -> Self {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(file).unwrap();
        let mut scenario = Self {
            name,
            rule: header(&text, "rule"),
            rfc: header(&text, "rfc"),
            setting: header(&text, "setting"),
            part: header(&text, "part"),
            config: String::new(),
            is_corefile: false,
            steps: Vec::new(),
        };
        let mut in_config = false;
        let mut section = 0;
        for (number, raw) in (1..).zip(text.lines()) {
            let line = raw.split(" ;").next().unwrap_or_default();
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            match words.first().map(String::as_str) {
                None | Some("SCENARIO_BEGIN" | "SCENARIO_END") => {}
                Some(comment) if comment.starts_with(';') => {}
                Some("CONFIG") => in_config = true,
                Some("COREFILE") => {
                    in_config = true;
                    scenario.is_corefile = true;
                }
                Some("CONFIG_END" | "COREFILE_END") => in_config = false,
                _ if in_config => scenario.config += &format!("{line}\n"),
                Some("STEP") => {
                    section = 0;
                    scenario.steps.push(step(number, &words[1..]));
                }
                Some(_) => {
                    let step = scenario.steps.last_mut();
                    let is_read = step.and_then(|step| step.line_of(line.trim(), &mut section));
                    assert!(
                        is_read.is_some(),
                        "{}:{number}: cannot read {line:?}",
                        file.display()
                    );
                }
            }
        }
        scenario
    }
}

impl Step {
    fn line_of(&mut self, line: &str, section: &mut usize) -> Option<()> {
        /// Where a question stands that is not the one asked.
        const QUESTION: usize = 9;
        if let Some(name) = line.strip_prefix("SECTION ") {
            *section = match name {
                "QUESTION" => QUESTION,
                "ANSWER" => 0,
                "AUTHORITY" => 1,
                "ADDITIONAL" => 2,
                _ => return None,
            };
            return Some(());
        }
        let bare = line.strip_prefix("TO ").unwrap_or(line);
        if let Some(question) = Asked::parse(bare) {
            if *section == QUESTION {
                self.message.question = Some(question);
            } else {
                self.questions.push(question);
            }
            return Some(());
        }
        let (times, record) = match line.split_once(" TIMES ") {
            Some((times, record)) => (times.parse().ok()?, record),
            None => (1, line),
        };
        let record = Record::parse(record)?;
        let to = self.message.sections.get_mut(*section)?;
        to.extend(std::iter::repeat_n(record, times));
        Some(())
    }
}

fn step(line: usize, words: &[String]) -> Step {
    let mut message = Message::default();
    for pair in words
        .iter()
        .zip(words.iter().skip(1).map(Some).chain([None]))
    {
        let (word, next) = pair;
        message.flags |= flag(word).unwrap_or(0);
        if let Some(code) = rcode(word) {
            message.rcode = code;
        }
        match (word.as_str(), next) {
            ("EDE", Some(code)) => message.errors.push(code.parse().unwrap()),
            ("KEEPALIVE", Some(units)) => message.keepalive = units.parse().ok(),
            _ => {}
        }
    }
    message.flags &= !(QR | RD);
    Step {
        line,
        words: words.to_vec(),
        questions: Vec::new(),
        message,
    }
}

/// A field of the header; it goes on in comments that are indented.
fn header(text: &str, field: &str) -> String {
    let mut lines = text.lines().skip_while(|line| {
        !line
            .strip_prefix("; ")
            .is_some_and(|line| line.starts_with(&format!("{field}: ")))
    });
    let first = lines.next().unwrap_or_default();
    let mut value = first
        .split_once(": ")
        .map_or("", |(_, value)| value)
        .to_owned();
    for line in lines {
        let Some(more) = line.strip_prefix(";   ") else {
            break;
        };
        value += " ";
        value += more.trim();
    }
    value
}
