//! Echo over UDP, on the port of a server's links: how far is it, now (STP 3, 9)?
//!
//! A question is 64 bytes. An address that asks without a cookie gets one, 64 bytes, with a MAC
//! over his address and the time under a key that only this process has; so only an address that
//! receives what is sent to it is ever answered in full. No answer is longer than its question, and
//! the work is one hash, so the port is of no use to anybody who forges addresses. Answers repeat
//! the question's 64 random bits: a host that cannot see the question cannot answer it.
//!
//! A question may name, by its key, another server to which this one relays (PROTOCOL.md R82): the
//! full answer then says how far it is from here to there.
//!
//! A full answer also says what time it is there, which version runs there and which cluster keys
//! it has, by public ids. That is a stranger's word, and good for a warning only.
//!
//! Where UDP does not pass, the time of a TCP connection says the same.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use socket2::SockRef;
use tokio::net::{TcpSocket, UdpSocket};

use crate::clock;
use crate::key::PublicKey;

const MAGIC: [u8; 4] = *b"STPE";
const QUESTION: usize = 64;
const ANSWER: usize = 64;
const COOKIE: usize = 16;
const ASK: u8 = 1;
const HAVE: u8 = 2;
const PROVE: u8 = 3;
/// A cookie is good for one to two of these.
const SLOT_US: u64 = 60_000_000;
/// Between the questions of one measurement.
const GAP: Duration = Duration::from_millis(8);

/// Where the milliseconds since 1970 stand in a full answer.
const CLOCK: usize = 40;

/// Where the version stands in a full answer, a byte for each number.
const VERSION: usize = 5;

/// Where the ids of the cluster keys stand in a full answer, 4 bytes each.
const KEY_IDS: usize = 48;

/// Where the key of the other server stands in a question, and in an answer the microseconds.
const ONWARD: usize = 32;

/// Answers for ever. `onward` says how far it is from here to another server, by its key; `told`
/// what this server says of itself.
///
/// # Errors
/// When the socket cannot be used any more.
pub async fn answer(
    socket: UdpSocket,
    onward: impl Fn(&PublicKey) -> Option<Duration>,
    told: impl Fn() -> Told,
) -> io::Result<()> {
    let answerer = Answerer::new()?;
    let mut question = [0; QUESTION + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut question).await {
            Ok(received) => received,
            // An earlier answer could not be delivered; that is no fault of the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let question = &question[..length];
        if let Some(mut answer) = answerer.answer_to(clock::now_us(), from, question) {
            put_onward(question, &mut answer, &onward);
            if answer[4] == HAVE {
                answer[CLOCK..KEY_IDS].copy_from_slice(&unix_ms().to_be_bytes());
                put_told(&told(), &mut answer);
            }
            // A full socket loses answers, as the network does.
            let _lost = socket.try_send_to(&answer, from);
        }
    }
}

/// Adds to a full answer how far it is to the server that the question names.
fn put_onward(
    question: &[u8],
    answer: &mut [u8; ANSWER],
    onward: impl Fn(&PublicKey) -> Option<Duration>,
) {
    let named = question.get(ONWARD..QUESTION).and_then(|key| key.try_into().ok()).map(PublicKey);
    let named = named.filter(|key| answer[4] == HAVE && key.0 != [0; 32]);
    if let Some(far) = named.and_then(|key| onward(&key)) {
        // Nobody is farther than an hour, or at no distance.
        let micros = u32::try_from(far.as_micros()).unwrap_or(u32::MAX).max(1);
        answer[ONWARD..ONWARD + 4].copy_from_slice(&micros.to_be_bytes());
    }
}

