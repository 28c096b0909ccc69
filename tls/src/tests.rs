//! Records against RFC 8448 and rustls, and streams that go over to other servers.
#![expect(clippy::print_stdout, reason = "the figures are what people look at")]

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore};
use stp_proto::replay::http;
use stp_proto::replay::https::Exchange;
use stp_proto::seam::{BLOCK, Seam};

use crate::alert::Alert;
use crate::certificate::{self, Certificates};
use crate::handshake::{Handshake, Step};
use crate::reader::{Came, Place, Reader};
use crate::record::{HEADER, Kind, Opener, PLAIN_MAX, Sealer};
use crate::secret::{Direction, Keys, Secret, Suite};
use crate::writer::{Desk, Standing, Ticket, Writer};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn direction(suite: Suite, byte: u8) -> Direction {
    let secret = Secret::new(suite, &vec![byte; suite.secret_length()]).unwrap();
    Direction { secret, number: 0 }
}

const SUITES: [Suite; 3] = [Suite::Aes128, Suite::Aes256, Suite::ChaCha20];

#[test]
fn the_data_of_rfc_8448_opens_and_is_sealed_alike() {
    // Section 3, "Simple 1-RTT Handshake": the client's secret, and the data that it sends.
    let secret = hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
    let record = hex("17030300 43a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b\
        9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4");
    let secret = Secret::new(Suite::Aes128, &secret).unwrap();
    let plain: Vec<u8> = (0..50).collect();
    let direction = Direction { secret, number: 0 };
    let mut copy = record.clone();
    let mut opener = Opener::new(direction.clone());
    assert_eq!(opener.open(&mut copy), Ok((Kind::Data, &plain[..])));
    assert_eq!(Sealer::new(direction).message(Kind::Data, &plain), record);
}

#[test]
fn what_is_not_a_record_is_told_apart() {
    for suite in SUITES {
        let whole = Sealer::new(direction(suite, 1)).message(Kind::Data, b"hello");
        for at in 0..whole.len() {
            let mut spoiled = whole.clone();
            spoiled[at] ^= 1;
            let mut reader = reader(suite);
            let (mut data, mut told) = (Vec::new(), Ok((0, Came::Nothing)));
            // A length that was altered waits for more, or cuts the record.
            spoiled.extend_from_slice(&[0; 600]);
            let mut rest = &spoiled[..];
            while let (Ok(_), false) = (told, rest.is_empty()) {
                told = reader.take(rest, &mut data);
                rest = &rest[told.map_or(0, |(taken, _)| taken)..];
            }
            assert!(data.is_empty(), "{suite:?}, byte {at}: {told:?}");
            assert!(told.is_err() || at == 3, "{suite:?}, byte {at}: {told:?}");
        }
    }
    // Nothing but zeros, and a plaintext that is too long.
    let mut sealer = Sealer::new(direction(Suite::Aes128, 1));
    let mut padded = vec![0; HEADER + 5];
    padded.extend_from_slice(&[23, 0, 0]);
    let mut opener = Opener::new(direction(Suite::Aes128, 1));
    let mut zeros = vec![0; HEADER];
    // The kind that is pushed last is data: take it off by a record of our own.
    sealer.seal(Kind::Data, &mut padded);
    let opened = opener.open(&mut padded).unwrap();
    assert_eq!(opened, (Kind::Data, &[0, 0, 0, 0, 0, 23, 0, 0][..]));
    zeros.extend_from_slice(&[7; PLAIN_MAX + 1]);
    sealer.seal(Kind::Data, &mut zeros);
    assert_eq!(opener.open(&mut zeros), Err(Alert::RecordOverflow));
}

fn reader(suite: Suite) -> Reader {
    Reader::new(Place { at: 0, skip: 0, direction: direction(suite, 1) }, 0)
}

