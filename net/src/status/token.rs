//! The secret that whatever changes something must show.

use std::fmt;
use std::io;
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::key::{KeyError, read_secret, write_secret};

/// A token has at least this many characters.
const LENGTH_MIN: usize = 16;

/// A bearer token, kept in a file of mode 0600: a program that can read it may act.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Makes a token that is kept nowhere.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 24];
        SystemRandom::new().fill(&mut bytes).expect("the system's randomness does not fail");
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads the token in `path`, or makes one and writes it there.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let text = match read_secret(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                write_secret(path, format!("{}\n", Self::generate().0).as_bytes())?;
                read_secret(path)?
            }
            read => read?,
        };
        let token = text.trim();
        if token.len() < LENGTH_MIN || token.contains(char::is_whitespace) {
            let what = format!(
                "one word of at least {LENGTH_MIN} characters is expected (delete the file to \
                    have a new one made)"
            );
            return Err(KeyError::Malformed { path: path.into(), what });
        }
        Ok(Self(token.to_owned()))
    }

    /// The token itself, for a client that may act.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares without telling by the time it takes how much is right.
    pub(super) fn matches(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }
}
