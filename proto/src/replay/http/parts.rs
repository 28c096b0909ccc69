//! A response of several ranges (RFC 9110, 14.6) told in the words of the server that has begun it.
//!
//! What stands between the ranges differs from server to server: another boundary, other fields,
//! in another order. But it follows from what stands before the first range, the ranges that were
//! asked for and the length of the file. So it is known before it comes: if all of it together is
//! as long as the head of the response says, the server does as expected. What another server
//! sends between its ranges is compared with what it is expected to send, and replaced.

use super::range::{ContentRange, number};
use crate::steps;

/// What stands before the first range is looked for in so many bytes.
const FIRST_MAX: usize = 1_024;
/// A response of more ranges is not continued.
const RANGES_MAX: usize = 256;
/// What stands before a range has at most so many fields.
const FIELDS_MAX: usize = 16;

/// The ranges of a response, and what stands between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    boundary: Vec<u8>,
    /// Before the numbers of a range, from the line end behind the range before it.
    before: Vec<u8>,
    /// Behind the numbers.
    after: Vec<u8>,
    close: Vec<u8>,
    /// First and last byte of each range.
    ranges: Vec<(u64, u64)>,
    /// Length of the file.
    pub total: u64,
}

/// What a body of several ranges begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// More must come.
    Partial,
    /// So many bytes stand before the bytes of the first range.
    Whole(usize),
    /// Something else.
    Other,
}

/// The boundary that the value of a Content-Type names, if it is one of several ranges.
pub(super) fn boundary(content_type: &str) -> Option<Vec<u8>> {
    let mut parameters = content_type.split(';').map(str::trim);
    if !parameters.next()?.eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    let named = parameters.filter_map(|parameter| parameter.split_once('='));
    let mut named = named.filter(|(name, _)| name.eq_ignore_ascii_case("boundary"));
    let value = named.next()?.1;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (1..=70).contains(&value.len()).then(|| value.as_bytes().to_vec())
}

/// Looks for what stands before the first range at the front of a body.
pub(super) fn first(boundary: &[u8], body: &[u8]) -> First {
    let delimiter = [b"\r\n--", boundary, b"\r\n"].concat();
    let delimiter = if body.first() == Some(&b'\r') { &delimiter } else { &delimiter[2..] };
    let common = delimiter.len().min(body.len());
    if body[..common] != delimiter[..common] {
        return First::Other;
    }
    steps::note(body.len());
    let fields = &body[common..];
    match fields.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) if common + end + 4 <= FIRST_MAX => First::Whole(common + end + 4),
        None if body.len() < FIRST_MAX => First::Partial,
        Some(_) | None => First::Other,
    }
}

impl Parts {
    /// From what stands before the first range, the ranges asked for as the request names them,
    /// and the length of the whole body. None if the body will not be as they say.
    pub(super) fn make(boundary: &[u8], first: &[u8], asked: &str, length: u64) -> Option<Self> {
        let (at, range, total) = content_range(first)?;
        let ranges = resolve(asked, total)?;
        if ranges.first() != Some(&range) {
            return None;
        }
        let begins = first.strip_prefix(b"\r\n").unwrap_or(first);
        let at_line = at.start - (first.len() - begins.len());
        let mut parts = Self {
            boundary: boundary.to_vec(),
            before: [b"\r\n", &begins[..at_line]].concat(),
            after: first[at.end..].to_vec(),
            close: Vec::new(),
            ranges,
            total,
        };
        let payload = parts
            .ranges
            .iter()
            .try_fold(0_u64, |sum, (first, last)| sum.checked_add(last - first + 1))?;
        let between: usize = (1..parts.ranges.len()).map(|number| parts.head(number).len()).sum();
        let framing = u64::try_from(first.len() + between).ok()?;
        let ends = [&b"--\r\n"[..], b"--"].into_iter();
        parts.close = ends.map(|end| [b"\r\n--", boundary, end].concat()).find(|close| {
            let close = u64::try_from(close.len()).ok();
            let sum = close.and_then(|close| payload.checked_add(framing)?.checked_add(close));
            sum == Some(length)
        })?;
        Some(parts)
    }

    /// The ranges as a request names them.
    pub(super) fn asked(&self) -> String {
        let ranges = self.ranges.iter().map(|(first, last)| format!("{first}-{last}"));
        ranges.collect::<Vec<_>>().join(",")
    }

    /// The same ranges of a file of the same length.
    pub(super) fn fit(&self, other: &Self) -> bool {
        (&self.ranges, self.total) == (&other.ranges, other.total)
    }

