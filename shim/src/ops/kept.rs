//! Option values that only TCP knows, kept with the socket itself.
//!
//! A program that sets `TCP_NODELAY` may read it back, also after dup, fork and exec, so the value
//! has to live where the socket lives. Unix stream sockets never run a socket filter but keep the
//! program they were given and hand it out again (`SO_GET_FILTER`); so the values are written down
//! as the constants of a program that would accept everything. No privilege is needed for that.

use libc::sock_filter;

use crate::raw::{self, Fd};

/// Options kept at most.
const ENTRIES_MAX: usize = 32;
/// The longest value kept: the name of a congestion control.
pub const VALUE_BYTES_MAX: usize = 16;

/// The most words of a value, and of the whole filter program.
const WORDS_MAX: usize = VALUE_BYTES_MAX / 4;
const PROGRAM_MAX: usize = ENTRIES_MAX * (1 + WORDS_MAX) + 1;
const LOAD_CONSTANT: u16 = 0x00;
const RETURN_CONSTANT: u16 = 0x06;
const NOTHING: sock_filter = sock_filter { code: 0, jt: 0, jf: 0, k: 0 };

/// The level of notes of our own, which no real level has.
pub const OWN: i32 = 250;
/// The app has been told by a connect that the session is established.
pub const CONNECT_REPORTED: i32 = 1;
/// A blocking connect was interrupted.
pub const CONNECT_INTERRUPTED: i32 = 2;
/// The app has been told of an abort.
pub const ABORT_REPORTED: i32 = 3;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Entry {
    level: u8,
    name: u8,
    length: u8,
    value: [u8; VALUE_BYTES_MAX],
}

/// The values kept with one socket.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Kept {
    entries: [Entry; ENTRIES_MAX],
    count: usize,
}

impl Kept {
    /// What is kept with this socket.
    pub fn load(fd: Fd) -> Kept {
        let mut program = [NOTHING; PROGRAM_MAX];
        match raw::get_filter(fd, &mut program) {
            Ok(length) => Kept::from_program(&program[..length]),
            Err(_) => Kept::default(),
        }
    }

    /// Puts it all back.
    pub fn store(&self, fd: Fd) {
        if self.count > 0 {
            let mut program = [NOTHING; PROGRAM_MAX];
            let length = self.to_program(&mut program);
            let _not_kept = raw::attach_filter(fd, &program[..length]);
        }
    }

    /// The value of an option that was set.
    pub fn find(&self, level: i32, name: i32) -> Option<&[u8]> {
        self.all().find(|found| (found.0, found.1) == (level, name)).map(|found| found.2)
    }

    /// Keeps a value; one that does not fit is forgotten.
    pub fn put(&mut self, level: i32, name: i32, value: &[u8]) {
        let (Ok(level), Ok(name)) = (u8::try_from(level), u8::try_from(name)) else { return };
        if value.len() > VALUE_BYTES_MAX {
            return;
        }
        let mut entry = Entry { level, name, length: value.len() as u8, ..Entry::default() };
        entry.value[..value.len()].copy_from_slice(value);
        let known = &mut self.entries[..self.count];
        match known.iter_mut().find(|known| (known.level, known.name) == (level, name)) {
            Some(known) => *known = entry,
            None if self.count < ENTRIES_MAX => {
                self.entries[self.count] = entry;
                self.count += 1;
            }
            None => {}
        }
    }

    /// All of them: level, name, value.
    pub fn all(&self) -> impl Iterator<Item = (i32, i32, &[u8])> {
        self.entries[..self.count].iter().map(|entry| {
            let value = &entry.value[..usize::from(entry.length).min(VALUE_BYTES_MAX)];
            (i32::from(entry.level), i32::from(entry.name), value)
        })
    }

    fn to_program(&self, program: &mut [sock_filter; PROGRAM_MAX]) -> usize {
        let mut length = 0;
        let mut push = |instruction: sock_filter| {
            program[length] = instruction;
            length += 1;
        };
        for entry in &self.entries[..self.count] {
            let (jt, jf, k) = (entry.level, entry.length, u32::from(entry.name));
            push(sock_filter { code: LOAD_CONSTANT, jt, jf, k });
            for word in entry.value.as_chunks::<4>().0 {
                let k = u32::from_ne_bytes(*word);
                push(sock_filter { code: LOAD_CONSTANT, jt: 0, jf: 0, k });
            }
        }
        push(sock_filter { code: RETURN_CONSTANT, jt: 0, jf: 0, k: u32::MAX });
        length
    }

    fn from_program(program: &[sock_filter]) -> Kept {
        let mut kept = Kept::default();
        for words in program.chunks_exact(1 + WORDS_MAX) {
            let (head, words) = (&words[0], &words[1..]);
            if words.iter().chain([head]).any(|word| word.code != LOAD_CONSTANT) {
                return Kept::default();
            }
            let mut value = [0; VALUE_BYTES_MAX];
            for (place, word) in value.chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.k.to_ne_bytes());
            }
            let length = usize::from(head.jf).min(VALUE_BYTES_MAX);
            kept.put(i32::from(head.jt), head.k as i32, &value[..length]);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_live_with_a_unix_socket_and_its_twins() {
        let fd = raw::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).unwrap();
        assert_eq!(Kept::load(fd), Kept::default());
        let mut kept = Kept::default();
        kept.put(6, 1, &1u32.to_ne_bytes());
        kept.put(6, 13, b"bbr");
        kept.put(6, 1, &0u32.to_ne_bytes());
        kept.put(41, 67, &[]);
        kept.store(fd);
        let twin = raw::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0).unwrap();
        raw::close(fd);
        let found = Kept::load(twin);
        assert_eq!(found, kept);
        assert_eq!(found.find(6, 1), Some(&0u32.to_ne_bytes()[..]));
        assert_eq!(found.find(6, 13), Some(&b"bbr"[..]));
        assert_eq!(found.find(41, 67), Some(&[][..]));
        assert_eq!(found.find(6, 2), None);
        raw::close(twin);
    }

    #[test]
    fn a_full_store_is_kept_and_more_is_forgotten() {
        let fd = raw::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).unwrap();
        let mut kept = Kept::default();
        for name in 0..ENTRIES_MAX as i32 + 3 {
            kept.put(6, name, &[7; VALUE_BYTES_MAX]);
        }
        kept.put(1000, 1, &[1]);
        kept.put(1, 1, &[1; VALUE_BYTES_MAX + 1]);
        kept.store(fd);
        assert_eq!(Kept::load(fd), kept);
        assert_eq!(kept.all().count(), ENTRIES_MAX);
        raw::close(fd);
    }

    #[test]
    fn a_foreign_program_keeps_nothing() {
        let other = sock_filter { code: 0x28, jt: 0, jf: 0, k: 12 };
        assert_eq!(Kept::from_program(&[other; 11]), Kept::default());
        assert_eq!(Kept::from_program(&[]), Kept::default());
    }
}
