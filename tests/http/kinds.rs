//! Kinds of responses of a real nginx, each with each fault: the server of Session is killed, falls
//! silent, or is drained; nginx gives up an app that reads nothing (`send_timeout`), or is reloaded
//! while it serves (`worker_shutdown_timeout`).

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, code, until};
use crate::real::{WITH_WORKERS, folder, serve};

const LONG: Duration = Duration::from_secs(90);
/// More than the buffers on the way hold, so that a fault meets a response that is under way.
const SIZE: usize = 40_000_000;

/// What curl is told for a kind of response, and what part of the file it then gets.
type Kind = (&'static str, &'static [&'static str], core::ops::Range<usize>);

const KINDS: [Kind; 4] = [
    ("with a length", &[], 0..SIZE),
    ("in chunks", &["--compressed"], 0..SIZE),
    ("a range", &["-r", "1000-34999999"], 1_000..35_000_000),
    ("until the stream ends", &["--compressed", "--http1.0"], 0..SIZE),
];

/// The processes of one download.
struct Beset<'a> {
    bed: &'a mut Bed,
    /// Which server the session is at.
    place: usize,
    nginx: [u32; 2],
    curl: Pid,
}

/// Who is asked for the rest of the response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The other server; at first more often than once, if the stream overtakes the move (R65).
    Other,
    Same,
}

/// Begins a download of a kind, does something to it in its middle, and sees it end well.
fn beset(kinds: &[Kind], asked: Asked, fault: impl Fn(&mut Beset<'_>)) {
    for (kind, told, range) in kinds {
        let mut bed = Bed::new(&[]);
        // Not to be compressed: what nginx packs is as long.
        let mut file = vec![0; SIZE];
        fastrand::Rng::with_seed(30).fill(&mut file);
        let roots = [folder(&bed, "r1", &file), folder(&bed, "r2", &file)];
        let daemons =
            [0, 1].map(|place| serve(WITH_WORKERS, &bed, &roots[place], bed.ports[place]));
        let more = [&["--limit-rate", "10M"][..], told].concat();
        let curl = bed.curl("/f", "got", &more);
        until("some of the file", || (bed.got("got").len() > SIZE / 40).then_some(()));
        let status = bed.status();
        let server = status["sessions"][0]["server"].as_str().expect("a server").to_owned();
        let place = usize::from(server.starts_with('b'));
        let nginx = [daemons[0].0.id(), daemons[1].0.id()];
        let pid = Pid::from_raw(i32::try_from(curl.0.id()).expect("a process"));
        fault(&mut Beset { bed: &mut bed, place, nginx, curl: pid });
        assert_eq!(code(curl, LONG), 0, "{kind}: {}", bed.said());
        assert!(bed.got("got") == file[range.clone()], "{kind}: other bytes");
        drop(daemons);
        let requests = [0, 1].map(|place: usize| {
            let log = bed.path(&format!("{WITH_WORKERS}-{}/access", bed.ports[place]));
            std::fs::read_to_string(log).unwrap_or_default().lines().count()
        });
        let (same, other) = (requests[place], requests[1 - place]);
        let as_said = if asked == Asked::Same { same > 1 && other == 0 } else { other >= 1 };
        assert!(as_said, "{kind}: {same} requests at one nginx, {other} at the other");
    }
}

#[test]
fn every_kind_goes_on_when_its_server_is_killed() {
    beset(&KINDS, Asked::Other, |beset| beset.bed.kill(beset.place));
}

#[test]
fn every_kind_goes_on_when_its_server_falls_silent() {
    beset(&KINDS, Asked::Other, |beset| beset.bed.signal(beset.place, Signal::SIGSTOP));
}

#[test]
fn every_kind_goes_on_when_its_server_is_drained() {
    beset(&KINDS, Asked::Other, |beset| beset.bed.signal(beset.place, Signal::SIGTERM));
}

#[test]
fn what_has_an_end_goes_on_when_nginx_is_reloaded() {
    beset(&KINDS[..3], Asked::Same, |beset| {
        let around = beset.nginx[beset.place];
        let children = std::fs::read_to_string(format!("/proc/{around}/task/{around}/children"));
        let master = children.expect("it runs").trim().parse().expect("one process");
        kill(Pid::from_raw(master), Signal::SIGHUP).expect("it is ours");
        stall(beset.curl, 3);
    });
}

#[test]
fn what_has_an_end_goes_on_when_nginx_gave_up_an_app_that_read_nothing() {
    beset(&KINDS[..3], Asked::Same, |beset| {
        stall(beset.curl, 5);
    });
}

/// The app reads nothing for some seconds, so that nginx has to wait.
fn stall(curl: Pid, seconds: u64) {
    kill(curl, Signal::SIGSTOP).expect("it is ours");
    std::thread::sleep(Duration::from_secs(seconds));
    kill(curl, Signal::SIGCONT).expect("it is ours");
}
