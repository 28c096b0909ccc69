//! A service that speaks TLS itself, as a service's configuration says it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::service::secured::Secured;

/// What such a place begins with.
const SCHEME: &str = "https://";
/// The port if none is named.
const PORT: u16 = 443;
/// The protocol spoken inside (ALPN).
const HTTP_1: &[u8] = b"http/1.1";

/// Which key of the service is wrong, and why.
type Wrong = (&'static str, String);

/// Reads the place that begins with `https://`, if `to` is one; then its certificate must be for
/// `to_name`, or for the host, by the authorities of the file `ca`, or of this machine.
pub(super) fn read(
    to: &str,
    to_name: Option<&str>,
    ca: Option<&PathBuf>,
    resolve: impl Fn(&Path) -> PathBuf,
) -> Result<Option<Secured>, Wrong> {
    let Some(place) = to.strip_prefix(SCHEME) else {
        let what = format!("says whose certificate is good: to = \"{SCHEME}…\" is needed");
        return match (to_name, ca) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(("to_name", what)),
            (None, Some(_)) => Err(("ca", what)),
        };
    };
    let wrong = || {
        let what = "is not a place such as \"https://backend.example.org:8443\"";
        ("to", format!("{to:?} {what}: a host, and a port if it is not {PORT}"))
    };
    let (host, port) = host_and_port(place).ok_or_else(wrong)?;
    let name = to_name.unwrap_or(host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| ("to_name", format!("{name:?} is not a name of a host")));
    let name = name.map_err(|error| if to_name.is_some() { error } else { wrong() })?;
    let roots = match ca {
        Some(file) => of_file(&resolve(file))?,
        None => of_this_machine(),
    };
    if roots.is_empty() {
        let what = "this machine trusts no authority (Debian: apt install ca-certificates); name a \
                    file with the certificates of those that are good for the service: ca = \"…\"";
        return Err(("to", what.to_owned()));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ("to", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    let (host, config) = (host.to_owned(), Arc::new(config));
    Ok(Some(Secured { host, port, name, config, header: None }))
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`, and perhaps a slash.
fn host_and_port(place: &str) -> Option<(&str, u16)> {
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match port {
        "" => PORT,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port > 0)?,
    };
    (!host.is_empty()).then_some((host, port))
}

fn of_file(file: &Path) -> Result<RootCertStore, Wrong> {
    let wrong = |what: String| ("ca", format!("{}: {what}", file.display()));
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it (BEGIN CERTIFICATE)".to_owned()));
    }
    Ok(roots)
}

/// A certificate among them that cannot be read is left out.
fn of_this_machine() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "an authority of this machine cannot be used");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_and_perhaps_a_port() {
        for (place, wanted) in [
            ("a.example", Some(("a.example", 443))),
            ("a.example:8443/", Some(("a.example", 8443))),
            ("127.0.0.1:1", Some(("127.0.0.1", 1))),
            ("[::1]", Some(("::1", 443))),
            ("[::1]:8443", Some(("::1", 8443))),
            ("", None),
            (":443", None),
            ("a:0", None),
            ("a:b", None),
            ("[::1", None),
            ("[::1]x", None),
        ] {
            assert_eq!(host_and_port(place), wanted, "{place}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_of_the_right_key() {
        let said = |to: &str, name: Option<&str>, ca: Option<&str>| {
            let ca = ca.map(PathBuf::from);
            let read = read(to, name, ca.as_ref(), Path::to_owned);
            read.map(|found| found.map(|secured| secured.to_string())).map_err(|wrong| wrong.0)
        };
        assert_eq!(said("127.0.0.1:80", None, None), Ok(None));
        assert_eq!(said("127.0.0.1:80", Some("a"), None), Err("to_name"));
        assert_eq!(said("127.0.0.1:80", None, Some("/x")), Err("ca"));
        assert_eq!(said("https://a:b", None, None), Err("to"));
        assert_eq!(said("https://a b", None, None), Err("to"));
        assert_eq!(said("https://a", Some("a b"), None), Err("to_name"));
        assert_eq!(said("https://a", None, Some("/nothing/there")), Err("ca"));
        assert_eq!(said("https://a", None, Some("/dev/null")), Err("ca"));
    }
}
