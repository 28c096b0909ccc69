//! Where the broker's socket and the route file are: one rule for shim, broker and command.
//!
//! The directory is the first of these that there is: `$SESSION_DIR`, `$XDG_RUNTIME_DIR/session`,
//! `/run/user/UID/session` where that runtime directory exists, `/tmp/session-UID`. The caller
//! hands in the environment and the uid.

/// The longest path a Unix socket address holds, with its closing NUL.
pub const PATH_BYTES_MAX: usize = 108;
/// The broker's listening socket, in the directory.
pub const SOCKET_FILE: &str = "broker.sock";
/// The pause file, in the directory.
pub const PAUSES_FILE: &str = "pauses";
/// The route map, in the directory.
pub const ROUTES_FILE: &str = "routes";

const LONGEST_FILE: usize = SOCKET_FILE.len();

/// A path in a fixed buffer, NUL-terminated, for use where nothing may be allocated.
#[derive(Clone, Copy)]
pub struct LocalPath {
    buffer: [u8; PATH_BYTES_MAX],
    length: usize,
}

/// What the rule depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// `$SESSION_DIR`.
    pub session_dir: Option<&'a [u8]>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<&'a [u8]>,
    /// The effective user id.
    pub uid: u32,
    /// Whether `/run/user/UID` is there.
    pub has_run_user: bool,
}

impl LocalPath {
    /// An empty path; a place to put one later.
    pub const EMPTY: LocalPath = LocalPath { buffer: [0; PATH_BYTES_MAX], length: 0 };

    /// The directory of the socket and the route file; nothing when a Unix socket's path in it
    /// would be too long or the variable does not hold an absolute path.
    #[must_use]
    pub fn directory(around: &Surroundings<'_>) -> Option<LocalPath> {
        let mut place = LocalPath::EMPTY;
        let given = |value: Option<&'_ [u8]>| value.is_some_and(|value| !value.is_empty());
        let fits = if given(around.session_dir) {
            place.push(around.session_dir?)
        } else if given(around.runtime_dir) {
            place.push(around.runtime_dir?) && place.push(b"/session")
        } else if around.has_run_user {
            place.push(b"/run/user/") && place.push_number(around.uid) && place.push(b"/session")
        } else {
            place.push(b"/tmp/session-") && place.push_number(around.uid)
        };
        let absolute = place.buffer[0] == b'/';
        let room = place.length + 1 + LONGEST_FILE < PATH_BYTES_MAX;
        (fits && absolute && room).then_some(place)
    }

    /// The path of a file in this directory.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<LocalPath> {
        let mut place = *self;
        (place.push(b"/") && place.push(name.as_bytes())).then_some(place)
    }

    /// The path without the NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// The path with one NUL at its end.
    #[must_use]
    pub fn as_bytes_with_nul(&self) -> &[u8] {
        &self.buffer[..=self.length]
    }

    fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.length + bytes.len();
        if end >= PATH_BYTES_MAX || bytes.contains(&0) {
            return false;
        }
        self.buffer[self.length..end].copy_from_slice(bytes);
        self.length = end;
        true
    }

    fn push_number(&mut self, number: u32) -> bool {
        let mut digits = [0; 10];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.push(&digits[at..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(around: Surroundings<'_>) -> Option<String> {
        LocalPath::directory(&around)
            .map(|place| String::from_utf8(place.as_bytes().into()).unwrap())
    }

    #[test]
    fn the_first_that_is_given_wins() {
        let mut around = Surroundings {
            session_dir: Some(b"/a"),
            runtime_dir: Some(b"/b"),
            uid: 1000,
            has_run_user: true,
        };
        assert_eq!(directory(around).as_deref(), Some("/a"));
        around.session_dir = Some(b"");
        assert_eq!(directory(around).as_deref(), Some("/b/session"));
        around.runtime_dir = None;
        assert_eq!(directory(around).as_deref(), Some("/run/user/1000/session"));
        around.has_run_user = false;
        assert_eq!(directory(around).as_deref(), Some("/tmp/session-1000"));
        around.uid = 0;
        assert_eq!(directory(around).as_deref(), Some("/tmp/session-0"));
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let long = vec![b'/'; PATH_BYTES_MAX];
        let with = |dir| directory(Surroundings { session_dir: Some(dir), ..Default::default() });
        assert_eq!(with(&long), None);
        assert_eq!(with(b"relative"), None);
        assert_eq!(with(b"/nul\0inside"), None);
        let longest = &long[..PATH_BYTES_MAX - 2 - LONGEST_FILE];
        let place = LocalPath::directory(&Surroundings {
            session_dir: Some(longest),
            ..Default::default()
        })
        .unwrap();
        let socket = place.file(SOCKET_FILE).unwrap();
        assert_eq!(socket.as_bytes_with_nul().len(), PATH_BYTES_MAX);
        assert_eq!(socket.as_bytes_with_nul().last(), Some(&0));
    }
}
