//! A client's commands, and what kind of thing each of them is.

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Upper case, ASCII, at most eight letters.
    pub verb: String,
    /// What follows the first space.
    pub argument: Vec<u8>,
    /// The line as it came, without its end and without Telnet codes.
    pub line: Vec<u8>,
    /// Position of the first byte behind it in the client's stream.
    pub end: u64,
}

/// What a command moves over a data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transfer {
    /// A file or a listing to the client. It may be asked for again.
    Down,
    /// A file to the server.
    Up,
}

impl Command {
    /// A command from its line.
    #[must_use]
    pub fn new(line: Vec<u8>, end: u64) -> Self {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = line.iter().position(|byte| !blank(byte)).unwrap_or(line.len());
        let rest = &line[start..];
        let length = rest.iter().position(blank).unwrap_or(rest.len());
        let verb = rest[..length.min(8)].iter().map(|byte| char::from(byte.to_ascii_uppercase()));
        let argument = rest.get(length + 1..).unwrap_or_default().to_vec();
        Self { verb: verb.collect(), argument, line, end }
    }

    /// The argument as text, if it is UTF-8; control characters and other bytes make it empty.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.argument).unwrap_or_default().trim()
    }

    /// What it moves over a data connection, if anything.
    #[must_use]
    pub fn transfer(&self) -> Option<Transfer> {
        match self.verb.as_str() {
            "RETR" | "LIST" | "NLST" | "MLSD" => Some(Transfer::Down),
            "STOR" | "APPE" | "STOU" => Some(Transfer::Up),
            _ => None,
        }
    }

    /// Whether doing it twice is as good as doing it once.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self.verb.as_str(),
            "APPE" | "STOU" | "DELE" | "RMD" | "XRMD" | "MKD" | "XMKD" | "RNTO" | "SITE"
        )
    }

    /// Whether it encrypts the control connection: AUTH (RFC 4217), or an older word for it.
    #[must_use]
    pub fn is_auth(&self) -> bool {
        self.verb == "AUTH"
    }

    /// With its line end, for the server.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.line.clone();
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}