fn put_told(told: &Told, answer: &mut [u8; ANSWER]) {
    answer[VERSION..VERSION + 3].copy_from_slice(&told.version);
    for (place, id) in answer[KEY_IDS..].chunks_exact_mut(4).zip(told.keys) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// What a full answer says of the server.
fn read_told(answer: &[u8]) -> Option<Told> {
    let answer: &[u8; ANSWER] = answer.try_into().ok()?;
    let version = answer[VERSION..VERSION + 3].try_into().ok()?;
    let mut ids = answer[KEY_IDS..]
        .chunks_exact(4)
        .map(|id| u32::from_be_bytes(id.try_into().expect("chunks of four")));
    let keys = std::array::from_fn(|_| ids.next().unwrap_or_default());
    (answer[4] == HAVE).then_some(Told { version, keys })
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// By how many milliseconds the clock there is ahead of ours, if the answer says so.
fn read_clock(answer: &[u8], rtt: Duration) -> Option<i64> {
    let there = u64::from_be_bytes(answer.get(CLOCK..KEY_IDS)?.try_into().ok()?);
    let half = u64::try_from(rtt.as_millis() / 2).ok()?;
    let ahead = there.checked_add(half)?.checked_signed_diff(unix_ms())?;
    (there > 0).then_some(ahead)
}

fn read_about(answer: &[u8], rtt: Duration) -> Option<About> {
    Some(About { ahead_ms: read_clock(answer, rtt)?, told: read_told(answer)? })
}

/// How far a server says it is from there to the one named.
fn read_onward(answer: &[u8]) -> Option<Duration> {
    let micros = u32::from_be_bytes(answer.get(ONWARD..ONWARD + 4)?.try_into().ok()?);
    (micros > 0).then(|| Duration::from_micros(micros.into()))
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

/// The least round trip of `count` questions, at most `patience`; none if nobody answers. They
/// leave over the interface `device`, if there is one.
pub async fn measure(
    server: SocketAddr,
    count: u32,
    patience: Duration,
    device: Option<&str>,
) -> Option<Duration> {
    let over_udp = async {
        let answered = tokio::time::timeout(patience, ask(server, None, count, device)).await;
        answered.ok()?.ok()?.map(|heard| heard.rtt)
    };
    // Not one after the other: there may be no time for that.
    let over_tcp = async {
        tokio::time::sleep(patience / 4).await;
        connect(server, patience * 3 / 4, device).await
    };
    let (mut over_udp, mut over_tcp) = (pin!(over_udp), pin!(over_tcp));
    tokio::select! {
        rtt = &mut over_udp => match rtt {
            Some(rtt) => Some(rtt),
            None => over_tcp.await,
        },
        rtt = &mut over_tcp => match rtt {
            Some(rtt) => Some(rtt),
            None => over_udp.await,
        },
    }
}

/// The same to `home` through `relay`: the way to the relay, measured, and the way from there,
/// which the relay tells. None if it does not answer, or does not relay to that server now.
pub async fn measure_through(
    relay: SocketAddr,
    home: &PublicKey,
    count: u32,
    patience: Duration,
) -> Option<Duration> {
    let asked = tokio::time::timeout(patience, ask(relay, Some(home), count, None)).await;
    let heard = asked.ok()?.ok()??;
    Some(heard.rtt + heard.onward?)
}

/// What a server says of itself to whoever asks. Nothing of it is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// The first three numbers of its version.
    pub version: [u8; 3],
    /// Public ids of its cluster keys, 0 for none.
    pub keys: [u32; 3],
}

/// What is known of a server that has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// By how many milliseconds its clock is ahead of ours.
    pub ahead_ms: i64,
    /// Its version and its cluster keys.
    pub told: Told,
}

/// Asks a server what it says of itself; none if it does not say so in time.
pub async fn about(server: SocketAddr, patience: Duration) -> Option<About> {
    // The first question brings the cookie.
    let asked = tokio::time::timeout(patience, ask(server, None, 2, None)).await;
    asked.ok()?.ok()??.about
}

/// How long a connection takes to be made.
async fn connect(server: SocketAddr, patience: Duration, device: Option<&str>) -> Option<Duration> {
    let begun = Instant::now();
    let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
    leave_over(device, &socket, server).ok()?;
    let connected = tokio::time::timeout(patience, socket.connect(server)).await;
    connected.ok()?.ok().map(|_| begun.elapsed())
}

/// What a socket sends leaves over this interface; this machine is reached all the same.
fn leave_over<S: AsFd>(device: Option<&str>, socket: &S, to: SocketAddr) -> io::Result<()> {
    let device = device.filter(|_| !to.ip().is_loopback());
    device.map_or(Ok(()), |device| SockRef::from(socket).bind_device(Some(device.as_bytes())))
}

/// What answers said.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// The least round trip.
    rtt: Duration,
    /// How far it is from there to the server named.
    onward: Option<Duration>,
    /// What it says of itself.
    about: Option<About>,
}

