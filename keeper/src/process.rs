//! The keeper's process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::lease::{DIED, Lease, socket_path, told};
use crate::message::{self, Word};
use crate::signals::Signals;

/// A daemon that lived for less has come to nothing.
const SHORT: Duration = Duration::from_secs(1);
/// So many daemons in a row may come to nothing before there is a pause.
const AT_ONCE: u32 = 3;
/// After so many in a row the keeper gives up.
const TRIES_MAX: u32 = 20;
/// The shortest and the longest pause before the next daemon is started.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The number of the signal that nobody can refuse.
const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
/// How often a daemon that was started and has not come yet is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A daemon that does not come within this time is ended.
const COME_MAX: Duration = Duration::from_secs(30);

/// What is held, by number.
type Store = BTreeMap<u64, Vec<OwnedFd>>;

/// The keeper of `arguments[0]`, a directory. The rest is the next daemon, program and arguments.
/// If the standard input is the lease of a daemon, that one is served first.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(dir), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!(
            "stp-keeper: wants a directory, and the program of the daemon with its arguments"
        );
        return ExitCode::FAILURE;
    };
    let keeper = Keeper { dir: dir.into(), program, arguments: arguments.collect() };
    match keeper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stp-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Keeper {
    dir: PathBuf,
    program: OsString,
    arguments: Vec<OsString>,
}

/// How a daemon's time ended.
enum Ended {
    /// It said so.
    InOrder,
    /// It died.
    Died,
}

impl Keeper {
    fn run(&self) -> io::Result<()> {
        // What ends the daemon by the terminal must not end the keeper before it.
        let _is_leader_already = rustix::process::setsid();
        let is_first = !is_lease();
        if is_first && Lease::is_there(&self.dir) {
            return Err(io::Error::other("another keeper is there already"));
        }
        let signals = Signals::pass_on()?;
        let door = open_door(&self.dir)?;
        let mut store = Store::new();
        let mut child: Option<Child> = None;
        let mut tries = 0;
        let mut next = if is_first {
            self.next(&door, &mut child, (&mut tries, "first"), &signals)?
        } else {
            Some(io::stdin().as_fd().try_clone_to_owned()?)
        };
        // A daemon that has started its keeper gives, and takes nothing.
        let mut takes = is_first;
        while let Some(lease) = next {
            let peer = rustix::net::sockopt::socket_peercred(&lease)?;
            signals.go_to(peer.pid.as_raw_nonzero().get());
            if std::mem::replace(&mut takes, true) {
                hand_over(&lease, &store)?;
            }
            let since = Instant::now();
            if matches!(serve(&lease, &mut store)?, Ended::InOrder) {
                break;
            }
            drop(lease);
            signals.go_to(0);
            let how = child.as_mut().and_then(|child| child.wait().ok());
            // Whoever kills a daemon says nothing of whether it works; nor does one that has ended
            // in order, for the sake of another program.
            let killed = how.and_then(|how| how.signal()) == Some(SIGKILL);
            let wanted = killed || how.is_some_and(|how| how.success());
            match since.elapsed() < SHORT {
                true if wanted => {}
                true => tries += 1,
                false => tries = 0,
            }
            self.say(how, tries, store.len());
            let how = if wanted { "ended" } else { DIED };
            next = self.next(&door, &mut child, (&mut tries, how), &signals)?;
        }
        let _gone_already = std::fs::remove_file(socket_path(&self.dir));
        Ok(())
    }

    fn say(&self, how: Option<ExitStatus>, tries: u32, held: usize) {
        let how = how.map_or_else(|| "without a word".to_owned(), |how| how.to_string());
        eprintln!(
            "stp-keeper: the daemon of {} ended ({how}); the next one takes over what it had \
             ({held} things held, {tries} ended early)",
            self.dir.display(),
        );
    }

