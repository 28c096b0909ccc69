//! Services that give up a client which takes nothing for some seconds, and a session that is away
//! for longer: the server takes meanwhile, into a spool (PROTOCOL.md R38).

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bed::{Bed, Row, play_away, tcp};
use crate::data::postgres_with;
use crate::web::certify;

/// For how long the services wait, seconds.
const PATIENCE_S: u64 = 5;
/// How long the link is away, unless `STP_AWAY_S` says otherwise: more than twice as long.
const AWAY_S: u64 = 12;
/// Most of what moves has not moved yet; a tenth of it is more than kernels hold.
const CUT: &[u64] = &[5_000_000];
/// More than what lies in the buffers of two kernels and of the session, bytes.
const BIG: u64 = 96_000_000;

fn away() -> Duration {
    let given = std::env::var("STP_AWAY_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(AWAY_S))
}

fn plays(program: &'static str, does: &'static str, act: impl FnOnce(&mut Bed<'_>) -> Result<()>) {
    play_away(&Row { program, does, cuts: CUT }, away(), act);
}

/// A file of [`BIG`] bytes on the server's machine, and its SHA-256.
fn big(bed: &Bed<'_>, path: &std::path::Path) -> Result<String> {
    let path = path.display();
    let make = format!("head -c {BIG} /dev/urandom >{path}; sha256sum {path} | cut -c -64");
    Ok(bed.prepare("bash", &["-euc", &make])?.out.trim().to_owned())
}

fn same(bed: &Bed<'_>, sum: &str) -> Result<()> {
    let got = bed.prepare("bash", &["-euc", "sha256sum got | cut -c -64"])?.out;
    ensure!(got.trim() == sum, "the file differs");
    Ok(())
}

#[test]
fn nginx_with_tls() {
    plays("nginx", "TLS, send_timeout 5s", |bed| {
        let root = bed.dir("www")?;
        certify(bed)?;
        let tls = bed.dir("tls")?.display().to_string();
        let server = format!(
            "server {{ listen 443 ssl; root {root}; ssl_certificate {tls}/cert.pem; \
             ssl_certificate_key {tls}/key.pem; send_timeout {PATIENCE_S}s; }}",
            root = root.display(),
        );
        bed.web(&server)?;
        let sum = big(bed, &root.join("more"))?;
        bed.open(&[tcp("web.lab:443", 443).patient(PATIENCE_S)])?;
        let ca = format!("{tls}/cert.pem");
        bed.run("curl", &["-sSf", "--cacert", &ca, "-o", "got", "https://web.lab/more"])?;
        same(bed, &sum)
    });
}

#[test]
fn mariadb_net_write_timeout() {
    plays("mariadb-dump", "net_write_timeout = 5", |bed| {
        let dir = bed.dir("mariadb")?.display().to_string();
        let make = format!(
            "chown mysql {dir}; mariadb-install-db --user=mysql --datadir={dir}/data \
             --auth-root-authentication-method=normal --skip-test-db >/dev/null"
        );
        bed.prepare("bash", &["-euc", &make])?;
        let (data, socket) = (format!("--datadir={dir}/data"), format!("--socket={dir}/s"));
        let patience = format!("--net-write-timeout={PATIENCE_S}");
        let set = ["--no-defaults", "--user=mysql", "--skip-log-bin", "--skip-grant-tables"];
        bed.serve("mariadbd", &[&set[..], &[&data, &socket, &patience]].concat(), 3306)?;
        // Rows that compress to nothing and lie in rows of a kilobyte.
        let rows = BIG / 1_000;
        let sql = format!(
            "create database d; use d; create table t (n int primary key, x varchar(1000)); \
             insert into t select seq, rpad(md5(seq), 1000, md5(-seq)) from seq_1_to_{rows}"
        );
        bed.prepare("mariadb", &["--no-defaults", &socket, "-e", &sql])?;
        let dump = ["--no-defaults", "--quick", "--single-transaction", "--skip-comments", "d"];
        let path = format!("mariadb-dump {} {socket} >right", dump.join(" "));
        bed.prepare("bash", &["-euc", &path])?;
        bed.open(&[tcp("db.lab:3306", 3306).patient(PATIENCE_S)])?;
        bed.bash(&format!("mariadb-dump {} -h db.lab --protocol=tcp >got", dump.join(" ")))?;
        bed.prepare("cmp", &["right", "got"]).map(drop)
    });
}

#[test]
fn pg_basebackup_wal_sender_timeout() {
    plays("pg_basebackup", "-X fetch, wal_sender_timeout = 5s", |bed| {
        postgres_with(bed, &["-c", &format!("wal_sender_timeout={PATIENCE_S}s")])?;
        let socket = bed.dir("postgres")?.display().to_string();
        let fill = "create table t as select n, repeat(md5(n::text), 30) as x \
                    from generate_series(1, 100000) n; checkpoint";
        bed.prepare("psql", &["-XqAt", "-h", &socket, "-U", "postgres", "-c", fill])?;
        bed.open(&[tcp("db.lab:5432", 5432).patient(PATIENCE_S)])?;
        let how = ["-h", "db.lab", "-U", "postgres", "-X", "fetch", "-c", "fast", "-D", "got"];
        bed.run("pg_basebackup", &how)?;
        let verify = "$(ls -d /usr/lib/postgresql/*/bin | tail -1)/pg_verifybackup got";
        bed.prepare("bash", &["-euc", verify]).map(drop)
    });
}

#[test]
fn vsftpd_data_connection_timeout() {
    plays("curl", "FTP, data_connection_timeout = 5", |bed| {
        let (dir, root) = (bed.dir("vsftpd")?, bed.dir("ftp")?);
        let sum = big(bed, &root.join("big"))?;
        std::fs::create_dir(dir.join("empty"))?;
        bed.prepare("chmod", &["555", &root.display().to_string()])?;
        let text = format!(
            "listen=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\n\
             anon_root={}\nsecure_chroot_dir={}/empty\npasv_min_port=20001\n\
             pasv_max_port=20001\nseccomp_sandbox=NO\nisolate_network=NO\n\
             data_connection_timeout={PATIENCE_S}\n",
            root.display(),
            dir.display()
        );
        std::fs::write(dir.join("conf"), text)?;
        bed.serve("vsftpd", &[&dir.join("conf").display().to_string()], 21)?;
        let doors = [("ftp.lab:21", 21), ("ftp.lab:20001", 20_001)];
        bed.open(&doors.map(|(to, port)| tcp(to, port).patient(PATIENCE_S)))?;
        bed.run("curl", &["-sSf", "-o", "got", "ftp://ftp.lab/big"])?;
        same(bed, &sum)
    });
}
