//! What every test here needs: the library, a relay, a way to run programs.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::relay::{Rules, serve};

/// A program that takes longer is broken.
const PROGRAM_MAX: Duration = Duration::from_secs(90);

/// The directory cargo builds into, found from this test's own place.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    let dir = exe.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    dir.to_owned()
}

/// The shim, built if it is not there.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| stp_tests::daemon::shim().expect("the shim is built"))
}

/// The `session` command.
pub fn session_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || stp_tests::daemon::programs().expect("the programs are built").join("session");
    PROGRAM.get_or_init(build)
}

/// The shim with panics on demand, which nothing else needs.
pub fn faulty_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        // The whole workspace: a part of it would get other features, and compile nearly all anew.
        build.args(["build", "-q", "--workspace", "--features", "stp-tests/fault"]);
        build.args(["--example", "session-fault"]);
        if target_dir().ends_with("release") {
            build.arg("--release");
        }
        let built = build.status().expect("cargo runs");
        let library = target_dir().join("examples/libsession_fault.so");
        assert!(built.success() && library.is_file(), "{} cannot be built", library.display());
        library
    })
}

/// A relay in this process, with a directory of its own.
pub struct Bed {
    dir: TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Bed {
    pub fn new(rules: Rules) -> Bed {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let broker = dir.path().join("broker");
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let place = broker.clone();
        runtime.spawn(async move { serve(&place, rules).await });
        let bed = Bed { dir, runtime: Some(runtime) };
        wait_until("the relay listens", || broker.join("routes").exists());
        bed
    }

    pub fn loopback() -> Bed {
        Bed::new(Rules::loopback())
    }

    /// The directory of socket and routes.
    pub fn session_dir(&self) -> PathBuf {
        self.dir.path().join("broker")
    }

    /// A place for files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The broker dies, with all sockets it holds.
    pub fn kill_broker(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// A program with the shim.
    pub fn shimmed(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LD_PRELOAD", library()).env("SESSION_DIR", self.session_dir());
        command.env_remove("SESSION_WHEN_ABSENT").current_dir(self.path());
        command
    }

    /// Compiles C source into a file here.
    pub fn compile(&self, name: &str, source: &str, options: &[&str]) -> PathBuf {
        let (program, text) = (self.path().join(name), self.path().join(format!("{name}.c")));
        std::fs::write(&text, source).expect("a file can be written");
        let mut compiler = Command::new(if options.contains(&"musl") { "musl-gcc" } else { "cc" });
        compiler.args(["-O1", "-w", "-D_GNU_SOURCE", "-o"]).arg(&program).arg(&text);
        compiler.args(options.iter().filter(|option| **option != "musl"));
        let said = run(compiler.current_dir(self.path()));
        assert_eq!(said.code, Some(0), "{name} compiles: {}", said.err);
        program
    }

    /// Runs a program with the shim to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Said {
        run(self.shimmed(program).args(arguments))
    }

    /// As [`Bed::run`], for Python code.
    pub fn python(&self, code: &str) -> Said {
        self.run("/usr/bin/python3", &["-c", code])
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill_broker();
    }
}

/// Runs a program to its end, and not for ever.
pub fn run(command: &mut Command) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut pipes = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let out = thread::spawn(move || text(&mut pipes.0));
    let err = thread::spawn(move || text(&mut pipes.1));
    let status = finish(&mut child);
    let said = (out.join().expect("a reader"), err.join().expect("a reader"));
    let (code, signal) = (status.code(), status.signal());
    Said { code, signal, out: said.0, err: said.1 }
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn finish(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PROGRAM_MAX;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("our own child");
            return child.wait().expect("a child");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a fact, and not for ever.
pub fn wait_until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !fact() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Python's HTTP server over a directory.
pub struct Origin {
    child: Child,
    pub port: u16,
}

impl Origin {
    pub fn new(dir: &Path) -> Origin {
        let code = "import http.server as h, sys, functools as f\n\
            class H(h.SimpleHTTPRequestHandler):\n\
            \x20 protocol_version = 'HTTP/1.1'\n\
            \x20 def do_PUT(s):\n\
            \x20   n = int(s.headers['Content-Length']); d = s.rfile.read(n)\n\
            \x20   open(s.translate_path(s.path), 'wb').write(d)\n\
            \x20   s.send_response(201); s.send_header('Content-Length', '0'); s.end_headers()\n\
            s = h.ThreadingHTTPServer(('127.0.0.1', 0), f.partial(H, directory=sys.argv[1]))\n\
            print(s.server_port, flush=True)\n\
            s.serve_forever()\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", code]).arg(dir).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a port");
        Origin { child, port: line.trim().parse().expect("a port") }
    }

    /// A URL there.
    pub fn url(&self, host: &str, file: &str) -> String {
        format!("http://{host}:{}/{file}", self.port)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// Bytes without a pattern, the same each time.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend((state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
