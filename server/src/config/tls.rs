//! TLS with the apps, as a service's configuration says it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use serde::Deserialize;
use stp_tls::certificate::{self, Certificates};

/// TLS with the apps.
#[derive(Debug)]
pub struct TlsConfig {
    /// The site's certificates.
    pub certificates: Arc<Certificates>,
    /// How handshakes are done with them.
    pub handshakes: Arc<ServerConfig>,
}

/// Files: one, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a file, or a list of files")]
pub(super) enum Files {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Files {
    fn all(&self) -> &[PathBuf] {
        match self {
            Self::One(file) => std::slice::from_ref(file),
            Self::Many(files) => files,
        }
    }
}

/// Which key of the service is wrong, and why.
type Wrong = (&'static str, String);

/// Reads what the keys `certificate` and `key` name, which only a service of kind https may have,
/// and needs. `resolve` says where a file is meant to be.
pub(super) fn read(
    (certificate, key): (&Option<Files>, &Option<Files>),
    is_wanted: bool,
    resolve: impl Fn(&Path) -> PathBuf,
) -> Result<Option<Arc<TlsConfig>>, Wrong> {
    if !is_wanted {
        let what = "only a service of kind https has one: write kind = \"https\"";
        return match (certificate, key) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(("certificate", what.to_owned())),
            (None, Some(_)) => Err(("key", what.to_owned())),
        };
    }
    let missing = |name| {
        let what = "is missing: a service of kind https needs a PEM file here, or a list of them";
        (name, what.to_owned())
    };
    let certificates = certificate.as_ref().ok_or_else(|| missing("certificate"))?.all();
    let keys = key.as_ref().ok_or_else(|| missing("key"))?.all();
    if certificates.is_empty() || certificates.len() != keys.len() {
        let (wants, has) = (certificates.len(), keys.len());
        let what = format!("one file for each certificate is expected: {wants}, not {has}");
        return Err(("key", what));
    }
    let files = certificates.iter().zip(keys);
    let files = files.map(|(certificate, key)| (resolve(certificate), resolve(key))).collect();
    let certificates = Certificates::load(files)
        .map_err(|error| (if error.key { "key" } else { "certificate" }, error.to_string()))?;
    let certificates = Arc::new(certificates);
    let handshakes = Arc::new(certificate::config(&certificates));
    Ok(Some(Arc::new(TlsConfig { certificates, handshakes })))
}
