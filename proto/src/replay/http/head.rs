//! Heads of requests and responses, parsed as far as continuing an exchange needs (RFC 9112).
//!
//! Whatever two implementations might read differently (two lengths, a length beside chunks,
//! chunks that are not the last coding) is an error here: the stream is then opaque.

use super::body::Framing;
use super::parts::{self, First, Parts};
use super::range::{ContentRange, number};
use crate::steps;

/// A longer head is not followed: the stream is opaque from there on.
pub const HEAD_MAX: usize = 64 * 1024;

/// Room for as many fields as a head can have: one for each of its lines.
fn fields_of(bytes: &[u8]) -> Vec<httparse::Header<'_>> {
    // Once to count them, and once to parse them.
    steps::note(2 * bytes.len());
    let lines = bytes.iter().take(HEAD_MAX).filter(|byte| **byte == b'\n').count();
    vec![httparse::EMPTY_HEADER; lines + 1]
}

/// Why a head cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1.
    #[error("not an HTTP/1 head: {0}")]
    Syntax(#[from] httparse::Error),
    /// The head says two things about the length of its body.
    #[error("the length of the body is ambiguous: {0}")]
    Ambiguous(&'static str),
}

/// What matters of a request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method is GET, HEAD, OPTIONS or TRACE (RFC 9110, 9.2.1).
    pub safe: bool,
    /// The method is HEAD: no body follows the response.
    pub head: bool,
    /// The method is CONNECT: a success makes the stream opaque.
    pub connect: bool,
    /// How long the body is.
    pub framing: Framing,
    /// The app means to send another request afterwards.
    pub keep_alive: bool,
    /// The app wants a part of one version only, of which it has another part.
    pub conditional: bool,
    /// Range as written.
    pub range: Option<String>,
}

impl RequestHead {
    /// Parses `bytes` if they hold a whole head; also says how long the head is.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = fields_of(bytes);
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
        let method = request.method.unwrap_or_default();
        let fields = Fields::read(request.headers)?;
        let framing = match (fields.coding, fields.length) {
            (Coding::None, None | Some(0)) => Framing::Empty,
            (Coding::None, Some(length)) => Framing::Length(length),
            (Coding::Chunked, None) => Framing::Chunked,
            (Coding::Chunked, Some(_)) => return Err(HeadError::Ambiguous("length and chunks")),
            (Coding::Other, _) => return Err(HeadError::Ambiguous("unknown transfer coding")),
        };
        let head = Self {
            safe: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE"),
            head: method == "HEAD",
            connect: method == "CONNECT",
            framing,
            keep_alive: fields.keep_alive(request.version),
            conditional: request.headers.iter().any(|header| {
                ["if-range", "if-match", "if-unmodified-since"]
                    .iter()
                    .any(|name| header.name.eq_ignore_ascii_case(name))
            }),
            range: field(request.headers, "range"),
        };
        Ok(Some((head, length)))
    }

    /// The request may be executed a second time without the app's knowledge.
    #[must_use]
    pub fn repeatable(&self) -> bool {
        self.safe && self.framing == Framing::Empty
    }
}

/// What matters of a response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// How long the body is. In a response of several ranges that can be told in other words, what
    /// stands before the first of them counts with the head.
    pub framing: Framing,
    /// The length named in the head, also where no body follows it.
    pub length: Option<u64>,
    /// The server will answer another request on this connection.
    pub keep_alive: bool,
    /// The entity tag as written, with its quotes and `W/`.
    pub etag: Option<String>,
    /// Last-Modified as written.
    pub modified: Option<String>,
    /// Content-Encoding as written.
    pub encoding: Option<String>,
    /// What a 206 holds; `None` for any other status, and for a 206 of several ranges.
    pub range: Option<ContentRange>,
    /// What the parts of a 206 of several ranges are told apart by.
    boundary: Option<Vec<u8>>,
    /// The several ranges of a 206, if what stands between them is known.
    pub parts: Option<Parts>,
}

