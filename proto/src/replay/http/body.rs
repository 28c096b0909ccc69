//! Where a body ends (RFC 9112, 6 and 7), told byte by byte.

use crate::steps;

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks, each with its length before it.
    Chunked,
    /// Until the connection closes.
    Close,
}

/// A body going by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    Close,
    Size(Size),
    Data(u64),
    /// The CR LF behind a chunk's data; how many bytes of it are still to come.
    DataEnd(u8),
    /// In the lines behind the last chunk; how many bytes this line has so far, CR not counted,
    /// and whether the CR was the last. A CR or LF alone is a line's end to some and not to others.
    Trailer {
        line: u32,
        cr: bool,
        seen: u32,
    },
    Over,
    Broken,
}

/// A chunk-size line, kept as httparse wants it: digits and extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    line: [u8; Self::MAX],
    used: u8,
}

impl Size {
    /// The line before a chunk is not longer than this, in bytes.
    const MAX: usize = 128;
    const NEW: Self = Self { line: [0; Self::MAX], used: 0 };
}

/// The lines behind the last chunk are not longer than this, in bytes.
const TRAILER_MAX: u32 = 16 * 1024;

impl Body {
    /// A body of which nothing has gone by.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty | Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(Size::NEW),
            Framing::Close => State::Close,
        })
    }

    /// Everything has gone by.
    #[must_use]
    pub fn over(&self) -> bool {
        self.0 == State::Over
    }

    /// The chunks cannot be understood any more.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.0 == State::Broken
    }

    /// It ends only with the connection.
    #[must_use]
    pub fn until_close(&self) -> bool {
        self.0 == State::Close
    }

    /// Nothing stands between its bytes.
    #[must_use]
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.0, State::Length(_) | State::Close | State::Over)
    }

    /// How many bytes may come that certainly belong to it. For chunks this is a lower bound.
    #[must_use]
    pub fn at_least(&self) -> u64 {
        match self.0 {
            State::Length(left) => left,
            State::Close => u64::MAX,
            // CR LF, the last chunk's line and the empty line.
            State::Data(left) => left.saturating_add(7),
            State::Size(_) | State::Trailer { .. } => 1,
            State::DataEnd(left) => u64::from(left) + 5,
            State::Over | State::Broken => 0,
        }
    }

    /// Takes what belongs to the body from the front of `bytes`; says how much that was.
    pub fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && !self.over() && !self.broken() {
            taken += self.step(&bytes[taken..]);
        }
        taken
    }

    /// Takes the next part of the body from the front of `bytes`, which are not empty: says how
    /// long it is, and whether it is data, not what frames it. Nothing is taken when it is over, or
    /// broken.
    #[must_use]
    pub fn next(&mut self, bytes: &[u8]) -> (usize, bool) {
        let data = matches!(self.0, State::Length(_) | State::Close | State::Data(_));
        (self.step(bytes), data)
    }

    fn step(&mut self, bytes: &[u8]) -> usize {
        steps::note(0);
        let many = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match &mut self.0 {
            State::Length(left) | State::Data(left) if *left > many => {
                *left -= many;
                bytes.len()
            }
            State::Length(left) | State::Data(left) => {
                let last = usize::try_from(*left).unwrap_or(bytes.len());
                let data = matches!(self.0, State::Data(_));
                self.0 = if data { State::DataEnd(2) } else { State::Over };
                last
            }
            State::Close => bytes.len(),
            State::Size(size) => {
                let mut size = *size;
                let taken = self.size(&mut size, bytes);
                if let State::Size(kept) = &mut self.0 {
                    *kept = size;
                }
                taken
            }
            State::DataEnd(left) => {
                let expected = if *left == 2 { b'\r' } else { b'\n' };
                self.0 = match (bytes[0] == expected, *left) {
                    (false, _) => State::Broken,
                    (true, 2) => State::DataEnd(1),
                    (true, _) => State::Size(Size::NEW),
                };
                usize::from(bytes[0] == expected)
            }
            State::Trailer { line, cr, seen } => {
                *seen += 1;
                self.0 = match (bytes[0], *cr) {
                    _ if *seen > TRAILER_MAX => State::Broken,
                    (b'\n', true) if *line == 0 => State::Over,
                    (b'\n', true) => State::Trailer { line: 0, cr: false, seen: *seen },
                    (b'\n', false) | (_, true) => State::Broken,
                    (b'\r', false) => State::Trailer { line: *line, cr: true, seen: *seen },
                    (_, false) => State::Trailer { line: *line + 1, cr: false, seen: *seen },
                };
                usize::from(!self.broken())
            }
            State::Over | State::Broken => 0,
        }
    }

    /// Up to the end of a chunk-size line.
    fn size(&mut self, size: &mut Size, bytes: &[u8]) -> usize {
        let used = usize::from(size.used);
        let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(bytes.len());
        let Some(space) = size.line.get_mut(used..used + taken) else {
            self.0 = State::Broken;
            return 0;
        };
        space.copy_from_slice(&bytes[..taken]);
        size.used = u8::try_from(used + taken).unwrap_or(u8::MAX);
        let line = &size.line[..used + taken];
        steps::note(line.len());
        match httparse::parse_chunk_size(line) {
            Err(_) => self.0 = State::Broken,
            Ok(httparse::Status::Partial) if end.is_some() => self.0 = State::Broken,
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete((_, 0))) => {
                self.0 = State::Trailer { line: 0, cr: false, seen: 0 };
            }
            Ok(httparse::Status::Complete((_, data))) => self.0 = State::Data(data),
        }
        if self.broken() { 0 } else { taken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(framing: Framing, bytes: &[u8], piece: usize) -> (usize, bool) {
        let mut body = Body::new(framing);
        let mut taken = 0;
        for piece in bytes.chunks(piece) {
            let least = body.at_least();
            let here = body.take(piece);
            assert!(here as u64 >= least.min(piece.len() as u64) || body.broken());
            taken += here;
            if here < piece.len() {
                break;
            }
        }
        (taken, body.over())
    }

    #[test]
    fn chunks_end_where_they_end_in_pieces_of_any_size() {
        for text in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;a=b\r\nhello\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\nb: c\r\n\r\n",
            "1\r\n\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
        ] {
            for piece in 1..=text.len() + 4 {
                let followed = format!("{text}GET /");
                let end = end_of(Framing::Chunked, followed.as_bytes(), piece);
                assert_eq!(end, (text.len(), true), "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn broken_chunks_are_seen() {
        for text in [
            "x\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\rX",
            "-1\r\n",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\rc\r\n\r\n",
            "0\r\n\r\r\n",
        ] {
            for piece in 1..=text.len() {
                let mut body = Body::new(Framing::Chunked);
                text.as_bytes().chunks(piece).for_each(|piece| {
                    body.take(piece);
                });
                assert!(body.broken(), "{text:?} in pieces of {piece}: {body:?}");
            }
        }
    }

    #[test]
    fn a_length_ends_after_its_bytes() {
        assert_eq!(end_of(Framing::Length(5), b"hello!", 2), (5, true));
        assert_eq!(end_of(Framing::Length(7), b"hello!", 2), (6, false));
        assert_eq!(end_of(Framing::Empty, b"hello!", 2), (0, true));
        assert_eq!(end_of(Framing::Length(0), b"hello!", 2), (0, true));
        assert_eq!(end_of(Framing::Close, b"hello!", 2), (6, false));
    }
}
