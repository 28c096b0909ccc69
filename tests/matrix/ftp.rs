//! FTP as far as `tcp` services go: passive, with a route for each port the server may name.

use std::path::PathBuf;

use anyhow::Result;

use crate::bed::{BULK, Bed, Row, play, tcp};

/// A real vsftpd. EPSV names a port of the host that was asked; PASV also an address, which has
/// a route too. The answer is the directory it serves.
fn vsftpd(bed: &mut Bed<'_>) -> Result<PathBuf> {
    let (dir, root) = (bed.dir("vsftpd")?, bed.dir("ftp")?);
    let make = format!(
        "cp -p {} {1}/big; chmod 555 {1}; mkdir -m 777 {1}/in",
        bed.payload().display(),
        root.display()
    );
    bed.prepare("bash", &["-euc", &make])?;
    std::fs::create_dir(dir.join("empty"))?;
    let text = format!(
        "listen=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root={}\n\
         write_enable=YES\nanon_upload_enable=YES\nanon_umask=022\nanon_other_write_enable=YES\n\
         secure_chroot_dir={}/empty\npasv_address=192.0.2.21\npasv_addr_resolve=NO\n\
         pasv_min_port=20001\npasv_max_port=20004\nseccomp_sandbox=NO\nisolate_network=NO\n",
        root.display(),
        dir.display()
    );
    std::fs::write(dir.join("conf"), text)?;
    bed.serve("vsftpd", &[&dir.join("conf").display().to_string()], 21)?;
    let mut doors = vec![tcp("ftp.lab:21", 21)];
    for port in 20_001..=20_004 {
        doors.push(tcp(format!("ftp.lab:{port}"), port));
        doors.push(tcp(format!("192.0.2.21:{port}"), port));
    }
    bed.open(&doors)?;
    Ok(root)
}

#[test]
fn curl_ftp() {
    let row = Row { program: "curl", does: "FTP, passive, there and back", cuts: BULK };
    play(&row, |bed| {
        let root = vsftpd(bed)?;
        bed.run("curl", &["-sSf", "-o", "got", "ftp://ftp.lab/big"])?;
        bed.got("got")?;
        bed.run("curl", &["-sSf", "--disable-epsv", "-T", "got", "ftp://ftp.lab/in/put"])?;
        bed.must_be_payload(&root.join("in/put"))
    });
}

#[test]
fn wget_ftp() {
    let row = Row { program: "wget", does: "FTP, passive", cuts: BULK };
    play(&row, |bed| {
        vsftpd(bed)?;
        bed.run("wget", &["-nv", "--tries=1", "-O", "got", "ftp://ftp.lab/big"])?;
        bed.got("got")
    });
}

#[test]
fn lftp_ftp() {
    let row = Row { program: "lftp", does: "FTP, passive, there and back", cuts: BULK };
    play(&row, |bed| {
        let root = vsftpd(bed)?;
        let lines = "set net:max-retries 1; open ftp.lab; get big -o got; put got -o in/put";
        bed.run("lftp", &["-c", lines])?;
        bed.got("got")?;
        bed.must_be_payload(&root.join("in/put"))
    });
}

#[test]
fn python_ftplib() {
    let row = Row { program: "Python", does: "ftplib, passive, there and back", cuts: BULK };
    play(&row, |bed| {
        let root = vsftpd(bed)?;
        bed.script("/usr/bin/python3", "ftp_both.py", &["ftp.lab", "got", "in/put"])?;
        bed.got("got")?;
        bed.must_be_payload(&root.join("in/put"))
    });
}
