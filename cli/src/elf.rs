//! Looks at a program file to see whether the shim can get into it.
//!
//! The shim comes by `LD_PRELOAD`, so it reaches programs that the dynamic linker of glibc starts
//! without special rights, and that make their connections through libc. What else there is
//! (static, Go, setuid, file capabilities, musl, another word size) is found here by reading the
//! file: nothing is run.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many interpreters of scripts are followed.
const SCRIPTS_MAX: usize = 4;
const SECTIONS_MAX: u16 = 512;

/// What was found out about a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file that the kernel will really run: the interpreter, if the program is a script.
    pub program: PathBuf,
    /// The dynamic linker that it names.
    pub linker: Option<String>,
    /// Whether it will be covered.
    pub coverage: Coverage,
}

/// Whether a program will be covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// The shim gets in.
    Covered,
    /// It does not.
    Not(Obstacle),
}

/// Why a program cannot be covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// No dynamic linker takes part.
    Static,
    /// It makes its system calls itself.
    Go,
    /// It gets another user's rights.
    Setuid,
    /// It gets capabilities from its file.
    Capabilities,
    /// The linker is musl's, which cannot load a library made for glibc.
    Musl,
    /// Made for another kind of processor, or another word size.
    OtherMachine(&'static str),
    /// Not an ELF file and not a script.
    NotAProgram,
    /// It is started, or starts its program, where the shim is not: why, and what to do.
    Elsewhere(&'static str, &'static str),
    /// It does not start at all, for want of these libraries.
    Missing(Vec<String>),
    /// The linker does not take the shim, and says why.
    ShimRefused(String),
}

impl Obstacle {
    /// One word for it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Obstacle::Static => "static",
            Obstacle::Go => "go",
            Obstacle::Setuid => "setuid",
            Obstacle::Capabilities => "capabilities",
            Obstacle::Musl => "musl",
            Obstacle::OtherMachine(_) => "machine",
            Obstacle::NotAProgram => "no program",
            Obstacle::Elsewhere(..) => "elsewhere",
            Obstacle::Missing(_) => "missing libraries",
            Obstacle::ShimRefused(_) => "shim refused",
        }
    }

    /// Why, in a sentence.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Obstacle::Static => "it is linked statically: no dynamic linker loads the shim".into(),
            Obstacle::Go => "it is a Go program: it makes its system calls without libc".into(),
            Obstacle::Setuid => "it is setuid or setgid: the linker ignores LD_PRELOAD".into(),
            Obstacle::Capabilities => {
                "its file has capabilities: the linker ignores LD_PRELOAD".into()
            }
            Obstacle::Musl => {
                "it uses musl instead of glibc, and would not even start with the shim".into()
            }
            Obstacle::OtherMachine(what) => {
                format!("it is a {what} program; this shim is for another kind")
            }
            Obstacle::NotAProgram => "it is neither an ELF program nor a script".into(),
            Obstacle::Elsewhere(why, _) => (*why).into(),
            Obstacle::Missing(libraries) => {
                format!("it would not start: the linker does not find {}", libraries.join(", "))
            }
            Obstacle::ShimRefused(why) => format!("the linker does not load the shim: {why}"),
        }
    }

    /// What one can do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Obstacle::Elsewhere(_, advice) => advice,
            Obstacle::Missing(_) => "install the packages that these libraries are in",
            Obstacle::ShimRefused(_) => "build the shim on this machine",
            Obstacle::Static | Obstacle::Go => {
                "use a dynamically linked build, or another program for the transfer (curl, wget), \
                 or give it a proxy that is started with `session run`"
            }
            Obstacle::Setuid | Obstacle::Capabilities => {
                "use a copy of it without these rights (cp it somewhere; copies lose them), if it \
                 works without them"
            }
            Obstacle::Musl => "use a build of it for glibc",
            Obstacle::OtherMachine(_) => "install a build of it for this machine",
            Obstacle::NotAProgram => "name a program",
        }
    }

    /// Whether it would run, uncovered, with the shim in its environment.
    #[must_use]
    pub fn runs_with_preload(&self) -> bool {
        !matches!(self, Obstacle::Musl)
    }
}

