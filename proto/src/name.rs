//! Names of services and their host form (KTH 3.3).
//!
//! A service is called `service.object@domain`. Programs that know nothing of sessions write the
//! same name as a host, `service.object.at.domain.stp`, so that it fits wherever a host name fits.
//! Both forms are read strictly and bounded, and turn into each other without loss. How a name is
//! looked up is not here.

use core::fmt;
use core::str::FromStr;

/// The longest name or host form accepted; the limit of DNS.
pub const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
const SUFFIX: &str = ".stp";
const SEPARATOR: &str = "at";

/// A service name, `service.object@domain`: lower case, checked, at most 253 bytes in either form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    text: String,
    dot: usize,
    at: usize,
}

/// Why a text is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Longer than a host name may be.
    #[error("name is {0} bytes long in its host form, at most {NAME_BYTES_MAX} fit")]
    TooLong(usize),
    /// `service.object@domain` has exactly one `@`.
    #[error("name has no `@` between object and domain, or more than one")]
    NoDomain,
    /// Service and object are separated by the first dot.
    #[error("name has no `.` between service and object")]
    NoObject,
    /// A label is empty, longer than 63 bytes, or begins or ends with `-`.
    #[error("label {0} of the name is empty, longer than 63 bytes, or has `-` at an end")]
    BadLabel(usize),
    /// A character that names do not have.
    #[error("byte {0:#04x} may not stand in a name, only a-z 0-9 - .")]
    BadByte(u8),
    /// `at` separates object and domain in the host form, so no label of an object may be it.
    #[error("`at` may not be a label of an object")]
    AtInObject,
    /// The host form ends in `.stp`.
    #[error("host does not end in `.stp`")]
    NoSuffix,
}

/// Whether this may be one label of a name: small letters, digits, and `-` between them.
#[must_use]
pub fn is_label(text: &str) -> bool {
    check_label(0, text).is_ok()
}

impl Name {
    /// Builds a name from its three parts.
    pub fn new(service: &str, object: &str, domain: &str) -> Result<Name, NameError> {
        let host = service.len() + object.len() + domain.len() + "..at..stp".len();
        if host > NAME_BYTES_MAX {
            return Err(NameError::TooLong(host));
        }
        if object.is_empty() {
            return Err(NameError::NoObject);
        }
        if domain.is_empty() {
            return Err(NameError::NoDomain);
        }
        if service.contains('.') {
            return Err(NameError::BadByte(b'.'));
        }
        let labels = core::iter::once(service).chain(object.split('.')).chain(domain.split('.'));
        for (index, label) in labels.enumerate() {
            check_label(index, label)?;
        }
        if object.split('.').any(|label| label == SEPARATOR) {
            return Err(NameError::AtInObject);
        }
        let text = format!("{service}.{object}@{domain}");
        Ok(Name { dot: service.len(), at: service.len() + 1 + object.len(), text })
    }

    /// Reads the host form `service.object.at.domain.stp`; case and one trailing dot do not count.
    pub fn from_host(host: &str) -> Result<Name, NameError> {
        if host.len() > NAME_BYTES_MAX + 1 {
            return Err(NameError::TooLong(host.len()));
        }
        let lower = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let stem = lower.strip_suffix(SUFFIX).ok_or(NameError::NoSuffix)?;
        let (service, rest) = stem.split_once('.').ok_or(NameError::NoObject)?;
        let mut begin = 0;
        for label in rest.split('.') {
            if label == SEPARATOR {
                let object = rest[..begin].strip_suffix('.').ok_or(NameError::NoObject)?;
                let domain = rest[begin + label.len()..].strip_prefix('.');
                return Name::new(service, object, domain.ok_or(NameError::NoDomain)?);
            }
            begin += label.len() + 1;
        }
        Err(NameError::NoDomain)
    }

