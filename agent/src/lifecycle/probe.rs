// SPDX-License-Identifier: Apache-2.0
//! One question to ourselves: asked over real sockets, answered by the serving path, checked.
//!
//! Each question has an ID of its own, so a late answer to an earlier one never counts, and none
//! ever waits. They leave from the loopback address; where queries are intercepted, from an
//! address of the plan's that nobody else has. The rules let packets between that address and the
//! agent's listen addresses pass, whatever the state of the switch. A probe that left from another
//! local address (the kernel's choice would be the listen address itself) would be steered to
//! CoreDNS while the switch is off, and its good answer would say nothing about us; or its reply
//! would be renamed, and the switch would never arm. Loopback will not do there: kube-proxy in its
//! iptables mode drops what is not tracked and comes to 127.0.0.0/8 from elsewhere.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nodens_netsetup::plan::{Family, Plan};
use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::wire::name::Name;

/// The name the agent asks itself for; it answers of itself, without an upstream. `.internal` is
/// reserved for private use, so no upstream can know it.
pub const PULSE_NAME: &str = "pulse.nodens.internal.";

/// The type that it asks for: TXT.
pub const PULSE_TYPE: u16 = 16;

/// Octets of a header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// Why a probe got no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing came in time.
    Silent,
    /// The connection ended before the answer.
    Closed,
    /// An answer to something else, or without a record.
    Wrong,
    /// An answer with this response code.
    Rcode(u8),
    /// The system says no (its number).
    System(i32),
}

impl Fault {
    /// As a number, to be kept in an atomic: those of the system are positive.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Silent => 0,
            Self::Closed => -1,
            Self::Wrong => -2,
            Self::Rcode(rcode) => -16 - i32::from(rcode),
            Self::System(number) => number.max(1),
        }
    }

    /// What [`Self::code`] was made of.
    pub(super) fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Silent,
            -1 => Self::Closed,
            -31..=-16 => Self::Rcode(u8::try_from(-16 - code).unwrap_or(u8::MAX)),
            number if number > 0 => Self::System(number),
            _ => Self::Wrong,
        }
    }

    /// What to add to "no answer"; nothing for plain silence.
    pub(super) fn words(self) -> Option<String> {
        match self {
            Self::Silent => None,
            Self::Closed => Some("connection closed".to_owned()),
            Self::Wrong => Some("the answer is wrong".to_owned()),
            Self::Rcode(rcode) => Some(format!("answered with response code {rcode}")),
            Self::System(number) => Some(io::Error::from_raw_os_error(number).to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Linux reports a receive timeout as WouldBlock, and a connect timeout as TimedOut.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => error.raw_os_error().map_or(Self::Silent, Self::System),
        }
    }
}

/// A socket that asks one address over UDP, for as long as the address is listened on. It is kept
/// so that no question needs a new descriptor: where those have run out, TCP falls and UDP stays.
#[derive(Debug)]
pub(super) struct UdpAsker(UdpSocket);

