//! Downloads and uploads over HTTP by the programs people use for it.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use crate::bed::{BULK, Bed, Row, http, play, tcp};

/// One file over `http`, by a program that is told a URL and saves `got`.
fn download(row: &Row, program: &str, arguments: &[&str]) {
    play(row, |bed| {
        bed.web("")?;
        bed.open(&[http("web.lab:80", 80)])?;
        bed.run(program, &[arguments, &["http://web.lab/big"]].concat())?;
        bed.got("got")
    });
}

#[test]
fn curl_downloads() {
    let row = Row { program: "curl", does: "download, HTTP/1.1", cuts: BULK };
    download(&row, "curl", &["-sSf", "-o", "got"]);
}

#[test]
fn curl_uploads() {
    let row = Row { program: "curl", does: "upload, HTTP/1.1", cuts: BULK };
    play(&row, |bed| {
        let root = bed.web("")?;
        bed.open(&[tcp("web.lab:80", 80)])?;
        let big = bed.payload().display().to_string();
        bed.run("curl", &["-sSf", "-T", &big, "http://web.lab/upload/put"])?;
        bed.must_be_payload(&root.join("upload/put"))
    });
}

#[test]
fn curl_keeps_one_connection_for_many_requests() {
    let row = Row { program: "curl", does: "100 requests on one connection", cuts: BULK };
    play(&row, |bed| {
        let root = bed.web("")?;
        bed.open(&[http("web.lab:80", 80)])?;
        let format = "%{num_connects} ";
        let url = "http://web.lab/small?[1-100]";
        let ended = bed.run("curl", &["-sSf", "-o", "got#1", "-w", format, url])?;
        ensure!(ended.out == format!("1 {}", "0 ".repeat(99)), "connections: {}", ended.out);
        let small = std::fs::read(root.join("small"))?;
        for number in 1..=100 {
            let got = std::fs::read(bed.home(&format!("got{number}")))?;
            ensure!(got == small, "answer {number} is wrong");
        }
        Ok(())
    });
}

#[test]
fn wget_downloads() {
    let row = Row { program: "wget", does: "download", cuts: BULK };
    download(&row, "wget", &["-nv", "--tries=1", "-O", "got"]);
}

#[test]
fn wget2_downloads() {
    let row = Row { program: "wget2", does: "download", cuts: BULK };
    download(&row, "wget2", &["-nv", "--tries=1", "-O", "got"]);
}

#[test]
fn wget_posts() {
    let row = Row { program: "wget", does: "upload (PUT)", cuts: BULK };
    play(&row, |bed| {
        let root = bed.web("")?;
        bed.open(&[tcp("web.lab:80", 80)])?;
        let body = format!("--body-file={}", bed.payload().display());
        let to = "http://web.lab/upload/put";
        bed.run("wget", &["-nv", "--tries=1", "-O-", "--method=PUT", &body, to])?;
        bed.must_be_payload(&root.join("upload/put"))
    });
}

#[test]
fn aria2_downloads_by_four_connections() {
    let row = Row { program: "aria2", does: "four ranges at once, to an address", cuts: BULK };
    play(&row, |bed| {
        bed.web("")?;
        bed.open(&[http("192.0.2.80:80", 80)])?;
        let how = ["-q", "-x4", "-s4", "-k1M", "--file-allocation=none", "--max-tries=1"];
        bed.run("aria2c", &[&how[..], &["-o", "got", "http://192.0.2.80/big"]].concat())?;
        bed.got("got")
    });
}

#[test]
fn lftp_downloads_by_four_connections() {
    let row = Row { program: "lftp", does: "get and pget -n 4, HTTP", cuts: BULK };
    play(&row, |bed| {
        bed.web("")?;
        bed.open(&[http("web.lab:80", 80)])?;
        let lines = "set net:max-retries 1; get http://web.lab/big -o got; \
                     pget -n 4 http://web.lab/big -o also";
        bed.run("lftp", &["-c", lines])?;
        bed.got("got")?;
        bed.got("also")
    });
}

/// nginx with HTTP/2 in clear at port 81 and with TLS at 443.
fn with_http2(bed: &mut Bed<'_>) -> Result<()> {
    certify(bed)?;
    let (root, tls) = (bed.dir("www")?, bed.dir("tls")?);
    let (root, tls) = (root.display(), tls.display());
    bed.web(&format!(
        "server {{ listen 81 http2; root {root}; }}
         server {{ listen 443 ssl http2; root {root}; ssl_certificate {tls}/cert.pem;
                   ssl_certificate_key {tls}/key.pem; }}"
    ))?;
    bed.open(&[tcp("web.lab:81", 81), tcp("web.lab:443", 443)])
}

/// A key and a certificate for web.lab.
pub fn certify(bed: &Bed<'_>) -> Result<()> {
    let tls = bed.dir("tls")?.display().to_string();
    let (key, cert) = (format!("{tls}/key.pem"), format!("{tls}/cert.pem"));
    let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let name = ["-subj", "/CN=web.lab", "-addext", "subjectAltName=DNS:web.lab", "-days", "2"];
    let to = ["-keyout", &key, "-out", &cert];
    bed.prepare("openssl", &[&["req", "-x509"], &kind[..], &name, &to].concat())?;
    Ok(())
}

