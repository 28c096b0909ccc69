//! Replies of a server, as they come in pieces: one line, or several (RFC 959, 4.2).

use crate::steps;

/// Longest reply. Listings sent as replies (STAT of a directory) are the long ones.
pub const REPLY_MAX: usize = 256 * 1024;

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// As it came, with its line ends.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// A reply of one line.
    #[must_use]
    pub fn new(code: u16, text: &str) -> Self {
        Self { code, bytes: format!("{code} {text}\r\n").into_bytes() }
    }

    /// 1yz: another reply will follow.
    #[must_use]
    pub fn is_preliminary(&self) -> bool {
        self.code < 200
    }

    /// 2yz: it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4yz, 5yz: it was not done.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.code >= 400
    }

    /// The size of a file that it says (213, RFC 3659).
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        let text = String::from_utf8_lossy(&self.bytes);
        text.strip_prefix("213 ")?.trim().parse().ok()
    }

    /// The name of the file that a server has chosen for STOU (RFC 1123, 4.1.2.9).
    #[must_use]
    pub fn file_name(&self) -> Option<Vec<u8>> {
        let name = self.bytes.get(3..)?.strip_prefix(b" FILE: ")?;
        let name = name.trim_ascii_end();
        (!name.is_empty() && !name.contains(&b'\n')).then(|| name.to_vec())
    }

    /// What its last line says, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let last = text.lines().last().unwrap_or_default();
        last.chars().filter(|c| !c.is_control()).take(120).collect()
    }
}

/// What comes is no reply of an FTP server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// It does not begin with a number.
    #[error("the server said something that is no reply: {0:?}")]
    NoCode(String),
    /// It does not end.
    #[error("the server's reply has more than {REPLY_MAX} bytes")]
    TooLong,
}

/// Reads replies.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    /// Where the line under way begins in `bytes`.
    line: usize,
    /// The code of the reply of several lines that is under way.
    code: Option<u16>,
}

impl Replies {
    /// Takes bytes up to the end of a reply, at most all. Says how many, and gives the reply.
    ///
    /// # Errors
    /// What comes is no reply.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), NoReply> {
        for (index, &byte) in bytes.iter().enumerate() {
            steps::note(0);
            self.bytes.push(byte);
            if self.bytes.len() > REPLY_MAX {
                return Err(NoReply::TooLong);
            }
            if byte == b'\n'
                && let Some(code) = self.line_ended()?
            {
                let bytes = std::mem::take(&mut self.bytes);
                *self = Self::default();
                return Ok((index + 1, Some(Reply { code, bytes })));
            }
        }
        Ok((bytes.len(), None))
    }

    /// A line is whole. If the reply is, its code.
    fn line_ended(&mut self) -> Result<Option<u16>, NoReply> {
        let line = &self.bytes[self.line..];
        steps::note(line.len());
        let code = code(line);
        let more = line.get(3) == Some(&b'-');
        match self.code {
            None => {
                let blank = line.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
                if blank {
                    // Between two replies: nobody misses it.
                    self.bytes.clear();
                    return Ok(None);
                }
                let Some(code) = code else {
                    let text = String::from_utf8_lossy(&line[..line.len().min(60)]);
                    return Err(NoReply::NoCode(text.into_owned()));
                };
                if !more {
                    return Ok(Some(code));
                }
                self.code = Some(code);
            }
            Some(first) if code == Some(first) && !more => return Ok(Some(first)),
            Some(_) => {}
        }
        self.line = self.bytes.len();
        Ok(None)
    }
}

/// The code that a line begins with: 100 to 599, with a space, a hyphen or the line's end behind
/// it.
fn code(line: &[u8]) -> Option<u16> {
    let (digits, rest) = line.split_at_checked(3)?;
    let ends = matches!(rest.first(), Some(b' ' | b'-' | b'\r' | b'\n'));
    let code = core::str::from_utf8(digits).ok()?.parse::<u16>().ok()?;
    (ends && digits.iter().all(u8::is_ascii_digit) && (100..600).contains(&code)).then_some(code)
}
