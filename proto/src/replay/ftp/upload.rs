//! Going on with an upload on another connection to an FTP server, there or elsewhere.
//!
//! A server of ours keeps what it gave to the FTP server until that server's SIZE shows that it is
//! in the file ([`Upload`]). Of all that it keeps a digest, which goes into tickets ([`Stored`]).
//! Whoever goes on reads the beginning of the file back, compares, and writes on behind it
//! ([`Continuation`]).

use std::collections::VecDeque;

use super::command::Command;
use super::login::{Login, Step, Steps, Want};
use super::state::{DataState, Running};
use super::stored::{File, Stored};
use crate::seam::Seam;

/// Bytes that were given to the FTP server and are not proven to be in the file. A broker keeps as
/// many (`send_buffer`).
pub const KEPT_MAX: usize = 8 << 20;
/// The server is asked for the size of the file when so many are not proven.
const PROVE_EVERY: usize = 1 << 20;
/// An upload under way.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The digest of what is proven.
    seam: Seam,
    /// The client's bytes behind that.
    kept: VecDeque<u8>,
    /// How many of them the connection of now was given.
    given: usize,
}

impl Upload {
    /// One of which this much is proven.
    #[must_use]
    pub fn new(seam: Seam) -> Self {
        Self { seam, kept: VecDeque::new(), given: 0 }
    }

    /// Another connection is there: it has to be given everything that is not proven.
    pub fn reconnected(&mut self) {
        self.given = 0;
    }

    /// What it has to be given before anything new.
    #[must_use]
    pub fn ungiven(&self) -> &[u8] {
        let (front, back) = self.kept.as_slices();
        match self.given.checked_sub(front.len()) {
            None => &front[self.given..],
            Some(at) => &back[at..],
        }
    }

    /// It was given so many of these.
    pub fn gave(&mut self, count: usize) {
        self.given = (self.given + count).min(self.kept.len());
    }

    /// How many new bytes the connection may be given.
    #[must_use]
    pub fn room(&self) -> usize {
        let all = self.given == self.kept.len();
        if all { KEPT_MAX - self.kept.len().min(KEPT_MAX) } else { 0 }
    }

    /// The connection was given these bytes of the client, which are new.
    pub fn take(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        self.given += bytes.len();
    }

    /// The file has this size when all of it is there.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.covers() + self.kept.len() as u64
    }

    /// The size that is to be seen next, if it is worth asking.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        (self.given >= PROVE_EVERY).then_some(self.covers() + self.given as u64)
    }

    /// The server says that the file has this size. Whether more is proven than before. What the
    /// connection was not given may be there all the same, from the one before; it will come again.
    pub fn seen(&mut self, size: u64) -> bool {
        let seam = &mut self.seam;
        let more = size.saturating_sub(seam.position());
        let count = usize::try_from(more).unwrap_or(usize::MAX).min(self.given);
        let (front, back) = self.kept.as_slices();
        let first = count.min(front.len());
        seam.update(seam.position(), &front[..first]);
        seam.update(seam.position(), &back[..count - first]);
        self.kept.drain(..count);
        self.given -= count;
        count > 0
    }

    /// The client's bytes below this are in the file.
    #[must_use]
    pub fn covers(&self) -> u64 {
        self.seam.position()
    }

    /// For the ticket.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored::of(&self.seam)
    }
}

/// How an upload is gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// The login, and how to read the file back.
    pub look: Look,
    /// The beginning of the file, which has to be the same; none if the file begins anew.
    pub stored: Option<Stored>,
    /// REST, if it does not begin anew.
    pub rest: Option<Step>,
    /// STOR: 1yz lets it go on.
    pub command: Step,
}

impl Continuation {
    /// The plan. Nothing if nobody could tell whether it comes out right.
    #[must_use]
    pub fn make(DataState { login, running, stored }: &DataState) -> Option<Self> {
        let (file, stored) = (running.file.as_ref()?, stored.as_ref()?);
        // Only what replaces a file may begin anew: what was there is lost in any case.
        let anew = stored.until == 0;
        if !login.can_be_repeated() || (anew && !replaces(running)) {
            return None;
        }
        let rest = format!("REST {}", stored.until);
        Some(Self {
            look: Look::at(login, file),
            stored: (!anew).then(|| stored.clone()),
            rest: (!anew).then(|| Step::new(rest.as_bytes(), Want::Pending)),
            command: Step::new(&[b"STOR ", &*file.name].concat(), Want::Anything),
        })
    }
}

/// How to look at the file of an upload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The login.
    pub login: Steps,
    /// Only EPSV may be used.
    pub only_extended: bool,
    /// RETR, to read it back.
    pub read: Step,
    /// SIZE.
    pub size: Step,
}

impl Look {
    /// At this file, as whoever has made this login.
    #[must_use]
    pub fn at(login: &Login, file: &File) -> Self {
        let mut login = login.clone();
        login.used();
        let said = |verb: &[u8]| Step::new(&[verb, b" ", &*file.name].concat(), Want::Anything);
        let (only_extended, login) = (login.only_extended(), login.steps());
        Self { login, only_extended, read: said(b"RETR"), size: said(b"SIZE") }
    }
}

