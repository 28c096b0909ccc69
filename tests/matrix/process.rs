//! Bare connections, and what shells and forks do with them.

use std::time::Duration;

use anyhow::{Result, ensure};
use stp_tests::wait;

use crate::bed::{BULK, Bed, Row, http, play, tcp};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn ncat_receives_and_sends() {
    let row = Row { program: "ncat", does: "receive, send", cuts: BULK };
    play(&row, |bed| {
        let (big, put) = (bed.payload().display().to_string(), bed.dir("put")?.join("put"));
        let sender = format!("cat {big}");
        bed.serve("ncat", &["-lk", "7001", "--send-only", "--sh-exec", &sender], 7001)?;
        let taker = format!("cat >{0}.part; mv {0}.part {0}", put.display());
        bed.serve("ncat", &["-lk", "7002", "--sh-exec", &taker], 7002)?;
        bed.open(&[tcp("raw.lab:7001", 7001), tcp("raw.lab:7002", 7002)])?;
        bed.bash("ncat --recv-only raw.lab 7001 >got")?;
        bed.got("got")?;
        bed.bash(&format!("ncat raw.lab 7002 <{big}"))?;
        wait::until_true("the file", SOON, || put.exists())?;
        bed.must_be_payload(&put)
    });
}

#[test]
fn netcats_fetch() {
    for (program, command) in [
        ("nc", "nc web.lab 80 <ask >answer"),
        ("socat", "socat STDIO,ignoreeof TCP:web.lab:80 <ask >answer"),
    ] {
        play(&Row { program, does: "HTTP by hand", cuts: BULK }, |bed| {
            bed.web("")?;
            bed.open(&[tcp("web.lab:80", 80)])?;
            bed.bash(&format!("printf 'GET /big HTTP/1.0\\r\\n\\r\\n' >ask; {command}"))?;
            let (answer, big) = (std::fs::read(bed.home("answer"))?, std::fs::read(bed.payload())?);
            ensure!(answer.ends_with(&big), "the answer has {} bytes", answer.len());
            Ok(())
        });
    }
}

#[test]
fn bash_has_connections_of_its_own() {
    let row = Row { program: "bash", does: "/dev/tcp, read by other programs", cuts: BULK };
    play(&row, |bed| {
        bed.web("")?;
        bed.open(&[tcp("web.lab:80", 80)])?;
        bed.bash(
            "exec 3<>/dev/tcp/web.lab/80; printf 'GET /big HTTP/1.0\\r\\n\\r\\n' >&3
             while IFS= read -r line <&3 && [ \"$line\" != $'\\r' ]; do :; done
             (head -c 1000000 <&3; cat <&3) >got",
        )?;
        bed.got("got")
    });
}

#[test]
fn a_pipeline() {
    let row = Row { program: "sh", does: "curl \\| tar \\| sha256sum", cuts: BULK };
    play(&row, |bed| {
        let root = bed.web("")?;
        // A copy: links that other cases make to the payload change its date, of which tar tells.
        std::fs::copy(bed.payload(), bed.home("big"))?;
        bed.prepare("tar", &["-cf", "big.tar", "big"])?;
        std::fs::rename(bed.home("big.tar"), root.join("big.tar"))?;
        bed.open(&[http("web.lab:80", 80)])?;
        bed.bash("curl -sSfN http://web.lab/big.tar | tar -xO big | tee got | sha256sum")?;
        bed.got("got")
    });
}

/// Sixteen numbered copies of the payload's first half MB must be there.
fn sixteen(bed: &Bed<'_>) -> Result<()> {
    let half = &std::fs::read(bed.payload())?[..500_000];
    for number in 1..=16 {
        ensure!(std::fs::read(bed.home(&format!("got{number}")))? == half, "{number} is wrong");
    }
    Ok(())
}

/// A web server with that half MB.
fn with_half(bed: &mut Bed<'_>) -> Result<()> {
    let root = bed.web("")?;
    std::fs::write(root.join("half"), &std::fs::read(bed.payload())?[..500_000])?;
    bed.open(&[http("web.lab:80", 80)])
}

#[test]
fn xargs_runs_many_at_once() {
    let row = Row { program: "xargs", does: "16 curls, 8 at once", cuts: BULK };
    play(&row, |bed| {
        with_half(bed)?;
        bed.bash("seq 16 | xargs -P 8 -I{} curl -sSf -o got{} http://web.lab/half")?;
        sixteen(bed)
    });
}

#[test]
fn curl_runs_many_at_once() {
    let row = Row { program: "curl", does: "16 connections at once", cuts: BULK };
    play(&row, |bed| {
        with_half(bed)?;
        let how = ["-sSf", "--parallel", "--parallel-immediate", "--parallel-max", "16"];
        let what = ["-o", "got#1", "http://web.lab/half?[1-16]"];
        bed.run("curl", &[&how[..], &what].concat())?;
        sixteen(bed)
    });
}

#[test]
fn python_hands_a_connection_to_other_processes() {
    let does = "multiprocessing, one connection for forked and spawned processes";
    play(&Row { program: "Python", does, cuts: BULK }, |bed| {
        bed.web("")?;
        bed.open(&[tcp("web.lab:80", 80)])?;
        bed.script("/usr/bin/python3", "hand_on.py", &["web.lab", "80", "got"])?;
        bed.got("got")
    });
}