#[test]
fn the_place_from_which_another_server_reads_on() {
    let mut app = Sealer::new(direction(Suite::Aes256, 1));
    let records: Vec<Vec<u8>> = vec![
        app.message(Kind::Data, b"one two"),
        app.message(Kind::Data, b""),
        app.message(Kind::Handshake, &[24, 0, 0, 1, 1]),
    ];
    app.change();
    let last = app.message(Kind::Data, b"three");
    let stream = [records.concat(), last].concat();
    for piece in [1, 7, 1000] {
        let (mut reader, mut data, mut asked) = (reader(Suite::Aes256), Vec::new(), 0);
        for bytes in stream.chunks(piece) {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (taken, came) = reader.take(rest, &mut data).unwrap();
                asked += u32::from(came == Came::Update { asked: true });
                rest = &rest[taken..];
            }
        }
        assert_eq!((&data[..], asked), (&b"one twothree"[..], 1));
        for covers in 0..=data.len() as u64 {
            let place = reader.place(covers);
            let mut rest = &stream[usize::try_from(place.at).unwrap()..];
            let (mut other, mut again) = (Reader::new(place, covers), Vec::new());
            while !rest.is_empty() {
                let (taken, _) = other.take(rest, &mut again).unwrap();
                rest = &rest[taken..];
            }
            assert_eq!(again, data[usize::try_from(covers).unwrap()..], "{covers}");
            assert_eq!(other.positions(), reader.positions());
        }
        reader.forget(7);
        assert_eq!(reader.place(7).skip, 0);
        assert!(reader.place(9).at > 0);
    }
}

/// An app whose records hold a byte each costs neither a mark for each nor another reading of all
/// of them; whoever reads on gets the right bytes and each change of keys as often as before.
#[test]
fn records_of_a_byte_cost_no_mark_each() {
    let mut app = Sealer::new(direction(Suite::Aes128, 1));
    let (mut reader, mut data, mut stream) = (reader(Suite::Aes128), Vec::new(), Vec::new());
    for number in 0..5_000_u32 {
        if number % 1_500 == 700 {
            stream.extend(app.message(Kind::Handshake, &[24, 0, 0, 1, 0]));
            app.change();
        }
        stream.extend(app.message(Kind::Data, &[number.to_le_bytes()[0]]));
    }
    let mut updates_before = Vec::new();
    let (mut rest, mut updates) = (&stream[..], 0);
    while !rest.is_empty() {
        let (taken, came) = reader.take(rest, &mut data).unwrap();
        rest = &rest[taken..];
        updates += u32::from(came != Came::Data);
        updates_before.resize(data.len(), updates);
    }
    assert!(reader.marks.len() <= 10, "{} marks", reader.marks.len());
    for covers in (0..data.len()).step_by(97) {
        let place = reader.place(covers as u64);
        assert!(place.skip < super::reader::MARK_EVERY);
        let mut rest = &stream[usize::try_from(place.at).unwrap()..];
        let (mut other, mut again) = (Reader::new(place, covers as u64), Vec::new());
        let mut updates_again = 0;
        while !rest.is_empty() {
            let (taken, came) = other.take(rest, &mut again).unwrap();
            rest = &rest[taken..];
            updates_again += u32::from(came != Came::Data);
        }
        assert!(again == data[covers..], "from {covers} on");
        assert_eq!(updates_again, updates - updates_before[covers]);
    }
}

#[test]
fn keys_are_never_changed_for_ever_and_nothing_follows_the_end() {
    let mut app = Sealer::new(direction(Suite::Aes128, 1));
    let (mut reader, mut data, mut last) = (reader(Suite::Aes128), Vec::new(), None);
    for _ in 0..33 {
        let record = app.message(Kind::Handshake, &[24, 0, 0, 1, 0]);
        app.change();
        last = Some(reader.take(&record, &mut data));
    }
    assert_eq!(last, Some(Err(Alert::UnexpectedMessage)));
    let mut app = Sealer::new(direction(Suite::Aes128, 1));
    let mut reader = self::reader(Suite::Aes128);
    let end = app.message(Kind::Alert, &[1, 0]);
    assert_eq!(reader.take(&end, &mut data), Ok((end.len(), Came::Closed)));
    let more = app.message(Kind::Data, b"more");
    assert_eq!(reader.take(&more, &mut data), Ok((more.len(), Came::Nothing)));
    assert!(data.is_empty());
}