    /// What stands before a range that is not the first.
    fn head(&self, number: usize) -> Vec<u8> {
        let numbers = self.ranges.get(number).map(|range| named(*range, self.total));
        [&self.before, numbers.unwrap_or_default().as_bytes(), &self.after].concat()
    }

    /// What stands behind a range.
    fn behind(&self, number: usize) -> Vec<u8> {
        let last = number + 1 == self.ranges.len();
        if last { self.close.clone() } else { self.head(number + 1) }
    }

    fn size(&self, number: usize) -> u64 {
        self.ranges.get(number).map_or(0, |(first, last)| last - first + 1)
    }
}

/// As servers write it.
fn named((first, last): (u64, u64), total: u64) -> String {
    format!("bytes {first}-{last}/{total}")
}

/// Where the range stands in what precedes its bytes, the range, and the length of the file.
fn content_range(part: &[u8]) -> Option<(core::ops::Range<usize>, (u64, u64), u64)> {
    let line = part.strip_prefix(b"\r\n").unwrap_or(part);
    let fields = &line[line.iter().position(|&byte| byte == b'\n')? + 1..];
    let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let parsed = httparse::parse_headers(fields, &mut headers).ok()?;
    let httparse::Status::Complete((length, headers)) = parsed else { return None };
    let mut found =
        headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-range"));
    let value = found.next().filter(|_| length == fields.len())?.value;
    let range = ContentRange::parse(std::str::from_utf8(value).ok()?)?;
    let (numbers, total) = ((range.first, range.last), range.total?);
    // Written as the others will be.
    let same = named(numbers, total).as_bytes() == value && found.next().is_none();
    let at = value.as_ptr().addr() - part.as_ptr().addr();
    same.then_some((at..at + value.len(), numbers, total))
}

/// The ranges of a file of this length that a request names; those that lie behind its end are
/// left out.
fn resolve(asked: &str, total: u64) -> Option<Vec<(u64, u64)>> {
    let (unit, list) = asked.trim().split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let end = total.checked_sub(1)?;
    let mut ranges = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let (first, last) = text.split_once('-')?;
        let range = match (first.trim(), last.trim()) {
            ("", last) => (total.saturating_sub(number(last)?), end),
            (first, "") => (number(first)?, end),
            (first, last) => (number(first)?, number(last)?.min(end)),
        };
        if range.0 <= range.1 {
            ranges.push(range);
        }
        if ranges.len() > RANGES_MAX {
            return None;
        }
    }
    Some(ranges)
}

/// Tells the ranges of one server in the words of another.
#[derive(Debug)]
pub(super) struct Retelling {
    theirs: Parts,
    ours: Parts,
    /// The range under way, or the one before what is under way.
    number: usize,
    /// Bytes of the range that are still to come.
    left: u64,
    /// What stands behind the range, as far as it has not come.
    expected: Vec<u8>,
}

impl Retelling {
    /// From the bytes of the first range on.
    pub fn new(theirs: Parts, ours: Parts) -> Self {
        let (left, expected) = (theirs.size(0), theirs.behind(0));
        Self { theirs, ours, number: 0, left, expected }
    }

