//! Kinds of responses of real servers, each with each fault: the server of Session is killed, falls
//! silent, or is drained; the HTTP server gives up an app that reads nothing, or is reloaded while
//! it serves (`worker_shutdown_timeout` of nginx).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stp_tests::loopback::Running;

use crate::bed::{Bed, code, until};
use crate::real::{WITH_WORKERS, folder, serve};

const LONG: Duration = Duration::from_secs(90);
/// More than the buffers on the way hold, so that a fault meets responses that are under way.
const SIZE: usize = 60_000_000;

/// What curl is told for a kind of response, and what parts of the file it then gets: from one byte
/// up to another.
type Kind = (&'static str, &'static [&'static str], &'static [(usize, usize)]);

const LENGTH: Kind = ("length", &[], &[(0, SIZE)]);
const RANGE: Kind = ("range", &["-r", "1000-54999999"], &[(1_000, 55_000_000)]);
/// Ranges that touch, or are out of order, are put together by some servers.
const RANGES: Kind = (
    "ranges",
    &["-r", "0-9,5000-48999999,50000000-54999999"],
    &[(0, 10), (5_000, 49_000_000), (50_000_000, 55_000_000)],
);
const CHUNKS: Kind = ("chunks", &["--compressed"], &[(0, SIZE)]);
const CLOSE: Kind = ("close", &["--compressed", "--http1.0"], &[(0, SIZE)]);

/// HTTP servers before which Session's servers are, and the kinds of responses that both give.
type Pair = ([&'static str; 2], &'static [Kind]);

/// What a server compresses, another one does not compress to the same bytes.
const PAIRS: [Pair; 7] = [
    (["nginx", "nginx"], &[CHUNKS, CLOSE, LENGTH, RANGE, RANGES]),
    (["nginx", "apache2"], &[LENGTH, RANGE, RANGES]),
    (["apache2", "lighttpd"], &[LENGTH, RANGE, RANGES]),
    (["lighttpd", "nginx"], &[LENGTH, RANGE, RANGES]),
    (["apache2", "apache2"], &[CHUNKS, CLOSE]),
    (["python3", "lighttpd"], &[LENGTH]),
    (["lighttpd", "python3"], &[LENGTH]),
];

/// The processes of some downloads.
struct Beset<'a> {
    bed: &'a mut Bed,
    /// Which server the sessions are at.
    place: usize,
    /// The processes of the HTTP servers.
    daemons: [u32; 2],
}

/// Which nginx is asked for the rest of the response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Other,
    Same,
}

/// Begins a download of each kind, does something to them in their middle, and sees them end well.
fn beset((names, kinds): &Pair, asked: Asked, fault: impl Fn(&mut Beset<'_>)) {
    let limits = "[limits]\nsend_buffer = \"1MiB\"\n";
    let mut bed =
        Bed::with(&[], |_, port| format!("kind = \"http\"\nto = \"127.0.0.1:{port}\"\n{limits}"));
    // Not to be compressed: what is packed is as long.
    let mut file = vec![0; SIZE];
    fastrand::Rng::with_seed(30).fill(&mut file);
    let roots = [folder(&bed, "r1", &file), folder(&bed, "r2", &file)];
    let daemons = [0, 1].map(|place| serve(names[place], &bed, &roots[place], bed.ports[place]));
    let (mut curls, mut pids) = (Vec::new(), Vec::new());
    for (kind, told, _) in *kinds {
        let more = [&["--limit-rate", "5M"][..], told].concat();
        let curl = bed.curl(&format!("/f?{kind}"), kind, &more);
        until("some of it", || (bed.got(kind).len() > SIZE / 40).then_some(()));
        // It reads on when all have begun.
        let pid = Pid::from_raw(i32::try_from(curl.0.id()).expect("a process"));
        kill(pid, Signal::SIGSTOP).expect("it is ours");
        pids.push(pid);
        curls.push(curl);
    }
    let status = bed.status();
    let sessions = status["sessions"].as_array().expect("a list").iter();
    let at_b: Vec<bool> = sessions
        .map(|session| session["server"].as_str().is_some_and(|name| name.starts_with('b')))
        .collect();
    assert!(at_b.len() == kinds.len() && at_b.iter().all(|b| *b == at_b[0]), "{at_b:?}");
    let place = usize::from(at_b[0]);
    fault(&mut Beset { place, daemons: [daemons[0].0.id(), daemons[1].0.id()], bed: &mut bed });
    pids.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).expect("it is ours"));
    for (curl, (kind, _, ranges)) in curls.into_iter().zip(*kinds) {
        assert_eq!(code(curl, LONG), 0, "{names:?}, {kind}: {}", bed.said());
        let (got, what) = (bed.got(kind), format!("{names:?}, {kind}"));
        match *ranges {
            [(from, to)] => must_be(&got, &file[*from..*to], &what),
            several => ranges_of(&got, &file, several, &what),
        }
    }
    daemons.into_iter().for_each(end);
    let logs = [0, 1].map(|place| requests(&bed, names[place], place));
    for (kind, ..) in *kinds {
        let [same, other] =
            [place, 1 - place].map(|place| logs[place].get(*kind).copied().unwrap_or(0));
        let as_said = match asked {
            // A service that gives up a reader after 1 s may do so more than once while the app
            // stands still; each time is a fault of its own.
            Asked::Same => (2..=8).contains(&same) && other == 0,
            // One or two where the machine has time; a chunk that is cut short on a busy one may
            // overtake the move.
            Asked::Other => (1..=5).contains(&other),
        };
        assert!(as_said, "{names:?}, {kind}: {same} requests at one, {other} at the other");
    }
}

