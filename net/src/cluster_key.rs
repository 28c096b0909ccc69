//! The secrets that the servers of a cluster share: they seal tickets for each other with them.
//!
//! A file holds a secret in a line. From it comes a key for every day since the day that the line
//! names: each day's secret makes the next one by HKDF, and its key by another HKDF. No secret can
//! be made from a later one. So all servers have the same key on the same day, and when a daemon
//! has put a later day's secret into the file's line, what was sealed before cannot be opened with
//! what is left. Which days are of use is decided by the caller (`stp_proto::days`).
//!
//! The first line seals, every line opens. So a secret is replaced by putting a new line first
//! everywhere, and taking the old one away when the last ticket sealed with it is past.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::key::{KeyError, read_secret, replace_secret, write_secret};

/// What stands at the top of a file that was written here.
const HEAD: &str = "# Keys of a cluster: a secret, the day since 1970 that it is of, its public \
    id. The first line\n# seals. Daemons put later days' secrets here and forget earlier ones.\n";
/// What is made of a day's secret.
const NEXT: &[u8] = b"session cluster key, next day";
const KEY: &[u8] = b"session cluster key, key of the day";
const ID: &[u8] = b"session cluster key, public id";

type Secret = Zeroizing<[u8; 32]>;

fn random() -> Secret {
    let mut secret = Secret::default();
    SystemRandom::new().fill(&mut *secret).expect("the system's randomness does not fail");
    secret
}

/// Makes something else of a secret, from which it cannot be made again.
fn made_of(secret: &[u8; 32], what: &[u8]) -> Secret {
    let mut made = Secret::default();
    let filled = Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&[what], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *made));
    filled.expect("as much as the hash has");
    made
}

/// A short public name; 0 says that there is no key.
fn id_of(secret: &[u8; 32]) -> u32 {
    let made = made_of(secret, ID);
    let (first, _) = made.split_first_chunk().expect("it has 32 bytes");
    u32::from_be_bytes(*first).max(1)
}

/// The keys of one moment: the first seals, all of them open.
#[derive(Clone)]
pub struct ClusterKey {
    keys: Vec<Secret>,
    ids: Vec<u32>,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({} keys)", self.keys.len())
    }
}

impl ClusterKey {
    /// Makes a new key that is kept nowhere.
    #[must_use]
    pub fn generate() -> Self {
        let key = random();
        let ids = vec![id_of(&key)];
        Self { keys: vec![key], ids }
    }

    /// This key to seal with, and all of `older` still accepted.
    #[must_use]
    pub fn with_older(mut self, older: &Self) -> Self {
        self.keys.extend_from_slice(&older.keys);
        self.ids.extend_from_slice(&older.ids);
        self
    }

    /// The keys, the one that seals first.
    pub(crate) fn keys(&self) -> &[Secret] {
        &self.keys
    }

    /// A short public id of each of the cluster's secrets, the one that seals first. It is the same
    /// on all days.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// A secret, the day that it is of, and its name.
#[derive(Clone)]
struct Line {
    secret: Secret,
    day: u64,
    id: u32,
}

impl Line {
    fn new(secret: Secret, day: u64) -> Self {
        let id = id_of(&secret);
        Self { secret, day, id }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace();
        let bytes = Zeroizing::new(STANDARD.decode(fields.next()?).ok()?);
        let secret = Zeroizing::new(<[u8; 32]>::try_from(&**bytes).ok()?);
        let line = match (fields.next(), fields.next()) {
            (None, _) => Self::new(secret, 0),
            (Some(day), Some(id)) => {
                let (day, id) = (day.parse().ok()?, u32::from_str_radix(id, 16).ok()?);
                Self { secret, day, id }
            }
            (Some(_), None) => return None,
        };
        fields.next().is_none().then_some(line)
    }

    /// Becomes the line of a later day.
    fn advance(&mut self, day: u64) {
        while self.day < day {
            self.secret = made_of(&self.secret, NEXT);
            self.day += 1;
        }
    }
}

/// What a file holds.
#[derive(Clone)]
pub struct KeyFile {
    lines: Vec<Line>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({} keys)", self.lines.len())
    }
}

impl KeyFile {
    /// Most keys one file may hold.
    pub const MAX: usize = 8;

    /// A new secret of this day.
    #[must_use]
    pub fn generate(day: u64) -> Self {
        Self { lines: vec![Line::new(random(), day)] }
    }