    /// Takes bytes of the other server. False if they are not what was expected.
    #[must_use]
    pub fn take(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&[u8])) -> bool {
        while !bytes.is_empty() {
            let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            if data > 0 {
                sink(&bytes[..data]);
                self.left -= u64::try_from(data).unwrap_or(self.left);
                bytes = &bytes[data..];
                continue;
            }
            let common = self.expected.len().min(bytes.len());
            if common == 0 || bytes[..common] != self.expected[..common] {
                return false;
            }
            self.expected.drain(..common);
            bytes = &bytes[common..];
            if self.expected.is_empty() {
                sink(&self.ours.behind(self.number));
                self.number += 1;
                self.left = self.theirs.size(self.number);
                let over = self.number >= self.theirs.ranges.len();
                self.expected = if over { Vec::new() } else { self.theirs.behind(self.number) };
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's way to write.
    struct Style {
        boundary: &'static str,
        first: &'static str,
        end: &'static str,
        fields: fn(&str) -> String,
    }

    const NGINX: Style = Style {
        boundary: "00000000000000000007",
        first: "\r\n",
        end: "--\r\n",
        fields: |range| format!("Content-Type: text/plain\r\nContent-Range: {range}\r\n"),
    };
    const BARE: Style = Style {
        boundary: "x y",
        first: "",
        end: "--",
        fields: |range| format!("Content-range: {range}\r\n"),
    };

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    impl Style {
        fn body(&self, file: &[u8], ranges: &[(usize, usize)]) -> Vec<u8> {
            let mut body = Vec::new();
            for (number, (first, last)) in ranges.iter().enumerate() {
                let line = if number == 0 { self.first } else { "\r\n" };
                let range = format!("bytes {first}-{last}/{}", file.len());
                let head = format!("{line}--{}\r\n{}\r\n", self.boundary, (self.fields)(&range));
                body.extend_from_slice(head.as_bytes());
                body.extend_from_slice(&file[*first..=*last]);
            }
            body.extend_from_slice(format!("\r\n--{}{}", self.boundary, self.end).as_bytes());
            body
        }

        fn parts(&self, body: &[u8], asked: &str) -> Option<(Parts, usize)> {
            let First::Whole(length) = first(self.boundary.as_bytes(), body) else { return None };
            let boundary = self.boundary.as_bytes();
            let parts = Parts::make(boundary, &body[..length], asked, body.len() as u64);
            Some((parts?, length))
        }
    }

    const ASKED: &str = "bytes=0-9, 500-, -20, 7000-, 3-3";
    const RANGES: [(usize, usize); 4] = [(0, 9), (500, 999), (980, 999), (3, 3)];

    #[test]
    fn one_servers_ranges_are_told_in_the_words_of_another() {
        let file = content(1_000);
        let bodies = [NGINX, BARE].map(|style| {
            let body = style.body(&file, &RANGES);
            let (parts, first) = style.parts(&body, ASKED).expect("they are as expected");
            (body, parts, first)
        });
        for (ours, theirs) in [(0, 1), (1, 0), (0, 0)] {
            let ((to, ours, begin), (from, theirs, at)) = (&bodies[ours], &bodies[theirs]);
            assert!(ours.fit(theirs) && ours.asked() == "0-9,500-999,980-999,3-3");
            for piece in [1, 7, 2_000] {
                let mut retelling = Retelling::new(theirs.clone(), ours.clone());
                let mut told = Vec::new();
                for bytes in from[*at..].chunks(piece) {
                    assert!(retelling.take(bytes, |part| told.extend_from_slice(part)));
                }
                assert!(told == to[*begin..], "by {piece}");
                assert!(!retelling.take(b"x", |_| {}), "nothing comes behind it");
            }
        }
    }

    #[test]
    fn what_is_not_expected_is_seen() {
        let file = content(1_000);
        let body = NGINX.body(&file, &RANGES);
        let (parts, at) = NGINX.parts(&body, ASKED).expect("they are as expected");
        // In what stands behind the first range, which has ten bytes.
        for wrong in at + 10..at + 60 {
            let mut other = body.clone();
            other[wrong] ^= 1;
            let mut retelling = Retelling::new(parts.clone(), parts.clone());
            assert!(!retelling.take(&other[at..], |_| {}), "{wrong}");
        }
        // A server that leaves a range out, or puts two together; and another file.
        assert!(NGINX.parts(&NGINX.body(&file, &RANGES[..3]), ASKED).is_none());
        assert!(NGINX.parts(&NGINX.body(&file, &[(0, 9), (500, 999)]), ASKED).is_none());
        let other = NGINX.body(&content(1_001), &[(0, 9), (3, 3)]);
        let (other, _) = NGINX.parts(&other, "bytes=0-9,3-3").expect("as expected");
        assert!(!other.fit(&parts));
    }

    #[test]
    fn what_stands_before_the_first_range_is_bounded_and_told_from_anything_else() {
        let body = NGINX.body(&content(10), &[(0, 1), (3, 4)]);
        let boundary = NGINX.boundary.as_bytes();
        let First::Whole(length) = first(boundary, &body) else { panic!("it is whole") };
        for cut in 0..length {
            assert_eq!(first(boundary, &body[..cut]), First::Partial, "{cut}");
        }
        assert_eq!(first(boundary, b"hello"), First::Other);
        assert_eq!(first(b"other", &body), First::Other);
        let long = [&body[..30], &[b'a'; FIRST_MAX]].concat();
        assert_eq!(first(boundary, &long), First::Other);
        assert_eq!(boundary_of("multipart/byteranges; boundary=\"a b\""), Some("a b".into()));
        assert_eq!(boundary_of("Multipart/ByteRanges;BOUNDARY=ab"), Some("ab".into()));
        for other in
            ["text/plain; boundary=a", "multipart/byteranges", "multipart/byteranges; boundary="]
        {
            assert_eq!(boundary_of(other), None, "{other}");
        }
    }

    fn boundary_of(text: &str) -> Option<String> {
        boundary(text).map(|boundary| String::from_utf8(boundary).expect("text"))
    }
}
