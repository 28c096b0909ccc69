//! nginx, Apache, lighttpd and Python's http.server as the services: what goes on between them, and
//! what does not.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stp_tests::loopback::Running;

use crate::bed::{Bed, code, content, start, until, until_open};

const LONG: Duration = Duration::from_secs(90);
/// More than the buffers on the way hold, so that a fault meets a response that is under way.
const SIZE: usize = 40_000_000;

const KINDS: [&str; 4] = ["nginx", "apache2", "lighttpd", "python3"];

/// Ends the name of a server that gives up an app that reads nothing for a second.
pub const HASTY: &str = "-hasty";

/// nginx with a process of its own for its work, which it replaces at SIGHUP; hasty as well.
pub const WITH_WORKERS: &str = "nginx-with-workers";

/// nginx that speaks nothing but HTTP/2.
pub const WITH_HTTP2: &str = "nginx-with-http2";

/// nginx that speaks TLS, with the certificate `backend.pem` of the bed.
pub const WITH_TLS: &str = "nginx-with-tls";

/// How an nginx of this kind listens.
fn how(kind: &str, bed: &Bed) -> String {
    let certificate = |end| bed.path(&format!("backend.{end}")).display().to_string();
    match kind {
        WITH_HTTP2 => " http2".to_owned(),
        WITH_TLS => {
            let (pem, key) = (certificate("pem"), certificate("key"));
            format!(" ssl; ssl_certificate {pem}; ssl_certificate_key {key}")
        }
        _ => String::new(),
    }
}

/// A daemon of this kind that serves `root` at a port.
pub fn serve(kind: &str, bed: &Bed, root: &Path, port: u16) -> Running {
    let dir = bed.path(&format!("{kind}-{port}"));
    std::fs::create_dir(&dir).expect("ours");
    let (config, log) = (dir.join("conf"), dir.join("log"));
    let (here, root) = (dir.display(), root.display());
    let mut text = String::new();
    let program = kind.trim_end_matches(HASTY);
    let hasty = program != kind;
    let is_nginx = matches!(kind, WITH_HTTP2 | WITH_TLS);
    let mut command = Command::new(if is_nginx { "nginx" } else { program });
    if kind == WITH_WORKERS {
        // Its workers end with it.
        command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "nginx"]);
    }
    let patience = if hasty || kind == WITH_WORKERS { 1 } else { 60 };
    match program {
        "nginx" | WITH_WORKERS | WITH_HTTP2 | WITH_TLS => {
            let workers = if kind == WITH_WORKERS { "on" } else { "off" };
            let how = how(kind, bed);
            write!(
                text,
                "user root; daemon off; worker_processes 1; worker_shutdown_timeout 1s;\n\
                 master_process {workers}; pid {here}/pid; error_log {here}/err;\n\
                 events {{}} http {{ access_log {here}/access; gzip on;\n\
                 send_timeout {patience}s; gzip_types text/plain;\n\
                 gzip_http_version 1.0; gzip_comp_level 1;\n\
                 client_body_temp_path {here}/1;\n\
                 proxy_temp_path {here}/2; fastcgi_temp_path {here}/3; uwsgi_temp_path {here}/4;\n\
                 scgi_temp_path {here}/5; server {{ listen 127.0.0.1:{port}{how}; root {root};\n\
                 location = /204 {{ return 204; }} }} }}\n"
            )
            .expect("a string takes everything");
            command.arg("-p").arg(&dir).arg("-c").arg(&config).args(["-e", "stderr"]);
        }
        "apache2" => {
            write!(
                text,
                "ServerRoot /etc/apache2\nServerName x\nListen 127.0.0.1:{port}\n\
                 PidFile {here}/pid\nErrorLog {here}/err\nMutex file:{here}\n\
                 LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
                 LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
                 LoadModule deflate_module /usr/lib/apache2/modules/mod_deflate.so\n\
                 SetOutputFilter DEFLATE\nDeflateCompressionLevel 1\nTimeout {patience}\n\
                 LogFormat \"%r\" l\nCustomLog {here}/access l\n\
                 User www-data\nGroup www-data\n\
                 DocumentRoot {root}\n<Directory {root}>\nRequire all granted\n</Directory>\n"
            )
            .expect("a string takes everything");
            command.args(["-X", "-f"]).arg(&config);
        }
        "lighttpd" => {
            write!(
                text,
                "server.document-root = \"{root}\"\nserver.port = {port}\n\
                 server.bind = \"127.0.0.1\"\nserver.errorlog = \"{here}/err\"\n\
                 server.max-write-idle = {patience}\nserver.modules = (\"mod_accesslog\")\n\
                 accesslog.filename = \"{here}/access\"\n"
            )
            .expect("a string takes everything");
            command.arg("-D").arg("-f").arg(&config);
        }
        _ => {
            let (port, root) = (port.to_string(), root.to_string());
            command.args(["-m", "http.server", &port, "--bind", "127.0.0.1", "-d", &root]);
        }
    }
    std::fs::write(&config, text).expect("ours");
    let running = start(&mut command, &log);
    until_open(port);
    running
}

