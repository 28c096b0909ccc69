//! What part of a file a response says that it holds.

/// `Content-Range: bytes first-last/total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// First byte of the file that is in the body.
    pub first: u64,
    /// Last byte of the file that is in the body.
    pub last: u64,
    /// Length of the file; `None` if the server wrote `*`.
    pub total: Option<u64>,
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let total = if total == "*" { None } else { Some(number(total)?) };
        // The position behind the last byte is a number too.
        let sound = first <= last && last < total.unwrap_or(u64::MAX);
        sound.then_some(Self { first, last, total })
    }
}

/// Digits only: no sign, no blanks inside.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}
