//! Programs that start other programs in another environment, and what that means for the shim.
//!
//! The shim is inherited by whatever a program starts, unless the environment is scrubbed on the
//! way, or the program is started by somebody else: another user, a container, a daemon.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Which program a command line starts, and whether the shim reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// The program at this place of the command line, with what is inherited.
    Here(usize),
    /// A program that the shim does not reach: the reason, and advice.
    Away(&'static str, &'static str),
}

/// Programs that have their work done elsewhere, why the shim does not get there, and advice.
const AWAY: [(&[&str], &str, &str); 4] = [
    (
        &["sudo", "doas", "su", "runuser", "pkexec"],
        "it starts its program as another user, with an environment of its own",
        "turn it round: sudo session run -- PROGRAM (that user has a broker and routes of its own)",
    ),
    (
        &["flatpak", "snap", "firejail", "bwrap"],
        "it starts its program in a sandbox, which has neither the shim nor the broker's socket",
        "use the distribution's own package of the program",
    ),
    (
        &["docker", "podman", "nerdctl", "kubectl", "machinectl"],
        "it asks a daemon to start the program in a container",
        "install session in the container and use `session run` there",
    ),
    (
        &["systemd-run", "systemctl", "at", "batch", "crontab"],
        "it asks a daemon to start the program, with an environment of its own",
        "put `session run --` in front of the program itself",
    ),
];

/// Follows `env` to the program behind it, and recognises programs that have their work done
/// elsewhere. `ssh` is not one of these, because its own connection is what counts.
#[must_use]
pub fn follow(words: &[OsString]) -> Started {
    let mut at = 0;
    while name_of(words.get(at)) == Some("env".as_ref()) {
        match behind_env(&words[at + 1..]) {
            Ok(Some(skipped)) => at += 1 + skipped,
            Ok(None) => break,
            Err((why, advice)) => return Started::Away(why, advice),
        }
    }
    let name = name_of(words.get(at)).map(|name| name.to_string_lossy().into_owned());
    let away = AWAY.iter().find(|(names, ..)| names.iter().any(|it| Some(*it) == name.as_deref()));
    match away {
        Some((_, why, advice)) => Started::Away(why, advice),
        None => Started::Here(at),
    }
}

/// Whether a file is one of a package whose programs run in a sandbox.
#[must_use]
pub fn in_sandbox(path: &Path) -> Option<(&'static str, &'static str)> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let inside = |dir: &str| path.starts_with(dir) || real.starts_with(dir);
    let snap = inside("/snap") || real.ends_with("usr/bin/snap");
    let flatpak = path.components().any(|part| part.as_os_str() == "flatpak");
    (snap || flatpak).then_some((AWAY[1].1, AWAY[1].2))
}

/// Remarks on some programs that are covered, each with advice.
const PECULIAR: [(&[&str], &str, &str); 5] = [
    (
        &["dig", "host", "nslookup", "drill", "ping", "traceroute", "mosh", "ntpdate", "iperf3"],
        "what it sends by UDP or ICMP stays as it is: only TCP connections become sessions",
        "nothing is lost by running it so; ask for TCP where it can (dig +tcp)",
    ),
    (
        &["ftp", "lftp", "tnftp", "ncftp", "ncftpget", "ncftpput", "ncftpls", "inetutils-ftp"],
        "FTP opens a connection of its own for each file. Behind a service of kind ftp, and \
         directly at port 21, control and data are covered, passive and active; behind kind tcp \
         only the login is. After AUTH TLS the login survives lost links and not servers, and \
         passive data is covered where the service names its passive_ports",
        "route port 21 to a service of kind ftp, see docs/ftp.md; leave TLS off (ftp:ssl-allow no) \
         where the path is a session anyway",
    ),
    (
        &["chromium", "chromium-browser", "google-chrome", "chrome", "brave-browser", "msedge"],
        "it has a resolver of its own: a route by name does not match, and QUIC is UDP",
        "add a route for the address, and start it with --disable-quic",
    ),
    (
        &["firefox", "firefox-esr", "thunderbird"],
        "with DNS over HTTPS it does not ask the system for names: a route by name then does not \
         match",
        "turn DNS over HTTPS off in its settings, or add a route for the address",
    ),
    (
        &["apt", "apt-get", "aptitude"],
        "its downloads run as the user _apt, which may not use your broker, and behind a filter of \
         system calls if APT::Sandbox::Seccomp is on",
        "start it with -o APT::Sandbox::User=root, and leave APT::Sandbox::Seccomp off",
    ),
];