/// A folder that everybody can read, with the file `f`.
pub fn folder(bed: &Bed, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    open(bed.dir.path(), 0o755);
    let root = bed.path(name);
    std::fs::create_dir(&root).expect("ours");
    open(&root, 0o755);
    std::fs::write(root.join("f"), bytes).expect("ours");
    open(&root.join("f"), 0o644);
    stamp(&root.join("f"));
    root
}

/// Gives a file the date that all have.
fn stamp(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("ours");
    let date = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_modified(date).expect("ours");
}

/// Kills the server that a download runs at when half of it is there; says which that was.
fn kill_at_half(bed: &mut Bed) -> usize {
    until("half of the file", || (bed.got("got").len() > SIZE / 3).then_some(()));
    let status = bed.status();
    let server = status["sessions"][0]["server"].as_str().expect("a server").to_owned();
    let place = usize::from(server.starts_with('b'));
    bed.kill(place);
    place
}

#[test]
fn a_download_goes_on_at_another_kind_of_server() {
    for (one, other) in [(0, 0), (0, 1), (1, 2), (2, 3), (3, 0)] {
        let mut bed = Bed::new(&[]);
        let file = content(20, SIZE);
        let roots = [folder(&bed, "r1", &file), folder(&bed, "r2", &file)];
        let _daemons = [(one, 0), (other, 1)]
            .map(|(kind, place)| serve(KINDS[kind], &bed, &roots[place], bed.ports[place]));
        let curl = bed.curl("/f", "got", &["--limit-rate", "10M"]);
        kill_at_half(&mut bed);
        let kinds = (KINDS[one], KINDS[other]);
        assert_eq!(code(curl, LONG), 0, "{kinds:?}: {}", bed.said());
        assert!(bed.got("got") == file, "{kinds:?}");
    }
}

#[test]
fn two_builds_of_one_size_and_date_are_never_mixed() {
    for kind in KINDS {
        let mut bed = Bed::new(&[]);
        let mut files = [content(21, SIZE), content(21, SIZE)];
        files[1][10] ^= 1;
        files[1][SIZE - 1] ^= 1;
        let roots = [folder(&bed, "r1", &files[0]), folder(&bed, "r2", &files[1])];
        let _daemons = [0, 1].map(|place| serve(kind, &bed, &roots[place], bed.ports[place]));
        let curl = bed.curl("/f", "got", &["--limit-rate", "10M"]);
        let place = kill_at_half(&mut bed);
        let (ended, got) = (code(curl, LONG), bed.got("got"));
        // A file that had come whole before is whole; otherwise curl must learn that it is not.
        assert!(files[place].starts_with(&got), "{kind}: {ended}");
        assert_eq!(ended == 0, got.len() == SIZE, "{kind}: {ended}");
    }
}