/// Asks; whoever answers "prove it" is asked again with what it gave. Waits for later answers no
/// longer than the first took, once more.
async fn ask(
    server: SocketAddr,
    home: Option<&PublicKey>,
    count: u32,
    device: Option<&str>,
) -> io::Result<Option<Heard>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    leave_over(device, &socket, server)?;
    socket.connect(server).await?;
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| io::Error::other("no randomness"))?;
    let base = u64::from_be_bytes(seed);
    let mut asked: Vec<Instant> = Vec::new();
    let mut shown = [0; COOKIE];
    let mut best: Option<Duration> = None;
    let (mut onward, mut about) = (None, None);
    let mut done_at: Option<tokio::time::Instant> = None;
    let mut next = tokio::time::Instant::now();
    let (mut answered, mut buffer) = (0, [0; ANSWER + 1]);
    // One more than wanted: the first is spent on the cookie, though its time counts, too. How far
    // it is from there is told only to a host that shows the cookie, with the next two questions.
    let mut proofs = if home.is_some() { 2 } else { 0 };
    while answered <= count || (home.is_some() && onward.is_none()) {
        let may_prove = proofs > 0 && shown != [0; COOKIE];
        let due = (asked.len() <= count as usize || may_prove).then_some(next);
        let wake = match (due, done_at) {
            (Some(due), Some(done)) => due.min(done),
            (Some(due), None) => due,
            (None, Some(done)) => done,
            (None, None) => tokio::time::Instant::now() + Duration::from_secs(60),
        };
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let length = received?;
                let answer = read_answer(&buffer[..length], base, asked.len());
                let Some((number, cookie)) = answer else { continue };
                shown = cookie;
                onward = read_onward(&buffer[..length]).or(onward);
                let rtt = asked[number].elapsed();
                about = read_about(&buffer[..length], rtt).or(about);
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
                    proofs -= u32::from(may_prove);
                    let mut question = question(number, &shown);
                    if let Some(home) = home {
                        question[ONWARD..].copy_from_slice(&home.0);
                    }
                    socket.send(&question).await?;
                    next = now + GAP;
                }
            }
        }
    }
    Ok(best.map(|rtt| Heard { rtt, onward, about }))
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
        let (there, elsewhere) = (PublicKey([3; 32]), PublicKey([4; 32]));
        let far = Duration::from_millis(700);
        let told = Told { version: [1, 2, 3], keys: [7, 8, 0] };
        let server =
            tokio::spawn(answer(socket, move |key| (*key == there).then_some(far), move || told));
        let rtt = measure(at, 4, Duration::from_secs(2), None).await.expect("it answers");
        assert!(rtt < Duration::from_millis(100), "{rtt:?}");
        let patience = Duration::from_secs(2);
        let through = measure_through(at, &there, 4, patience).await.expect("it relays there");
        assert!((far..far + Duration::from_millis(100)).contains(&through), "{through:?}");
        assert_eq!(measure_through(at, &elsewhere, 4, patience).await, None);
        let about = about(at, patience).await.expect("it says what it is");
        assert!(about.ahead_ms.abs() < 1_000, "it is this machine's clock: {about:?}");
        assert_eq!(about.told, told);
        server.abort();
    }

    /// Passes datagrams on, 60 ms later: longer than all questions take to be sent.
    async fn far(to: SocketAddr) -> SocketAddr {
        let near = std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let onward = std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        onward.connect(to).await.unwrap();
        let at = near.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut up, mut down, mut from) = ([0; 128], [0; 128], at);
            loop {
                tokio::select! {
                    Ok((length, asker)) = near.recv_from(&mut up) => {
                        from = asker;
                        let (onward, asked) = (onward.clone(), up[..length].to_vec());
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(60)).await;
                            onward.send(&asked).await
                        });
                    }
                    Ok(length) = onward.recv(&mut down) => {
                        near.send_to(&down[..length], from).await.unwrap();
                    }
                }
            }
        });
        at
    }

    /// R82.
    #[tokio::test]
    async fn a_relay_that_is_far_tells_its_way_too() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = far(socket.local_addr().unwrap()).await;
        let (home, onward) = (PublicKey([3; 32]), Duration::from_millis(700));
        let told = Told::default();
        let server =
            tokio::spawn(answer(socket, move |key| (*key == home).then_some(onward), move || told));
        let through = measure_through(at, &home, 4, Duration::from_secs(2)).await;
        assert!(through.expect("it relays there") >= onward + Duration::from_millis(60));
        server.abort();
    }

    #[tokio::test]
    async fn where_udp_does_not_pass_a_connection_is_timed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        assert!(measure(at, 4, Duration::from_millis(300), None).await.is_some());
        drop(listener);
        assert_eq!(measure(at, 4, Duration::from_millis(300), None).await, None);
    }

    #[test]
    fn no_answer_is_longer_than_its_question_and_garbage_gets_none() {
        const { assert!(ANSWER <= QUESTION) };
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
