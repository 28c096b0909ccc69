//! HTTP by the libraries that languages come with.

use anyhow::Result;

use crate::bed::{BULK, Bed, Row, http, play, tcp};

/// A file of `programs/` gets the payload from `http` into `got`.
fn fetch(row: &Row, interpreter: &str, name: &str, arguments: &[&str]) {
    play(row, |bed| {
        serve(bed)?;
        bed.script(interpreter, name, arguments)?;
        bed.got("got")
    });
}

fn serve(bed: &mut Bed<'_>) -> Result<()> {
    bed.web("")?;
    bed.open(&[http("web.lab:80", 80)])
}

const PYTHON: &str = "/usr/bin/python3";
const URL: &str = "http://web.lab/big";

#[test]
fn python_urllib() {
    let row = Row { program: "Python", does: "urllib", cuts: BULK };
    fetch(&row, PYTHON, "urllib_get.py", &[URL, "got"]);
}

#[test]
fn python_requests() {
    let row = Row { program: "Python", does: "requests, ranges on one connection", cuts: BULK };
    fetch(&row, PYTHON, "requests_get.py", &[URL, "got"]);
}

#[test]
fn python_asyncio() {
    let row = Row { program: "Python", does: "asyncio, four streams at once", cuts: BULK };
    fetch(&row, PYTHON, "asyncio_get.py", &["web.lab", "/big", "got"]);
}

#[test]
fn python_urgent_data() {
    // Each cut comes before the urgent byte of its direction.
    let cuts = &[200_000, 1_300_000];
    let row = Row { program: "Python", does: "urgent data, there and back", cuts };
    play(&row, |bed| {
        let program = Bed::program("urgent.py");
        bed.serve(PYTHON, &[&program, "serve", "7003"], 7003)?;
        bed.open(&[tcp("raw.lab:7003", 7003)])?;
        bed.script(PYTHON, "urgent.py", &["raw.lab", "7003"]).map(drop)
    });
}

#[test]
fn node_http_and_fetch() {
    let row = Row { program: "Node", does: "http with keep-alive, fetch", cuts: BULK };
    fetch(&row, "node", "http_get.mjs", &[URL, "got"]);
}

#[test]
fn java_httpclient_and_urlconnection() {
    let row = Row { program: "Java", does: "HttpClient, URLConnection", cuts: BULK };
    play(&row, |bed| {
        serve(bed)?;
        bed.script("java", "HttpGet.java", &[URL, "got", "also"])?;
        bed.got("got")?;
        bed.got("also")
    });
}

#[test]
fn perl_lwp() {
    let row = Row { program: "Perl", does: "LWP, keep-alive", cuts: BULK };
    fetch(&row, "perl", "lwp_get.pl", &[URL, "got"]);
}

#[test]
fn ruby_net_http() {
    let row = Row { program: "Ruby", does: "net/http, keep-alive", cuts: BULK };
    fetch(&row, "ruby", "net_http_get.rb", &["web.lab", "/big", "got"]);
}
