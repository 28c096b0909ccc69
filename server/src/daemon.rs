//! The command line and the life of the process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use stp_drive::upgrade::{self, Upgrade};
use stp_keeper::holding::Left;
use stp_keeper::lease::KEEPER_FLAG;
use stp_lookup::live_key;
use stp_net::echo::Told;
use stp_net::key::Identity;
use stp_net::link::{Acceptor, LinkOptions, Tls, listen};
use stp_net::machine;
use stp_net::status::{StatusServer, Token};
use stp_proto::session::{Limits, REMAINS_VERSION};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{self, Config, PLACES};
use crate::keeping::Keeping;
use crate::listener::Server;
use crate::lookup::Announcing;
use crate::relief;
use crate::restore;
use crate::status::Status;
use crate::stdio;
use crate::trouble;

/// The far end of sessions: offers services of this machine to brokers.
#[derive(Debug, Parser)]
#[command(name = "stp-server", version, after_long_help = AFTER)]
struct Arguments {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "SESSION_SERVER_CONFIG")]
    config: Option<PathBuf>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
    /// Prints this server's public key (made if there is none yet) and ends.
    #[arg(long)]
    print_key: bool,
    /// Makes a cluster key and ends.
    #[arg(long, value_name = "FILE")]
    new_cluster_key: Option<PathBuf>,
    /// Erases the keys of past days from a cluster key's file, which servers do by themselves where
    /// they can write, and ends.
    #[arg(long, value_name = "FILE")]
    advance_cluster_key: Option<PathBuf>,
    /// Do without a keeper: `tcp` sessions end with the server, whatever the configuration says.
    #[arg(long, env = "SESSION_NO_KEEPER", value_parser = clap::builder::FalseyValueParser::new())]
    no_keeper: bool,
    /// Print which version of the sessions' state it reads, and exit.
    #[arg(long, hide = true)]
    state_version: bool,
    /// Joins standard input and output with the server that runs with this configuration, and ends
    /// with them: for links through ssh.
    #[arg(long)]
    stdio: bool,
    /// What is logged, such as "debug" or "info,stp_net=trace".
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

const AFTER: &str = "\
SIGUSR2 has the program that is now in its file go on with all sessions. SIGTERM lets
sessions go to another server first, SIGINT does not. If it is killed, its keeper starts
the next one.";

