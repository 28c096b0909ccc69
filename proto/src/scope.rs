//! What of a service a client may ask for: one file, or what is below one folder.
//!
//! The gateway writes it into its ticket, a server repeats it in every ticket of the session, and
//! every request head is compared with it before the service sees a byte of it. What cannot be
//! read with certainty is refused: a proxy behind may read a path otherwise than we do, so a path
//! with `.` or `..` in it, in any spelling, is never below a folder.

use percent_encoding::percent_decode;
use serde::{Deserialize, Serialize};

/// What may be asked for. Paths are decoded and absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This file alone.
    Path(String),
    /// Everything below this folder, which does not end in `/`.
    Tree(String),
}

impl Scope {
    /// Everything below a user's tree; nothing if that is the whole.
    #[must_use]
    pub fn of_tree(tree: &str) -> Option<Scope> {
        let tree = tree.trim_end_matches('/');
        (!tree.is_empty()).then(|| Scope::Tree(tree.to_owned()))
    }

    /// Whether a request's head asks for what may be asked for, by a method that changes nothing.
    #[must_use]
    pub fn allows(&self, head: &[u8]) -> bool {
        let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return false };
        if method != b"GET" && method != b"HEAD" {
            return false;
        }
        let asked = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let asked: Vec<u8> = percent_decode(asked).collect();
        match self {
            Scope::Path(path) => asked == path.as_bytes(),
            Scope::Tree(tree) => {
                let below =
                    asked.strip_prefix(tree.as_bytes()).and_then(|it| it.strip_prefix(b"/"));
                below.is_some_and(stays_below)
            }
        }
    }
}

/// Whether no reading of a path leads up again. Some proxies decode twice, and some take what
/// follows a `;` or a backslash for something of its own.
fn stays_below(path: &[u8]) -> bool {
    let again: Vec<u8> = percent_decode(path).collect();
    [path, &again].into_iter().all(|path| {
        let mut names = path.split(|byte| matches!(byte, b'/' | b'\\' | 0));
        let bare = |name: &'_ [u8]| name.split(|byte| *byte == b';').next() != Some(b"..");
        let ends = |name: &[u8]| name.split(|byte| *byte == b';').next() != Some(b".");
        !path.contains(&0) && names.all(|name| bare(name) && ends(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(scope: &Scope, line: &str) -> bool {
        scope.allows(format!("{line}\r\nHost: x\r\n\r\n").as_bytes())
    }

    #[test]
    fn a_file_is_that_file_alone_in_any_spelling() {
        let scope = Scope::Path("/a b/c".into());
        for good in ["GET /a%20b/c HTTP/1.1", "HEAD /a%20b/c HTTP/1.0", "GET /%61%20b/c?x HTTP/1.1"]
        {
            assert!(allows(&scope, good), "{good}");
        }
        for bad in [
            "GET /a%20b/d HTTP/1.1",
            "GET /a%20b/c/ HTTP/1.1",
            "GET /a%20b/../c HTTP/1.1",
            "GET /a%20b%2F..%2Fc HTTP/1.1",
            "GET http://x/a%20b/c HTTP/1.1",
            "GET /a%20b/c%00 HTTP/1.1",
            "GET /a%2 HTTP/1.1",
            "PUT /a%20b/c HTTP/1.1",
            "",
        ] {
            assert!(!allows(&scope, bad), "{bad}");
        }
    }

    #[test]
    fn a_tree_is_what_is_below_it_however_it_is_written() {
        let scope = Scope::of_tree("/bob/").expect("a part");
        for good in [
            "GET /bob/ HTTP/1.1",
            "GET /bob/big HTTP/1.1",
            "HEAD /bob/a/b..c/.d HTTP/1.1",
            "GET /b%6fb/big?../alice HTTP/1.1",
        ] {
            assert!(allows(&scope, good), "{good}");
        }
        for bad in [
            "GET / HTTP/1.1",
            "GET /bob HTTP/1.1",
            "GET /bobby/big HTTP/1.1",
            "GET /alice/big HTTP/1.1",
            "GET //bob/big HTTP/1.1",
            "GET /bob/../alice/big HTTP/1.1",
            "GET /bob/./big HTTP/1.1",
            "GET /bob/%2e%2e/alice/big HTTP/1.1",
            "GET /bob/%252e%252e/alice/big HTTP/1.1",
            "GET /bob/..%2falice/big HTTP/1.1",
            "GET /bob/..\\alice\\big HTTP/1.1",
            "GET /bob/..;/alice/big HTTP/1.1",
            "GET /bob/.. HTTP/1.1",
            "GET /bob/a%00 HTTP/1.1",
            "GET http://x/bob/big HTTP/1.1",
            "GET *",
            "OPTIONS * HTTP/1.1",
            "POST /bob/big HTTP/1.1",
            "DELETE /bob/big HTTP/1.1",
        ] {
            assert!(!allows(&scope, bad), "{bad}");
        }
    }

    #[test]
    fn the_root_is_no_bound() {
        assert_eq!(Scope::of_tree("/"), None);
        assert_eq!(Scope::of_tree(""), None);
        assert_eq!(Scope::of_tree("/a/b"), Some(Scope::Tree("/a/b".into())));
    }
}
