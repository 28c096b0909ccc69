//! Logins that are encrypted (AUTH TLS): opaque, they survive links and not servers. Their passive
//! data connections go over ports that the server announces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use stp_tests::file;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::HOST;
use crate::fault::Fault;
use crate::world::{CLIENT, CLIENT_MAX, Layout, World};

/// vsftpd as Debian ships it demands that the data connection resumes the login's TLS session.
fn lay(scene: &Scene) -> Result<World> {
    let (key, certificate) = (scene.path("tls.key"), scene.path("tls.crt"));
    let make = Plan::new("openssl")
        .args(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ftp.lab"])
        .args(&["-days", "2", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    make.run(scene, None, Duration::from_secs(60))?.ok()?;
    let vsftpd = format!(
        "ssl_enable=YES\nallow_anon_ssl=YES\nforce_anon_logins_ssl=YES\nforce_anon_data_ssl=YES\n\
         require_ssl_reuse=YES\nssl_ciphers=HIGH\nrsa_cert_file={}\nrsa_private_key_file={}\n\
         pasv_min_port=40000\npasv_max_port=40009",
        certificate.display(),
        key.display()
    );
    let service = "passive_ports = \"40000-40009\"";
    World::lay_as(scene, &Layout { megabytes: 30, vsftpd: &vsftpd, service, ..Layout::default() })
}

fn start(scene: &Scene, world: &World, program: &str, arguments: &[&str]) -> Result<Process> {
    let plan = world.broker.app(program)?.args(arguments);
    plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))
}

fn wait_for_a_third(world: &World, file: &Path) -> Result<()> {
    wait::until("a third of it", CLIENT_MAX, || {
        let length = std::fs::metadata(file).map_or(0, |meta| meta.len());
        Ok((length > world.payload.len / 3).then_some(()))
    })
}

const TLS: [&str; 4] = ["-sS", "--fail", "--ssl-reqd", "-k"];

fn gets(scene: &Scene, world: &World) -> Result<(Process, PathBuf)> {
    let got = scene.path("got");
    let (text, url) = (got.display().to_string(), format!("ftp://{HOST}/big"));
    let curl = start(scene, world, "curl", &[&TLS[..], &["-o", &text, &url]].concat())?;
    wait_for_a_third(world, &got)?;
    Ok((curl, got))
}

fn is_right(world: &World, file: &Path) -> Result<()> {
    ensure!(file::sha256(file)? == world.payload.sha256, "wrong bytes");
    Ok(())
}

#[test]
fn an_encrypted_download_outlives_a_cut_and_a_new_address() {
    play("ftp-tls-download", |scene| {
        let mut world = lay(scene)?;
        let (curl, got) = gets(scene, &world)?;
        Fault::Address.happen(scene, &mut world)?;
        Fault::Cut.happen(scene, &mut world)?;
        curl.end(CLIENT_MAX)?.ok()?;
        is_right(&world, &got)
    });
}

/// lftp encrypts an anonymous login only if it is told to, and says 227 or 229 as it is told.
fn lftp_gets(name: &str, epsv: bool) {
    play(name, |scene| {
        let mut world = lay(scene)?;
        let got = scene.path("got");
        let epsv = if epsv { "yes" } else { "no" };
        let script = format!(
            "debug 9; set net:max-retries 1; set ftp:ssl-allow-anonymous yes; \
             set ftp:ssl-force yes; set ftp:ssl-protect-data yes; \
             set ssl:verify-certificate no; set ftp:prefer-epsv {epsv}; \
             open {HOST}; get big -o {}",
            got.display()
        );
        let lftp = start(scene, &world, "lftp", &["--norc", "-c", &script])?;
        wait_for_a_third(&world, &got)?;
        Fault::Cut.happen(scene, &mut world)?;
        lftp.end(CLIENT_MAX)?.ok()?;
        is_right(&world, &got)
    });
}

#[test]
fn lftp_with_tls_outlives_a_cut() {
    lftp_gets("ftp-tls-lftp", false);
}

#[test]
fn lftp_with_tls_and_epsv_alone_outlives_a_cut() {
    lftp_gets("ftp-tls-lftp-epsv", true);
}

#[test]
fn an_encrypted_upload_outlives_a_cut() {
    play("ftp-tls-upload", |scene| {
        let mut world = lay(scene)?;
        let local = scene.path("put");
        world.payload.link(&local)?;
        let (text, url) = (local.display().to_string(), format!("ftp://{HOST}/in/put"));
        let curl = start(scene, &world, "curl", &[&TLS[..], &["-T", &text, &url]].concat())?;
        let there = world.ftp[0].root.join("in/put");
        wait_for_a_third(&world, &there)?;
        Fault::Cut.happen(scene, &mut world)?;
        curl.end(CLIENT_MAX)?.ok()?;
        is_right(&world, &there)
    });
}

/// Nobody can go on with what is encrypted: an error, and no success.
#[test]
fn an_encrypted_download_whose_server_dies_is_an_error() {
    play("ftp-tls-server", |scene| {
        let mut world = lay(scene)?;
        let (curl, _) = gets(scene, &world)?;
        Fault::Server.happen(scene, &mut world)?;
        let ended = curl.end(CLIENT_MAX)?;
        ensure!(!ended.status.success(), "told of success");
        Ok(())
    });
}
