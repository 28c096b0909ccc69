//! Talking to the broker over its status socket, and starting one.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stp_lookup::here;
use stp_net::config::{BUILT_IN, Span};

use crate::args::{Move, Run, Suspend, Which};
use crate::places;
use crate::print::print;

/// How long a broker may take to start.
const START_MAX: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// The broker's status socket, in its directory.
const STATUS_SOCKET: &str = "status.sock";
const TOKEN_FILE: &str = "token";
const TOKEN_BYTES_MAX: u64 = 4_096;

/// The broker's `/status`.
///
/// # Errors
/// When no broker answers.
pub fn status() -> anyhow::Result<Value> {
    let (code, text) = ask(Method::GET, "/status")?;
    if code != StatusCode::OK {
        bail!("the broker answers {code}: {}", text.trim());
    }
    serde_json::from_str(&text).context("what the broker answers is no JSON")
}

/// The broker's status without the parts that only grow: events, samples, ended sessions.
///
/// # Errors
/// When no broker answers.
pub fn brief() -> anyhow::Result<Value> {
    let (code, text) = ask(Method::GET, "/status?brief")?;
    if code != StatusCode::OK {
        bail!("the broker answers {code}: {}", text.trim());
    }
    serde_json::from_str(&text).context("what the broker answers is no JSON")
}

/// In place of a session's number: all of them.
pub const ALL: &str = "all";

fn must_be_a_number(id: &str) -> anyhow::Result<()> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        bail!("\"{id}\" is not the number of a session; `session status` shows them");
    }
    Ok(())
}

/// Has the broker carry out an action on a session, such as `suspend`.
///
/// # Errors
/// When no broker answers, or it refuses.
pub fn act(id: &str, action: &str) -> anyhow::Result<ExitCode> {
    must_be_a_number(id)?;
    let (code, text) = ask(Method::POST, &format!("/sessions/{id}/{action}"))?;
    if !code.is_success() {
        bail!("{}", reason(&text));
    }
    Ok(ExitCode::SUCCESS)
}

/// Suspends a session, all of them, or those of an endpoint.
///
/// # Errors
/// When no broker answers, or it refuses.
pub fn suspend(suspend: &Suspend) -> anyhow::Result<ExitCode> {
    let Which { id, endpoint, .. } = &suspend.which;
    match endpoint {
        Some(endpoint) => each_of(endpoint, |id| suspend_one(id, suspend.lasts)),
        None => suspend_one(id.as_deref().unwrap_or(ALL), suspend.lasts),
    }
}

fn suspend_one(id: &str, lasts: Option<Span>) -> anyhow::Result<ExitCode> {
    let Some(Span(lasts)) = lasts else { return act(id, "suspend") };
    must_be_a_number(id)?;
    if lasts < Duration::from_secs(1) {
        bail!("--for: 1s is least");
    }
    let body = serde_json::json!({ "for_s": lasts.as_secs() });
    let (code, answer) = post(&format!("/sessions/{id}/suspend"), &body)?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    if let Some(granted) = answer["for_s"].as_u64().filter(|granted| *granted < lasts.as_secs()) {
        eprintln!("session: suspended for {granted} s: its server keeps it no longer");
    }
    Ok(ExitCode::SUCCESS)
}

/// Resumes a session, all of them, or those of an endpoint.
///
/// # Errors
/// When no broker answers, or it refuses.
pub fn resume(which: &Which) -> anyhow::Result<ExitCode> {
    match &which.endpoint {
        Some(endpoint) => each_of(endpoint, |id| act(id, "resume")),
        None => act(which.id.as_deref().unwrap_or(ALL), "resume"),
    }
}