/// Looks at a program.
///
/// # Errors
/// When a file cannot be read.
pub fn look(path: &Path) -> std::io::Result<Finding> {
    let mut program = path.to_owned();
    for _ in 0..SCRIPTS_MAX {
        let mut file = File::open(&program)?;
        let mut head = [0; 256];
        let length = read_up_to(&mut file, &mut head)?;
        let Some(interpreter) = shebang(&head[..length]) else {
            let (linker, coverage) = judge(&program, &mut file, &head[..length])?;
            return Ok(Finding { program, linker, coverage });
        };
        program = interpreter;
    }
    Ok(Finding { program, linker: None, coverage: Coverage::Not(Obstacle::NotAProgram) })
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}

/// The interpreter of a script; `env NAME` is looked up.
fn shebang(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = line.split_whitespace();
    let interpreter = PathBuf::from(words.next()?);
    if interpreter.file_name().is_some_and(|name| name == "env") {
        let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
        return crate::places::in_path(name.as_ref()).or(Some(interpreter));
    }
    Some(interpreter)
}

fn judge(path: &Path, file: &mut File, head: &[u8]) -> std::io::Result<(Option<String>, Coverage)> {
    let meta = file.metadata()?;
    let not = |obstacle| Ok((None, Coverage::Not(obstacle)));
    let own = (nix::unistd::Uid::effective().as_raw(), nix::unistd::Gid::effective().as_raw());
    let setuid = meta.mode() & 0o4000 != 0 && meta.uid() != own.0;
    let setgid = meta.mode() & 0o2010 == 0o2010 && meta.gid() != own.1;
    if setuid || setgid {
        return not(Obstacle::Setuid);
    }
    if has_capabilities(path) {
        return not(Obstacle::Capabilities);
    }
    let Some(elf) = Elf::read(file, head)? else { return not(Obstacle::NotAProgram) };
    if let Some(other) = elf.other_machine() {
        return not(Obstacle::OtherMachine(other));
    }
    if elf.is_go {
        return not(Obstacle::Go);
    }
    match elf.interpreter {
        None => not(Obstacle::Static),
        Some(linker) if linker.contains("ld-musl") => not(Obstacle::Musl),
        linker => Ok((linker, Coverage::Covered)),
    }
}

/// The kernel keeps them in an attribute of the file.
fn has_capabilities(path: &Path) -> bool {
    let mut value = [0u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value).is_ok_and(|length| length > 0)
}

/// The little of an ELF file that matters here.
struct Elf {
    is_64: bool,
    machine: u16,
    interpreter: Option<String>,
    is_go: bool,
}

impl Elf {
    fn read(file: &mut File, head: &[u8]) -> std::io::Result<Option<Elf>> {
        if head.len() < 64 || !head.starts_with(b"\x7fELF") || head[5] != 1 {
            return Ok(None);
        }
        let is_64 = head[4] == 2;
        let machine = u16_at(head, 18);
        let mut elf = Elf { is_64, machine, interpreter: None, is_go: false };
        if is_64 {
            elf.read_interpreter(file, head)?;
            elf.is_go = has_go_section(file, head)?;
        }
        Ok(Some(elf))
    }

    fn read_interpreter(&mut self, file: &mut File, head: &[u8]) -> std::io::Result<()> {
        let (table, size, count) = (u64_at(head, 32), u16_at(head, 54), u16_at(head, 56));
        for k in 0..u64::from(count.min(SECTIONS_MAX)) {
            let entry = read_at(file, table.wrapping_add(k * u64::from(size)), 56)?;
            if entry.len() == 56 && u32_at(&entry, 0) == 3 {
                let length = u64_at(&entry, 32).min(4_096);
                let path = read_at(file, u64_at(&entry, 8), length as usize)?;
                let path = path.split(|b| *b == 0).next().unwrap_or_default();
                self.interpreter = Some(String::from_utf8_lossy(path).into_owned());
            }
        }
        Ok(())
    }

    fn other_machine(&self) -> Option<&'static str> {
        if !self.is_64 {
            return Some("32-bit");
        }
        let own = if cfg!(target_arch = "x86_64") {
            62
        } else if cfg!(target_arch = "aarch64") {
            183
        } else if cfg!(target_arch = "riscv64") {
            243
        } else {
            return None;
        };
        match self.machine {
            machine if machine == own => None,
            62 => Some("x86-64"),
            183 => Some("ARM64"),
            243 => Some("RISC-V"),
            _ => Some("foreign"),
        }
    }
}

