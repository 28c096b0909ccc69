//! Programs with a time-out of three seconds over a link that is away for twelve: the time-out
//! stands still meanwhile (scripts/matrix --frozen). Two seconds of the service's own silence
//! follow the new link, so that no program passes only because bytes were left over. The rule for
//! sets of descriptors is tested as well, point by point.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stp_tests::daemon;

use crate::bed::{Bed, Row, play_away, tcp};
use crate::data::{PSQL, postgres};
use crate::remote::sshd;

/// Four times the time-out of each program.
const AWAY: Duration = Duration::from_secs(12);
/// How long the service is silent, from before the cut until after the new link.
const SILENCE_S: &str = "13";
const PYTHON: &str = "/usr/bin/python3";
const URL: &str = "http://halting.lab:8000/";
/// Bytes carried when the link is cut: most of the first half of the answer.
const CUT: &[u64] = &[18_000];

/// A program that gets what `halting.py` serves.
fn gets(program: &'static str, does: &'static str, act: impl FnOnce(&Bed<'_>) -> Result<()>) {
    play_away(&Row { program, does, cuts: CUT }, AWAY, |bed| {
        let server = Bed::program("halting.py");
        bed.serve(PYTHON, &[&server, "8000", SILENCE_S], 8000)?;
        bed.open(&[tcp("halting.lab:8000", 8000)])?;
        act(bed)
    });
}

/// The same, from a service that serves this file.
fn gets_file(
    (program, does): (&'static str, &'static str),
    file: impl FnOnce(&Bed<'_>) -> Result<String>,
    act: impl FnOnce(&Bed<'_>) -> Result<()>,
) {
    play_away(&Row { program, does, cuts: CUT }, AWAY, |bed| {
        let (server, file) = (Bed::program("halting.py"), file(bed)?);
        bed.serve(PYTHON, &[&server, "8000", SILENCE_S, &file], 8000)?;
        bed.open(&[tcp("halting.lab:8000", 8000)])?;
        act(bed)
    });
}

/// The same with a clock of the program's that stands still: nothing else saves these.
fn gets_by_clock(
    program: &'static str,
    does: &'static str,
    act: impl FnOnce(&Bed<'_>) -> Result<()>,
) {
    play_away(&Row { program, does, cuts: CUT }, AWAY, |bed| {
        let server = Bed::program("halting.py");
        bed.serve(PYTHON, &[&server, "8000", SILENCE_S], 8000)?;
        bed.open(&[tcp("halting.lab:8000", 8000).stops_clock()])?;
        act(bed)
    });
}

fn c_by_clock(how: &'static str, does: &'static str) {
    gets_by_clock("C", does, |bed| {
        let source = Bed::program("patience.c");
        bed.prepare("cc", &["-Wall", "-Werror", "-o", "patience", &source, "-lpthread"])?;
        let said = bed.run("./patience", &[how, "halting.lab", "8000"])?.out;
        ensure!(said.starts_with("got "), "{said}");
        Ok(())
    });
}

#[test]
fn c_condition_variable() {
    c_by_clock("thread", "a condition variable of CLOCK_MONOTONIC, 3 s, freeze = \"clock\"");
}

#[test]
fn c_alarm() {
    c_by_clock("alarm", "a recv interrupted by alarm(3), freeze = \"clock\"");
}

#[test]
fn python_thread() {
    gets_by_clock("Python", "queue.get(timeout=3), freeze = \"clock\"", |bed| {
        bed.script(PYTHON, "patience.py", &["thread", "halting.lab", "8000"]).map(drop)
    });
}

#[test]
fn python_alarm() {
    gets_by_clock("Python", "signal.alarm(3), freeze = \"clock\"", |bed| {
        bed.script(PYTHON, "patience.py", &["alarm", "halting.lab", "8000"]).map(drop)
    });
}

#[test]
fn node_abort_signal() {
    gets_by_clock("Node", "fetch, AbortSignal.timeout(7000), freeze = \"clock\"", |bed| {
        let code = format!(
            "fetch('{URL}', {{ signal: AbortSignal.timeout(7000) }}).then(r => r.arrayBuffer())\
             .then(b => {{ if (b.byteLength !== 40000) throw b.byteLength; }})"
        );
        bed.run("node", &["-e", &code]).map(drop)
    });
}

fn got(bed: &Bed<'_>) -> Result<()> {
    let length = std::fs::metadata(bed.home("got"))?.len();
    ensure!(length == 40_000, "{length} bytes");
    Ok(())
}

#[test]
fn curl_speed_time() {
    gets("curl", "--speed-limit 1 --speed-time 3", |bed| {
        let how = ["-sSf", "--speed-limit", "1", "--speed-time", "3", "-o", "got", URL];
        bed.run("curl", &how)?;
        got(bed)
    });
}

#[test]
fn wget_read_timeout() {
    gets("wget", "--read-timeout=3", |bed| {
        bed.run("wget", &["-nv", "--tries=1", "--read-timeout=3", "-O", "got", URL])?;
        got(bed)
    });
}

#[test]
fn pip_timeout() {
    const WHEEL: &str = "wait-1.0-py3-none-any.whl";
    let made = |bed: &Bed<'_>| {
        bed.prepare(PYTHON, &[&Bed::program("wheel.py")])?;
        Ok(bed.home(WHEEL).display().to_string())
    };
    gets_file(("pip", "download --timeout 3"), made, |bed| {
        let url = format!("{URL}{WHEEL}");
        let once = ["--retries", "0", "--timeout", "3", "--no-deps", "--no-cache-dir"];
        bed.run(PYTHON, &[&["-m", "pip", "download", "-d", "got"], &once[..], &[&url]].concat())?;
        let (sent, came) =
            (std::fs::read(bed.home(WHEEL))?, std::fs::read(bed.home("got").join(WHEEL))?);
        ensure!(sent == came, "{} bytes were sent, {} came", sent.len(), came.len());
        Ok(())
    });
}

#[test]
fn python_socket() {
    gets("Python", "socket.settimeout(3)", |bed| {
        bed.script(PYTHON, "patience.py", &["socket", "halting.lab", "8000"]).map(drop)
    });
}

#[test]
fn python_requests() {
    gets("Python", "requests, timeout=3", |bed| {
        bed.script(PYTHON, "patience.py", &["requests", "halting.lab", "8000"]).map(drop)
    });
}

#[test]
fn python_asyncio() {
    gets("Python", "asyncio.wait_for, 3 s", |bed| {
        bed.script(PYTHON, "patience.py", &["asyncio", "halting.lab", "8000"]).map(drop)
    });
}

#[test]
fn node_http() {
    gets("Node", "http, setTimeout(3000)", |bed| {
        bed.script("node", "patience.mjs", &[URL]).map(drop)
    });
}

#[test]
fn java_read_timeout() {
    gets("Java", "URLConnection, setReadTimeout(3000)", |bed| {
        bed.script("java", "Patience.java", &[URL]).map(drop)
    });
}

#[test]
fn ssh_server_alive() {
    let does = "ServerAliveInterval=1, ServerAliveCountMax=3";
    // The banner, the keys and some lines have passed.
    play_away(&Row { program: "ssh", does, cuts: &[25_000] }, AWAY, |bed| {
        let options = sshd(bed)?;
        let alive = "-o ServerAliveInterval=1 -o ServerAliveCountMax=3";
        let lines = "head -c 12000 /dev/zero | tr '\\0' x; for i in \\$(seq 20); do echo \\$i; \
                     head -c 1000 /dev/zero | tr '\\0' y; sleep 1; done; echo end";
        let ended = bed.bash(&format!("ssh {options} {alive} box.lab \"{lines}\""))?;
        ensure!(ended.out.ends_with("end\n"), "{} bytes", ended.out.len());
        Ok(())
    });
}

#[test]
fn psql_statement_timeout() {
    let does = "statement_timeout = 3s, thirty statements";
    play_away(&Row { program: "psql", does, cuts: &[50_000] }, AWAY, |bed| {
        postgres(bed)?;
        let statement = "select repeat('x', 4000) from pg_sleep(0.2);";
        let sql = format!("set statement_timeout = '3s'; {}", statement.repeat(30));
        // A statement of its own each, so that each has its own time-out.
        std::fs::write(bed.home("sql"), sql.replace(';', ";\n"))?;
        let ended =
            bed.run("psql", &[&PSQL[..5], &["-v", "ON_ERROR_STOP=1", "-f", "sql"]].concat())?;
        ensure!(ended.out.lines().count() == 30, "{} rows", ended.out.lines().count());
        Ok(())
    });
}

/// The rule for sets (shim/NOTES.md) by one of the ways to wait.
fn mixed_set(how: &'static str, does: &'static str) {
    play_away(&Row { program: "a set", does, cuts: &[] }, AWAY, |bed| {
        bed.serve("socat", &["tcp-listen:7000,fork,reuseaddr", "pipe"], 7000)?;
        bed.open(&[tcp("echo.lab:7000", 7000)])?;
        let command = daemon::programs()?.join("session").display().to_string();
        bed.script(PYTHON, "mixed.py", &[how, &command, "echo.lab", "7000"]).map(drop)
    });
}

#[test]
fn a_mixed_set_of_poll() {
    mixed_set("poll", "poll, two sessions and a pipe");
}

#[test]
fn a_mixed_set_of_select() {
    mixed_set("select", "select, two sessions and a pipe");
}

#[test]
fn a_mixed_set_of_epoll() {
    mixed_set("epoll", "epoll_wait, two sessions and a pipe");
}

/// The broker asks again and again whether its server goes on.
#[test]
fn python_suspended_by_the_server() {
    let does = "socket.settimeout(3), suspended by the server";
    play_away(&Row { program: "Python", does, cuts: &[] }, AWAY, |bed| {
        let server = Bed::program("halting.py");
        bed.serve(PYTHON, &[&server, "8000", "4"], 8000)?;
        bed.open(&[tcp("halting.lab:8000", 8000)])?;
        let act = Bed::program("act_later.py");
        let (port, token) = (daemon::SERVER_STATUS.to_string(), bed.token().display().to_string());
        let (suspend, resume) = ("/sessions/all/suspend", "/sessions/all/resume");
        let _acts = bed.start(PYTHON, &[&act, &port, &token, "2", suspend, "12", resume])?;
        let begun = Instant::now();
        bed.script(PYTHON, "patience.py", &["socket", "halting.lab", "8000"])?;
        ensure!(begun.elapsed() > AWAY, "it was not suspended");
        Ok(())
    });
}

#[test]
fn rsync_timeout() {
    let does = "--timeout=3, daemon";
    play_away(&Row { program: "rsync", does, cuts: &[2_000_000] }, AWAY, |bed| {
        let dir = bed.dir("rsync")?;
        let conf = dir.join("conf");
        let from = bed.payload().parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        let text = format!("use chroot = no\nuid = root\n[data]\npath = {from}\n");
        std::fs::write(&conf, text)?;
        let conf = format!("--config={}", conf.display());
        bed.serve("rsync", &["--daemon", "--no-detach", "--port=873", &conf], 873)?;
        bed.open(&[tcp("rsync.lab:873", 873)])?;
        let name = bed.payload().file_name().unwrap_or_default().display().to_string();
        bed.run("rsync", &["--timeout=3", &format!("rsync://rsync.lab/data/{name}"), "got"])?;
        bed.got("got")
    });
}
