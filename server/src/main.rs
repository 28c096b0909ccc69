//! The STP server's program: see [`stp_server`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    stp_server::daemon::main(cfg!(target_feature = "crt-static"))
}
