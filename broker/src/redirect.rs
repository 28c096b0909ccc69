//! A response that sends its program elsewhere. The broker passes on bytes and need not know HTTP;
//! but where a redirect leads to a destination without a route, what comes from there is no
//! session, and the user is told.

use std::fmt;
use std::net::IpAddr;

use axum::http::Uri;
use stp_proto::pattern::host_name;

/// Fields of a head that are looked at.
const FIELDS_MAX: usize = 64;

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// A name in small letters, or an address without brackets.
    pub host: String,
    /// The port, also if it is the scheme's usual one.
    pub port: u16,
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Redirect {
    /// Where the response leads whose first bytes these are. Nothing if it is no redirect (RFC
    /// 9110, section 15.4), stays at its host, or its head is not there as a whole.
    #[must_use]
    pub fn of_response(bytes: &[u8]) -> Option<Redirect> {
        if !bytes.starts_with(b"HTTP/1.") {
            return None;
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        if !head.parse(bytes).ok()?.is_complete() {
            return None;
        }
        head.code.filter(|code| matches!(code, 301..=303 | 307 | 308))?;
        let mut locations = head.headers.iter();
        let location = locations.find(|field| field.name.eq_ignore_ascii_case("location"))?;
        let to: Uri = std::str::from_utf8(location.value).ok()?.parse().ok()?;
        let usual = match to.scheme_str()? {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = to.host()?.trim_start_matches('[').trim_end_matches(']');
        let is_address = host.parse::<IpAddr>().is_ok();
        let host = if is_address { host.to_owned() } else { host_name(host).ok()? };
        Some(Redirect { host, port: to.port_u16().unwrap_or(usual) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(head: &str) -> Option<String> {
        Redirect::of_response(head.as_bytes()).map(|to| to.to_string())
    }

    #[test]
    fn a_redirect_to_a_host_is_seen() {
        for (line, location, to) in [
            ("301 Moved Permanently", "http://Mirror7.example.org/a", "mirror7.example.org:80"),
            ("302 Found", "https://b.example.org/a?b#c", "b.example.org:443"),
            ("307 Temporary Redirect", "http://me@c.example.org:8080", "c.example.org:8080"),
            ("308 x", "http://192.0.2.1/", "192.0.2.1:80"),
            ("303 See Other", "https://[2001:db8::1]:81/", "[2001:db8::1]:81"),
        ] {
            let head = format!("HTTP/1.1 {line}\r\nServer: x\r\nLOCATION: {location}\r\n\r\nbody");
            assert_eq!(leads(&head).as_deref(), Some(to), "{head}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for head in [
            "HTTP/1.1 200 OK\r\nLocation: http://a.example.org/\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nLocation: http://a.example.org/\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: ftp://a.example.org/\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http://a b/\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http:///x\r\n\r\n",
            "HTTP/1.1 302 Found\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: http://a.example.org/",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "",
        ] {
            assert_eq!(leads(head), None, "{head}");
        }
        assert_eq!(Redirect::of_response(&[0xff; 100]), None);
    }
}
