//! Session handles (KTH 3.7.1): 128 random bits, one chosen by each side. The pair names the
//! session. The core never makes one up: handles are arguments.

use core::fmt;
use core::str::FromStr;

/// One side's name for a session. Written as 32 hexadecimal digits.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Handle(pub [u8; 16]);

impl Handle {
    /// "Not known yet": the peer's handle before it has answered. Never chosen by anybody.
    pub const NONE: Handle = Handle([0; 16]);

    /// Whether this is [`Handle::NONE`].
    pub fn is_none(&self) -> bool {
        *self == Handle::NONE
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

/// The text is not a handle.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a handle is 32 hexadecimal digits")]
pub struct NotAHandle;

impl FromStr for Handle {
    type Err = NotAHandle;

    fn from_str(text: &str) -> Result<Handle, NotAHandle> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(NotAHandle);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Handle(bytes))
    }
}

fn digit(ascii: u8) -> Result<u8, NotAHandle> {
    match ascii {
        b'0'..=b'9' => Ok(ascii - b'0'),
        b'a'..=b'f' => Ok(ascii - b'a' + 10),
        b'A'..=b'F' => Ok(ascii - b'A' + 10),
        _ => Err(NotAHandle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let handle = Handle(core::array::from_fn(|i| (i * 17) as u8));
        assert_eq!(handle.to_string().parse(), Ok(handle));
        assert_eq!("00".parse::<Handle>(), Err(NotAHandle));
        assert_eq!("zz".repeat(16).parse::<Handle>(), Err(NotAHandle));
        assert_eq!("é".repeat(16).parse::<Handle>(), Err(NotAHandle));
        assert!(Handle::NONE.is_none());
    }
}
