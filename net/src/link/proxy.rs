//! Links through a proxy, where nothing else leads out of a network: HTTP CONNECT (RFC 9110,
//! section 9.3.6) or SOCKS5 (RFC 1928). The proxy passes on bytes; it sees no key and no contents.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use crate::place::Place;

/// A longer answer is none.
const HEAD_MAX: usize = 16 * 1024;
/// Fields of an answer that are read.
const FIELDS_MAX: usize = 64;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

/// A proxy. It is read from "http://proxy.example.org:3128", "socks5://127.0.0.1:1080", or the same
/// with `USER:PASSWORD@` before the host.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    /// Where it listens.
    pub place: Place,
    login: Option<(String, String)>,
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is wrong is said without the password.
        let wrong = |why: &str| {
            format!("{why}; a proxy is written \"http://HOST:PORT\" or \"socks5://HOST:PORT\"")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let (kind, usual) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            other => return Err(wrong(&format!("{other:?} is no kind of proxy known here"))),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        let place = Place::parse(host, Some(usual)).ok_or_else(|| wrong("no host and port"))?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let login = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            Ok::<_, std::str::Utf8Error>((decoded(user)?, decoded(password)?))
        });
        let login = login.transpose().map_err(|_| wrong("the log-in is no text"))?;
        if login.as_ref().is_some_and(|(user, password)| user.len().max(password.len()) > 255) {
            return Err(wrong("user and password may have 255 bytes each"));
        }
        Ok(Self { kind, place, login })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.place)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Proxy {
    /// Has the proxy at the other end of `tcp` connect to `to`.
    ///
    /// # Errors
    /// When it does not, with its own words or what to do.
    pub(super) async fn lead(&self, tcp: TcpStream, to: &Place) -> io::Result<TcpStream> {
        match self.kind {
            Kind::Http => self.lead_http(tcp, to).await,
            Kind::Socks5 => self.lead_socks(tcp, to).await,
        }
    }

    async fn lead_http(&self, mut tcp: TcpStream, to: &Place) -> io::Result<TcpStream> {
        let login = self.login.as_ref().map(|(user, password)| {
            let coded = STANDARD.encode(format!("{user}:{password}"));
            format!("Proxy-Authorization: Basic {coded}\r\n")
        });
        let login = login.unwrap_or_default();
        let ask = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{login}\r\n");
        tcp.write_all(ask.as_bytes()).await?;
        let mut head = Vec::new();
        // A byte at a time: what follows the head belongs to the link. It is short.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == HEAD_MAX {
                return Err(io::Error::other("its answer is no head of HTTP"));
            }
            head.push(tcp.read_u8().await?);
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        let parsed = answer.parse(&head).is_ok_and(|status| status.is_complete());
        match answer.code.filter(|_| parsed) {
            Some(200..300) => Ok(tcp),
            // Some say 401 of a wrong password.
            Some(code @ (401 | 407)) => {
                let want = if self.login.is_some() { "another" } else { "a" };
                let text = format!("it wants {want} log-in ({code}): http://USER:PASSWORD@HOST");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            }
            Some(code) => {
                let why = answer.reason.unwrap_or_default();
                Err(io::Error::other(format!("it answered {code} {why}")))
            }
            None => Err(io::Error::other("its answer is no head of HTTP")),
        }
    }

    async fn lead_socks(&self, tcp: TcpStream, to: &Place) -> io::Result<TcpStream> {
        let target = (to.host.as_str(), to.port);
        let led = match &self.login {
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(tcp, target, user, password).await
            }
            None => Socks5Stream::connect_with_socket(tcp, target).await,
        };
        led.map(Socks5Stream::into_inner).map_err(io::Error::other)
    }
}

/// When a proxy is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// The proxy.
    pub proxy: Proxy,
    /// Always; else only where the straight way has not led there in time.
    pub always: bool,
    /// The hosts to which it must not be asked to lead, in the form of `no_proxy`.
    spared: String,
}