impl ResponseHead {
    /// Parses `bytes` if they hold a whole head; also says how long the head is. With several
    /// ranges, what stands before the first of them belongs to it.
    pub fn parse(bytes: &[u8], to: &RequestHead) -> Result<Option<(Self, usize)>, HeadError> {
        let Some((head, length)) = Self::alone(bytes, to)? else { return Ok(None) };
        Ok(head.with_first(&bytes[length..], to).map(|(head, more)| (head, length + more)))
    }

    /// As [`ResponseHead::parse`], without anything of the body.
    pub(super) fn alone(
        bytes: &[u8],
        to: &RequestHead,
    ) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = fields_of(bytes);
        let mut response = httparse::Response::new(&mut headers);
        let parsed = lenient().parse_response(&mut response, bytes)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        if framing_lines(&bytes[..length]) != framing_fields(response.headers) {
            return Err(HeadError::Ambiguous("a line about the length cannot be read"));
        }
        let status = response.code.unwrap_or_default();
        let fields = Fields::read(response.headers)?;
        let bodiless = to.head || status < 200 || matches!(status, 204 | 304);
        let framing = match (fields.coding, fields.length) {
            _ if bodiless => Framing::Empty,
            (Coding::Chunked, Some(_)) => return Err(HeadError::Ambiguous("length and chunks")),
            (Coding::Chunked, None) => Framing::Chunked,
            (Coding::None, Some(length)) => Framing::Length(length),
            (Coding::Other, _) | (Coding::None, None) => Framing::Close,
        };
        let text = |name| field(response.headers, name);
        let partial = |name| (status == 206).then(|| text(name)).flatten();
        let range = partial("content-range");
        let several = partial("content-type").filter(|_| matches!(framing, Framing::Length(_)));
        let head = Self {
            status,
            framing,
            length: fields.length,
            keep_alive: fields.keep_alive(response.version) && framing != Framing::Close,
            etag: text("etag"),
            modified: text("last-modified"),
            encoding: text("content-encoding"),
            boundary: several.as_deref().and_then(parts::boundary).filter(|_| range.is_none()),
            range: range.as_deref().and_then(ContentRange::parse),
            parts: None,
        };
        Ok(Some((head, length)))
    }

    /// Goes on with the front of the body, if there are several ranges: none until what stands
    /// before the first of them is whole. Also says how much of the body that is.
    pub(super) fn with_first(&self, body: &[u8], to: &RequestHead) -> Option<(Self, usize)> {
        let (Some(boundary), Framing::Length(length)) = (&self.boundary, self.framing) else {
            return Some((self.clone(), 0));
        };
        let body = &body[..usize::try_from(length).unwrap_or(usize::MAX).min(body.len())];
        let (count, parts) = match parts::first(boundary, body) {
            First::Partial if u64::try_from(body.len()).is_ok_and(|come| come < length) => {
                return None;
            }
            First::Partial | First::Other => (body.len(), None),
            First::Whole(count) => {
                let asked = to.range.as_deref().unwrap_or_default();
                (count, Parts::make(boundary, &body[..count], asked, length))
            }
        };
        let left = length - u64::try_from(count).unwrap_or(length);
        Some((Self { framing: Framing::Length(left), parts, ..self.clone() }, count))
    }

    /// A shorter head that says the same, if it can be made of this one.
    pub(super) fn short(bytes: &[u8], to: &RequestHead) -> Option<Vec<u8>> {
        let (head, _) = Self::parse(bytes, to).ok()??;
        let mut headers = fields_of(bytes);
        let mut response = httparse::Response::new(&mut headers);
        let parsed = lenient().parse_response(&mut response, bytes).ok()?;
        let httparse::Status::Complete(length) = parsed else { return None };
        let version = response.version?;
        let mut short = format!("HTTP/1.{version} {} \r\n", head.status).into_bytes();
        for header in response.headers.iter() {
            if NEEDED.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
                short.extend_from_slice(header.name.as_bytes());
                short.extend_from_slice(b": ");
                short.extend_from_slice(header.value);
                short.extend_from_slice(b"\r\n");
            }
        }
        short.extend_from_slice(b"\r\n");
        short.extend_from_slice(&bytes[length..]);
        let same = Self::parse(&short, to).ok()?? == (head, short.len());
        same.then_some(short)
    }

    /// The validator that promises equal bytes, if there is one.
    #[must_use]
    pub fn strong_etag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|tag| tag.len() > 2 && tag.starts_with('"'))
    }
}

