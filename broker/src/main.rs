//! The broker's program: see [`stp_broker`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    stp_broker::daemon::main(cfg!(target_feature = "crt-static"))
}