impl UdpAsker {
    /// Will ask this address, from that one.
    pub(super) fn new(source: SocketAddr, target: SocketAddr) -> Result<Self, Fault> {
        let socket = UdpSocket::bind(source)?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sends the question from the CPU that the calling thread runs on.
    pub(super) fn send(&self, id: u16) -> Result<(), Fault> {
        let query = query(id);
        // The error may be of an earlier question, which the port has refused.
        if self.0.send(&query).is_err() {
            self.0.send(&query)?;
        }
        Ok(())
    }

    /// The next answer that waits; `None` where there is none.
    pub(super) fn receive(&self) -> Result<Option<UdpAnswer>, Fault> {
        let mut response = [0; 512];
        let len = match self.0.recv(&mut response) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let response = response.get(..len).unwrap_or_default();
        let id = response
            .first_chunk()
            .map_or(0, |id| u16::from_be_bytes(*id));
        let outcome = check(&query(id), response);
        Ok(Some(UdpAnswer { id, outcome }))
    }
}

/// An answer to some question.
#[derive(Clone, Copy, Debug)]
pub(super) struct UdpAnswer {
    /// The question's ID.
    pub(super) id: u16,
    /// Whether it is a good one.
    pub(super) outcome: Result<(), Fault>,
}

impl AsFd for UdpAsker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A question over a TCP connection of its own.
#[derive(Debug)]
pub(super) struct TcpProbe {
    stream: TcpStream,
    query: Vec<u8>,
    is_sent: bool,
    answer: Vec<u8>,
}

impl TcpProbe {
    /// Begins to connect, from `source`. `leave` hears where the connection comes from, before the other end can
    /// see it.
    pub(super) fn start(
        source: SocketAddr,
        target: SocketAddr,
        id: u16,
        leave: impl FnOnce(SocketAddr),
    ) -> Result<Self, Fault> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        // Closing with a reset leaves no TIME_WAIT and a shorter trace in conntrack: there are
        // four probes a second, for ever.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_nonblocking(true)?;
        socket.bind(&source.into())?;
        if let Some(source) = socket.local_addr()?.as_socket() {
            leave(source);
        }
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            stream: socket.into(),
            query: query(id),
            is_sent: false,
            answer: Vec::new(),
        })
    }

    /// What it waits for.
    pub(super) fn wants(&self) -> PollFlags {
        if self.is_sent {
            PollFlags::IN
        } else {
            PollFlags::OUT
        }
    }

    /// Goes on as far as it can without waiting; `None` while there is more to come.
    pub(super) fn go_on(&mut self) -> Option<Result<(), Fault>> {
        self.step().transpose()
    }

    fn step(&mut self) -> Result<Option<()>, Fault> {
        if !self.is_sent {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            // One segment: some servers take a lone length for a broken query. It fits into an
            // empty send buffer.
            let len = u16::try_from(self.query.len()).unwrap_or(u16::MAX);
            let message = [&len.to_be_bytes(), self.query.as_slice()].concat();
            self.stream.write_all(&message)?;
            self.is_sent = true;
        }
        let mut octets = [0; 514];
        loop {
            match self.stream.read(&mut octets) {
                Ok(0) => return Err(Fault::Closed),
                Ok(len) => self
                    .answer
                    .extend_from_slice(octets.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if let Some((len, response)) = self.answer.split_first_chunk() {
                let len = usize::from(u16::from_be_bytes(*len));
                if let Some(response) = response.get(..len) {
                    return check(&self.query, response).map(Some);
                }
            }
        }
    }
}

impl AsFd for TcpProbe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Where probes leave from.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(Vec<(IpAddr, IpAddr)>);

impl Origins {
    /// Those that the rules of a plan know.
    pub(super) fn of(plan: &Plan) -> Self {
        let pair = |local| Some((local, plan.probe(Family::of(local))?));
        Self(
            plan.local_addresses()
                .into_iter()
                .filter_map(pair)
                .collect(),
        )
    }

    /// A port of the address from which this target is asked.
    pub(super) fn towards(&self, target: SocketAddr) -> SocketAddr {
        let of_the_plan = self.0.iter().find(|(local, _)| *local == target.ip());
        let address = match (of_the_plan, target) {
            (Some((_, probe)), _) => *probe,
            (None, SocketAddr::V4(_)) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (None, SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(address, 0)
    }
}

/// The question with this ID: RD set, one question, nothing else.
fn query(id: u16) -> Vec<u8> {
    let name = Name::parse(PULSE_NAME).unwrap_or(Name::ROOT);
    let [high, low] = id.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(name.as_wire());
    query.extend_from_slice(&PULSE_TYPE.to_be_bytes());
    query.extend_from_slice(&1u16.to_be_bytes());
    query
}

/// A good answer has our ID, QR, NOERROR, our question and an answer record.
fn check(query: &[u8], response: &[u8]) -> Result<(), Fault> {
    let question = query.get(HEADER..).unwrap_or_default();
    let Some((header, rest)) = response.split_at_checked(HEADER) else {
        return Err(Fault::Wrong);
    };
    let &[
        id_high,
        id_low,
        flags,
        more,
        0,
        1,
        answers_high,
        answers_low,
        ..,
    ] = header
    else {
        return Err(Fault::Wrong);
    };
    // QR set, opcode QUERY, TC clear.
    if query.get(..2) != Some([id_high, id_low].as_slice()) || flags & 0xfa != 0x80 {
        return Err(Fault::Wrong);
    }
    match more & 0x0f {
        0 => {}
        rcode => return Err(Fault::Rcode(rcode)),
    }
    let answers = u16::from_be_bytes([answers_high, answers_low]);
    let records = rest.strip_prefix(question).ok_or(Fault::Wrong)?;
    if answers == 0 || records.is_empty() {
        return Err(Fault::Wrong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::TXT;
    use hickory_proto::rr::{Name as OracleName, RData, Record, RecordType};

    use super::*;

    /// A good answer by another implementation.
    fn answer(query: &[u8]) -> Message {
        let query = Message::from_vec(query).unwrap();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.add_query(query.queries[0].clone());
        let name = query.queries[0].name().clone();
        answer.add_answer(Record::from_rdata(
            name,
            0,
            RData::TXT(TXT::new(vec!["ok".into()])),
        ));
        answer
    }

    #[test]
    fn the_question_is_what_another_implementation_reads() {
        let query = Message::from_vec(&query(0xbeef)).unwrap();
        assert_eq!(query.metadata.id, 0xbeef);
        assert_eq!(query.metadata.message_type, MessageType::Query);
        assert!(query.metadata.recursion_desired);
        let name = OracleName::from_ascii(PULSE_NAME).unwrap();
        assert_eq!(query.queries, [Query::query(name, RecordType::TXT)]);
    }

    #[test]
    fn only_a_good_answer_to_the_question_counts() {
        let query = query(7);
        let good = answer(&query);
        assert_eq!(check(&query, &good.to_vec().unwrap()), Ok(()));

        let judged = |change: &dyn Fn(&mut Message)| {
            let mut changed = good.clone();
            change(&mut changed);
            check(&query, &changed.to_vec().unwrap())
        };
        let other = Query::query(OracleName::from_ascii("other.").unwrap(), RecordType::TXT);
        assert_eq!(judged(&|m| m.metadata.id = 8), Err(Fault::Wrong));
        assert_eq!(
            judged(&|m| m.metadata.message_type = MessageType::Query),
            Err(Fault::Wrong)
        );
        assert_eq!(judged(&|m| m.metadata.truncation = true), Err(Fault::Wrong));
        assert_eq!(
            judged(&|m| m.queries = vec![other.clone()]),
            Err(Fault::Wrong)
        );
        assert_eq!(judged(&|m| m.answers.clear()), Err(Fault::Wrong));
        assert_eq!(
            judged(&|m| m.metadata.response_code = ResponseCode::ServFail),
            Err(Fault::Rcode(2))
        );
        for len in 0..query.len() {
            assert_eq!(
                check(&query, &good.to_vec().unwrap()[..len]),
                Err(Fault::Wrong)
            );
        }
    }

    #[test]
    fn every_fault_survives_being_kept_as_a_number() {
        let rcodes = (0..16).map(Fault::Rcode);
        let plain = [
            Fault::Silent,
            Fault::Closed,
            Fault::Wrong,
            Fault::System(111),
        ];
        for fault in rcodes.chain(plain) {
            assert_eq!(Fault::from_code(fault.code()), fault);
        }
        assert_eq!(
            Fault::Rcode(5).words().unwrap(),
            "answered with response code 5"
        );
    }
}
