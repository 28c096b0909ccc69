//! Services that speak TLS themselves, behind servers of Session that check their certificates.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stp_tests::loopback::Running;

use crate::bed::{Bed, code, content, until};
use crate::real::{WITH_TLS, folder, serve};

const LONG: Duration = Duration::from_secs(90);
/// More than the buffers on the way hold, so that the service is in the middle of it.
const SIZE: usize = 60_000_000;
/// What the services' certificates are for.
const NAME: &str = "backend.lab";

/// A certificate that signs itself and is no authority's, and its key.
fn certificate(folder: &Path, name: &str) {
    let config = folder.join("req.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = dn\n[dn]\n").expect("ours");
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", &format!("/CN={NAME}")]);
    command.args(["-addext", &format!("subjectAltName=DNS:{NAME}")]);
    command.arg("-config").arg(config).arg("-keyout").arg(folder.join(format!("{name}.key")));
    let made = command.arg("-out").arg(folder.join(format!("{name}.pem"))).output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Two servers before services with a certificate of their own, which trust the one of this name.
fn bed(trusted: &str) -> (Bed, [Option<Running>; 2]) {
    let files = tempfile::tempdir().expect("a folder");
    for name in ["backend", "other"] {
        certificate(files.path(), name);
    }
    let ca = files.path().join(format!("{trusted}.pem"));
    let bed = Bed::with(&[], |_, port| {
        format!(
            "kind = \"http\"\nto = \"https://127.0.0.1:{port}\"\nto_name = {NAME:?}\nca = {ca:?}\n"
        )
    });
    for end in ["pem", "key"] {
        let name = format!("backend.{end}");
        std::fs::copy(files.path().join(&name), bed.path(&name)).expect("ours");
    }
    let services = [0, 1].map(|place| {
        let root = folder(&bed, &format!("root-{place}"), &content(50, SIZE));
        Some(serve(WITH_TLS, &bed, &root, bed.ports[place]))
    });
    (bed, services)
}

/// The server that the only session is at.
fn place(bed: &Bed) -> usize {
    let status = bed.status();
    usize::from(status["sessions"][0]["server"].as_str().is_some_and(|name| name.starts_with('b')))
}

#[test]
fn responses_of_a_service_in_tls_go_on_when_the_server_or_the_service_dies() {
    for service in [false, true] {
        let (mut bed, mut services) = bed("backend");
        let running = bed.curl("/f", "got", &["--limit-rate", "16M"]);
        until("a third of it", || (bed.got("got").len() > SIZE / 3).then_some(()));
        let at = place(&bed);
        if service {
            // Its stream ends, and not as TLS ends one.
            drop(services[at].take());
        } else {
            bed.kill(at);
        }
        let log = || std::fs::read_to_string(bed.path("a.log")).unwrap_or_default();
        assert_eq!(code(running, LONG), 0, "{service}: {}\n{}", bed.said(), log());
        assert!(bed.got("got") == content(50, SIZE));
        assert_eq!(bed.moved(), 1, "{}", bed.said());
    }
}

#[test]
fn a_service_with_another_certificate_is_asked_nothing_and_the_reason_is_said() {
    let (bed, _services) = bed("other");
    let running = bed.curl("/f", "got", &["-m", "10"]);
    assert_ne!(code(running, LONG), 0);
    assert!(bed.got("got").is_empty());
    for port in bed.ports {
        let asked = std::fs::read_to_string(bed.path(&format!("{WITH_TLS}-{port}/access")));
        assert_eq!(asked.unwrap_or_default(), "", "it was not asked");
    }
    let said = std::fs::read_to_string(bed.path("a.log")).unwrap_or_default() + &bed.said();
    assert!(said.contains("certificate"), "{said}");
}
