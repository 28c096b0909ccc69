//! `session demo`: runs the demo script of the source tree.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;

/// Runs `scripts/demo`, or says where to get it.
///
/// # Errors
/// When there is no such script.
pub fn demo(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let script = script().context(
        "the demo is a script of the source tree, which is not here; \
         clone the repository and run scripts/demo in it, or name it with SESSION_DEMO",
    )?;
    use std::os::unix::process::CommandExt;
    let error = Command::new(&script).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", script.display()))
}

fn script() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SESSION_DEMO") {
        return Some(path.into());
    }
    let exe = std::env::current_exe().ok()?;
    let here = std::env::current_dir().ok();
    let above =
        exe.ancestors().skip(1).chain(here.as_deref().into_iter().flat_map(Path::ancestors));
    above.map(|dir| dir.join("scripts/demo")).find(|path| path.is_file())
}