fn replaces(running: &Running) -> bool {
    Command::new(running.command.clone(), 0).verb == "STOR"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Handle;
    use crate::replay::ftp::{Reply, Transfer};
    use crate::seam::BLOCK;

    fn bytes(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).map(|at| (at % 251) as u8).collect()
    }

    fn digested(count: usize) -> Seam {
        let mut seam = Seam::new(0, BLOCK);
        seam.update(0, &bytes(0, count));
        seam
    }

    /// A login for binary files.
    fn login() -> Login {
        let mut login = Login::default();
        for line in ["USER ann", "PASS secret", "TYPE I", "CWD in"] {
            let command = Command::new(line.as_bytes().to_vec(), 0);
            login.note(&command, &Reply::new(200, "done"));
        }
        login
    }

    fn state(command: &str, file: Option<File>, stored: Option<Stored>) -> DataState {
        let running = Running {
            token: Handle([1; 16]),
            command: command.as_bytes().to_vec(),
            transfer: Transfer::Up,
            rest: None,
            file,
        };
        DataState { login: login(), running, stored }
    }

    fn put() -> File {
        File { name: b"put".to_vec() }
    }

    #[test]
    fn only_what_the_file_is_seen_to_hold_is_proven() {
        let mut upload = Upload::new(digested(0));
        assert_eq!((upload.due(), upload.covers()), (None, 0));
        upload.take(&bytes(0, PROVE_EVERY + 10));
        assert_eq!(upload.due(), Some(PROVE_EVERY as u64 + 10));
        assert!(!upload.seen(0) && upload.seen(100_000) && !upload.seen(100_000));
        assert_eq!((upload.covers(), upload.end()), (100_000, PROVE_EVERY as u64 + 10));
        assert_eq!(upload.stored(), Stored::of(&digested(100_000)));
        assert!(upload.stored().is(&digested(100_000)));
        assert!(!upload.stored().is(&digested(100_001)));
        // A file that is larger than what was given proves no more than that.
        assert!(upload.seen(u64::MAX));
        assert_eq!(upload.covers(), PROVE_EVERY as u64 + 10);
        assert!(upload.due().is_none());
    }

    #[test]
    fn another_connection_is_given_what_is_not_proven_and_then_what_is_new() {
        let mut upload = Upload::new(digested(0));
        upload.take(&bytes(0, 1_000));
        upload.seen(400);
        upload.reconnected();
        assert_eq!((upload.ungiven(), upload.room()), (&bytes(400, 600)[..], 0));
        // The one before has written more: that is not known of this one.
        assert!(!upload.seen(1_000));
        upload.gave(500);
        assert_eq!(upload.ungiven(), bytes(900, 100));
        assert!(upload.seen(900));
        assert_eq!((upload.covers(), upload.ungiven()), (900, &bytes(900, 100)[..]));
        upload.gave(100);
        assert_eq!(upload.room(), KEPT_MAX - 100);
        upload.take(&bytes(1_000, 50));
        assert!(upload.seen(1_050));
        assert_eq!(upload.stored(), Stored::of(&digested(1_050)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut upload = Upload::new(digested(0));
        upload.take(&vec![7; KEPT_MAX - 5]);
        assert_eq!(upload.room(), 5);
        upload.take(&[7; 5]);
        assert_eq!(upload.room(), 0);
        assert!(upload.seen(5));
        assert_eq!(upload.room(), 5);
    }

    #[test]
    fn an_upload_goes_on_behind_what_is_proven_or_anew_or_not_at_all() {
        let (some, none) = (Some(Stored::of(&digested(70_000))), Some(Stored::of(&digested(0))));
        let plan = Continuation::make(&state("STOR put", Some(put()), some.clone())).unwrap();
        assert_eq!(plan.rest.unwrap().line, b"REST 70000\r\n");
        assert_eq!(plan.command.line, b"STOR put\r\n");
        assert_eq!((&plan.look.read.line[..], plan.stored), (&b"RETR put\r\n"[..], some.clone()));
        let said: Vec<String> = plan.look.login.iter().map(Step::verb).collect();
        assert_eq!(said, ["USER", "PASS", "TYPE", "CWD"]);
        let anew = Continuation::make(&state("stor put", Some(put()), none.clone())).unwrap();
        assert_eq!((anew.rest, anew.stored), (None, None));
        // To append twice is not to append once, and a name must not be chosen twice.
        assert_eq!(Continuation::make(&state("APPE put", Some(put()), none.clone())), None);
        assert_eq!(Continuation::make(&state("STOU", Some(put()), none.clone())), None);
        assert_eq!(Continuation::make(&state("STOR put", None, some.clone())), None);
        assert_eq!(Continuation::make(&state("STOR put", Some(put()), None)), None);
        let appended = Continuation::make(&state("APPE put", Some(put()), some)).unwrap();
        assert_eq!(appended.command.line, b"STOR put\r\n");
    }
}