    /// Whether a host name claims to be one of ours; cheap, and true for malformed ones as well.
    #[must_use]
    pub fn is_host(host: &[u8]) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        host.len() > SUFFIX.len()
            && host[host.len() - SUFFIX.len()..].eq_ignore_ascii_case(SUFFIX.as_bytes())
    }

    /// The host form, `service.object.at.domain.stp`.
    #[must_use]
    pub fn to_host(&self) -> String {
        format!("{}.{}.{SEPARATOR}.{}{SUFFIX}", self.service(), self.object(), self.domain())
    }

    /// The first label: what is offered.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.text[..self.dot]
    }

    /// The named, movable thing that offers it.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.text[self.dot + 1..self.at]
    }

    /// The domain that allows and keeps the name.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// The endpoint the service belongs to, `object@domain`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.text[self.dot + 1..]
    }

    /// The whole name, `service.object@domain`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn check_label(index: usize, label: &str) -> Result<(), NameError> {
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    if let Some(byte) = label.bytes().find(|byte| !allowed(byte)) {
        return Err(NameError::BadByte(byte));
    }
    let ends = label.starts_with('-') || label.ends_with('-');
    if label.is_empty() || label.len() > LABEL_BYTES_MAX || ends {
        return Err(NameError::BadLabel(index));
    }
    Ok(())
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        let (front, domain) = text.split_once('@').ok_or(NameError::NoDomain)?;
        if domain.contains('@') {
            return Err(NameError::NoDomain);
        }
        let (service, object) = front.split_once('.').ok_or(NameError::NoObject)?;
        Name::new(service, object, domain)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_turn_into_each_other() {
        let forms = [
            ("www.web@example.com", "www.web.at.example.com.stp"),
            ("www.a.b-c.d@example.com", "www.a.b-c.d.at.example.com.stp"),
            ("at.web@at.example", "at.web.at.at.example.stp"),
            ("ssh.1@x", "ssh.1.at.x.stp"),
        ];
        for (text, host) in forms {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_host(), host);
            assert_eq!(Name::from_host(host).unwrap(), name);
            assert_eq!(Name::from_host(&format!("{}.", host.to_uppercase())).unwrap(), name);
            assert_eq!(name.to_string(), text);
            assert!(Name::is_host(host.as_bytes()));
        }
    }

    #[test]
    fn the_longest_name_has_the_longest_host_form() {
        let object = ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join(".");
        let domain = "d".repeat(NAME_BYTES_MAX - "www..at..stp".len() - object.len());
        let longest = Name::new("www", &object, &domain).unwrap();
        assert_eq!(longest.to_host().len(), NAME_BYTES_MAX);
        assert_eq!(Name::from_host(&longest.to_host()), Ok(longest));
        let longer = Name::new("www", &object, &format!("{domain}d"));
        assert_eq!(longer, Err(NameError::TooLong(NAME_BYTES_MAX + 1)));
    }

    #[test]
    fn parts_are_where_they_belong() {
        let name: Name = "www.mirror.eu@example.org".parse().unwrap();
        assert_eq!((name.service(), name.object()), ("www", "mirror.eu"));
        assert_eq!((name.domain(), name.endpoint()), ("example.org", "mirror.eu@example.org"));
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        let long = format!("www.{}@example.com", "a.".repeat(130) + "a");
        let label = format!("www.{}@example.com", "a".repeat(64));
        let cases: [(&str, NameError); 12] = [
            ("www.web", NameError::NoDomain),
            ("www@example.com", NameError::NoObject),
            ("www.web@a@b", NameError::NoDomain),
            ("www.at@example.com", NameError::AtInObject),
            ("www.x.at.y@example.com", NameError::AtInObject),
            ("WWW.web@example.com", NameError::BadByte(b'W')),
            ("www.we b@example.com", NameError::BadByte(b' ')),
            ("www..web@example.com", NameError::BadLabel(1)),
            ("www.web-@example.com", NameError::BadLabel(1)),
            ("www.web@", NameError::NoDomain),
            (&long, NameError::TooLong(long.len())),
            (&label, NameError::BadLabel(1)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Name>(), Err(error), "{text}");
        }
    }

    #[test]
    fn bad_hosts_are_refused_with_the_reason() {
        let cases = [
            ("www.web.at.example.com", NameError::NoSuffix),
            (".stp", NameError::NoObject),
            ("www.stp", NameError::NoObject),
            ("www.web.stp", NameError::NoDomain),
            ("www.at.example.stp", NameError::NoObject),
            ("www.web.at.stp", NameError::NoDomain),
        ];
        for (host, error) in cases {
            assert_eq!(Name::from_host(host), Err(error), "{host}");
        }
        assert!(!Name::is_host(b".stp"));
        assert!(!Name::is_host(b"example.org"));
    }
}
