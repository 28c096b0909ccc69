//! `session doctor`: will this program be covered?

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::Context;

use crate::elf::{self, Verdict};
use crate::places;

/// Says what was found; the exit code is 0 if the program will be covered and 1 if not.
///
/// # Errors
/// When the program is not there.
pub fn doctor(program: &OsStr) -> anyhow::Result<ExitCode> {
    let name = program.to_string_lossy();
    let path = places::in_path(program).with_context(|| format!("{name}: no such program"))?;
    let finding = elf::look(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    if finding.program != path {
        text += &format!("{} is a script, run by {}\n", path.display(), finding.program.display());
    }
    let good = match &finding.verdict {
        Verdict::Covered => {
            text += &format!("{}: will be covered\n", finding.program.display());
            true
        }
        Verdict::Not(obstacle) => {
            text += &format!("{}: cannot be covered\n", finding.program.display());
            text += &format!("  why:    {}\n", obstacle.why());
            text += &format!("  advice: {}\n", obstacle.advice());
            false
        }
    };
    text += &surroundings();
    crate::print(&text)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn surroundings() -> String {
    let mut text = String::new();
    match places::shim() {
        Ok(path) => text += &format!("shim:   {}\n", path.display()),
        Err(error) => text += &format!("shim:   missing: {error:#}\n"),
    }
    match crate::broker::status() {
        Ok(status) => {
            let pid = &status["broker"]["pid"];
            text += &format!("broker: runs, process {pid}\n");
        }
        Err(_) => text += "broker: does not run; `session run` starts it\n",
    }
    text
}
