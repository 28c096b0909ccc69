//! Echo over UDP, on the port of a server's links: how far is it, now (STP 3, 9)?
//!
//! A question is 64 bytes. Whoever asks without a cookie gets one, 48 bytes, which is a MAC over his
//! address and the time under a key that only this process has; so only an address that receives
//! what is sent to it is ever answered in full. No answer is longer than its question, and the work
//! is one hash, so the port is of no use to anybody who forges addresses. Answers repeat the
//! question's 64 random bits: who cannot see the question cannot answer it.
//!
//! Where UDP does not pass, the time of a TCP connection says the same.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use tokio::net::{TcpStream, UdpSocket};

use crate::clock;

const MAGIC: [u8; 4] = *b"STPE";
const QUESTION: usize = 64;
const ANSWER: usize = 48;
const COOKIE: usize = 16;
const ASK: u8 = 1;
const HAVE: u8 = 2;
const PROVE: u8 = 3;
/// A cookie is good for one to two of these.
const SLOT_US: u64 = 60_000_000;
/// Between the questions of one measurement.
const GAP: Duration = Duration::from_millis(8);

/// Answers for ever.
///
/// # Errors
/// When the socket cannot be used any more.
pub async fn answer(socket: UdpSocket) -> io::Result<()> {
    let answerer = Answerer::new()?;
    let mut question = [0; QUESTION + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut question).await {
            Ok(received) => received,
            // An earlier answer could not be delivered; that is no fault of the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if let Some(answer) = answerer.answer_to(clock::now_us(), from, &question[..length]) {
            // A full socket loses answers, as the network does.
            let _lost = socket.try_send_to(&answer, from);
        }
    }
}

/// What decides on answers: a secret of this process, and nothing else.
pub struct Answerer(hmac::Key);

impl Answerer {
    /// With a new secret.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> io::Result<Answerer> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random);
        key.map(Answerer).map_err(|_| io::Error::other("the system has no randomness"))
    }

    /// The answer to a question from `from` at `now_us` microseconds; none to anything else.
    #[must_use]
    pub fn answer_to(
        &self,
        now_us: u64,
        from: SocketAddr,
        question: &[u8],
    ) -> Option<[u8; ANSWER]> {
        if question.len() != QUESTION || question[..4] != MAGIC || question[4] != ASK {
            return None;
        }
        let slot = now_us / SLOT_US;
        let shown = &question[16..16 + COOKIE];
        let good = [slot, slot.saturating_sub(1)]
            .into_iter()
            .any(|slot| subtle::ConstantTimeEq::ct_eq(&self.cookie(slot, from)[..], shown).into());
        let mut answer = [0; ANSWER];
        answer[..4].copy_from_slice(&MAGIC);
        answer[4] = if good { HAVE } else { PROVE };
        answer[8..16].copy_from_slice(&question[8..16]);
        answer[16..16 + COOKIE].copy_from_slice(&self.cookie(slot, from));
        Some(answer)
    }

    fn cookie(&self, slot: u64, from: SocketAddr) -> [u8; COOKIE] {
        let mut what = Vec::with_capacity(32);
        what.extend_from_slice(&slot.to_be_bytes());
        match from.ip() {
            IpAddr::V4(v4) => what.extend_from_slice(&v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => what.extend_from_slice(&v6.octets()),
        }
        what.extend_from_slice(&from.port().to_be_bytes());
        let tag = hmac::sign(&self.0, &what);
        let (cookie, _) = tag.as_ref().split_first_chunk().expect("a tag has 32 bytes");
        *cookie
    }
}

/// The least round trip of `count` questions, at most `patience`; none if nobody answers.
pub async fn measure(server: SocketAddr, count: u32, patience: Duration) -> Option<Duration> {
    let over_udp = tokio::time::timeout(patience, ask(server, count));
    match over_udp.await {
        Ok(Ok(Some(rtt))) => Some(rtt),
        Ok(Ok(None) | Err(_)) | Err(_) => connect(server, patience).await,
    }
}

/// How long a connection takes to be made.
async fn connect(server: SocketAddr, patience: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let connected = tokio::time::timeout(patience, TcpStream::connect(server)).await;
    connected.ok()?.ok().map(|_| begun.elapsed())
}

