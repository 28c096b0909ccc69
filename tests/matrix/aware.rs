//! Programs that know of sessions: the examples in C and Python that use `session.h`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use stp_tests::daemon;

use crate::bed::{Bed, Row, play, tcp};

/// The top of the repository.
fn top() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has a parent")
}

fn with_echo(row: &Row, act: impl FnOnce(&Bed<'_>) -> Result<()>) {
    play(row, |bed| {
        bed.serve("socat", &["tcp-listen:7000,fork,reuseaddr", "pipe"], 7000)?;
        bed.open(&[tcp("echo.lab:7000", 7000)])?;
        act(bed)
    });
}

#[test]
fn c_program() {
    let row = Row { program: "C", does: "session.h: status, suspend, resume, abort", cuts: &[] };
    with_echo(&row, |bed| {
        let (source, header) = (top()?.join("examples/aware.c"), top()?.join("shim"));
        let library = daemon::shim()?;
        let (source, header) = (source.display().to_string(), format!("-I{}", header.display()));
        let library = library.display().to_string();
        bed.prepare("cc", &["-Wall", "-Werror", &header, "-o", "aware", &source, &library])?;
        let said = bed.run("./aware", &["echo.lab", "7000"])?.out;
        let right = "at server, state 0\nsuspended, state 3\nresumed, state 0\naborted\n";
        ensure!(said.starts_with(right), "{said}");
        // Its standard input is no session's socket.
        ensure!(said.contains("a pipe: Transport endpoint is not connected"), "{said}");
        Ok(())
    });
}

#[test]
fn python_by_ctypes() {
    let does = "session.h by ctypes: status, suspend, resume";
    with_echo(&Row { program: "Python", does, cuts: &[] }, |bed| {
        let example = top()?.join("examples/aware.py").display().to_string();
        let said = bed.run("/usr/bin/python3", &[&example, "echo.lab", "7000"])?.out;
        ensure!(said.starts_with("at server, ") && said.contains("and resumed"), "{said}");
        Ok(())
    });
}