/// Response heads are read as leniently as common clients read them: folded lines, blanks before a
/// colon, lines that are no fields. Nothing but the length of the body is decided by a field.
fn lenient() -> httparse::ParserConfig {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true);
    config
}

/// Fields that decide how a response goes on.
const NEEDED: [&str; 8] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "etag",
    "last-modified",
    "content-encoding",
    "content-range",
    "content-type",
];

const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Lines that speak of the length of the body, whether they can be read or not.
fn framing_lines(head: &[u8]) -> usize {
    let about = |line: &&[u8]| {
        let line = line.trim_ascii_start();
        FRAMING.iter().any(|name| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
        })
    };
    head.split(|byte| matches!(byte, b'\n' | b'\r')).filter(about).count()
}

/// Fields that tell the length of the body.
fn framing_fields(headers: &[httparse::Header<'_>]) -> usize {
    let about = |header: &&httparse::Header<'_>| {
        FRAMING.iter().any(|name| {
            let start = header.name.get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        })
    };
    headers.iter().filter(about).count()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    Chunked,
    Other,
}

/// The fields that decide where a message ends.
struct Fields {
    length: Option<u64>,
    coding: Coding,
    close: bool,
    keep: bool,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HeadError> {
        let mut fields = Self { length: None, coding: Coding::None, close: false, keep: false };
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).ok();
                let length = text.and_then(number).ok_or(HeadError::Ambiguous("no number"))?;
                if fields.length.is_some_and(|known| known != length) {
                    return Err(HeadError::Ambiguous("two lengths"));
                }
                fields.length = Some(length);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                let chunked = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                fields.coding = match fields.coding {
                    Coding::None if chunked => Coding::Chunked,
                    _ => Coding::Other,
                };
            } else if header.name.eq_ignore_ascii_case("connection") {
                for option in header.value.split(|&byte| byte == b',') {
                    let option = option.trim_ascii();
                    fields.close |= option.eq_ignore_ascii_case(b"close");
                    fields.keep |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(fields)
    }

    fn keep_alive(&self, version: Option<u8>) -> bool {
        !self.close && (version == Some(1) || self.keep)
    }
}