impl Detour {
    /// The proxy that programs are told of by `https_proxy` or `all_proxy`, for where the straight
    /// way does not lead there and `no_proxy` does not forbid it. One that cannot be read is left
    /// out with a word in the log.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        let (name, text) = set(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?;
        let text = if text.contains("://") { text } else { format!("http://{text}") };
        let spared = set(&["no_proxy", "NO_PROXY"]).map(|(_, text)| text).unwrap_or_default();
        match text.parse() {
            Ok(proxy) => Some(Self { proxy, always: false, spared }),
            Err(error) => {
                tracing::warn!(%error, "{name} is not used for links");
                None
            }
        }
    }

    /// Whether the proxy must not be asked to lead there.
    #[must_use]
    pub fn spares(&self, place: &Place) -> bool {
        let Ok(to) = format!("https://{place}").parse::<Uri>() else { return false };
        // Which proxy it is does not matter to the question.
        let asked = Matcher::builder().all("http://proxy").no(self.spared.as_str()).build();
        asked.intercept(&to).is_none()
    }
}

/// The first of these variables that is set to something.
fn set(names: &[&'static str]) -> Option<(&'static str, String)> {
    let mut set = names.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?)));
    set.find(|(_, text)| !text.is_empty())
}

/// Whether links go through a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyWish {
    /// Through that of the environment (`https_proxy`, `all_proxy`), where the straight way does
    /// not lead to a server.
    #[default]
    Environment,
    /// Never.
    Never,
    /// Always through this one.
    Always(Proxy),
}

impl ProxyWish {
    /// What links are to be told.
    #[must_use]
    pub fn detour(&self) -> Option<Detour> {
        match self {
            Self::Environment => Detour::of_environment(),
            Self::Never => None,
            Self::Always(proxy) => {
                Some(Detour { proxy: proxy.clone(), always: true, spared: String::new() })
            }
        }
    }
}

impl FromStr for ProxyWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Never),
            text => text.parse().map(Self::Always).map_err(|why| format!("{why}, or \"none\"")),
        }
    }
}

impl<'de> Deserialize<'de> for ProxyWish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_shown_without_their_password() {
        for (text, shown, login) in [
            ("http://proxy.example.org:3128", "http://proxy.example.org:3128", None),
            ("HTTP://proxy/", "http://proxy:80", None),
            ("socks5h://[::1]", "socks5://[::1]:1080", None),
            ("http://me:p%40ss@10.0.0.1:8080/", "http://10.0.0.1:8080", Some(("me", "p@ss"))),
            ("socks5://me@h:1", "socks5://h:1", Some(("me", ""))),
        ] {
            let proxy: Proxy = text.parse().expect(text);
            assert_eq!((proxy.to_string(), format!("{proxy:?}")), (shown.into(), shown.into()));
            let own = proxy.login.as_ref().map(|(user, password)| (&user[..], &password[..]));
            assert_eq!(own, login, "{text}");
        }
        for bad in ["proxy:3128", "https://proxy:3128", "socks4://h:1", "http://", "http://a b:1"] {
            assert!(bad.parse::<Proxy>().is_err(), "{bad}");
        }
        let error = "http://me:secret@:".parse::<Proxy>().expect_err("no host");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn no_proxy_keeps_hosts_off_the_proxy() {
        let proxy: Proxy = "http://proxy.example.org:3128".parse().expect("a proxy");
        let spared = "example.org, .lab, 10.0.0.0/8, 192.0.2.7, fd00::/8".to_owned();
        let detour = Detour { proxy: proxy.clone(), always: false, spared };
        for (place, spared) in [
            ("example.org:4433", true),
            ("a.example.org:4433", true),
            ("badexample.org:4433", false),
            ("a.lab:443", true),
            ("10.1.2.3:4433", true),
            ("11.1.2.3:4433", false),
            ("192.0.2.7:4433", true),
            ("192.0.2.8:4433", false),
            ("[fd00::1]:4433", true),
            ("[2001:db8::1]:4433", false),
        ] {
            assert_eq!(detour.spares(&Place::parse(place, None).expect(place)), spared, "{place}");
        }
        let place = Place::parse("a.lab:443", None).expect("a place");
        for (text, spared) in [("*", true), ("", false)] {
            let detour = Detour { proxy: proxy.clone(), always: false, spared: text.to_owned() };
            assert_eq!(detour.spares(&place), spared, "no_proxy={text}");
        }
    }
}
