//! The broker as a process: command line, files, signals.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use stp_drive::upgrade::{self, Upgrade};
use stp_keeper::holding::Next;
use stp_keeper::lease::{KEEPER_FLAG, KEPT};
use stp_net::config::user_folder;
use stp_net::key::Identity;
use stp_net::link::Tls;
use stp_net::machine;
use stp_net::status::{StatusAddr, StatusServer, Token};
use stp_proto::local::path::ROUTES_FILE;
use stp_proto::local::routes::Builder;
use stp_proto::session::REMAINS_VERSION;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::accept;
use crate::app::{self, BindError, KeepWith, Listener};
use crate::broker::Broker;
use crate::config::{BeforeSleep, Config, WhenAbsent, doubt, found};
use crate::names::NamesFile;
use crate::pauses::Pauses;
use crate::status::Status;
use crate::{map, network, reload, sleep};

/// The status socket, in the session directory.
pub const STATUS_FILE: &str = "status.sock";
/// The token that actions need, in the session directory.
pub const TOKEN_FILE: &str = "token";

/// How long a broker that `session run` starts waits for the one before it to end: that one
/// gives its apps 1 s to see their reset.
const PREDECESSOR_MAX: Duration = Duration::from_secs(8);

/// The local daemon that holds the sessions of one user's programs.
#[derive(Debug, Parser)]
#[command(name = "stp-broker", version, about, after_long_help = AFTER)]
struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", env = "SESSION_CONFIG")]
    config: Option<PathBuf>,
    /// The directory of the sockets and the route map [default: the first
    /// of $SESSION_DIR, $XDG_RUNTIME_DIR/session, /run/user/UID/session, /tmp/session-UID].
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// What to log, such as "debug" or "info,stp_net=trace" [default: $SESSION_LOG, or
    /// "info"].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Print this user's public key and exit. It is made if there is none yet.
    #[arg(long)]
    print_key: bool,
    /// Exit when there has been no session for this many seconds.
    #[arg(long, value_name = "SECONDS")]
    idle_exit: Option<u64>,
    /// Do without a keeper: sessions end with the broker, whatever the configuration says.
    #[arg(long, env = "SESSION_NO_KEEPER", value_parser = clap::builder::FalseyValueParser::new())]
    no_keeper: bool,
    /// Print which version of the sessions' state it reads, and exit.
    #[arg(long, hide = true)]
    state_version: bool,
    /// Leave the terminal's session, as a process started on demand should.
    #[arg(long, hide = true)]
    background: bool,
}

const AFTER: &str = "\
Configuration is looked for in: --config, $SESSION_CONFIG,
  $XDG_CONFIG_HOME/session/broker.toml (or ~/.config/session/broker.toml),
  /etc/session/broker.toml
Without one, every host is asked directly over plain HTTP (port 80), and what is
downloaded goes on after the path, the address or the host's connection was lost.

Example:
  [[service]]
  name = \"www.mirror@example.org\"
  [[service.server]]
  address = \"192.0.2.1:4433\"
  key = \"ed25519:...\"            # printed by: stp-server --config FILE --print-key

  [[route]]
  to = \"mirror.example.org:80\"   # also *.example.org:80, 10.1.0.0/24:*, [2001:db8::1]:22
  service = \"www.mirror@example.org\"

SIGHUP has the configuration read again, as session reload does. SIGUSR2 has the
program that is now in its file go on with all sessions. SIGTERM and SIGINT end it:
apps get ECONNRESET. If it is killed, its keeper starts the next one.";