#[test]
fn a_service_that_dies_for_good_is_left_for_another() {
    for kind in KINDS {
        let bed = Bed::new(&[]);
        let file = content(22, SIZE);
        let roots = [folder(&bed, "r1", &file), folder(&bed, "r2", &file)];
        let mut daemons =
            [0, 1].map(|place| Some(serve(kind, &bed, &roots[place], bed.ports[place])));
        let curl = bed.curl("/f", "got", &["--limit-rate", "10M"]);
        until("half of the file", || (bed.got("got").len() > SIZE / 3).then_some(()));
        let status = bed.status();
        let server = status["sessions"][0]["server"].as_str().expect("a server").to_owned();
        let place = usize::from(server.starts_with('b'));
        drop(daemons[place].take().expect("it runs"));
        assert_eq!(code(curl, LONG), 0, "{kind}: {}", bed.said());
        assert!(bed.got("got") == file, "{kind}");
    }
}

#[test]
fn a_new_build_in_the_files_place_and_a_reload_are_no_mixture() {
    let bed = Bed::new(&[]);
    let old = content(23, SIZE);
    let mut new = old.clone();
    new[10] ^= 1;
    new[SIZE - 1] ^= 1;
    let root = folder(&bed, "r1", &old);
    let daemon = serve("nginx", &bed, &root, bed.ports[0]);
    let curl = bed.curl("/f", "got", &["--limit-rate", "10M"]);
    until("half of the file", || (bed.got("got").len() > SIZE / 3).then_some(()));
    std::fs::write(root.join("n"), &new).expect("ours");
    stamp(&root.join("n"));
    std::fs::rename(root.join("n"), root.join("f")).expect("ours");
    // What a reload with a short worker_shutdown_timeout does to a download.
    drop(daemon);
    let _again = {
        std::fs::remove_dir_all(bed.path(&format!("nginx-{}", bed.ports[0]))).expect("ours");
        serve("nginx", &bed, &root, bed.ports[0])
    };
    let (ended, got) = (code(curl, LONG), bed.got("got"));
    // What had come of the old file before may be all of it.
    assert!(old.starts_with(&got), "{ended}: {}", bed.said());
    assert_eq!(ended == 0, got.len() == SIZE, "{ended}: {}", bed.said());
}

#[test]
fn http_2_in_clear_passes_and_the_status_says_that_it_cannot_go_on() {
    let bed = Bed::new(&[]);
    let file = content(24, SIZE);
    let roots = [folder(&bed, "r1", &file), folder(&bed, "r2", &file)];
    let _daemons = [0, 1].map(|place| serve(WITH_HTTP2, &bed, &roots[place], bed.ports[place]));
    let curl = bed.curl("/f", "got", &["--http2-prior-knowledge", "--limit-rate", "10M"]);
    until("word of it", || {
        bed.said().contains("cannot go on elsewhere: HTTP/2 in clear").then_some(())
    });
    assert_eq!(code(curl, LONG), 0, "{}", bed.said());
    assert!(bed.got("got") == file);
}

#[test]
fn what_has_no_body_leaves_the_connection_fit_for_another_server() {
    for (path, told, status) in [
        ("/f", &["-I"][..], "200"),
        ("/f", &["-H", "If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT"], "304"),
        ("/204", &[], "204"),
    ] {
        let mut bed = Bed::new(&[]);
        let file = content(25, 1_000);
        let roots = [folder(&bed, "r1", &file), folder(&bed, "r2", &file)];
        let _daemons = [0, 1].map(|place| serve("nginx", &bed, &roots[place], bed.ports[place]));
        let again = format!("http://{}{path}", crate::bed::HOST);
        // Two requests on one connection, six seconds apart.
        let each = "%{http_code} on %{num_connects}, ";
        let more = [&["--rate", "10/m", "-w", each, &again, "-o", "/dev/null"], told].concat();
        let curl = bed.curl(path, "got", &more);
        let said = |bed: &Bed| String::from_utf8_lossy(&bed.got("got.err")).into_owned();
        until("the first answer", || said(&bed).contains("on 1, ").then_some(()));
        bed.kill(0);
        assert_eq!(code(curl, LONG), 0, "{status}: {} {}", said(&bed), bed.said());
        assert_eq!(said(&bed), format!("{status} on 1, {status} on 0, "));
    }
}
