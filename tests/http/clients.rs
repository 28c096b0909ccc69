//! Programs of many kinds before two servers of kind `https`, of which one is killed while the
//! program receives the body: each has its own TLS, and its connection goes on at the other server.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bed::{HOST, code, content};
use crate::tls::{Site, run, said};

const LONG: Duration = Duration::from_secs(90);
const SIZE: usize = 120_000_000;
/// The server is killed when the broker has this much.
const WHEN: u64 = 30_000_000;

/// What is not a test itself must succeed.
fn prepare(folder: &Path, lines: &str) {
    let mut command = Command::new("bash");
    let ended = command.args(["-euc", lines]).current_dir(folder).output().expect("bash runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Kills the server of a session in the middle of what it receives.
fn kill_in_the_body(site: &mut Site) {
    let begun = Instant::now();
    loop {
        let status = site.status();
        let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
        let busy = |one: &serde_json::Value| one["positions"]["dlv"].as_u64() > Some(WHEN);
        if let Some(one) = sessions.iter().find(|one| busy(one)) {
            let at_b = one["server"].as_str().is_some_and(|server| server.starts_with('b'));
            return site.kill(usize::from(at_b));
        }
        assert!(begun.elapsed() < LONG, "it never receives: {}", said(site, "out"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program is told to do, with the site's files.
type Does = fn(&Site) -> (&'static str, Vec<String>);

/// A download by a program whose server is killed in the middle.
fn survives(does: Does) {
    let mut site = Site::new(None);
    let file = content(40, SIZE);
    site.put("f", [&file, &file]);
    let (program, arguments) = does(&site);
    let all: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let running = run(&site, program, &all, "out");
    kill_in_the_body(&mut site);
    assert_eq!(code(running, LONG), 0, "{program}: {}", said(&site, "out"));
    assert!(site.got("got") == file, "{program}");
    assert_eq!(site.moved(), 1, "{program}: {}", site.said());
}

fn got(site: &Site) -> String {
    site.path("got").display().to_string()
}

fn url() -> String {
    format!("https://{HOST}/f")
}

#[test]
fn python_requests() {
    survives(|site| {
        let lines = "import requests, sys\n\
             with open(sys.argv[2], 'wb') as file:\n\
             \x20   for piece in requests.get(sys.argv[1], stream=True).iter_content(65536):\n\
             \x20       file.write(piece)\n";
        ("/usr/bin/python3", ["-c", lines, &url(), &got(site)].map(str::to_owned).into())
    });
}

#[test]
fn node_fetch() {
    survives(|site| {
        let lines = "import { createWriteStream } from 'node:fs';\n\
             import { pipeline } from 'node:stream/promises';\n\
             const [url, path] = process.argv.slice(1);\n\
             await pipeline((await fetch(url)).body, createWriteStream(path));\n";
        let all = ["--input-type=module", "-e", lines, &url(), &got(site)];
        ("node", all.map(str::to_owned).into())
    });
}

#[test]
fn java_httpclient() {
    survives(|site| {
        let store = site.path("trusted.p12").display().to_string();
        let import =
            "keytool -importcert -noprompt -alias site -storetype PKCS12 -storepass secret";
        let certificate = site.roots().display().to_string();
        prepare(
            site.path("").as_path(),
            &format!("{import} -file {certificate} -keystore {store}"),
        );
        let program = format!("{}/matrix/programs/HttpGet.java", env!("CARGO_MANIFEST_DIR"));
        let also = site.path("also").display().to_string();
        let all = [
            &format!("-Djavax.net.ssl.trustStore={store}"),
            "-Djavax.net.ssl.trustStorePassword=secret",
            &program,
            &url(),
            &got(site),
            &also,
        ];
        ("java", all.map(str::to_owned).into())
    });
}

/// A folder of this name at both servers, which lines of bash fill.
fn both(site: &Site, name: &str, lines: &str) {
    let folder = site.folder(0).join(name);
    std::fs::create_dir(&folder).expect("ours");
    prepare(&folder, lines);
    let copy = format!("cp -al {:?} {:?}", folder, site.folder(1));
    prepare(&folder, &copy);
}

/// Lines of bash in a session, in a folder of their own.
fn bash_survives(site: &mut Site, lines: &str) {
    let folder = site.path("home");
    std::fs::create_dir(&folder).expect("ours");
    let lines = format!("cd {}\n{lines}", folder.display());
    let running = run(site, "bash", &["-euc", &lines], "out");
    kill_in_the_body(site);
    assert_eq!(code(running, LONG), 0, "{}", said(site, "out"));
    assert_eq!(site.moved(), 1, "{}", site.said());
}

/// Of the protocol without questions, which any HTTP server speaks: what is asked by POST is never
/// sent twice.
#[test]
fn git_clone() {
    let mut site = Site::new(None);
    std::fs::write(site.path("big"), content(41, SIZE)).expect("ours");
    let big = site.path("big").display().to_string();
    let make = format!(
        "git init -q .; git config user.name n; git config user.email e@e; \
         git config core.compression 0; cp {big} big; git add big; git commit -qm one; \
         git clone -q --bare . bare; git -C bare update-server-info"
    );
    both(&site, "work", &make);
    let clone = format!("git clone -q https://{HOST}/work/bare clone");
    bash_survives(&mut site, &format!("{clone}\ncmp clone/big {big}"));
}

/// An apt with its own folders, as the user that the broker serves.
#[test]
fn apt_get() {
    let mut site = Site::new(None);
    std::fs::write(site.path("big"), content(42, SIZE)).expect("ours");
    let big = site.path("big").display().to_string();
    let make = format!(
        "mkdir -p p/DEBIAN p/opt; cp {big} p/opt/lot; \
         printf 'Package: lot\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@a>\\n\
         Description: a lot\\n' >p/DEBIAN/control; dpkg-deb -Znone -b p lot_1_all.deb >/dev/null; \
         rm -r p; apt-ftparchive packages . >Packages"
    );
    both(&site, "debian", &make);
    let deb = site.folder(0).join("debian/lot_1_all.deb").display().to_string();
    let roots = site.roots().display().to_string();
    let lines = format!(
        "mkdir -p apt/etc/apt/{{apt.conf.d,preferences.d,sources.list.d,trusted.gpg.d}} \
           apt/var/lib/dpkg apt/var/lib/apt/lists/partial apt/var/cache/apt/archives/partial
         touch apt/var/lib/dpkg/status
         echo 'deb [trusted=yes] https://{HOST}/debian/ ./' >apt/etc/apt/sources.list
         cat >apt.conf <<END
Dir \"$PWD/apt\";
Dir::State::status \"$PWD/apt/var/lib/dpkg/status\";
APT::Sandbox::User \"root\";
Acquire::https::CaInfo \"{roots}\";
Acquire::Retries \"0\";
Acquire::Languages \"none\";
END
         export APT_CONFIG=$PWD/apt.conf
         apt-get update --error-on=any
         apt-get download lot
         cmp lot_1_all.deb {deb}"
    );
    bash_survives(&mut site, &lines);
}