/// Everything that `main` does; linked statically, or not.
#[must_use]
pub fn main(is_static: bool) -> ExitCode {
    if is_static {
        machine::look_names_up_alone();
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == KEEPER_FLAG) {
        return stp_keeper::process::main(arguments);
    }
    match stp_keeper::signals::hear().map_err(Into::into).and_then(|()| go(&Args::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stp-broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go(args: &Args) -> anyhow::Result<()> {
    if args.state_version {
        return say(&format!("{REMAINS_VERSION}\n"));
    }
    if args.print_key {
        let config = found::read(args.config.as_deref())?;
        let key = identity(config.key_file.as_deref())?;
        return say(&format!("{}\n", key.public_key()));
    }
    let config = found::read(args.config.as_deref())?;
    let file = config.file.clone();
    let map = map::build(&config, &[]).with_context(|| file.display().to_string())?;
    if args.check {
        for doubt in doubt::doubts(&config) {
            eprintln!("stp-broker: warning: {doubt}");
        }
        return say(&format!(
            "{}: good: {} service(s), {} route(s)\n",
            file.display(),
            config.services.len(),
            config.routes.iter().count()
        ));
    }
    stp_net::log::init(args.log.as_deref())?;
    if args.background {
        let _is_leader_already = nix::unistd::setsid();
    }
    machine::raise_descriptors()?;
    let dir = socket_dir(args)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers()).enable_all().build()?;
    // On a worker: whatever the main thread runs, every connect would change threads for.
    let is_next = args.background || std::env::var_os(KEPT).is_some();
    let patience = if is_next { PREDECESSOR_MAX } else { Duration::ZERO };
    let keep = (config.keeper && !args.no_keeper).then(|| keep_with(&config)).transpose()?;
    let served = runtime.spawn(serve(config, (dir, patience), map, keep, args.idle_exit));
    let result = runtime.block_on(served).context("a bug in the broker").flatten();
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Half of the machine is the programs'. A worker that is woken to look for work costs more than a
/// small request.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 4)
}

/// How the keeper starts the next broker.
fn keep_with(config: &Config) -> anyhow::Result<KeepWith> {
    Ok(KeepWith {
        next: Next::like_this_one().context("this program's own file")?,
        send_buffer: config.limits.send_buffer,
        receive_buffer: config.limits.receive_buffer,
    })
}

fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

async fn serve(
    config: Config,
    (dir, patience): (PathBuf, Duration),
    map: Vec<u8>,
    keep: Option<KeepWith>,
    idle_exit: Option<u64>,
) -> anyhow::Result<()> {
    let dir = dir.as_path();
    let stop = stop_signal()?;
    let upgrade = Arc::new(Upgrade::new(keep.as_ref().map(|keep| keep.next.program.clone())));
    let mut listener = bind(dir, patience, keep).await?;
    let identity = identity(config.key_file.as_deref())?;
    let key = identity.public_key();
    let tls = Tls::new(&identity);
    let (when_absent, status_at) = (config.when_absent, config.status.clone());
    let counters = Arc::clone(listener.counters());
    let broker = Broker::new(config, &tls, counters)?;
    let (stopped, stopping) = watch::channel(false);
    let statuses = serve_status(&broker, dir, &status_at, &stopping).await?;
    let _only_once = broker.published_in.set(dir.to_owned());
    remember_names(&broker, dir, listener.goes_on())?;
    broker.endpoints.open();
    match Pauses::open(dir, &accept::limits(&broker.tables().config.limits)) {
        Ok(pauses) => drop(broker.pauses.set(pauses)),
        Err(error) => tracing::warn!(%error, "programs' time-outs run on without a link"),
    }
    app::publish_routes(dir, &map).with_context(|| dir.join(ROUTES_FILE).display().to_string())?;
    tokio::spawn(machine::tidy());
    tokio::spawn(network::watch(Arc::clone(&broker)));
    if broker.tables().config.before_sleep == BeforeSleep::Suspend {
        tokio::spawn(sleep::watch(Arc::clone(&broker)));
    }
    tokio::spawn(reload_at(signal(SignalKind::hangup())?, Arc::clone(&broker)));
    let _only_once = broker.upgrade.set(Arc::clone(&upgrade));
    tokio::spawn(upgrade::at(signal(SignalKind::user_defined2())?, upgrade));
    let file = broker.tables().config.file.display().to_string();
    tracing::info!(dir = %dir.display(), config = file, %key, "the broker is ready");

    tokio::select! {
        () = accept::serve(&broker, &mut listener) => {}
        name = stop => tracing::info!("{name}: ending"),
        () = broker.stop.notified() => tracing::info!("asked to stop: ending"),
        () = idle(&broker, idle_exit) => tracing::info!("no session for long enough: ending"),
    }
    listener.end();
    withdraw_routes(dir, when_absent);
    broker.shut_down().await;
    let _nobody_listens = stopped.send(true);
    for status in statuses {
        let _its_own_affair = status.await;
    }
    let _gone_already = std::fs::remove_file(dir.join(STATUS_FILE));
    Ok(())
}

/// Takes the session directory; waits so long for a broker that is about to end.
async fn bind(dir: &Path, patience: Duration, keep: Option<KeepWith>) -> anyhow::Result<Listener> {
    let begun = Instant::now();
    loop {
        match Listener::bind(dir, keep.clone()) {
            Err(BindError::AlreadyRunning(_)) if begun.elapsed() < patience => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return Ok(result?),
        }
    }
}

/// The status on the socket in the session directory, and where the configuration wants it.
async fn serve_status(
    broker: &Arc<Broker>,
    dir: &Path,
    at: &StatusAddr,
    stopping: &watch::Receiver<bool>,
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let token = Token::load_or_create(&dir.join(TOKEN_FILE))?;
    let own = StatusAddr::Unix(dir.join(STATUS_FILE));
    let mut tasks = Vec::new();
    for at in [&own, at] {
        let bound = StatusServer::bind(at).await;
        let bound = bound.with_context(|| format!("cannot show the status at {at}"));
        let server = match bound {
            Ok(Some(server)) => server,
            Ok(None) => continue,
            // The programs are served all the same, and `session status` has its own socket.
            Err(error) if *at != own => {
                let text = format!("{error:#}");
                tracing::warn!("{text}");
                broker.warnings.lock().push(text);
                continue;
            }
            Err(error) => return Err(error),
        };
        tracing::info!("status at {}", server.addr());
        let (source, token) = (Arc::new(Status(Arc::clone(broker))), Some(token.clone()));
        let mut stopping = stopping.clone();
        tasks.push(tokio::spawn(async move {
            let stop = async move {
                let _the_broker_is_gone = stopping.wait_for(|stopped| *stopped).await;
            };
            server.serve(source, token, stop).await;
        }));
    }
    Ok(tasks)
}

/// Programs must not be led to a broker that has ended, unless they are to fail then.
fn withdraw_routes(dir: &Path, when_absent: WhenAbsent) {
    if when_absent == WhenAbsent::Fail {
        return;
    }
    // The empty map marks the one that programs have mapped as superseded.
    let empty = Builder::new(stp_proto::local::routes::WhenAbsent::Pass).build();
    let withdrawn = empty.ok().map(|empty| app::publish_routes(dir, &empty));
    if let Some(Err(error)) = withdrawn {
        tracing::warn!(%error, "the route map cannot be withdrawn");
    }
    let _gone_already = std::fs::remove_file(dir.join(ROUTES_FILE));
}

/// SIGHUP has the configuration read again. What came of it is in the log and in the status.
async fn reload_at(mut hangup: Signal, broker: Arc<Broker>) {
    while hangup.recv().await.is_some() {
        let read = found::read_again(&broker.tables().config.file);
        let _logged = reload::apply(&broker, read.map_err(|error| error.to_string()));
    }
}

/// Programs keep the addresses that they were given, also by a broker that was killed.
fn remember_names(broker: &Broker, dir: &Path, goes_on: bool) -> anyhow::Result<()> {
    let (file, names) = NamesFile::open(dir, goes_on).context("the names in use")?;
    for name in names {
        broker.address(&name);
    }
    let _only_once = broker.names.set(file);
    Ok(())
}

fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    })
}

async fn idle(broker: &Broker, seconds: Option<u64>) {
    let Some(seconds) = seconds else { return std::future::pending().await };
    let mut idle_for = 0;
    while idle_for < seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        idle_for = if broker.session_count() == 0 { idle_for + 1 } else { 0 };
    }
}

fn identity(file: Option<&Path>) -> anyhow::Result<Identity> {
    let file = match file {
        Some(file) => file.to_owned(),
        None => user_folder("XDG_STATE_HOME", ".local/state")
            .context("no place for this user's key: set HOME, or key_file in the configuration")?
            .join("session/client.key"),
    };
    Ok(Identity::load_or_create(&file)?)
}

fn socket_dir(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &args.socket_dir {
        return std::path::absolute(dir).context("--socket-dir");
    }
    Ok(stp_lookup::here::session_dir()?)
}