/// Asks; whoever answers "prove it" is asked again with what it gave. Waits for later answers no
/// longer than the first took, once more.
async fn ask(server: SocketAddr, count: u32) -> io::Result<Option<Duration>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| io::Error::other("no randomness"))?;
    let base = u64::from_be_bytes(seed);
    let mut asked: Vec<Instant> = Vec::new();
    let mut shown = [0; COOKIE];
    let mut best: Option<Duration> = None;
    let mut done_at: Option<tokio::time::Instant> = None;
    let mut next = tokio::time::Instant::now();
    let (mut answered, mut buffer) = (0, [0; ANSWER + 1]);
    // One more than wanted: the first is spent on the cookie, though its time counts, too.
    while answered <= count {
        let due = (asked.len() <= count as usize).then_some(next);
        let wake = match (due, done_at) {
            (Some(due), Some(done)) => due.min(done),
            (Some(due), None) => due,
            (None, Some(done)) => done,
            (None, None) => tokio::time::Instant::now() + Duration::from_secs(60),
        };
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let length = received?;
                let Some((number, cookie)) = read_answer(&buffer[..length], base, asked.len()) else {
                    continue;
                };
                shown = cookie;
                let rtt = asked[number].elapsed();
                best = Some(best.map_or(rtt, |best| best.min(rtt)));
                answered += 1;
                let now = tokio::time::Instant::now();
                done_at.get_or_insert(now + rtt + GAP * (count + 1));
            }
            () = tokio::time::sleep_until(wake) => {
                let now = tokio::time::Instant::now();
                if done_at.is_some_and(|done| now >= done) {
                    break;
                }
                if due.is_some_and(|due| now >= due) {
                    let number = base.wrapping_add(asked.len() as u64);
                    asked.push(Instant::now());
                    socket.send(&question(number, &shown)).await?;
                    next = now + GAP;
                }
            }
        }
    }
    Ok(best)
}

/// A question with a number, and the cookie that an earlier answer gave.
#[must_use]
pub fn question(number: u64, cookie: &[u8; COOKIE]) -> [u8; QUESTION] {
    let mut question = [0; QUESTION];
    question[..4].copy_from_slice(&MAGIC);
    question[4] = ASK;
    question[8..16].copy_from_slice(&number.to_be_bytes());
    question[16..16 + COOKIE].copy_from_slice(cookie);
    question
}

/// Which of `asked` questions, numbered from `base` on, this answers, and with what cookie.
#[must_use]
pub fn read_answer(answer: &[u8], base: u64, asked: usize) -> Option<(usize, [u8; COOKIE])> {
    if answer.len() != ANSWER || answer[..4] != MAGIC || !matches!(answer[4], HAVE | PROVE) {
        return None;
    }
    let number = u64::from_be_bytes(answer[8..16].try_into().ok()?).wrapping_sub(base);
    let number = usize::try_from(number).ok().filter(|number| *number < asked)?;
    Some((number, answer[16..16 + COOKIE].try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answerer() -> Answerer {
        Answerer(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]))
    }

    #[tokio::test]
    async fn a_server_is_measured_over_udp() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let server = tokio::spawn(answer(socket));
        let rtt = measure(at, 4, Duration::from_secs(2)).await.expect("it answers");
        assert!(rtt < Duration::from_millis(100), "{rtt:?}");
        server.abort();
    }

    #[tokio::test]
    async fn where_udp_does_not_pass_a_connection_is_timed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        assert!(measure(at, 4, Duration::from_millis(300)).await.is_some());
        drop(listener);
        assert_eq!(measure(at, 4, Duration::from_millis(300)).await, None);
    }

    #[test]
    fn no_answer_is_longer_than_its_question_and_garbage_gets_none() {
        const { assert!(ANSWER < QUESTION) };
        let from = ([192, 0, 2, 1], 9).into();
        let asked = question(5, &[0; COOKIE]);
        assert!(answerer().answer_to(0, from, &asked).is_some());
        for length in 0..QUESTION {
            assert_eq!(answerer().answer_to(0, from, &asked[..length]), None);
        }
        assert_eq!(answerer().answer_to(0, from, &[0; QUESTION]), None);
        // An answer is no question: two servers cannot be made to talk to each other.
        let mut answer = [0; QUESTION];
        answer[..ANSWER].copy_from_slice(&answerer().answer_to(0, from, &asked).unwrap());
        assert_eq!(answerer().answer_to(0, from, &answer), None);
    }

    #[test]
    fn a_cookie_is_of_one_address_and_ages() {
        let (from, other) = (([192, 0, 2, 1], 9).into(), ([192, 0, 2, 1], 10).into());
        let kind = |now, from, cookie: &[u8; COOKIE]| {
            answerer().answer_to(now, from, &question(5, cookie)).unwrap()[4]
        };
        let given = answerer().answer_to(0, from, &question(5, &[0; COOKIE])).unwrap();
        let given: [u8; COOKIE] = given[16..32].try_into().unwrap();
        assert_eq!(kind(0, from, &[0; COOKIE]), PROVE);
        assert_eq!(kind(SLOT_US, from, &given), HAVE);
        assert_eq!(kind(0, other, &given), PROVE);
        assert_eq!(kind(2 * SLOT_US, from, &given), PROVE);
    }
}
