//! The command line and the life of the process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use stp_net::key::Identity;
use stp_net::link::{Acceptor, LinkOptions, Tls, listen};
use stp_net::machine;
use stp_net::status::StatusServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cluster_key::{self, Cluster};
use crate::config::{self, Config, PLACES, StoreConfig};
use crate::sns::Sns;
use crate::status::Status;
use crate::store::AnyStore;
use crate::store::embedded::Embedded;
use crate::store::etcd::Etcd;
use crate::tables::Tables;
use crate::{admin, command, link};

/// The Session Name Server and STP gateway: names, log-in, tickets.
#[derive(Debug, Parser)]
#[command(name = "stp-sns", version, args_conflicts_with_subcommands = false)]
struct Arguments {
    /// The configuration file.
    #[arg(long, short, global = true, value_name = "FILE", env = "SESSION_SNS_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration, and end.
    #[arg(long)]
    check: bool,
    /// Print the public key (made if there is none yet), and end.
    #[arg(long)]
    print_key: bool,
    /// What to log, such as "debug" or "info,stp_net=trace".
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Option<Does>,
}

#[derive(Debug, Subcommand)]
enum Does {
    /// Users, servers, services and files of the daemon that runs.
    Admin {
        /// The daemon's socket [default: that of the configuration].
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        command: command::Command,
    },
    /// Replaces the cluster key in steps: add, promote, retire.
    ClusterKey {
        /// The step.
        step: cluster_key::Step,
        /// The file.
        file: PathBuf,
    },
}

/// The program; linked statically, or not.
#[must_use]
pub fn main(is_static: bool) -> ExitCode {
    if is_static {
        machine::look_names_up_alone();
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stp-sns: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Some(Does::ClusterKey { step, file }) => {
            say(cluster_key::step(&file, step)?);
            return Ok(());
        }
        Some(Does::Admin { socket, json, command }) => {
            let socket = match socket {
                Some(socket) => socket,
                None => config::load(&place(arguments.config.as_ref())?)?.admin,
            };
            print(&command::run(&socket, command, json)?);
            return Ok(());
        }
        None => {}
    }
    let path = place(arguments.config.as_ref())?;
    stp_net::log::init(arguments.log.as_deref())?;
    let config = config::load(&path)?;
    if arguments.check {
        if config.key_file.exists() {
            Identity::load_or_create(&config.key_file)?;
        }
        // An embedded store is not opened for this, because the daemon that runs holds its lock.
        if matches!(config.store, StoreConfig::Etcd(_))
            && let Err(error) = reach(&config.store)
        {
            eprintln!("stp-sns: warning: the store does not answer now: {error:#}");
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
    let served = runtime.block_on(serve(config, &identity));
    runtime.shutdown_background();
    served
}

fn place(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    let found = given.or_else(|| stp_net::config::find(&places)).cloned();
    found.ok_or_else(|| {
        anyhow::anyhow!("no configuration: name one with --config, or write {}", PLACES[0])
    })
}

/// Whether the store answers.
fn reach(config: &StoreConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opened = runtime.block_on(open_store(config)).map(drop);
    runtime.shutdown_background();
    opened
}

/// The store, and the tables that it keeps up to date.
pub async fn open_store(config: &StoreConfig) -> anyhow::Result<(Arc<Tables>, AnyStore)> {
    let tables: Arc<Tables> = Arc::default();
    let store: AnyStore = match config {
        StoreConfig::Embedded(path) => {
            let (path, sink) = (path.clone(), Arc::clone(&tables));
            Arc::new(tokio::task::spawn_blocking(move || Embedded::open(&path, sink)).await??)
        }
        StoreConfig::Etcd(etcd) => {
            let sink = Arc::clone(&tables);
            Arc::new(Etcd::open(etcd, sink).await?)
        }
    };
    Ok((tables, store))
}

async fn serve(config: Config, identity: &Identity) -> anyhow::Result<()> {
    let cluster = Cluster::load(&config.cluster, &config.cluster_key_file)?;
    let (tables, store) = open_store(&config.store).await?;
    let listener = listen(config.listen)
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", config.listen))?;
    let status = StatusServer::bind(&config.status)
        .await
        .map_err(|error| anyhow::anyhow!("cannot show the status on {}: {error}", config.status))?;
    let socket = admin::bind(&config.admin)
        .map_err(|error| anyhow::anyhow!("{}: {error}", config.admin.display()))?;
    let admin_path = config.admin.clone();
    let (listens, name) = (config.listen, config.name.clone());
    let handshakes = config.limits.handshakes;
    let acceptor = Arc::new(Acceptor::new(Tls::new(identity), LinkOptions::default(), handshakes));
    let sns = Sns::new(config, tables, store, cluster, identity.public_key()).await?;
    tokio::spawn(machine::tidy());
    let (stop, stopped) = oneshot::channel::<()>();
    let shown = status.map(|status| {
        let source = Arc::new(Status { sns: Arc::clone(&sns), acceptor: Arc::clone(&acceptor) });
        tokio::spawn(status.serve(source, None, async move { drop(stopped.await) }))
    });
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tracing::info!(name, listen = %listens, key = %sns.key, store = ?sns.store, "ready");
    tokio::select! {
        () = link::serve(Arc::clone(&sns), acceptor, listener) => {}
        () = admin::serve(Arc::clone(&sns), socket) => {}
        () = sns.cluster.follow() => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("ending");
    let _ = std::fs::remove_file(admin_path);
    drop(stop);
    if let Some(shown) = shown {
        shown.await?;
    }
    Ok(())
}

fn say(text: &str) {
    print(&format!("{text}\n"));
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn print(text: &str) {
    print!("{text}");
}
