//! What the keeper is told by signals is meant for its daemon: whoever has started it knows no
//! other process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// Ends the daemon, has it read its configuration again, has another program go on.
const PASSED_ON: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

/// To whom signals go, and whether an end was wanted.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    daemon: AtomicI32,
    end: AtomicBool,
}

/// A daemon hears them itself, and its keeper, whose child it may be, only as they come. Must come
/// before there is a second thread.
///
/// # Errors
/// Those of the kernel.
pub fn hear() -> io::Result<()> {
    Ok(all().thread_unblock()?)
}

fn all() -> SigSet {
    PASSED_ON.into_iter().collect()
}

impl Signals {
    /// From now on they are passed on. Must come before there is a second thread.
    pub(crate) fn pass_on() -> io::Result<Arc<Signals>> {
        let set = all();
        set.thread_block()?;
        let signals = Arc::new(Signals::default());
        let passed = Arc::clone(&signals);
        let pass = move || {
            while let Ok(signal) = set.wait() {
                if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
                    passed.end.store(true, Ordering::SeqCst);
                }
                let daemon = passed.daemon.load(Ordering::SeqCst);
                if daemon > 0 {
                    let _ended_already = kill(Pid::from_raw(daemon), signal);
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(pass)?;
        Ok(signals)
    }

    /// The daemon is this process; 0: there is none.
    pub(crate) fn go_to(&self, daemon: i32) {
        self.daemon.store(daemon, Ordering::SeqCst);
    }

    /// Whether an end was wanted.
    pub(crate) fn want_end(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }
}
