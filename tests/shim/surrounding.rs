//! Programs in unusual environments: other preloads, plug-ins, other C libraries, no C library,
//! another root, other rights, a scrubbed environment.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::bed::{Bed, Said, library, run, session_program};

/// Connects to a port of loopback and says what the kernel says the socket is.
const DIAL: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef RAW
#define connect(...) syscall(SYS_connect, __VA_ARGS__)
#endif
int go(const char *host, const char *port) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    inet_pton(AF_INET, host, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&to, sizeof to)) { puts(strerror(errno)); return 1; }
    syscall(SYS_getsockname, fd, &own, &length);
    puts(own.ss_family == AF_UNIX ? "session" : "direct");
    return 0;
}
#ifndef PLUGIN
int main(int count, char **given) { return go(given[1], given[2]); }
#endif
"#;

/// Opens a plug-in by its bare name, which only this program's own search path leads to.
const HOST: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int main(int count, char **given) {
    void *plugin = dlopen("plugin.so", RTLD_NOW | atoi(given[3]));
    if (!plugin) { puts(dlerror()); return 2; }
    return ((int (*)(const char *, const char *))dlsym(plugin, "go"))(given[1], given[2]);
}
"#;

/// Counts connects on its way to the next library's.
const OTHER: &str = r#"
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>
int connect(int fd, const struct sockaddr *to, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (to->sa_family == AF_INET) write(2, "seen\n", 5);
    return next(fd, to, length);
}
"#;

/// A bed, and a port that answers.
#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
fn with_port() -> (Bed, TcpListener, String) {
    let (bed, listener) = (Bed::loopback(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port().to_string();
    (bed, listener, port)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path")
}

fn says(said: &Said, expected: &str) {
    assert_eq!((said.out.as_str(), said.code), (expected, Some(0)), "{}", said.err);
}

#[test]
fn plug_ins_are_covered_however_they_are_opened() {
    let (bed, _listener, port) = with_port();
    bed.compile("plugin.so", DIAL, &["-shared", "-fPIC", "-DPLUGIN"]);
    let host = bed.compile("host", HOST, &["-Wl,-rpath,$ORIGIN"]);
    for flags in ["0", &libc::RTLD_DEEPBIND.to_string(), &libc::RTLD_GLOBAL.to_string()] {
        says(&bed.run(text(&host), &["127.0.0.1", &port, flags]), "session\n");
    }
}

#[test]
fn other_preloads_work_in_front_and_behind() {
    let (bed, _listener, port) = with_port();
    let other = bed.compile("other.so", OTHER, &["-shared", "-fPIC"]);
    let program = bed.compile("dial", DIAL, &[]);
    let (shim, other) = (text(library()), text(&other));
    for (preload, to, expected, seen) in [
        (format!("{other}:{shim}"), "127.0.0.1", "session\n", "seen\n"),
        (format!("{shim}:{other}"), "127.0.0.1", "session\n", ""),
        (format!("{shim} {other}"), "127.77.0.1", "direct\n", "seen\n"),
    ] {
        let unrouted = TcpListener::bind("127.77.0.1:0").unwrap();
        let other_port = unrouted.local_addr().unwrap().port().to_string();
        let port = if to == "127.0.0.1" { &port } else { &other_port };
        let mut command = bed.shimmed(text(&program));
        let said = run(command.env("LD_PRELOAD", &preload).args([to, port]));
        says(&said, expected);
        assert_eq!(said.err, seen, "{preload}");
    }
}

#[test]
fn static_programs_and_raw_system_calls_are_untouched() {
    let (bed, _listener, port) = with_port();
    for options in [&["-static"][..], &["-DRAW"], &["-static", "-DRAW"]] {
        let program = bed.compile("dial", DIAL, options);
        says(&bed.run(text(&program), &["127.0.0.1", &port]), "direct\n");
        if nix::unistd::geteuid().is_root() {
            // A machine without a network: nothing of its own answers at a virtual address.
            let said = bed.run("unshare", &["-n", text(&program), "198.18.0.1", &port]);
            assert_eq!(said.out, "Network is unreachable\n", "it leads nowhere");
        }
    }
}

#[test]
fn a_scrubbed_environment_leaves_the_shim_behind() {
    let (bed, _listener, port) = with_port();
    let program = bed.compile("dial", DIAL, &[]);
    let (dial, port) = (text(&program), port.as_str());
    says(&bed.run("/usr/bin/env", &[dial, "127.0.0.1", port]), "session\n");
    says(&bed.run("/usr/bin/env", &["-i", dial, "127.0.0.1", port]), "direct\n");
}

#[test]
fn musl_programs_are_not_given_the_shim() {
    let (bed, _listener, port) = with_port();
    let program = bed.compile("dial", DIAL, &["musl"]);
    let mut session = Command::new(session_program());
    session.env("SESSION_LIB", library()).env("SESSION_DIR", bed.session_dir());
    let said = run(session.args(["run", "--", text(&program), "127.0.0.1", &port]));
    assert_eq!(said.code, Some(125), "{}", said.out);
    assert!(said.err.contains("musl"), "{}", said.err);
    let mut anyway = Command::new(session_program());
    anyway.env("SESSION_LIB", library()).env("SESSION_DIR", bed.session_dir());
    let said = run(anyway.args(["run", "--anyway", "--", text(&program), "127.0.0.1", &port]));
    says(&said, "direct\n");
}

#[test]
fn in_another_root_a_program_does_as_without_a_broker() {
    let (bed, _listener, port) = with_port();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    fs::create_dir(bed.path().join("empty")).unwrap();
    let code = format!(
        "import os, socket, encodings.idna\n\
         os.chroot('empty'); os.chdir('/')\n\
         s = socket.socket()\n\
         try: s.connect(('127.0.0.1', {port})); print(s.getpeername()[0])\n\
         except OSError as e: print(e.errno)\n"
    );
    says(&bed.python(&code), "127.0.0.1\n");
    let mut strict = bed.shimmed("/usr/bin/python3");
    says(&run(strict.env("SESSION_WHEN_ABSENT", "fail").args(["-c", &code])), "111\n");
}

#[test]
fn a_setuid_program_runs_without_the_shim() {
    let (bed, _listener, port) = with_port();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let program = bed.compile("dial", DIAL, &[]);
    for (path, mode) in [(bed.path(), 0o755), (&program, 0o4755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", text(&program)];
    let said = bed.run("setpriv", &[&nobody[..], &["127.0.0.1", &port]].concat());
    says(&said, "direct\n");
}
