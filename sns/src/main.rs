//! The program of the Session Name Server and gateway: see [`stp_sns`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    stp_sns::daemon::main(cfg!(target_feature = "crt-static"))
}
