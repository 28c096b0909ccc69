//! Where a head ends, and when it is worth parsing, with work bounded by the bytes that came.
//!
//! A head may come byte by byte. It must not be parsed anew for each of them, because a head of 64
//! KiB would then cost billions of steps. Nor may it be parsed only when it is whole, because what
//! is not HTTP would then be held back while its peer waits for it.

use crate::steps;

/// Every line of a head up to this length is looked at. Real heads are mostly shorter.
const SHORT: usize = 1024;
/// Every piece of a head is looked at up to this length: no request line that is right is shorter
/// than what tells HTTP from other protocols.
const BEGINNING: usize = 32;

/// How far the scan of one head has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Scan {
    /// Something else than empty lines has come.
    started: bool,
    /// The line under way is empty so far.
    empty: bool,
    /// The last byte was a CR that may belong to a line's end.
    cr: bool,
    length: usize,
    /// The length at which the head was parsed last.
    looked: usize,
}

/// What a [`Scan`] says of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scanned {
    /// How many of the bytes belong to the head: all of them, or those up to the head's end, behind
    /// the first empty line that follows anything at all.
    pub taken: usize,
    /// The head should be parsed now.
    pub look: bool,
}

impl Scan {
    /// Goes on with the next bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Scanned {
        steps::note(bytes.len());
        let before = self.length;
        let (taken, whole) = match bytes.iter().position(|&byte| self.ends_with(byte)) {
            Some(at) => (at + 1, true),
            None => (bytes.len(), false),
        };
        self.length += taken;
        let line = self.length <= SHORT && bytes[..taken].contains(&b'\n');
        // Looking again when the length has doubled costs at most twice the head in all.
        let doubled = self.length >= 2 * self.looked.max(BEGINNING);
        let look = whole || before < BEGINNING || line || doubled;
        if look {
            self.looked = self.length;
        }
        Scanned { taken, look }
    }

    /// Takes one byte, and says whether the head ends with it.
    fn ends_with(&mut self, byte: u8) -> bool {
        match byte {
            b'\r' | b'\n' if !self.started => {}
            b'\n' if self.empty => return true,
            b'\n' => (self.empty, self.cr) = (true, false),
            b'\r' if !self.cr => self.cr = true,
            _ => (self.started, self.empty, self.cr) = (true, false, false),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `head` in pieces of `piece` bytes; the bytes taken, and those that a parser would have
    /// looked at in all.
    fn work(head: &[u8], piece: usize) -> (usize, usize) {
        let (mut scan, mut taken, mut parsed) = (Scan::default(), 0, 0);
        for bytes in head.chunks(piece) {
            let mut ahead = scan;
            let whole = bytes.iter().any(|&byte| ahead.ends_with(byte));
            let scanned = scan.take(bytes);
            taken += scanned.taken;
            parsed += if scanned.look { taken } else { 0 };
            if whole {
                break;
            }
        }
        (taken, parsed)
    }

    #[test]
    fn a_head_ends_behind_its_first_empty_line() {
        for (head, length) in [
            ("GET / HTTP/1.1\r\n\r\nmore", 18),
            ("\r\n\nGET / HTTP/1.1\n\nmore", 19),
            ("A\r\n B\r\n\n", 8),
            ("A\n\r\nB", 4),
            ("A\r\r\n\n", 5),
            ("\r\n\r\n", 4),
        ] {
            for piece in 1..=head.len() {
                assert_eq!(work(head.as_bytes(), piece).0, length, "{head:?} by {piece}");
            }
        }
    }

    #[test]
    fn the_work_for_a_head_is_bounded_by_its_bytes() {
        let long = 64 * 1024;
        let lines = b"a: b\n".repeat(long / 5);
        for head in [vec![b'\n'; long], vec![b'a'; long], b"a\n".repeat(long / 2), lines] {
            for piece in [1, 2, 7, 1_000] {
                let (taken, parsed) = work(&head, piece);
                assert_eq!(taken, head.len());
                // What the short beginning may cost in all, and then a constant for each byte.
                assert!(parsed <= SHORT * SHORT + 4 * taken, "{parsed} for {taken} by {piece}");
            }
        }
    }

    #[test]
    fn what_is_not_http_is_looked_at_before_it_is_whole() {
        let mut scan = Scan::default();
        assert!(scan.take(b"SSH-2.0-").look, "its first bytes");
        for _ in 0..200 {
            scan.take(b"x");
        }
        assert!(scan.take(b"\n").look, "the end of a short line");
    }
}