#[test]
fn keys_come_back_from_bytes_and_are_not_shown() {
    for suite in SUITES {
        let (mut down, up) = (direction(suite, 0xab), direction(suite, 2));
        down.number = 77;
        let keys = Keys { down, up };
        let bytes = keys.to_bytes();
        assert_eq!(Keys::from_bytes(&bytes), Some(keys.clone()));
        assert!(Keys::from_bytes(&bytes[1..]).is_none());
        assert!(!format!("{keys:?}").contains("171"), "{keys:?}");
    }
}

/// A response whose head begins at 0, and how it is told.
fn response(length: usize) -> (http::Exchange, Vec<u8>, u64) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    let body = (0..length).map(|at| (at ^ (at >> 8)) as u8);
    let plain: Vec<u8> = head.iter().copied().chain(body).collect();
    let http = http::Exchange::Response {
        request: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        response: head.clone(),
        head_at: 0,
        shortened: false,
        chunks: None,
    };
    (http, plain, head.len() as u64)
}

/// What a broker keeps: the newest ticket, and the digest of the stream behind it.
struct Broker {
    tickets: Vec<Ticket>,
    held: Option<(u64, Box<Exchange>)>,
    seam: Seam,
    stream: Vec<u8>,
}

impl Broker {
    fn new() -> Self {
        let seam = Seam::new(0, BLOCK);
        Self { tickets: Vec::new(), held: None, seam, stream: Vec::new() }
    }

    /// Tickets come before the bytes at their places.
    fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(1) {
            self.look();
            self.seam.update(self.stream.len() as u64, byte);
            self.stream.extend_from_slice(byte);
        }
        self.look();
    }

    fn look(&mut self) {
        let at = self.stream.len() as u64;
        while self.tickets.first().is_some_and(|ticket| ticket.at <= at) {
            let ticket = self.tickets.remove(0);
            self.seam = Seam::new(ticket.at, BLOCK);
            self.held = Some((ticket.at, ticket.exchange.expect("it can be continued")));
        }
    }
}

/// Every record that any server has sealed, whether anybody received it or not, by secret and
/// number: two of the same lie under one key stream.
#[derive(Default)]
struct Ledger {
    sealed: HashMap<(Vec<u8>, u64), Vec<u8>>,
    /// Those that the broker has, whole.
    received: HashMap<(Vec<u8>, u64), Vec<u8>>,
    records: u64,
    /// Records that died with their links, and were sealed again with something else.
    again: u64,
}

impl Ledger {
    /// Takes down what is in a server's whole stream, from the first server's first byte on, of
    /// which the broker has so much.
    fn enter(&mut self, suite: Suite, stream: &[u8], arrived: usize) {
        let (mut opener, mut rest) = (Opener::new(direction(suite, 1)), stream);
        while let Ok(Some(length)) = crate::record::length(rest) {
            let Some((record, more)) = rest.split_at_checked(length) else { break };
            rest = more;
            let Direction { secret, number } = opener.direction().clone();
            let key = (secret.bytes().to_vec(), number);
            if let Some(before) = self.received.get(&key) {
                assert!(before == record, "sealed again, and the broker has it: {number}");
            }
            if stream.len() - rest.len() <= arrived {
                self.received.insert(key.clone(), record.to_vec());
            }
            self.records += 1;
            let before = self.sealed.insert(key, record.to_vec());
            self.again += u64::from(before.is_some_and(|before| before != record));
            let mut record = record.to_vec();
            let (kind, _) = opener.open(&mut record).unwrap();
            if kind == Kind::Handshake {
                opener.change();
            }
        }
    }
}

/// A server at work: what it does next is drawn.
struct Server {
    writer: Writer,
    /// How far in the plaintext it is.
    at: usize,
    closed: bool,
    /// The stream as it is with what this server has made.
    stream: Vec<u8>,
}