    /// The lease of the next daemon: the one that is started here, or any other that comes. It is
    /// told how the one before it ended. Nothing if an end was wanted.
    fn next(
        &self,
        door: &OwnedFd,
        child: &mut Option<Child>,
        (tries, before): (&mut u32, &str),
        signals: &Signals,
    ) -> io::Result<Option<OwnedFd>> {
        while !signals.want_end() {
            // Whoever removes the directory wants no daemon there.
            if !socket_path(&self.dir).exists() {
                return Err(io::Error::other("its directory is gone"));
            }
            if let Some(more) = tries.checked_sub(AT_ONCE) {
                let pause = PAUSE_MIN * (1 << more.min(6));
                std::thread::sleep(pause.min(PAUSE_MAX));
            }
            if *tries > TRIES_MAX {
                return Err(io::Error::other(
                    "no daemon can be started any more: programs see a reset",
                ));
            }
            let mut command = Command::new(&self.program);
            command.args(&self.arguments).stdin(Stdio::null());
            told(&mut command, &self.dir, before);
            match command.spawn() {
                Ok(started) => {
                    signals.go_to(started.id().cast_signed());
                    *child = Some(started);
                }
                Err(error) => {
                    eprintln!("stp-keeper: {}: {error}", self.program.to_string_lossy());
                    *child = None;
                }
            }
            let begun = Instant::now();
            while begun.elapsed() < COME_MAX {
                if let Some(lease) = knock(door)? {
                    return Ok(Some(lease));
                }
                let ended = child.as_mut().map(Child::try_wait);
                if !matches!(ended, Some(Ok(None))) {
                    break;
                }
            }
            if let Some(mut late) = child.take() {
                let _ended_already = late.kill();
                let how = late.wait()?;
                eprintln!("stp-keeper: the daemon that was started did not come ({how})");
            }
            signals.go_to(0);
            *tries += 1;
        }
        Ok(None)
    }
}

/// Whether a daemon has started this keeper, and is at the other end of its standard input.
fn is_lease() -> bool {
    rustix::net::sockopt::socket_type(io::stdin()) == Ok(SocketType::SEQPACKET)
}

/// The socket to which the next daemon connects.
fn open_door(dir: &Path) -> io::Result<OwnedFd> {
    let path = socket_path(dir);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    let door = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    // The directory is this user's alone.
    rustix::net::bind(&door, &SocketAddrUnix::new(&path)?)?;
    rustix::net::listen(&door, 8)?;
    Ok(door)
}

/// A daemon of this user that comes within a moment.
fn knock(door: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let wait = Timespec::try_from(LOOK_EVERY).expect("a short time");
    let mut polled = [PollFd::new(door, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&wait)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        other => other?,
    };
    match rustix::net::accept_with(door, SocketFlags::CLOEXEC) {
        Ok(lease) => {
            let peer = rustix::net::sockopt::socket_peercred(&lease)?;
            Ok((peer.uid == rustix::process::geteuid()).then_some(lease))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Serves a daemon until it ends.
fn serve(lease: &OwnedFd, store: &mut Store) -> io::Result<Ended> {
    loop {
        match message::receive(lease.as_fd()) {
            Ok(Some((Word::Hold(number), descriptors))) => {
                store.insert(number, descriptors);
            }
            Ok(Some((Word::Drop(number), _))) => {
                store.remove(&number);
            }
            Ok(Some((Word::End, _))) => return Ok(Ended::InOrder),
            Ok(None) => return Ok(Ended::Died),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Ended::Died),
            Err(error) => return Err(error),
        }
    }
}

fn hand_over(lease: &OwnedFd, store: &Store) -> io::Result<()> {
    for (number, descriptors) in store {
        let descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
        if message::send(lease.as_fd(), Word::Hold(*number), &descriptors).is_err() {
            // It has died already; that is seen next.
            return Ok(());
        }
    }
    let _seen_next = message::send(lease.as_fd(), Word::End, &[]);
    Ok(())
}