    /// Reads a file: in each line 32 bytes in base64, the day that they are of and the id. Without
    /// the two it is the first day of 1970. `#` begins a comment.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&Zeroizing::new(read_secret(path)?))
            .map_err(|what| KeyError::Malformed { path: path.into(), what })
    }

    /// Writes a new secret of this day to a new file, mode 0600; an existing file is left alone
    /// and an error.
    pub fn create(path: &Path, day: u64) -> Result<Self, KeyError> {
        if path.exists() {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(KeyError::Io { action: "create", path: path.into(), source });
        }
        let made = Self::generate(day);
        write_secret(path, made.text().as_bytes())?;
        Ok(made)
    }

    /// Writes it in the place of the file that is there.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        // A link stays one, so that nothing is left where it leads.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        replace_secret(&path, self.text().as_bytes())
    }

    /// The keys of a day that seals, and of those that open. A line that is of a later day seals
    /// with its own, because it is the earliest that there is.
    #[must_use]
    pub fn keys(&self, seals: u64, opens: RangeInclusive<u64>) -> ClusterKey {
        let (mut sealing, mut opening) = (Vec::new(), Vec::new());
        for line in &self.lines {
            let (seals, mut line) = (seals.max(line.day), line.clone());
            line.advance(*opens.start());
            loop {
                let key = made_of(&line.secret, KEY);
                if line.day == seals {
                    sealing.push(key);
                } else {
                    opening.push(key);
                }
                if line.day >= seals.max(*opens.end()) {
                    break;
                }
                line.advance(line.day + 1);
            }
        }
        sealing.append(&mut opening);
        ClusterKey { keys: sealing, ids: self.lines.iter().map(|line| line.id).collect() }
    }

    /// The days that its lines are of.
    pub fn days(&self) -> impl Iterator<Item = u64> + '_ {
        self.lines.iter().map(|line| line.day)
    }

    /// How many secrets it holds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// Forgets all days before this one.
    pub fn advance(&mut self, day: u64) {
        for line in &mut self.lines {
            line.advance(day);
        }
    }

    /// Adds a new secret of this day, which opens and does not seal.
    pub fn add(&mut self, day: u64) {
        self.lines.push(Line::new(random(), day));
    }

    /// The newest secret is the one that seals.
    pub fn promote(&mut self) {
        self.lines.rotate_right(1);
    }

    /// Forgets all secrets but the one that seals.
    pub fn retire(&mut self) {
        self.lines.truncate(1);
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(HEAD.len() + 80 * self.lines.len()));
        text.push_str(HEAD);
        for Line { secret, day, id } in &self.lines {
            let secret = Zeroizing::new(STANDARD.encode(**secret));
            text.push_str(&secret);
            text.push_str(&format!(" {day} {id:08x}\n"));
        }
        text
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            lines.push(Line::parse(line).ok_or_else(|| {
                format!(
                    "line {} is not 32 bytes in base64 (44 characters), or not followed by a day \
                     and an id; copy the file of another server, or make a new one",
                    number + 1
                )
            })?);
        }
        match lines.len() {
            0 => Err("holds no key; a line of 32 bytes in base64 is expected".into()),
            n if n > Self::MAX => Err(format!("holds {n} keys, more than {}", Self::MAX)),
            _ => Ok(Self { lines }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Identity, PublicKey};
    use crate::seal::{open, seal};

    fn client() -> PublicKey {
        Identity::generate().public_key()
    }

    #[test]
    fn a_file_holds_the_new_key_and_the_old() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.key");
        let made = KeyFile::create(&path, 7).expect("made");
        assert_eq!(KeyFile::load(&path).expect("kept").text(), made.text());
        assert!(KeyFile::create(&path, 7).is_err(), "never overwritten");
        let (new, old) = (STANDARD.encode([1; 32]), STANDARD.encode([2; 32]));
        let both = KeyFile::parse(&format!("# rotation\n{new} 9 a0 # since May\n\n{old}\n"));
        let both = both.expect("two keys").lines;
        assert_eq!((*both[0].secret, both[0].day, both[0].id), ([1; 32], 9, 0xa0));
        assert_eq!((*both[1].secret, both[1].day), ([2; 32], 0));
        assert!(KeyFile::parse("# nothing\n").is_err());
        for bad in ["short", "AAAA 1", &format!("{old} 1"), &format!("{old} 1 2 3")] {
            let error = KeyFile::parse(&format!("{new}\n{bad}\n")).expect_err("bad");
            assert!(error.starts_with("line 2"), "{error}");
        }
        let nine = format!("{new}\n").repeat(KeyFile::MAX + 1);
        assert!(KeyFile::parse(&nine).is_err_and(|error| error.contains("9 keys")));
    }

    #[test]
    fn servers_that_have_forgotten_different_days_open_each_others_tickets() {
        let client = client();
        let plain = STANDARD.encode([3; 32]);
        let mut one = KeyFile::parse(&plain).expect("a key");
        let two = one.clone();
        one.advance(100);
        let one = KeyFile::parse(&one.text()).expect("as it was written");
        assert_eq!(one.lines[0].id, two.lines[0].id);
        for (day, other) in [(102, 102), (102, 103), (103, 102)] {
            let sealed = seal(&one.keys(day, 100..=day + 1), b"claims", &client);
            let opened = open(&two.keys(other, 99..=other + 1), &sealed, &client);
            assert_eq!(opened.expect("the same keys"), b"claims");
        }
        let sealed = seal(&two.keys(102, 0..=103), b"claims", &client);
        assert!(open(&one.keys(104, 103..=105), &sealed, &client).is_err(), "its day is over");
    }

    #[test]
    fn what_is_left_opens_nothing_of_before() {
        let client = client();
        let mut file = KeyFile::generate(50);
        let sealed = seal(&file.keys(50, 50..=51), b"claims", &client);
        let of_today = seal(&file.keys(55, 52..=56), b"today", &client);
        file.advance(52);
        let keys = file.keys(55, 40..=80);
        assert!(open(&keys, &sealed, &client).is_err());
        assert_eq!(open(&keys, &of_today, &client).expect("its day is kept"), b"today");
        // A clock that is behind: the earliest key there is seals, and the others have it.
        let behind = seal(&file.keys(20, 17..=21), b"late", &client);
        assert_eq!(open(&keys, &behind, &client).expect("of day 52"), b"late");
    }

    #[test]
    fn a_file_is_replaced_where_a_link_leads() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("k"), folder.path().join("link"));
        let mut file = KeyFile::create(&path, 1).expect("made");
        std::os::unix::fs::symlink(&path, &link).expect("ours");
        file.advance(3);
        file.save(&link).expect("written");
        assert_eq!(KeyFile::load(&path).expect("private").days().collect::<Vec<_>>(), [3]);
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).expect("ours").count(), 2);
    }
}
