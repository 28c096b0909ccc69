//! Another program goes on with all sessions: `session upgrade` for a broker, or SIGUSR2.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stp_proto::session::REMAINS_VERSION;
use tokio::signal::unix::Signal;

/// How long the other program may take to say what it reads.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long the daemon still runs, so that the answer to `session upgrade` leaves.
const LEAVE: Duration = Duration::from_millis(100);

/// The program that goes on.
#[derive(Debug)]
pub struct Upgrade(Option<PathBuf>);

impl Upgrade {
    /// It is in this file; nothing without a keeper, which would start it.
    #[must_use]
    pub fn new(program: Option<PathBuf>) -> Upgrade {
        Upgrade(program)
    }

    /// Ends this daemon in a moment, as if it were killed: the keeper starts the next one, which
    /// finds everything.
    ///
    /// # Errors
    /// The program cannot go on; says why. Then this daemon does.
    pub async fn begin(&self) -> anyhow::Result<()> {
        let program = self.0.as_ref().context("there is no keeper: its sessions would end")?;
        reads_state(program).await?;
        tracing::info!(program = %program.display(), "this program goes on");
        tokio::spawn(async {
            tokio::time::sleep(LEAVE).await;
            std::process::exit(0);
        });
        Ok(())
    }
}

/// An error unless this program reads the state of sessions that this one writes.
async fn reads_state(program: &Path) -> anyhow::Result<()> {
    let place = program.display();
    let asked = tokio::process::Command::new(program).arg("--state-version").output();
    let asked = tokio::time::timeout(ANSWER_MAX, asked).await;
    let output = asked.with_context(|| format!("{place} does not answer"))?;
    let output = output.with_context(|| format!("{place} cannot be run"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    // A program reads its own version, and the one before.
    let reads = said.trim().parse::<u8>().is_ok_and(|reads| {
        (REMAINS_VERSION..=REMAINS_VERSION + 1).contains(&reads) && output.status.success()
    });
    anyhow::ensure!(
        reads,
        "{place} does not read the state of sessions of version {REMAINS_VERSION}, it says {:?}",
        said.trim()
    );
    Ok(())
}

/// Upgrades whenever the signal comes. What came of it is in the log.
pub async fn at(mut wanted: Signal, upgrade: Arc<Upgrade>) {
    while wanted.recv().await.is_some() {
        if let Err(error) = upgrade.begin().await {
            tracing::warn!("no upgrade, this program goes on: {error:#}");
        }
    }
}
