//! Other origins of the files that a program asks for.
//!
//! They stand in the configuration (`mirrors`), or in the environment of the program itself, which
//! those it starts inherit: [`VARIABLE`].

/// The variable of a program's environment that names mirrors, with commas between them.
pub const VARIABLE: &str = "SESSION_MIRRORS";

/// More mirrors than this are never asked in turn by anybody.
const MIRRORS_MAX: usize = 64;

/// An origin of the files that an app asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Where its tree begins: what stands before the path that the app asks for.
    pub path: String,
}

impl std::str::FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Mirror, String> {
        let wrong =
            |what: &str| format!("\"{text}\" {what}; write http://host/path or http://host:port");
        let rest = text.strip_prefix("http://").ok_or_else(|| wrong("is no http URL"))?;
        let (place, path) = match rest.find('/') {
            Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
            None => (rest, ""),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("has no port that is a number"))?)
            }
            _ => (place, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let sound = |c: char| c.is_ascii_graphic() && !"/?#@\\\"".contains(c);
        if host.is_empty()
            || !host.chars().all(sound)
            || !path.chars().all(|c| c.is_ascii_graphic())
        {
            return Err(wrong("names no host"));
        }
        Ok(Mirror { host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Mirror { host, port, path } = self;
        match host.contains(':') {
            true => write!(f, "http://[{host}]:{port}{path}"),
            false => write!(f, "http://{host}:{port}{path}"),
        }
    }
}

/// The mirrors of a list with commas.
///
/// # Errors
/// Names the first that is no URL, or says that there are more than 64.
pub fn list(text: &str) -> Result<Vec<Mirror>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let all: Vec<Mirror> = words.map(str::parse).collect::<Result<_, _>>()?;
    if all.len() > MIRRORS_MAX {
        return Err(format!("{} mirrors; at most {MIRRORS_MAX} are asked", all.len()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_an_http_url() {
        let mirror =
            |host: &str, port, path: &str| Mirror { host: host.into(), port, path: path.into() };
        let good = |text: &str| text.parse::<Mirror>().expect(text);
        assert_eq!(good("http://a.org"), mirror("a.org", 80, ""));
        assert_eq!(good("http://a.org:8080/pub/debian/"), mirror("a.org", 8080, "/pub/debian"));
        assert_eq!(good("http://[2001:db8::1]:81/x"), mirror("2001:db8::1", 81, "/x"));
        assert_eq!(good("http://[2001:db8::1]"), mirror("2001:db8::1", 80, ""));
        for text in ["http://a.org:8080/pub", "http://[2001:db8::1]:81/x"] {
            assert_eq!(good(text).to_string(), text);
        }
        for bad in
            ["https://a.org/", "a.org", "http://", "http://:80", "http://a b/", "http://a:x/"]
        {
            let error = bad.parse::<Mirror>().expect_err(bad);
            assert!(error.contains(bad) && error.contains("http://host"), "{error}");
        }
    }

    #[test]
    fn a_list_has_commas_and_ends_somewhere() {
        assert_eq!(list("http://a/x, http://b,").expect("two").len(), 2);
        assert_eq!(list("").expect("none").len(), 0);
        assert!(list("http://a,ftp://b").expect_err("no http").contains("ftp://b"));
        assert!(list(&"http://a,".repeat(65)).expect_err("too many").contains("at most 64"));
    }
}
