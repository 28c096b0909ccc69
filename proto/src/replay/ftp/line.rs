//! Lines of a control connection, as they come in pieces, with the client's Telnet codes taken out.

use crate::steps;

/// Longest command, without its line end. RFC 959 gives no bound; servers take 4 KiB.
pub const LINE_MAX: usize = 8 * 1024;

const IAC: u8 = 255;
const SUBNEGOTIATION: u8 = 250;
const SUBNEGOTIATION_END: u8 = 240;

/// Where in a Telnet code the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Telnet {
    #[default]
    Text,
    /// Behind IAC.
    Code,
    /// Behind IAC WILL, WONT, DO or DONT: one byte follows.
    Option,
    /// Inside a subnegotiation, and behind an IAC in it.
    Inside,
    InsideCode,
}

/// A line of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Without its end. Empty if it was too long.
    pub text: Vec<u8>,
    /// Position of the first byte behind it in the stream.
    pub end: u64,
    /// It had more than [`LINE_MAX`] bytes: its text is gone.
    pub too_long: bool,
}

/// Reads lines that end in LF, with CR before it or without.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    text: Vec<u8>,
    at: u64,
    telnet: Telnet,
    too_long: bool,
}

impl Lines {
    /// Begins at this position of the stream.
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self { at: position, ..Self::default() }
    }

    /// The position of the next byte.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Takes bytes up to the end of a line, at most all. Says how many, and gives the line.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Option<Line>) {
        for (index, &byte) in bytes.iter().enumerate() {
            steps::note(0);
            self.at += 1;
            if self.byte(byte) {
                let mut text = std::mem::take(&mut self.text);
                let too_long = std::mem::take(&mut self.too_long);
                if text.last() == Some(&b'\r') {
                    text.pop();
                }
                if too_long {
                    text.clear();
                }
                return (index + 1, Some(Line { text, end: self.at, too_long }));
            }
        }
        (bytes.len(), None)
    }

    /// Whether this byte ends the line.
    fn byte(&mut self, byte: u8) -> bool {
        let next = match (self.telnet, byte) {
            (Telnet::Text, IAC) => Telnet::Code,
            (Telnet::Text, b'\n') => return true,
            (Telnet::Text, _) => {
                self.keep(byte);
                Telnet::Text
            }
            (Telnet::Code, IAC) => {
                self.keep(byte);
                Telnet::Text
            }
            (Telnet::Code, 251..=254) => Telnet::Option,
            (Telnet::Code, SUBNEGOTIATION) => Telnet::Inside,
            (Telnet::Code | Telnet::Option, _) => Telnet::Text,
            (Telnet::Inside, IAC) => Telnet::InsideCode,
            (Telnet::InsideCode, SUBNEGOTIATION_END) => Telnet::Text,
            (Telnet::Inside | Telnet::InsideCode, _) => Telnet::Inside,
        };
        self.telnet = next;
        false
    }

    fn keep(&mut self, byte: u8) {
        if self.text.len() < LINE_MAX {
            self.text.push(byte);
        } else if byte != b'\r' {
            self.too_long = true;
        }
    }
}