/// The response that all servers make.
struct Told {
    suite: Suite,
    http: http::Exchange,
    plain: Vec<u8>,
    body_at: u64,
}

impl Server {
    /// Says whether the response is over.
    fn step(
        &mut self,
        random: &mut fastrand::Rng,
        told: &Told,
        (tickets, now): (&mut Vec<Ticket>, u64),
    ) -> bool {
        let up = Place { at: 0, skip: 0, direction: direction(told.suite, 2) };
        let idle = Reader::new(up, 0);
        let mut issue = |ticket| {
            tickets.push(ticket);
            true
        };
        let mut desk = Desk { reader: &idle, issue: &mut issue, now };
        let (writer, at) = (&mut self.writer, self.at);
        let standing = || {
            let (http, from) = (told.http.clone(), told.body_at);
            Standing { at: at as u64, covers: 0, from, http }
        };
        if at == 0 && writer.standing().is_none() {
            assert!(writer.stand(&mut desk, standing()));
        }
        match random.u8(..10) {
            0 => writer.flush(&mut desk),
            1 if at as u64 >= told.body_at && !self.closed => {
                assert!(writer.stand(&mut desk, standing()));
            }
            2 => writer.want_update(),
            _ => {
                let most = random.usize(..60_000).min(told.plain.len() - at);
                let part = &told.plain[at..at + most];
                let filled = writer.fill(&mut desk, &mut |slices| Ok(http::copy(part, slices)));
                self.at += filled.unwrap();
            }
        }
        let over = self.at == told.plain.len();
        if over && !std::mem::replace(&mut self.closed, true) {
            self.writer.complete(&mut desk);
            self.writer.close(&mut desk);
        }
        over
    }

    /// What it has made since the last time.
    fn made(&mut self) -> Vec<u8> {
        let mut room = vec![0; self.writer.made()];
        let made = self.writer.copy(&mut [IoSliceMut::new(&mut room)]);
        room.truncate(made);
        self.stream.extend_from_slice(&room);
        room
    }
}

/// One server after the other makes one response; each dies somewhere in it, or falls silent and
/// goes on for nobody. What an app gets is the response, whatever was cut, flushed, asked for and
/// lost.
fn one_response(
    random: &mut fastrand::Rng,
    length: usize,
    suite: Suite,
    ledger: &mut Ledger,
) -> u32 {
    let (http, plain, body_at) = response(length);
    let told = Told { suite, http, plain, body_at };
    let mut broker = Broker::new();
    let writer = Writer::new(direction(suite, 1), 0);
    let mut server = Server { writer, at: 0, closed: false, stream: Vec::new() };
    let (mut now, mut takeovers) = (1_000, 0);
    loop {
        let mut tickets = Vec::new();
        let over = server.step(random, &told, (&mut tickets, now));
        broker.tickets.append(&mut tickets);
        let room = server.made();
        // Only part of it arrives, and then the server dies.
        let dies = random.u8(..4) == 0 && takeovers < 40;
        let arrives = if dies { random.usize(..=room.len()) } else { room.len() };
        broker.receive(&room[..arrives]);
        if over && !dies {
            break;
        }
        // Whatever was sealed for nobody: what the broker has was sealed once.
        assert!(server.stream.starts_with(&broker.stream));
        if !dies {
            continue;
        }
        let silent = if random.bool() { random.u8(..6) } else { 0 };
        for _ in 0..silent {
            now += random.u64(..4);
            server.step(random, &told, (&mut Vec::new(), now));
            server.made();
        }
        ledger.enter(suite, &server.stream, broker.stream.len());
        if broker.held.is_none() {
            return 0;
        }
        now += random.u64(..40);
        takeovers += 1;
        let (writer, at, closed) = take_over(&mut broker, &told.plain, body_at, now);
        server = Server { writer, at, closed, stream: broker.stream.clone() };
        assert_eq!(server.writer.is_joined(), Ok(true));
    }
    ledger.enter(suite, &server.stream, broker.stream.len());
    let (got, _) = app(suite, &broker.stream);
    assert!(got == told.plain);
    takeovers
}

