//! Asks the dynamic linker itself whether it would load a program, and the shim with it.

use std::path::Path;
use std::process::{Command, Stdio};

/// What the linker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// The program and the shim.
    Both,
    /// The program would not start: these libraries, or versions of them, are missing.
    Missing(Vec<String>),
    /// It would load the program, but not the shim; with the linker's own words.
    WithoutShim(String),
    /// It was not asked, or did not answer.
    Unknown,
}

/// Has the linker list what it would load. This runs the linker and not the program, so only one
/// that belongs to the system is asked.
#[must_use]
pub fn ask(linker: &str, program: &Path, shim: &Path) -> Loaded {
    let own = ["/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/"];
    if !own.iter().any(|dir| linker.starts_with(dir)) || linker.contains("..") {
        return Loaded::Unknown;
    }
    let mut command = Command::new(linker);
    command.arg("--list").arg(program).env("LD_PRELOAD", shim).stdin(Stdio::null());
    let Ok(output) = command.output() else { return Loaded::Unknown };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    judge(&text(&output.stdout), &text(&output.stderr), shim)
}

fn judge(listed: &str, complaints: &str, shim: &Path) -> Loaded {
    let mut missing: Vec<String> = listed
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=> not found"))
        .map(|name| name.trim().to_owned())
        .collect();
    let library = complaints.split_once("while loading shared libraries: ").map(|(_, rest)| rest);
    if let Some((name, _)) = library.and_then(|rest| rest.split_once(':')) {
        missing.push(name.to_owned());
    }
    missing.dedup();
    if !missing.is_empty() {
        return Loaded::Missing(missing);
    }
    if listed.contains(&*shim.to_string_lossy()) {
        return Loaded::Both;
    }
    match complaints.lines().find(|line| line.contains("cannot be preloaded")) {
        Some(line) => Loaded::WithoutShim(line.to_owned()),
        None => Loaded::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_words_are_understood() {
        let shim = Path::new("/x/libsession.so");
        let both = "\tlinux-vdso.so.1 (0x1)\n\t/x/libsession.so (0x2)\n\tlibc.so.6 => /c (0x3)\n";
        assert_eq!(judge(both, "", shim), Loaded::Both);
        let missing = "\tlibgone.so.1 => not found\n\tlibc.so.6 => /c (0x3)\n";
        assert_eq!(judge(missing, "", shim), Loaded::Missing(vec!["libgone.so.1".into()]));
        let said = "x: error while loading shared libraries: libz.so: cannot open shared object";
        assert_eq!(judge("", said, shim), Loaded::Missing(vec!["libz.so".into()]));
        let without = "ERROR: ld.so: object '/x/libsession.so' from LD_PRELOAD cannot be preloaded \
                       (wrong ELF class: ELFCLASS64): ignored.";
        assert_eq!(judge("", without, shim), Loaded::WithoutShim(without.into()));
        assert_eq!(judge("", "", shim), Loaded::Unknown);
    }

    #[test]
    fn a_linker_that_came_with_a_program_is_not_run() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(ask("/tmp/evil/ld.so", nowhere, nowhere), Loaded::Unknown);
        assert_eq!(ask("/lib/../tmp/ld.so", nowhere, nowhere), Loaded::Unknown);
    }
}