/// The program; linked statically, or not.
#[must_use]
pub fn main(is_static: bool) -> ExitCode {
    if is_static {
        machine::look_names_up_alone();
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == KEEPER_FLAG) {
        return stp_keeper::process::main(arguments);
    }
    match stp_keeper::signals::hear().map_err(Into::into).and_then(|()| run(&Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stp-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.state_version {
        say(&REMAINS_VERSION.to_string());
        return Ok(());
    }
    if let Some(path) = &arguments.new_cluster_key {
        live_key::create(path)?;
        return Ok(());
    }
    if let Some(path) = &arguments.advance_cluster_key {
        live_key::advance(path, Limits::default().hold)?;
        return Ok(());
    }
    let places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    let path = match &arguments.config {
        Some(path) => path.clone(),
        None => stp_net::config::find(&places).cloned().ok_or_else(|| {
            anyhow::anyhow!("no configuration: name one with --config, or write {}", PLACES[0])
        })?,
    };
    stp_net::log::init(arguments.log.as_deref())?;
    let mut config = config::load(&path)?;
    config.keeper &= !arguments.no_keeper;
    if arguments.stdio {
        return stdio::join(config.listen).context("no server runs here with this configuration");
    }
    if arguments.check {
        if config.key_file.exists() {
            Identity::load_or_create(&config.key_file)?;
        }
        for doubt in config::doubt::doubts(&config) {
            eprintln!("stp-server: warning: {doubt}");
        }
        say(&format!("{}: no mistakes found", path.display()));
        return Ok(());
    }
    let identity = Identity::load_or_create(&config.key_file)?;
    if arguments.print_key {
        say(&identity.public_key().to_string());
        return Ok(());
    }
    machine::raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // On a worker: whatever the main thread runs, every session would change threads for.
    let served = runtime.spawn(serve(config, identity));
    let served = runtime.block_on(served).context("a bug in the server").flatten();
    // Sessions end with their links, as if the server had died: their brokers go elsewhere.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config, identity: Identity) -> anyhow::Result<()> {
    let tls = Tls::new(&identity);
    let options =
        LinkOptions { congestion: config.limits.congestion.clone(), ..LinkOptions::default() };
    let upgrades = signal(SignalKind::user_defined2())?;
    let (keeping, mut left) = keeper(&config);
    let listener = door(&config, keeping.as_ref(), &mut left)?;
    let status = StatusServer::bind(&config.status)
        .await
        .map_err(|error| anyhow::anyhow!("cannot show the status on {}: {error}", config.status))?;
    let token = Token::load_or_create(&config.key_file.with_extension("token"))?;
    tracing::info!(
        name = config.name, listen = %config.listen, key = %identity.public_key(),
        services = config.services.len(), sessions = config.limits.sessions,
        links = config.limits.links, memory_mib = config.limits.memory >> 20, "ready"
    );
    let acceptor = Acceptor::new(Arc::clone(&tls), options, config.limits.handshakes);
    let kept = keeping.as_ref().map(|keeping| Arc::clone(&keeping.0));
    let (server, returned) = Server::new(config, acceptor, tls.public_key(), kept.clone());
    if let Some(keeping) = &kept {
        restore::take_up(&server, keeping, left.held);
    }
    let program = kept.map(|_| std::env::current_exe()).transpose()?;
    tokio::spawn(upgrade::at(upgrades, Arc::new(Upgrade::new(program))));
    tokio::spawn(Arc::clone(&server.relays).measure());
    if let Some(cluster) = server.config.cluster.clone() {
        tokio::spawn(async move { cluster.follow().await });
    }
    tokio::spawn(machine::tidy());
    tokio::spawn(relief::relieve(Arc::clone(&server)));
    let announcing = Announcing::begin(&server, &tls);
    let (stop, stopped) = oneshot::channel::<()>();
    let shown = status.map(|status| {
        let source = Arc::new(Status(Arc::clone(&server)));
        tokio::spawn(status.serve(source, Some(token), async move { drop(stopped.await) }))
    });
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if let Some(socket) = echo(server.config.listen).await {
        tokio::spawn(answer(socket, Arc::clone(&server)));
    }
    let ends = async {
        // The first SIGTERM lets the sessions go elsewhere; SIGINT, or a second one, does not.
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => return,
            () = server.drain_wanted() => {}
        }
        tracing::info!(sessions = server.registry.len(), "draining");
        tokio::select! {
            () = server.drain() => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    tokio::select! {
        () = Arc::clone(&server).run(listener, returned) => {}
        () = ends => {}
    }
    tracing::info!(sessions = server.registry.len(), "ending");
    announcing.end().await;
    drop(stop);
    if let Some(shown) = shown {
        shown.await?;
    }
    Ok(())
}

/// Ends its keeper with it, however it ends but by a kill.
struct InOrder(Arc<Keeping>);

impl Drop for InOrder {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The keeper, and what the process before has left with it.
fn keeper(config: &Config) -> (Option<InOrder>, Left) {
    if !config.keeper {
        return Default::default();
    }
    match Keeping::begin(config) {
        Ok((keeping, left)) => (Some(InOrder(Arc::new(keeping))), left),
        Err(error) => {
            tracing::warn!("no keeper, tcp sessions end if this server is killed: {error}");
            Default::default()
        }
    }
}

/// The socket that links come to.
fn door(
    config: &Config,
    keeping: Option<&InOrder>,
    left: &mut Left,
) -> anyhow::Result<TcpListener> {
    let door = match keeping {
        Some(keeping) => keeping.0.door(left, config.listen),
        None => listen(config.listen),
    };
    door.map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", config.listen))
}

/// Answers those who ask how far this server is.
async fn answer(echo: UdpSocket, server: Arc<Server>) {
    let relays = Arc::clone(&server.relays);
    let onward = move |key: &_| relays.onward(key);
    let told = move || {
        let profile = trouble::profile(&server);
        Told { version: profile.version.0, keys: profile.keys }
    };
    if let Err(error) = stp_net::echo::answer(echo, onward, told).await {
        tracing::warn!(%error, "no echo any more");
    }
}

/// Where brokers ask how far this server is. Without it they time connections instead.
async fn echo(listen: SocketAddr) -> Option<UdpSocket> {
    match UdpSocket::bind(listen).await {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "no echo: UDP {listen} cannot be had");
            None
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn say(text: &str) {
    println!("{text}");
}