/// Go marks its programs with sections of its own.
fn has_go_section(file: &mut File, head: &[u8]) -> std::io::Result<bool> {
    let (table, size, count, names) =
        (u64_at(head, 40), u16_at(head, 58), u16_at(head, 60), u16_at(head, 62));
    if table == 0 || size < 64 || names >= count {
        return Ok(false);
    }
    let section = |k: u16| table.wrapping_add(u64::from(k) * u64::from(size));
    let entry = read_at(file, section(names), 64)?;
    if entry.len() < 64 {
        return Ok(false);
    }
    let length = u64_at(&entry, 32).min(1 << 20) as usize;
    let text = read_at(file, u64_at(&entry, 24), length)?;
    let marks: [&[u8]; 2] = [b".go.buildinfo\0", b".note.go.buildid\0"];
    Ok(marks.iter().any(|mark| text.windows(mark.len()).any(|window| window == *mark)))
}

fn read_at(file: &mut File, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    // No file is as long as what a broken header may say.
    if file.seek(SeekFrom::Start(at)).is_err() {
        return Ok(Vec::new());
    }
    let length = read_up_to(file, &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn program(content: &[u8], mode: u32) -> tempfile::TempPath {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        let mode = std::fs::Permissions::from_mode(mode);
        file.as_file().set_permissions(mode).expect("mode set");
        file.into_temp_path()
    }

    /// An ELF header, one program header at 64 and what it points at.
    fn elf(is_64: bool, machine: u16, interpreter: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1]);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        if let Some(path) = interpreter {
            bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
            bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
            bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
            bytes[64..68].copy_from_slice(&3u32.to_le_bytes());
            bytes[72..80].copy_from_slice(&128u64.to_le_bytes());
            bytes[96..104].copy_from_slice(&(path.len() as u64 + 1).to_le_bytes());
            bytes[128..128 + path.len()].copy_from_slice(path.as_bytes());
        }
        bytes
    }

    fn own() -> u16 {
        if cfg!(target_arch = "x86_64") { 62 } else { 183 }
    }

    fn coverage(content: &[u8]) -> Coverage {
        look(&program(content, 0o755)).expect("readable").coverage
    }

    #[test]
    fn programs_are_judged_by_their_elf_header() {
        let glibc = elf(true, own(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(coverage(&glibc), Coverage::Covered);
        let musl = elf(true, own(), Some("/lib/ld-musl-x86_64.so.1"));
        assert_eq!(coverage(&musl), Coverage::Not(Obstacle::Musl));
        assert_eq!(coverage(&elf(true, own(), None)), Coverage::Not(Obstacle::Static));
        assert_eq!(coverage(&elf(false, 3, None)), Coverage::Not(Obstacle::OtherMachine("32-bit")));
        assert_eq!(
            coverage(&elf(true, 243, None)),
            Coverage::Not(Obstacle::OtherMachine("RISC-V"))
        );
        assert_eq!(coverage(b"hello"), Coverage::Not(Obstacle::NotAProgram));
        assert_eq!(coverage(b""), Coverage::Not(Obstacle::NotAProgram));
    }

    #[test]
    fn this_machines_own_programs_are_covered_also_behind_a_script() {
        let finding = look(Path::new("/bin/sh")).expect("there is a shell");
        assert_eq!(finding.coverage, Coverage::Covered);
        let finding = look(&program(b"#!/usr/bin/env -S sh -e\n", 0o755)).expect("readable");
        assert_eq!(finding.coverage, Coverage::Covered);
        assert!(finding.program.ends_with("sh"));
        assert_eq!(coverage(b"#!/bin/sh\n"), Coverage::Covered);
    }

    #[test]
    fn a_header_that_points_nowhere_is_survived() {
        let mut wild = elf(true, own(), Some("/lib/ld.so"));
        for at in [32, 40, 54, 56, 58, 60, 72, 96] {
            let mut bytes = wild.clone();
            bytes[at..at + 2].copy_from_slice(&[0xff, 0xff]);
            bytes[at + 6] = 0xff;
            coverage(&bytes);
        }
        wild.truncate(70);
        coverage(&wild);
    }
}