/// Does something with each session of an endpoint.
fn each_of(
    endpoint: &str,
    mut act: impl FnMut(&str) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let status = brief()?;
    let all = |list: &str| status[list].as_array().cloned().unwrap_or_default();
    if !all("endpoints").iter().any(|one| one["name"] == endpoint) {
        bail!("there is no endpoint {endpoint} here; `session endpoint list` shows them");
    }
    for session in all("sessions").iter().filter(|session| session["endpoint"] == endpoint) {
        act(&session["id"].to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Moves a session, or those of an endpoint, to another server, or to this one.
///
/// # Errors
/// When no broker answers, or it refuses.
pub fn move_to(args: &Move) -> anyhow::Result<ExitCode> {
    let server = args.server.as_deref();
    match (&args.endpoint, &args.id) {
        (Some(endpoint), to) => each_of(endpoint, |id| move_one(id, to.as_deref())),
        (None, Some(id)) => move_one(id, server),
        (None, None) => bail!("which session? `session status` shows them"),
    }
}

fn move_one(id: &str, server: Option<&str>) -> anyhow::Result<ExitCode> {
    let Some(server) = server else { return act(id, "move") };
    let body = serde_json::json!({ "server": server });
    let (code, answer) = post(&format!("/sessions/{id}/move"), &body)?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the broker to do something; its answer, or its refusal.
///
/// # Errors
/// When no broker answers.
pub fn post(path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
    let (code, text) = ask_with(Method::POST, path, body.to_string())?;
    Ok((code, serde_json::from_str(&text).unwrap_or_default()))
}

/// A refusal is plain text, or JSON with an error in it.
fn reason(text: &str) -> String {
    let json: Option<Value> = serde_json::from_str(text).ok();
    let error = json.as_ref().and_then(|json| json["error"].as_str());
    error.unwrap_or(text.trim()).to_owned()
}

fn ask(method: Method, path: &str) -> anyhow::Result<(StatusCode, String)> {
    ask_with(method, path, "{}".to_owned())
}

/// A connection to the status socket of a broker of this user.
pub(crate) fn connect(dir: &Path) -> anyhow::Result<UnixStream> {
    here::connect(dir, STATUS_SOCKET).map_err(|error| match error.is_absence() {
        true => {
            anyhow::anyhow!("no broker runs here ({}); `session run` starts one", dir.display())
        }
        false => error.into(),
    })
}

fn ask_with(method: Method, path: &str, body: String) -> anyhow::Result<(StatusCode, String)> {
    let dir = here::session_dir()?;
    let stream = connect(&dir)?;
    let token = token(&dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(ANSWER_MAX, exchange(stream, token.trim(), method, path, body))
            .await
            .context("the broker does not answer")?
    })
}

/// The token that the broker wants for requests that change something. Only this user can read
/// it, as only this user can reach the socket.
fn token(dir: &Path) -> anyhow::Result<String> {
    let mut token = String::new();
    match here::open(dir, TOKEN_FILE) {
        Ok(file) => drop(file.take(TOKEN_BYTES_MAX).read_to_string(&mut token)?),
        Err(error) if error.is_absence() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(token)
}

async fn exchange(
    stream: UnixStream,
    token: &str,
    method: Method,
    path: &str,
    body: String,
) -> anyhow::Result<(StatusCode, String)> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the broker's answer broke off: {error}"))?;
    Ok((code, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// Starts a broker if none runs.
///
/// # Errors
/// When it cannot be started; its own words are passed on.
pub fn ensure(run: &Run) -> anyhow::Result<()> {
    if let Ok(status) = status_of_lasting() {
        use_what_is_new(run, &status);
        warn_of_other_config(run, &status);
        return Ok(());
    }
    let program = places::broker_program()?;
    let log = match &run.broker_log {
        Some(path) => path.clone(),
        None => default_log()?,
    };
    let old = std::fs::metadata(&log).map_or(0, |log| log.len());
    let mut child = start(&program, run, &log)?;
    wait_until_ready(&mut child, &log, old)
}

/// The same for a command that runs no program.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_here(config: Option<&Path>) -> anyhow::Result<()> {
    ensure(&Run {
        config: config.map(Path::to_owned),
        no_broker: false,
        broker_log: None,
        anyway: false,
        mirror: Vec::new(),
        policy: None,
        endpoint: None,
        notify: crate::args::Notify::Off,
        quiet: false,
        command: Vec::new(),
    })
}

/// That the broker has an endpoint of this name.
///
/// # Errors
/// When it has none.
pub fn must_know_endpoint(name: &str) -> anyhow::Result<()> {
    let status = brief()?;
    let known = status["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !known.iter().any(|one| one["name"] == name) {
        bail!("there is no endpoint {name} here; to make it: session endpoint create {name}");
    }
    Ok(())
}

/// That the broker has a policy of this name.
///
/// # Errors
/// When it has none; says which there are.
pub fn must_know_policy(name: &str) -> anyhow::Result<()> {
    let status = status()?;
    let known = status["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = known.iter().filter_map(|policy| policy["name"].as_str()).collect();
    if names.contains(&name) {
        return Ok(());
    }
    let file = status["broker"]["config"].as_str().unwrap_or_default();
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    bail!(
        "no [[policy]] in {file} is called \"{name}\"; there is {there}.\n\
         What to do: write one (docs/policies.md), then \"session reload\""
    )
}

/// The status of a broker that is not about to end.
fn status_of_lasting() -> anyhow::Result<Value> {
    let status = status()?;
    if status["broker"]["ending"] == true {
        bail!("the broker that runs is about to end");
    }
    Ok(status)
}

/// Has another program go on with all sessions, and waits until it does.
///
/// # Errors
/// When no broker answers, or the program cannot go on.
pub fn upgrade() -> anyhow::Result<ExitCode> {
    let (code, answer) = post("/upgrade", &serde_json::json!({}))?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    let begun = Instant::now();
    while begun.elapsed() < START_MAX {
        std::thread::sleep(Duration::from_millis(20));
        if let Ok(now) = brief()
            && now["broker"]["pid"] != answer["pid"]
        {
            let sessions = answer["sessions"].as_u64().unwrap_or(0);
            print(&format!("another broker goes on with {sessions} session(s)\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    bail!("the broker has ended, and no other one answers yet; its log says why")
}

/// Has the configuration read again.
///
/// # Errors
/// When no broker answers, or the configuration cannot be used.
pub fn reload() -> anyhow::Result<ExitCode> {
    let (code, answer) = post("/reload", &serde_json::json!({}))?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    let (file, count) = (words(&answer["config"]), |key: &str| answer[key].as_u64().unwrap_or(0));
    let (services, routes) = (count("services"), count("routes"));
    print(&format!("{file}: in use: {services} service(s), {routes} route(s)\n"))?;
    let pending: Vec<&str> = answer["after_restart"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !pending.is_empty() {
        eprintln!(
            "session: changed, and used only when the broker starts anew (session stop): {}",
            pending.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the broker, and waits until it is gone. Without `force`, it refuses while there are
/// sessions.
///
/// # Errors
/// When no broker runs, it has sessions, or it does not end.
pub fn stop(force: bool) -> anyhow::Result<ExitCode> {
    let status = status()?;
    let sessions = status["sessions"].as_array().map_or(0, Vec::len);
    if sessions > 0 && !force {
        bail!(
            "{sessions} session(s) would be reset; `session status` shows them. To end them: \
             session stop --force"
        );
    }
    let (code, answer) = post("/stop", &serde_json::json!({}))?;
    if !code.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the broker refuses"));
    }
    let (dir, begun) = (here::session_dir()?, Instant::now());
    while here::connect(&dir, STATUS_SOCKET).is_ok() {
        if begun.elapsed() > START_MAX {
            bail!("the broker (process {}) does not end", answer["pid"]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(ExitCode::SUCCESS)
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A broker that began without a configuration takes the first one that is written; of changes of a
/// file the user is told.
fn use_what_is_new(run: &Run, status: &Value) {
    let Some(unread) = status["broker"]["config_unread"].as_str() else { return };
    let said = if status["broker"]["config"] != BUILT_IN || run.config.is_some() {
        unread.to_owned()
    } else {
        match post("/reload", &serde_json::json!({})) {
            Ok((code, answer)) if code.is_success() => {
                format!("{} is used from now on", words(&answer["config"]))
            }
            Ok((_, answer)) => {
                format!("{}; what is built in goes on", words(&answer["error"]))
            }
            Err(error) => error.to_string(),
        }
    };
    if !run.quiet {
        eprintln!("session: {said}");
    }
}

fn warn_of_other_config(run: &Run, status: &Value) {
    let Some(wanted) = run.config.as_deref().and_then(|path| path.canonicalize().ok()) else {
        return;
    };
    let used = status["broker"]["config"].as_str().unwrap_or_default();
    if Path::new(used) != wanted {
        eprintln!(
            "session: the broker that runs uses {used}, not {}; to change that: session stop",
            wanted.display()
        );
    }
}

fn default_log() -> anyhow::Result<PathBuf> {
    let dir = here::session_dir()?;
    here::make_private(&dir)?;
    Ok(dir.join("broker.log"))
}

fn start(program: &Path, run: &Run, log: &Path) -> anyhow::Result<Child> {
    let file = here::append(log).context("cannot write the broker's log")?;
    let mut command = Command::new(program);
    if let Some(config) = &run.config {
        command.arg("--config").arg(config);
    }
    command
        .arg("--background")
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start the broker {}", program.display()))
}

fn wait_until_ready(child: &mut Child, log: &Path, old: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if status_of_lasting().is_ok() {
            return Ok(());
        }
        if let Some(exit) = child.try_wait()? {
            // Another `session run` may have been quicker; its broker answers then.
            std::thread::sleep(Duration::from_millis(300));
            if status_of_lasting().is_ok() {
                return Ok(());
            }
            bail!("the broker did not start ({exit}); it says:\n{}", tail(log, old));
        }
        if begun.elapsed() > START_MAX {
            bail!("the broker does not answer; see its log {}", log.display());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The last lines of a log, of those that were written after its first `old` bytes.
fn tail(path: &Path, old: u64) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let new = usize::try_from(old).ok().and_then(|old| text.get(old..));
    let text = String::from_utf8_lossy(new.unwrap_or(&text));
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    last.iter().map(|line| format!("  {line}\n")).collect()
}