#[test]
fn curl_http2_in_clear() {
    // One request: Debian's curl cannot use such a connection twice, also bare.
    let row = Row { program: "curl", does: "HTTP/2 in clear", cuts: BULK };
    play(&row, |bed| {
        with_http2(bed)?;
        let how = ["-sSf", "--http2-prior-knowledge", "-w", "%{http_version}", "-o", "got"];
        let ended = bed.run("curl", &[&how[..], &["http://web.lab:81/big"]].concat())?;
        ensure!(ended.out == "2", "HTTP/{}", ended.out);
        bed.got("got")
    });
}

#[test]
fn curl_https() {
    let row = Row { program: "curl", does: "HTTPS, HTTP/2, 20 streams at once", cuts: BULK };
    play(&row, |bed| {
        with_http2(bed)?;
        let cert = bed.dir("tls")?.join("cert.pem").display().to_string();
        let how = ["-sSf", "--cacert", &cert, "--parallel", "--parallel-max", "20"];
        let small = ["-w", "%{http_version} %{num_connects},", "-o", "small#1"];
        let urls = ["https://web.lab/small?[1-19]", "-o", "got", "https://web.lab/big"];
        let ended = bed.run("curl", &[&how[..], &small, &urls].concat())?;
        ensure!(ended.out.matches("2 0,").count() == 19, "{}", ended.out);
        ensure!(ended.out.matches("2 1,").count() == 1, "{}", ended.out);
        let small = std::fs::read(bed.dir("www")?.join("small"))?;
        for number in 1..20 {
            ensure!(std::fs::read(bed.home(&format!("small{number}")))? == small, "{number}");
        }
        bed.got("got")
    });
}

#[test]
fn nginx_is_a_proxy() {
    let row = Row { program: "nginx", does: "reverse proxy, kept connections", cuts: BULK };
    play(&row, |bed| {
        bed.web("")?;
        bed.open(&[http("web.lab:80", 80)])?;
        let dir = bed.dir("proxy")?;
        let here = dir.display();
        let text = format!(
            "user root; daemon off; master_process off; pid {here}/pid; error_log {here}/log info;
             events {{}} http {{ access_log off; proxy_temp_path {here}/temp;
             upstream far {{ server web.lab:80; keepalive 4; }}
             server {{ listen 8080; location / {{ proxy_pass http://far;
             proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
        );
        std::fs::write(dir.join("conf"), text)?;
        let (prefix, conf) = (here.to_string(), dir.join("conf").display().to_string());
        let _proxy = bed.start_routed("nginx", &["-p", &prefix, "-c", &conf], 8080)?;
        for number in 0..3 {
            let to = format!("got{number}");
            let how = ["-sSf", "-o", &to, "http://127.0.0.1:8080/big"];
            bed.run("curl", &how)?;
            bed.got(&to)?;
        }
        Ok(())
    });
}

#[test]
fn openssl_s_client() {
    let row = Row { program: "openssl s_client", does: "TLS by hand", cuts: BULK };
    play(&row, |bed| {
        with_http2(bed)?;
        let cert = bed.dir("tls")?.join("cert.pem").display().to_string();
        bed.bash(&format!(
            "printf 'GET /big HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -ign_eof \
             -verify_return_error -CAfile {cert} -connect web.lab:443 -servername web.lab >answer"
        ))?;
        let (answer, big) = (std::fs::read(bed.home("answer"))?, std::fs::read(bed.payload())?);
        ensure!(answer.ends_with(&big), "the answer has {} bytes", answer.len());
        Ok(())
    });
}

#[test]
fn apt_gets_packages_from_a_mirror() {
    let does = "update, eight packages (APT::Sandbox::User=root)";
    play(&Row { program: "apt-get", does, cuts: BULK }, |bed| {
        let root = bed.web("")?;
        let mut make = format!("cd {}\n", root.display());
        for number in 1..=8 {
            writeln!(
                make,
                "mkdir -p p{number}/DEBIAN p{number}/opt
                 tail -c +{number}00001 big | head -c 1000000 >p{number}/opt/lot{number}
                 printf 'Package: lot{number}\\nVersion: 1\\nArchitecture: all\\n\
                 Maintainer: a <a@a>\\nDescription: a lot\\n' >p{number}/DEBIAN/control
                 dpkg-deb -Znone -b p{number} lot{number}_1_all.deb"
            )?;
        }
        bed.prepare("bash", &["-euc", &format!("{make} apt-ftparchive packages . >Packages")])?;
        bed.open(&[http("web.lab:80", 80)])?;
        bed.bash(APT)?;
        for number in 1..=8 {
            let name = format!("lot{number}_1_all.deb");
            let (got, there) = (bed.home(&name), root.join(&name));
            ensure!(std::fs::read(got)? == std::fs::read(there)?, "{name} is wrong");
        }
        Ok(())
    });
}

/// An apt with its own folders. It and its methods keep the identity of the user, because the
/// broker serves that user alone.
const APT: &str = "
mkdir -p apt/etc/apt/{apt.conf.d,preferences.d,sources.list.d,trusted.gpg.d} apt/var/lib/dpkg \
  apt/var/lib/apt/lists/partial apt/var/cache/apt/archives/partial
touch apt/var/lib/dpkg/status
echo 'deb [trusted=yes] http://web.lab/ ./' >apt/etc/apt/sources.list
cat >apt.conf <<END
Dir \"$PWD/apt\";
Dir::State::status \"$PWD/apt/var/lib/dpkg/status\";
APT::Sandbox::User \"root\";
Acquire::Retries \"0\";
Acquire::Languages \"none\";
END
export APT_CONFIG=$PWD/apt.conf
apt-get update --error-on=any
apt-get download lot{1..8}
";
