//! The `session` command: see [`stp_cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    stp_cli::main(cfg!(target_feature = "crt-static"))
}