/// What an app makes of a stream, and how often keys were changed in it.
fn app(suite: Suite, stream: &[u8]) -> (Vec<u8>, usize) {
    let mut opener = Opener::new(direction(suite, 1));
    let (mut rest, mut got, mut changes, mut ended) = (stream, Vec::new(), 0, false);
    while let Ok(Some(length)) = crate::record::length(rest) {
        let mut record = rest[..length].to_vec();
        rest = &rest[length..];
        let opened = opener.open(&mut record).unwrap();
        assert!(!ended, "after the last word: {opened:?}");
        match opened {
            (Kind::Data, data) => got.extend_from_slice(data),
            (Kind::Handshake, [24, 0, 0, 1, 0]) => {
                opener.change();
                changes += 1;
            }
            (Kind::Alert, [1, 0]) => ended = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(rest.is_empty(), "whole records");
    (got, changes)
}

/// R96: a server that may still send has the same keys for 5 s, then other ones, and those stay.
#[test]
fn a_server_that_has_taken_over_changes_keys_when_it_sends_alone() {
    let suite = Suite::Aes128;
    let (http, plain, body_at) = response(400_000);
    let mut broker = Broker::new();
    let idle = reader(suite);
    let mut writer = Writer::new(direction(suite, 1), 0);
    let mut stands = Some(Standing { at: 0, covers: 0, from: body_at, http });
    let (mut at, mut seen) = (0, Vec::new());
    let mut send = |writer: &mut Writer, broker: &mut Broker, at: &mut usize, now| {
        let mut tickets = Vec::new();
        let mut issue = |ticket| {
            tickets.push(ticket);
            true
        };
        let mut desk = Desk { reader: &idle, issue: &mut issue, now };
        if let Some(standing) = stands.take() {
            assert!(writer.stand(&mut desk, standing));
        }
        writer.write(&mut desk, &plain[*at..*at + 50_000]);
        writer.flush(&mut desk);
        *at += 50_000;
        broker.tickets.append(&mut tickets);
        let mut room = vec![0; writer.made()];
        let made = writer.copy(&mut [IoSliceMut::new(&mut room)]);
        broker.receive(&room[..made]);
        let (got, changes) = app(suite, &broker.stream);
        assert!(got == plain[..*at]);
        changes
    };
    seen.push(send(&mut writer, &mut broker, &mut at, 1_000));
    (writer, at, _) = take_over(&mut broker, &plain, body_at, 1_000);
    for now in [1_001, 1_004, 1_005, 1_019, 1_060] {
        seen.push(send(&mut writer, &mut broker, &mut at, now));
    }
    assert_eq!(seen, [0, 0, 0, 1, 1, 1]);
}

/// What another server does with what the broker has; how far in the plaintext it is then, and
/// whether it has said the last word.
fn take_over(broker: &mut Broker, plain: &[u8], body_at: u64, now: u64) -> (Writer, usize, bool) {
    broker.tickets.clear();
    let (down, exchange) = broker.held.clone().unwrap();
    let text = serde_json::to_string(&*exchange).unwrap();
    let exchange: Exchange = serde_json::from_str(&text).unwrap();
    let keys = Keys::from_bytes(exchange.keys.bytes()).unwrap();
    let mut seam = Seam::new(body_at, BLOCK);
    let begin = usize::try_from(exchange.plain).unwrap();
    seam.update(0, &plain[..begin]);
    assert_eq!(exchange.proof(), (exchange.plain > body_at).then(|| seam.proof()));
    let proof = broker.seam.proof();
    let (have, tickets) = (proof.until, &mut broker.tickets);
    let mut writer = Writer::resume(&exchange, keys.down, (down, Some(proof)), Some(seam), now);
    let idle = Reader::new(Place { at: 0, skip: 0, direction: keys.up }, 0);
    let mut issue = |ticket: Ticket| {
        assert!(ticket.at >= have, "while it is compared: {ticket:?}");
        tickets.push(ticket);
        true
    };
    let mut desk = Desk { reader: &idle, issue: &mut issue, now };
    let mut at = begin;
    while !writer.is_joined().unwrap() {
        let next = plain.len().min(at + 1_000);
        writer.write(&mut desk, &plain[at..next]);
        if at == next {
            writer.complete(&mut desk);
            if !writer.is_joined().unwrap() {
                writer.close(&mut desk);
                return (writer, at, true);
            }
        }
        at = next;
    }
    (writer, at, false)
}

/// R95. Nobody lays a key stream again over what the broker has, whoever seals, dies, or is only
/// silent.
#[test]
fn whoever_goes_on_makes_the_same_stream() {
    let wanted = std::env::var("STP_TAKEOVERS").map_or(500, |count| count.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let (mut takeovers, mut ledger) = (0, Ledger::default());
    while takeovers < wanted {
        let length = [0, 1, 100, 16_300, 40_000, 150_000][random.usize(..6)];
        let suite = SUITES[random.usize(..3)];
        // Each response is a connection of its own, with secrets that only the test repeats.
        (ledger.sealed, ledger.received) = Default::default();
        takeovers += one_response(&mut random, length, suite, &mut ledger);
    }
    let Ledger { records, again, .. } = ledger;
    assert!(again > 0, "some records were lost and sealed again");
    println!("{takeovers} takeovers, {records} records sealed, {again} again after they were lost");
}

#[test]
fn another_plaintext_is_refused() {
    let (http, plain, body_at) = response(100_000);
    let mut broker = Broker::new();
    let idle = reader(Suite::Aes128);
    let mut writer = Writer::new(direction(Suite::Aes128, 1), 0);
    let mut tickets = Vec::new();
    let mut issue = |ticket| {
        tickets.push(ticket);
        true
    };
    let mut desk = Desk { reader: &idle, issue: &mut issue, now: 0 };
    assert!(writer.stand(&mut desk, Standing { at: 0, covers: 0, from: body_at, http }));
    writer.write(&mut desk, &plain);
    broker.tickets = tickets;
    let mut room = vec![0; writer.made()];
    let made = writer.copy(&mut [IoSliceMut::new(&mut room)]);
    broker.receive(&room[..made - 5_000]);
    let (at, exchange) = broker.held.clone().unwrap();
    let keys = Keys::from_bytes(exchange.keys.bytes()).unwrap();
    let mut issue = |_| true;
    let mut desk = Desk { reader: &idle, issue: &mut issue, now: 0 };
    let begin = usize::try_from(exchange.plain).unwrap();
    for (differs, right) in [(None, true), (Some(begin + 3), false)] {
        let mut plain = plain.clone();
        if let Some(at) = differs {
            plain[at] ^= 1;
        }
        let (proof, mut seam) = (broker.seam.proof(), Seam::new(body_at, BLOCK));
        seam.update(0, &plain[..begin]);
        let down = keys.down.clone();
        let mut writer = Writer::resume(&exchange, down, (at, Some(proof)), Some(seam), 0);
        writer.write(&mut desk, &plain[begin..]);
        assert_eq!(writer.is_joined().is_ok(), right);
    }
}

/// A certificate of this name, made by openssl, and its key.
fn made(dir: &Path, name: &str, days: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    // Without openssl's own configuration, whose certificates are those of an authority.
    let config = dir.join("req.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = dn\n[dn]\n").unwrap();
    let mut command = Command::new("openssl");
    command.args(["req", "-config"]).arg(config).args([
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    command.args(["-nodes", "-days", days, "-subj", &format!("/CN={name}"), "-addext"]);
    command.arg(format!("subjectAltName=DNS:{name}")).arg("-keyout").arg(&key);
    let made = command.arg("-out").arg(&certificate).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

#[test]
fn a_handshake_with_rustls_and_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = vec![made(dir.path(), "a.example", "30"), made(dir.path(), "b.example", "30")];
    let mut roots = RootCertStore::empty();
    for (certificate, _) in &pairs {
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    }
    let certificates = Arc::new(Certificates::load(pairs).unwrap());
    let config = certificate::config(&certificates);
    for (name, right) in [("a.example", true), ("b.example", true), ("c.example", false)] {
        let mut client = ClientConfig::builder_with_provider(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let server = ServerName::try_from(name).unwrap();
        let mut tls = UnbufferedClientConnection::new(Arc::new(client), server).unwrap();
        let mut handshake = Handshake::new(&config).unwrap();
        let shaken = shake(&mut tls, &mut handshake);
        assert_eq!(shaken.is_ok(), right, "{name}: {:?}", shaken.err());
        let Ok(keys) = shaken else { continue };
        assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut sealer = Sealer::new(keys.down);
        let mut stream = sealer.message(Kind::Data, b"hello ");
        stream.extend(sealer.message(Kind::Handshake, &[24, 0, 0, 1, 0]));
        sealer.change();
        stream.extend(sealer.message(Kind::Data, b"again"));
        assert_eq!(told(&mut tls, stream), b"hello again");
    }
}

fn shake(tls: &mut UnbufferedClientConnection, handshake: &mut Handshake) -> Result<Keys, String> {
    let mut inbox = Vec::new();
    loop {
        let mut out = Vec::new();
        let UnbufferedStatus { discard, state } = tls.process_tls_records(&mut inbox);
        match state.map_err(|error| error.to_string())? {
            ConnectionState::EncodeTlsData(mut data) => {
                out.resize(20_000, 0);
                let length = data.encode(&mut out).unwrap();
                out.truncate(length);
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::BlockedHandshake => {
                return Err("the server says nothing more".to_owned());
            }
            _ => return Err("it ends too soon".to_owned()),
        }
        inbox.drain(..discard);
        let mut rest = &out[..];
        while !rest.is_empty() {
            let (taken, step) = handshake.take(rest).map_err(|error| error.to_string())?;
            rest = &rest[taken..];
            if let Step::Done(keys) = step {
                assert!(rest.is_empty());
                return Ok(*keys);
            }
        }
        inbox.extend(handshake.take_out());
    }
}

fn told(tls: &mut UnbufferedClientConnection, mut stream: Vec<u8>) -> Vec<u8> {
    let mut got = Vec::new();
    while !stream.is_empty() {
        let UnbufferedStatus { mut discard, state } = tls.process_tls_records(&mut stream);
        match state.unwrap() {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.unwrap();
                    discard += record.discard;
                    got.extend_from_slice(record.payload);
                }
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(_) => break,
            other => panic!("{other:?}"),
        }
        stream.drain(..discard);
    }
    got
}

#[test]
fn a_changed_file_is_read_again_and_a_bad_one_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = made(dir.path(), "a.example", "3");
    let pairs = vec![(certificate.clone(), key.clone())];
    let certificates = Certificates::load(pairs).unwrap();
    let now = std::time::SystemTime::now();
    let soon = now + std::time::Duration::from_secs(3_600);
    assert_eq!(certificates.warning(soon).unwrap(), "a certificate expires in 2 days");
    let later = now + std::time::Duration::from_secs(4 * 24 * 3600);
    assert_eq!(certificates.warning(later).unwrap(), "a certificate has expired");
    let (other, other_key) = made(dir.path(), "b.example", "90");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    std::fs::copy(&other, &certificate).unwrap();
    let warning = certificates.warning(now).unwrap();
    assert!(warning.contains("a.example.key: this is not the key of"), "{warning}");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    std::fs::copy(&other_key, &key).unwrap();
    assert_eq!(certificates.warning(now), None);
    for (certificate, key, what) in [
        (&key, &key, "there is no certificate in it"),
        (&certificate, &certificate, "there is nothing of that kind in it"),
        (&dir.path().join("none"), &key, "No such file"),
    ] {
        let error = Certificates::load(vec![(certificate.clone(), key.clone())]).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}
