//! The site's certificates and their keys: PEM files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{InconsistentKeys, ServerConfig};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A certificate that ends within this time is warned of: Let's Encrypt renews 30 days before.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The protocol that may be spoken inside (ALPN).
const HTTP_1: &[u8] = b"http/1.1";

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub struct BadFile {
    /// The place in the list of files that were named.
    pub index: usize,
    /// It is the key's file that is wrong, not the certificate's.
    pub key: bool,
    file: String,
    what: String,
}

/// One certificate, with those that lead to a root, and its key.
#[derive(Debug)]
struct Pair {
    certified: Arc<CertifiedKey>,
    /// Its end, in seconds since 1970, if it can be read.
    expires: Option<u64>,
}

/// What the files hold now.
#[derive(Debug)]
struct State {
    pairs: Arc<[Pair]>,
    changed: Vec<Option<SystemTime>>,
    looked: Instant,
    trouble: Option<BadFile>,
}

/// The certificates of a service.
#[derive(Debug)]
pub struct Certificates {
    /// Certificate and key.
    files: Vec<(PathBuf, PathBuf)>,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

impl Certificates {
    /// Reads these files: of each pair the certificate, with those that lead to a root, then the
    /// key.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn load(files: Vec<(PathBuf, PathBuf)>) -> Result<Self, BadFile> {
        let provider = Arc::new(provider());
        let changed = changed(&files);
        let pairs = read_all(&files, &provider)?;
        let state = State { pairs, changed, looked: Instant::now(), trouble: None };
        Ok(Self { files, provider, state: Mutex::new(state) })
    }

    fn now(&self) -> Arc<[Pair]> {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let changed = changed(&self.files);
            if changed != state.changed {
                match read_all(&self.files, &self.provider) {
                    Ok(pairs) => {
                        tracing::info!("the certificates have changed");
                        (state.pairs, state.trouble) = (pairs, None);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the certificates of before are used");
                        state.trouble = Some(error);
                    }
                }
                state.changed = changed;
            }
        }
        Arc::clone(&state.pairs)
    }

    /// When the first of them ends, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.now().iter().filter_map(|pair| pair.expires).min()
    }

    /// What an operator should know.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let expires = self.expires();
        if let Some(trouble) = &self.state.lock().trouble {
            return Some(format!("{trouble}; the certificates of before are used"));
        }
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let left = expires?.checked_sub(now);
        match left {
            None => Some("a certificate has expired".to_owned()),
            Some(left) if left < SOON.as_secs() => {
                Some(format!("a certificate expires in {} days", left / (24 * 3600)))
            }
            Some(_) => None,
        }
    }
}

impl ResolvesServerCert for Certificates {
    /// The first one for the name that the app asks for, whose key it knows; without a name, or if
    /// none is for it, the first one, and the app will say what it thinks of that.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pairs = self.now();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let knows =
            |pair: &&Pair| pair.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |pair: &&Pair| {
            let certificate = pair.certified.end_entity_cert().ok();
            let parsed = certificate.and_then(|der| ParsedCertificate::try_from(der).ok());
            let both = parsed.as_ref().zip(name.as_ref());
            both.is_some_and(|(parsed, name)| verify_server_name(parsed, name).is_ok())
        };
        let of_name = pairs.iter().filter(knows).find(named);
        let found = of_name.or_else(|| pairs.iter().find(knows)).or_else(|| pairs.first());
        found.map(|pair| Arc::clone(&pair.certified))
    }
}

/// How handshakes are done with these certificates: by TLS 1.3 and nothing older, because only
/// there a new server can change keys; without resumption, because tickets of TLS would have to be
/// shared by all servers; for HTTP/1.1, the protocol that can be continued.
///
/// # Panics
/// Never: the suites are of TLS 1.3.
#[must_use]
pub fn config(certificates: &Arc<Certificates>) -> ServerConfig {
    let resolver = Arc::<Certificates>::clone(certificates);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&certificates.provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the suites are of TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    config
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn changed(files: &[(PathBuf, PathBuf)]) -> Vec<Option<SystemTime>> {
    let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    files.iter().flat_map(|(certificate, key)| [changed(certificate), changed(key)]).collect()
}

fn read_all(
    files: &[(PathBuf, PathBuf)],
    provider: &CryptoProvider,
) -> Result<Arc<[Pair]>, BadFile> {
    let read = |(index, (certificate, key)): (usize, &(PathBuf, PathBuf))| {
        read(certificate, key, provider).map_err(|(of_key, path, what)| BadFile {
            index,
            key: of_key,
            file: path.display().to_string(),
            what,
        })
    };
    files.iter().enumerate().map(read).collect()
}

type Wrong<'a> = (bool, &'a Path, String);

fn read<'a>(
    certificate: &'a Path,
    key: &'a Path,
    provider: &CryptoProvider,
) -> Result<Pair, Wrong<'a>> {
    let wrong = |what: String| (false, certificate, what);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(|error| wrong(said(&error)))?.collect();
    let chain = chain.map_err(|error| wrong(said(&error)))?;
    let Some(first) = chain.first() else {
        return Err(wrong("there is no certificate in it (BEGIN CERTIFICATE)".to_owned()));
    };
    if let Err(error) = ParsedCertificate::try_from(first) {
        return Err(wrong(format!("its first certificate cannot be used: {error}")));
    }
    let expires = expiry(first);
    let of_key = |what: String| (true, key, what);
    let der = PrivateKeyDer::from_pem_file(key).map_err(|error| of_key(said(&error)))?;
    let signing = provider.key_provider.load_private_key(der);
    let signing = signing.map_err(|error| of_key(format!("this key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let what = format!("this is not the key of {}", certificate.display());
            return Err(of_key(what));
        }
    }
    Ok(Pair { certified: Arc::new(certified), expires })
}

fn said(error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "there is nothing of that kind in it (PEM is expected)".to_owned(),
        error => error.to_string(),
    }
}

/// The end of a certificate's time, in seconds since 1970 (RFC 5280, 4.1.2.5).
fn expiry(certificate: &[u8]) -> Option<u64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, body, _) = element(certificate)?;
    let mut rest = body;
    // The version may be missing; then come serial, algorithm and issuer.
    if let (0xa0, _, after) = element(rest)? {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, after) = element(validity)?;
    let (kind, time, _) = element(after)?;
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = match kind {
        0x17 => {
            let year: u64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Days since 1970, with years that begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    Some(days * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

/// The first element of DER: its tag, what it holds, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
        let add = |length: usize, byte: &u8| length.checked_mul(256)?.checked_add((*byte).into());
        (long.iter().try_fold(0, add)?, rest)
    };
    let (held, rest) = rest.split_at_checked(length)?;
    Some((tag, held, rest))
}
