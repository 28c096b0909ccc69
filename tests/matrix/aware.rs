//! Programs that know of sessions: the examples in C and Python that use `session.h`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use stp_tests::daemon;

use crate::bed::{Bed, Row, play, tcp};

const PYTHON: &str = "/usr/bin/python3";

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

/// The service that leads to the echo, by name.
const NAME: &str = "door0.box@lab.example";

#[test]
fn c_program() {
    let does = "session.h: status, suspend, resume, abort, events, names, connect by name";
    with_echo(&Row { program: "C", does, cuts: &[] }, |bed| {
        let (source, header) = (top()?.join("examples/aware.c"), top()?.join("shim"));
        let library = daemon::shim()?;
        let (source, header) = (source.display().to_string(), format!("-I{}", header.display()));
        let library = library.display().to_string();
        bed.prepare("cc", &["-Wall", "-Werror", &header, "-o", "aware", &source, &library])?;
        for to in [&["echo.lab", "7000"][..], &[NAME]] {
            let said = bed.run("./aware", to)?.out;
            let right = format!(
                "{NAME} at server, endpoint \"\"\nat server, state 0\nsuspended, state 3\n\
                 resumed, state 0\naborted\n"
            );
            ensure!(said.starts_with(&right), "{said}");
            // Its standard input is no session's socket.
            ensure!(said.contains("a pipe: Transport endpoint is not connected"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn python_by_ctypes() {
    let does = "session.h by ctypes: status, suspend, resume, events, names, connect by name";
    with_echo(&Row { program: "Python", does, cuts: &[] }, |bed| {
        let example = top()?.join("examples/aware.py").display().to_string();
        for to in [&["echo.lab", "7000"][..], &[NAME]] {
            let said = bed.run(PYTHON, &[&[example.as_str()], to].concat())?.out;
            ensure!(said.starts_with("at server, ") && said.contains("and resumed"), "{said}");
            ensure!(said.contains(&format!("{NAME} at the other end")), "{said}");
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_had_is_said_by_an_errno() {
    let does = "session.h: names that nobody offers, descriptors of sessions that have ended";
    with_echo(&Row { program: "Python", does, cuts: &[] }, |bed| {
        let said = bed.script(PYTHON, "unaware.py", &[NAME])?.out;
        ensure!(said == "all said\n", "{said}");
        Ok(())
    });
}
