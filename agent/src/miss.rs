// SPDX-License-Identifier: Apache-2.0
//! The only bridge from the hot side to the cold one: a bounded queue that goes one way.
//!
//! A worker puts a miss in, or a question whose answer is about to end, and forgets it; the cold side answers the client itself, on the same
//! socket. Nothing flows back. A worker rings the bell, a pipe, only where the cold side said that it
//! sleeps, so a burst costs one system call.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::wire::edns::Edns;
use crate::wire::header::{Flags, HEADER};
use crate::wire::name::MAX_NAME;
use crate::wire::query::Query;
use crate::wire::question::Question;

/// Misses that can wait for the cold thread; some 10 ms of its work.
pub const QUEUE: usize = 2048;

/// Octets of a question section at most: a name, a type, a class.
const QUESTION: usize = MAX_NAME + 4;
/// Octets of one that is kept in place, as nearly all are. What is in the queue goes from one CPU's cache
/// to another's: the less there is of it the better.
const SHORT: usize = 96;

/// A query that the cache cannot answer, with all that its answer needs; or one that it has just
/// answered, and soon cannot.
#[derive(Clone, Debug)]
pub struct Miss {
    /// Where the answer goes; `None` where nobody waits for it.
    pub client: Option<SocketAddr>,
    /// The listener that the query came to.
    pub listener: u32,
    /// When it came, in nanoseconds of the agent's clock.
    pub arrived_ns: u64,
    /// The query without its question.
    pub asked: Asked,
}

/// A query as an answer needs it, kept without its message.
#[derive(Clone, Debug)]
pub struct Asked {
    id: u16,
    flags: Flags,
    edns: Option<Edns>,
    octets: u16,
    question: Section,
}

/// A question section.
#[derive(Clone, Debug)]
enum Section {
    Short(u8, [u8; SHORT]),
    /// On the heap; as many as the queue takes, and wait for answers.
    Long(Box<[u8]>),
}

impl Section {
    fn new(octets: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match (short.get_mut(..octets.len()), u8::try_from(octets.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(octets);
                Self::Short(len, short)
            }
            _ => Self::Long(octets.into()),
        }
    }

    fn octets(&self) -> &[u8] {
        match self {
            Self::Short(len, octets) => &octets[..usize::from(*len)],
            Self::Long(octets) => octets,
        }
    }
}

impl Asked {
    /// Keeps what an answer to `query` needs of `message`, which it was read from.
    #[must_use]
    pub fn new(message: &[u8], query: &Query) -> Self {
        let section = message.get(HEADER..query.question_end).unwrap_or(&[]);
        let section = &section[..section.len().min(QUESTION)];
        Self {
            id: query.id,
            flags: query.flags,
            edns: query.edns,
            octets: u16::try_from(message.len()).unwrap_or(u16::MAX),
            question: Section::new(section),
        }
    }

    /// The question section as the client wrote it.
    #[must_use]
    pub fn question(&self) -> &[u8] {
        self.question.octets()
    }

    /// The question in canonical form.
    #[must_use]
    pub fn canonical(&self) -> Option<Question> {
        let dnssec_ok = self.edns.is_some_and(|edns| edns.dnssec_ok);
        Question::read(self.question(), dnssec_ok, self.flags.has(Flags::CD))
    }

    /// The client's number for the exchange.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The query's length in octets.
    #[must_use]
    pub fn octets(&self) -> usize {
        usize::from(self.octets)
    }

    /// Writes header and question as the client sent them, for a reply to be written over.
    /// `message` has room for them.
    #[must_use]
    pub fn restore(&self, message: &mut [u8]) -> Query {
        let end = HEADER + self.question().len();
        message[..HEADER].fill(0);
        message[..2].copy_from_slice(&self.id.to_be_bytes());
        message[5] = 1;
        message[HEADER..end].copy_from_slice(self.question());
        Query {
            id: self.id,
            flags: self.flags,
            question_end: end,
            edns: self.edns,
        }
    }
}

/// The queue, shared by all workers and the cold side.
#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<Miss>,
    /// The writing end of a pipe.
    bell: OwnedFd,
    asleep: AtomicBool,
}

/// A worker's end.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Shared>);

/// The cold side's end.
#[derive(Debug)]
pub struct Receiver(Arc<Shared>);

/// Makes a queue. The third part is the reading end of the bell: readable where a worker rang;
/// whoever was woken reads it empty.
///
/// # Errors
/// The kernel gave no pipe.
pub fn queue() -> std::io::Result<(Sender, Receiver, OwnedFd)> {
    let (ear, bell) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(QUEUE),
        bell,
        asleep: AtomicBool::new(false),
    });
    Ok((Sender(Arc::clone(&shared)), Receiver(shared), ear))
}

