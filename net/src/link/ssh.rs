//! Links through the user's own ssh, where nothing but ssh leads to a server's machine: a command
//! there joins its standard input and output with the server's port. The link's own TLS goes
//! through all of it, so nobody on the way is trusted with anything.
//!
//! A link is a TCP connection, so ssh is given one end of one within this machine, and copies.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// The command on the far machine, as `session via add` has put it there.
const FAR: &str = "exec .local/share/session/via/stp-server --stdio \
     --config .local/share/session/via/server.toml";
/// What ssh has said is waited for so long when it has ended.
const LAST_WORDS: usize = 4096;

/// How ssh gets to a server's machine: the program, its options, and the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshWay(Arc<[String]>);

impl SshWay {
    /// Of these words.
    ///
    /// # Errors
    /// When program or target is missing, or the target is an option.
    pub fn new(words: Vec<String>) -> Result<SshWay, String> {
        match words.last() {
            Some(target) if words.len() >= 2 && !target.starts_with('-') => {
                Ok(SshWay(words.into()))
            }
            _ => Err("a list of ssh, its options and USER@HOST is expected".to_owned()),
        }
    }

    /// A connection to the server there.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let (ours, theirs) = pair().await?;
        let theirs = theirs.into_std()?;
        // Programs expect to wait on what they are given.
        theirs.set_nonblocking(false)?;
        let theirs = OwnedFd::from(theirs);
        let (target, program) = self.0.split_last().expect("two words at least");
        let mut command = Command::new(&program[0]);
        command
            .args(&program[1..])
            // Nobody is there to answer questions, and a way that is gone is to be given up.
            .args(["-T", "-oBatchMode=yes", "-oControlPath=none", "-oServerAliveInterval=5"])
            .args(["-oServerAliveCountMax=2", "-oConnectTimeout=10", "--", target, FAR])
            .stdin(Stdio::from(theirs.try_clone()?))
            .stdout(Stdio::from(theirs))
            .stderr(Stdio::piped())
            .env_remove("LD_PRELOAD");
        let mut child = command.spawn()?;
        // The command holds copies of the far end: what is dropped here must not keep it open.
        drop(command);
        let stderr = child.stderr.take();
        tokio::spawn(async move {
            let said = last_words(stderr).await;
            // It ends when the link does: its input has ended then.
            let ended = child.wait().await;
            tracing::debug!(?ended, said, "ssh has ended");
        });
        Ok(ours)
    }
}

/// The two ends of a connection within this machine.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let ours = TcpStream::connect(listener.local_addr()?).await?;
    loop {
        let (theirs, from) = listener.accept().await?;
        // Any program here could have been quicker.
        if from == ours.local_addr()? {
            return Ok((ours, theirs));
        }
    }
}

async fn last_words(stderr: Option<tokio::process::ChildStderr>) -> String {
    use tokio::io::AsyncReadExt;
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut said, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stderr.read(&mut piece).await {
        said.extend_from_slice(&piece[..read]);
        let over = said.len().saturating_sub(LAST_WORDS);
        said.drain(..over);
    }
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// How long the other ways have before ssh is asked beside them.
pub(super) const AFTER: Duration = Duration::from_secs(1);