/// Asks a daemon to end, so that it writes the last lines of its log (lighttpd keeps them for up to
/// 4 s). One that does not is killed.
fn end(mut daemon: Running) {
    let pid = Pid::from_raw(i32::try_from(daemon.0.id()).expect("a process"));
    kill(pid, Signal::SIGTERM).expect("it is ours");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        if daemon.0.try_wait().expect("it is ours").is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every byte is right.
fn must_be(got: &[u8], right: &[u8], what: &str) {
    let other = got.iter().zip(right).position(|(one, other)| one != other);
    let (has, wants) = (got.len(), right.len());
    assert!(got == right, "{what}: {has} bytes of {wants}, the first wrong one at {other:?}");
}

/// How often each kind was asked for at an HTTP server that has ended.
fn requests(bed: &Bed, name: &str, place: usize) -> BTreeMap<String, usize> {
    let dir = bed.path(&format!("{name}-{}", bed.ports[place]));
    let log = if name == "python3" { "log" } else { "access" };
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(dir.join(log)).unwrap_or_default().lines() {
        if let Some((kind, _)) = line.split_once("/f?").and_then(|(_, rest)| rest.split_once(' ')) {
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// A body of several ranges is one server's: one boundary, and each range as it is in the file.
fn ranges_of(got: &[u8], file: &[u8], ranges: &[(usize, usize)], what: &str) {
    let text = String::from_utf8_lossy(&got[..200]).into_owned();
    let boundary = text.trim_start().lines().next().expect("a line").trim_end().to_owned();
    let (mut rest, mut fields) = (got, None);
    for &(from, to) in ranges {
        let end = rest.windows(4).skip(1).position(|four| four == b"\r\n\r\n").expect("a head") + 5;
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        let numbers = format!("bytes {from}-{}/{}", to - 1, file.len());
        assert!(head.trim_start().starts_with(&boundary) && head.contains(&numbers), "{head}");
        let same = head.trim_start().replace(&numbers, "");
        assert_eq!(*fields.get_or_insert(same.clone()), same, "{what}");
        rest = &rest[end..];
        let (part, behind) = rest.split_at((to - from).min(rest.len()));
        must_be(part, &file[from..to], what);
        rest = behind;
    }
    assert_eq!(String::from_utf8_lossy(rest).trim(), format!("{boundary}--"), "{what}");
}

fn killed(beset: &mut Beset<'_>) {
    beset.bed.kill(beset.place);
}

#[test]
fn every_kind_goes_on_when_its_server_is_killed() {
    PAIRS.iter().for_each(|pair| beset(pair, Asked::Other, killed));
}

#[test]
fn every_kind_goes_on_when_its_server_falls_silent() {
    for pair in &PAIRS {
        beset(pair, Asked::Other, |beset| beset.bed.signal(beset.place, Signal::SIGSTOP));
    }
}

#[test]
fn every_kind_goes_on_when_its_server_is_drained() {
    for pair in &PAIRS {
        beset(pair, Asked::Other, |beset| beset.bed.signal(beset.place, Signal::SIGTERM));
    }
}

#[test]
fn what_has_an_end_goes_on_when_nginx_is_reloaded() {
    let pair = ([WITH_WORKERS; 2], &[CHUNKS, LENGTH, RANGE, RANGES][..]);
    beset(&pair, Asked::Same, |beset| {
        let around = beset.daemons[beset.place];
        let children = std::fs::read_to_string(format!("/proc/{around}/task/{around}/children"));
        let master = children.expect("it runs").trim().parse().expect("one process");
        kill(Pid::from_raw(master), Signal::SIGHUP).expect("it is ours");
        stall(3);
    });
}

#[test]
fn what_has_an_end_goes_on_when_its_service_gave_up_an_app_that_read_nothing() {
    for pair in [
        ([WITH_WORKERS; 2], &[CHUNKS, LENGTH, RANGE, RANGES][..]),
        (["apache2-hasty"; 2], &[CHUNKS, LENGTH, RANGE, RANGES]),
        (["lighttpd-hasty"; 2], &[LENGTH, RANGE, RANGES]),
    ] {
        beset(&pair, Asked::Same, |_| stall(6));
    }
}

/// The apps read nothing for some more seconds, so that their service has to wait.
fn stall(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}