impl Sender {
    /// Puts a miss in; `false` where the queue is full.
    #[must_use]
    pub fn push(&self, miss: Miss) -> bool {
        self.0.queue.push(miss).is_ok()
    }

    /// Puts in what nobody waits for; not where half of the queue waits already, as those who wait
    /// need it. Whether it is in.
    #[must_use]
    pub fn offer(&self, miss: Miss) -> bool {
        self.0.queue.len() < QUEUE / 2 && self.push(miss)
    }

    /// Wakes the cold side where it sleeps; once a batch, behind the last push.
    pub fn ring(&self) {
        // Against `Receiver::sleep`: either this sees that it sleeps, or it sees the miss.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::AcqRel) {
            // It cannot fail but by being full, and then the bell rings already.
            let _ = rustix::io::write(&self.0.bell, &[1]);
        }
    }
}

impl Receiver {
    /// Takes the oldest miss.
    #[must_use]
    pub fn pop(&self) -> Option<Miss> {
        self.0.queue.pop()
    }

    /// Misses that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.queue.is_empty()
    }

    /// Says that the cold side will wait for the bell; `false` where a miss came meanwhile and it
    /// must not.
    #[must_use]
    pub fn sleep(&self) -> bool {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.0.queue.is_empty() {
            return true;
        }
        self.0.asleep.store(false, Ordering::Relaxed);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn miss(id: u16) -> Miss {
        miss_of(id, b"\x03WeB\x00\x00\x01\x00\x01")
    }

    fn miss_of(id: u16, question: &[u8]) -> Miss {
        let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(question);
        message[..2].copy_from_slice(&id.to_be_bytes());
        let query = Query::parse(&message, &mut Question::new()).unwrap();
        Miss {
            client: Some(([127, 0, 0, 1], 9).into()),
            listener: 0,
            arrived_ns: 0,
            asked: Asked::new(&message, &query),
        }
    }

    fn rang(ear: &OwnedFd) -> bool {
        rustix::io::read(ear, &mut [0; 1]).is_ok()
    }

    #[test]
    fn the_bell_rings_once_and_only_for_one_who_sleeps() {
        let (sender, receiver, ear) = queue().unwrap();
        assert!(sender.push(miss(1)));
        sender.ring();
        assert!(!rang(&ear));
        assert!(!receiver.sleep(), "a miss waits");
        assert_eq!(receiver.pop().unwrap().asked.id(), 1);
        assert!(receiver.sleep());
        assert!(sender.push(miss(2)) && sender.push(miss(3)));
        sender.ring();
        sender.ring();
        assert!(rang(&ear) && !rang(&ear));
    }

    #[test]
    fn a_full_queue_says_so_and_keeps_what_it_has() {
        let (sender, receiver, _ear) = queue().unwrap();
        let taken = (0..).take_while(|&id| sender.push(miss(id))).count();
        assert_eq!((taken, receiver.len()), (QUEUE, QUEUE));
        assert_eq!(receiver.pop().unwrap().asked.id(), 0);
    }

    #[test]
    fn what_nobody_waits_for_leaves_half_of_the_queue_to_those_who_wait() {
        let (sender, receiver, _ear) = queue().unwrap();
        let taken = (0..).take_while(|&id| sender.offer(miss(id))).count();
        assert_eq!((taken, receiver.len()), (QUEUE / 2, QUEUE / 2));
        assert!(sender.push(miss(0)));
    }

    #[test]
    fn a_question_comes_back_as_it_was_written() {
        let asked = miss(0x1234).asked;
        let mut message = [0xff; 64];
        let query = asked.restore(&mut message);
        assert_eq!(message[..6], [0x12, 0x34, 0, 0, 0, 1]);
        assert_eq!(
            &message[HEADER..query.question_end],
            b"\x03WeB\x00\x00\x01\x00\x01"
        );
    }

    #[test]
    fn a_question_of_any_length_comes_back() {
        for len in (2..=MAX_NAME).filter(|len| len % 64 != 2) {
            let mut question = Vec::new();
            while question.len() + 1 < len {
                let label = (len - question.len() - 2).min(63);
                question.push(u8::try_from(label).unwrap());
                question.extend(std::iter::repeat_n(b'A', label));
            }
            question.extend([0, 0, 1, 0, 1]);
            let asked = miss_of(1, &question).asked;
            let mut message = [0xff; 512];
            let query = asked.restore(&mut message);
            assert_eq!(message[HEADER..query.question_end], question, "{len}");
        }
    }

    #[test]
    fn a_miss_takes_three_lines_of_the_cache_in_the_queue() {
        // The queue adds a word.
        assert!(size_of::<Miss>() + size_of::<usize>() <= 192);
    }
}