/// The remark on a program of this name, with advice.
#[must_use]
pub fn peculiar(name: &str) -> Option<(&'static str, &'static str)> {
    let found = PECULIAR.iter().find(|(names, ..)| names.contains(&name))?;
    Some((found.1, found.2))
}

fn name_of(word: Option<&OsString>) -> Option<&OsStr> {
    Path::new(word?).file_name()
}

/// How many words stand between `env` and its program; `None` if there is no program. It is an
/// error if `env` removes the shim.
fn behind_env(words: &[OsString]) -> Result<Option<usize>, (&'static str, &'static str)> {
    const EMPTIED: (&str, &str) = (
        "env starts it with an empty environment, without LD_PRELOAD",
        "turn it round: env -i session run -- PROGRAM",
    );
    const UNSET: (&str, &str) =
        ("env takes LD_PRELOAD away from it", "turn it round: env ... session run -- PROGRAM");
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let bytes = word.as_bytes();
        match bytes {
            b"-i" | b"-" | b"--ignore-environment" => return Err(EMPTIED),
            b"-u" | b"--unset" | b"-C" | b"--chdir" => {
                if words.get(at + 1).is_some_and(|name| name == "LD_PRELOAD") {
                    return Err(UNSET);
                }
                at += 1;
            }
            b"-uLD_PRELOAD" | b"--unset=LD_PRELOAD" => return Err(UNSET),
            _ if bytes.starts_with(b"LD_PRELOAD=") => return Err(UNSET),
            _ if bytes.starts_with(b"-") || bytes.contains(&b'=') => {}
            _ => return Ok(Some(at)),
        }
        at += 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(line: &str) -> Started {
        follow(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn env_is_followed_unless_it_scrubs() {
        assert_eq!(followed("curl -O x"), Started::Here(0));
        assert_eq!(followed("env A=b -u HOME /usr/bin/env curl"), Started::Here(5));
        assert_eq!(followed("env"), Started::Here(0));
        for scrubbed in [
            "env -i curl",
            "/usr/bin/env A=b - curl",
            "env -u LD_PRELOAD curl",
            "env --unset=LD_PRELOAD curl",
            "env LD_PRELOAD=/x.so curl",
        ] {
            assert!(matches!(followed(scrubbed), Started::Away(..)), "{scrubbed}");
        }
    }

    #[test]
    fn what_stays_outside_of_sessions_is_said() {
        assert!(peculiar("dig").is_some_and(|(what, _)| what.contains("UDP")));
        assert!(peculiar("chromium").is_some_and(|(_, advice)| advice.contains("address")));
        assert!(peculiar("curl").is_none());
    }

    #[test]
    fn who_starts_a_program_elsewhere_is_known() {
        for away in ["sudo -E curl", "/usr/bin/flatpak run x", "docker run x", "systemd-run x"] {
            assert!(matches!(followed(away), Started::Away(..)), "{away}");
        }
        assert_eq!(followed("ssh host ls"), Started::Here(0));
        assert!(in_sandbox(Path::new("/snap/bin/curl")).is_some());
        assert!(in_sandbox(Path::new("/var/lib/flatpak/exports/bin/org.x")).is_some());
        assert!(in_sandbox(Path::new("/usr/bin/curl")).is_none());
    }
}