/// The only field of this name; of several, none can be relied on.
fn field(headers: &[httparse::Header<'_>], name: &str) -> Option<String> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let value = found.next()?.value;
    if found.next().is_some() {
        return None;
    }
    Some(std::str::from_utf8(value).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<RequestHead, HeadError> {
        RequestHead::parse(text.as_bytes()).map(|head| head.expect("the head is whole").0)
    }

    fn response(text: &str) -> Result<ResponseHead, HeadError> {
        let to = request("GET / HTTP/1.1\r\n\r\n")?;
        ResponseHead::parse(text.as_bytes(), &to).map(|head| head.expect("the head is whole").0)
    }

    #[test]
    fn a_post_and_a_get_with_a_body_may_not_be_repeated() {
        assert!(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().repeatable());
        assert!(request("HEAD / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap().repeatable());
        assert!(!request("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap().repeatable());
        assert!(!request("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n").unwrap().repeatable());
        assert!(!request("DELETE / HTTP/1.1\r\n\r\n").unwrap().repeatable());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_an_error() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            assert!(matches!(request(&text), Err(HeadError::Ambiguous(_))), "{fields:?}");
        }
    }

    #[test]
    fn bodies_are_framed_as_rfc_9112_says() {
        let framing = |text: &str| response(text).unwrap().framing;
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"), Framing::Length(7));
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Framing::Chunked
        );
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), Framing::Close);
        assert_eq!(framing("HTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n"), Framing::Empty);
        assert_eq!(framing("HTTP/1.1 204 x\r\n\r\n"), Framing::Empty);
        assert_eq!(framing("HTTP/1.1 100 Continue\r\n\r\n"), Framing::Empty);
        let head = request("HEAD / HTTP/1.1\r\n\r\n").unwrap();
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        let (head, _) = ResponseHead::parse(text, &head).unwrap().unwrap();
        assert_eq!((head.framing, head.length), (Framing::Empty, Some(7)));
    }

    #[test]
    fn odd_heads_are_read_as_clients_read_them_unless_the_length_is_in_question() {
        let framing = |text: &str| {
            response(&format!("HTTP/1.1 200 OK\r\n{text}\r\n")).map(|head| head.framing)
        };
        for odd in [
            "Set-Cookie: a=b;\r\n path=/\r\n",
            "Content-Type : text/html\r\n",
            "this is no field\r\n",
            "Bad Name: x\r\n",
        ] {
            let text = format!("{odd}Content-Length: 7\r\n");
            assert_eq!(framing(&text), Ok(Framing::Length(7)), "{odd:?}");
        }
        for wrong in [
            "Content-Length: 7\r\n Content-Length: 8\r\n",
            "Content-Length: 7\r\nContent-Length\r\n",
            "Content-Length: 7\r\nTransfer-Encoding\x0b: chunked\r\n",
            "Content-Length:\r\n 7\r\nX: y\r\nContent-Length bytes: 9\r\n",
        ] {
            assert!(framing(wrong).is_err(), "{wrong:?}: {:?}", framing(wrong));
        }
    }

    #[test]
    fn only_one_sound_range_counts() {
        let range = |text: &str| {
            let head = format!("HTTP/1.1 206 x\r\nContent-Length: 1\r\n{text}\r\n");
            response(&head).unwrap().range
        };
        let sound = ContentRange { first: 1, last: 2, total: Some(9) };
        assert_eq!(range("Content-Range: bytes 1-2/9\r\n"), Some(sound));
        let open = ContentRange { first: 1, last: 2, total: None };
        assert_eq!(range("Content-Range: bytes 1-2/*\r\n"), Some(open));
        assert_eq!(range("Content-Range: bytes 2-1/9\r\n"), None);
        assert_eq!(range("Content-Range: bytes 1-9/9\r\n"), None);
        assert_eq!(range("Content-Range: bytes */9\r\n"), None);
        assert_eq!(range("Content-Range: pages 1-2/9\r\n"), None);
        assert_eq!(range("Content-Range: bytes 0-18446744073709551615/*\r\n"), None);
        assert_eq!(range("Content-Range: bytes 1-2/9\r\nContent-Range: bytes 1-2/9\r\n"), None);
    }

    #[test]
    fn a_weak_etag_is_not_strong() {
        let head = response("HTTP/1.1 200 OK\r\nETag: W/\"1\"\r\n\r\n").unwrap();
        assert_eq!((head.etag.as_deref(), head.strong_etag()), (Some("W/\"1\""), None));
        let head = response("HTTP/1.1 200 OK\r\nETag: \"1\"\r\n\r\n").unwrap();
        assert_eq!(head.strong_etag(), Some("\"1\""));
    }

    #[test]
    fn a_head_may_have_as_many_fields_as_it_has_room_for() {
        let head =
            format!("HTTP/1.1 200 OK\r\n{}Content-Length: 7\r\n\r\n", "A:b\r\n".repeat(13_000));
        assert!(head.len() < HEAD_MAX && head.len() > HEAD_MAX - 1_000);
        assert_eq!(response(&head).unwrap().framing, Framing::Length(7));
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "A:b\r\n".repeat(13_000));
        assert!(request(&head).unwrap().repeatable());
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        let keep = |text: &str| response(text).unwrap().keep_alive;
        assert!(keep("HTTP/1.1 204 x\r\n\r\n"));
        assert!(!keep("HTTP/1.1 204 x\r\nConnection: foo, Close\r\n\r\n"));
        assert!(!keep("HTTP/1.0 204 x\r\n\r\n"));
        assert!(keep("HTTP/1.0 204 x\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keep("HTTP/1.1 200 x\r\n\r\n"), "ends by closing");
    }
}
