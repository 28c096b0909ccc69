//! The handshake, by rustls, which is taken apart as soon as it is over.
//!
//! rustls sees one record at a time and is left at the first moment at which it would let data go:
//! then nothing has been sealed under the keys of data, both numbers are 0, and no change of keys
//! can have been begun whose answer would be lost with the connection. The secrets come by the
//! interface that is made for logging them; they are handed over once and kept nowhere else.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, KeyLog, ServerConfig};

use crate::record::HEADER;
use crate::secret::{Direction, Keys, Secret, Suite};

/// The most that a ClientHello and what follows it may take. Post-quantum keys take 1.2 KiB of it.
const BYTES_MAX: usize = 64 * 1024;
/// The longest record.
const RECORD_MAX: usize = HEADER + 16_384 + 256;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The app cannot be spoken with.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// What came is no handshake.
    #[error("{0}")]
    NotTls(String),
}

/// The two secrets, as they are made.
#[derive(Default)]
struct Secrets(Mutex<(Vec<u8>, Vec<u8>)>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        let (down, up) = self.0.get_mut();
        crate::secret::wipe(down);
        crate::secret::wipe(up);
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        match label {
            "SERVER_TRAFFIC_SECRET_0" => self.0.lock().0 = secret.to_vec(),
            "CLIENT_TRAFFIC_SECRET_0" => self.0.lock().1 = secret.to_vec(),
            _ => {}
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label.ends_with("_TRAFFIC_SECRET_0")
    }
}

/// A handshake under way.
pub struct Handshake {
    tls: UnbufferedServerConnection,
    secrets: Arc<Secrets>,
    /// Whole records that rustls has not done with.
    shown: Vec<u8>,
    /// The record under way.
    partial: Vec<u8>,
    taken: usize,
    /// For the app.
    out: Vec<u8>,
}

/// What a step came to.
pub enum Step {
    /// More must come.
    More,
    /// It is over. What follows is read and written with these keys.
    Done(Box<Keys>),
}

impl Handshake {
    /// Waits for the app's first word.
    ///
    /// # Errors
    /// When the configuration cannot serve anybody.
    pub fn new(config: &ServerConfig) -> Result<Self, Failure> {
        let secrets = Arc::<Secrets>::default();
        let mut config = config.clone();
        config.key_log = Arc::<Secrets>::clone(&secrets);
        let tls = UnbufferedServerConnection::new(Arc::new(config))?;
        let (shown, partial, out) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { tls, secrets, shown, partial, taken: 0, out })
    }

    /// What is to be sent to the app.
    #[must_use]
    pub fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes bytes of the app, of at most one record; says how many.
    ///
    /// # Errors
    /// When there will be no connection. The app is to be sent what there is, then the end.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Step), Failure> {
        let mut taken = 0;
        loop {
            let known = record_length(&self.partial)?;
            let wanted = known.unwrap_or(HEADER) - self.partial.len();
            let part = &bytes[taken..bytes.len().min(taken + wanted)];
            self.partial.extend_from_slice(part);
            taken += part.len();
            self.taken += part.len();
            if self.taken > BYTES_MAX {
                return Err(Failure::NotTls(format!("more than {BYTES_MAX} bytes of handshake")));
            }
            if part.len() < wanted {
                return Ok((taken, Step::More));
            }
            if known.is_some() {
                break;
            }
        }
        self.shown.append(&mut self.partial);
        match self.advance() {
            Ok(true) => Ok((taken, Step::Done(Box::new(self.keys()?)))),
            Ok(false) => Ok((taken, Step::More)),
            Err(error) => {
                self.encode_alert();
                Err(error)
            }
        }
    }

    /// True when the handshake is over.
    fn advance(&mut self) -> Result<bool, Failure> {
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.shown);
            let goes_on = match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut self.out, |room| data.encode(room))?;
                    true
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    true
                }
                ConnectionState::BlockedHandshake => false,
                ConnectionState::WriteTraffic(_) => return Ok(true),
                _ => return Err(Failure::NotTls("the app ends the handshake".to_owned())),
            };
            self.shown.drain(..discard);
            if !goes_on {
                return Ok(false);
            }
        }
    }

    /// After an error, what the app is told of it.
    fn encode_alert(&mut self) {
        for _ in 0..4 {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut []);
            debug_assert_eq!(discard, 0, "there was nothing");
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode(&mut self.out, |room| data.encode(room)).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return,
            }
        }
    }

    fn keys(&self) -> Result<Keys, Failure> {
        let suite = match self.tls.negotiated_cipher_suite().map(|suite| suite.suite()) {
            Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => Some(Suite::Aes128),
            Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => Some(Suite::Aes256),
            Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => Some(Suite::ChaCha20),
            _ => None,
        };
        let secrets = self.secrets.0.lock();
        let direction = |secret: &[u8]| {
            suite
                .and_then(|suite| Secret::new(suite, secret))
                .map(|secret| Direction { secret, number: 0 })
        };
        match (direction(&secrets.0), direction(&secrets.1)) {
            (Some(down), Some(up)) => Ok(Keys { down, up }),
            _ => Err(Failure::NotTls("a cipher suite that is not known here".to_owned())),
        }
    }
}

fn encode(
    out: &mut Vec<u8>,
    mut put: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Failure> {
    let (at, mut room) = (out.len(), 4 * 1024);
    loop {
        out.resize(at + room, 0);
        match put(&mut out[at..]) {
            Ok(length) => {
                out.truncate(at + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                out.truncate(at);
                return Err(Failure::NotTls("said twice".to_owned()));
            }
        }
    }
}

/// How long the record is that begins with these bytes; none while its header is not whole.
fn record_length(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let right = match bytes {
        [] => true,
        [kind, rest @ ..] => {
            (20..=23).contains(kind) && rest.first().is_none_or(|major| *major == 3)
        }
    };
    let length = match bytes.first_chunk::<HEADER>() {
        Some(&[_, _, _, high, low]) => HEADER + usize::from(u16::from_be_bytes([high, low])),
        None => HEADER,
    };
    if !right || length > RECORD_MAX {
        let begin = bytes[..bytes.len().min(16)].escape_ascii();
        let plain = bytes.first().is_some_and(u8::is_ascii_uppercase);
        let hint = if plain { ": HTTP without TLS?" } else { "" };
        return Err(Failure::NotTls(format!("the app does not speak TLS: \"{begin}\"{hint}")));
    }
    Ok((bytes.len() >= HEADER).then_some(length))
}
