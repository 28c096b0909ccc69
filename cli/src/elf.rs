//! Looks at a program file to see whether the shim can get into it.
//!
//! The shim is loaded by `LD_PRELOAD`, so it reaches programs that the dynamic linker of glibc
//! starts without special rights, and that make their connections through libc. Other programs
//! (static, Go, setuid, with file capabilities, for musl, of another word size) are found out here
//! by reading the file; nothing is run.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, Dyn64, EM_AARCH64, EM_RISCV, EM_X86_64, FileHeader64, Machine};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadCache};

/// How many interpreters of scripts are followed.
const SCRIPTS_MAX: usize = 4;
/// The kernel looks for the interpreter of a script in this many of its first bytes.
const HEAD_MAX: u64 = 256;

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
    /// This library, which the program is linked with, ends it if another one is loaded before.
    MustBeFirst(String),
    /// It is started, or starts its program, in an environment without the shim: the reason, and
    /// advice.
    Elsewhere(&'static str, &'static str),
    /// It does not start at all, because these libraries are missing.
    Missing(Vec<String>),
    /// The linker does not take the shim, and says why.
    ShimRefused(String),
}

impl Obstacle {
    /// The obstacle in a word or two.
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
            Obstacle::MustBeFirst(_) => "must be first",
            Obstacle::Elsewhere(..) => "elsewhere",
            Obstacle::Missing(_) => "missing libraries",
            Obstacle::ShimRefused(_) => "shim refused",
        }
    }

    /// The obstacle in a sentence.
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
            Obstacle::MustBeFirst(library) => {
                format!(
                    "its {library} ends it when a library is preloaded: it insists on being first"
                )
            }
            Obstacle::Elsewhere(why, _) => (*why).into(),
            Obstacle::Missing(libraries) => {
                format!("it would not start: the linker does not find {}", libraries.join(", "))
            }
            Obstacle::ShimRefused(why) => format!("the linker does not load the shim: {why}"),
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Obstacle::Elsewhere(_, advice) => advice,
            Obstacle::Missing(_) => "install the packages that these libraries are in",
            Obstacle::ShimRefused(_) => "build the shim on this machine",
            Obstacle::Static => {
                "use a dynamically linked build, or another program for the transfer (curl, wget), \
                 or give it a proxy that is started with `session run`"
            }
            Obstacle::Go => {
                "no build of it helps; set HTTPS_PROXY or ALL_PROXY to a proxy that is started \
                 with `session run` (tinyproxy, ssh -D), or use another program for the transfer"
            }
            Obstacle::Setuid | Obstacle::Capabilities => {
                "use a copy of it without these rights (cp it somewhere; copies lose them), if it \
                 works without them"
            }
            Obstacle::Musl => "use a build of it for glibc",
            Obstacle::OtherMachine(_) => "install a build of it for this machine",
            Obstacle::NotAProgram => "name a program",
            Obstacle::MustBeFirst(_) => {
                "set ASAN_OPTIONS=verify_asan_link_order=0, which turns that check off, \
                 or use a build without the sanitizer"
            }
        }
    }

    /// Whether the program would run, without being covered, with the shim in its environment.
    #[must_use]
    pub fn runs_with_preload(&self) -> bool {
        !matches!(self, Obstacle::Musl | Obstacle::MustBeFirst(_))
    }
}

/// Looks at a program.
///
/// # Errors
/// When a file cannot be read.
pub fn look(path: &Path) -> std::io::Result<Finding> {
    let mut program = path.to_owned();
    for _ in 0..SCRIPTS_MAX {
        let file = File::open(&program)?;
        let mut head = Vec::new();
        (&file).take(HEAD_MAX).read_to_end(&mut head)?;
        let Some(interpreter) = shebang(&head) else {
            let (linker, coverage) = judge(&program, file)?;
            return Ok(Finding { program, linker, coverage });
        };
        program = interpreter;
    }
    Ok(Finding { program, linker: None, coverage: Coverage::Not(Obstacle::NotAProgram) })
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

fn judge(path: &Path, file: File) -> std::io::Result<(Option<String>, Coverage)> {
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
    let Some(elf) = Elf::read(file) else { return not(Obstacle::NotAProgram) };
    if let Some(other) = elf.other_machine {
        return not(Obstacle::OtherMachine(other));
    }
    if elf.is_go {
        return not(Obstacle::Go);
    }
    match elf.interpreter {
        None => not(Obstacle::Static),
        Some(linker) if linker.contains("ld-musl") => not(Obstacle::Musl),
        linker => match elf.needed.into_iter().find(|library| insists_on_being_first(library)) {
            Some(library) => not(Obstacle::MustBeFirst(library)),
            None => Ok((linker, Coverage::Covered)),
        },
    }
}

/// The run-time library of AddressSanitizer ends the program when another library is loaded before
/// it, unless its options say otherwise.
fn insists_on_being_first(library: &str) -> bool {
    let is_asan = library.starts_with("libasan.so") || library.starts_with("libclang_rt.asan");
    let options = std::env::var("ASAN_OPTIONS").unwrap_or_default();
    let turned_off = ["0", "false", "no"].map(|off| format!("verify_asan_link_order={off}"));
    is_asan && !options.split([':', ',', ' ']).any(|one| turned_off.iter().any(|off| off == one))
}

/// Whether a file has capabilities: the kernel keeps them in an attribute of the file.
fn has_capabilities(path: &Path) -> bool {
    let mut value = [0u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value).is_ok_and(|length| length > 0)
}

/// The parts of an ELF file that are needed here.
#[derive(Default)]
struct Elf {
    /// What it was made for, if that is not this machine.
    other_machine: Option<&'static str>,
    interpreter: Option<String>,
    is_go: bool,
    /// The libraries that it names itself.
    needed: Vec<String>,
}

impl Elf {
    /// Reads an ELF file; `None` if it is not one. Sections that are named in the header and not
    /// there are left out: the kernel looks at the segments alone, and sections may be stripped.
    fn read(file: File) -> Option<Elf> {
        let data = &ReadCache::new(file);
        match FileKind::parse(data).ok()? {
            FileKind::Elf32 => Some(Elf { other_machine: Some("32-bit"), ..Elf::default() }),
            FileKind::Elf64 => Elf::read_64(data),
            _ => None,
        }
    }

    fn read_64(data: &ReadCache<File>) -> Option<Elf> {
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, data).unwrap_or_default();
        let mut interpreters =
            segments.iter().filter_map(|segment| segment.interpreter(endian, data).ok().flatten());
        let sections = header.sections(endian, data).ok();
        let is_go = sections.as_ref().is_some_and(|sections| {
            let mut names =
                sections.iter().filter_map(|one| sections.section_name(endian, one).ok());
            // Go marks its programs with sections of its own.
            names.any(|name| name == b".go.buildinfo" || name == b".note.go.buildid")
        });
        let needed = || {
            let sections = sections.as_ref()?;
            let (entries, strings) = sections.dynamic(endian, data).ok()??;
            let strings = sections.strings(endian, data, strings).ok()?;
            let name = |entry: &Dyn64<Endianness>| {
                let is_needed = entry.d_tag.get(endian) == DT_NEEDED;
                let at = is_needed.then(|| u32::try_from(entry.d_val.get(endian)).ok())??;
                Some(String::from_utf8_lossy(strings.get(at).ok()?).into_owned())
            };
            Some(entries.iter().filter_map(name).collect())
        };
        Some(Elf {
            other_machine: other_machine(header.e_machine(endian)),
            interpreter: interpreters.next().map(|path| String::from_utf8_lossy(path).into_owned()),
            is_go,
            needed: needed().unwrap_or_default(),
        })
    }
}

/// A name for a machine that is not this one.
fn other_machine(machine: Machine) -> Option<&'static str> {
    let own = if cfg!(target_arch = "x86_64") {
        EM_X86_64
    } else if cfg!(target_arch = "aarch64") {
        EM_AARCH64
    } else if cfg!(target_arch = "riscv64") {
        EM_RISCV
    } else {
        return None;
    };
    match machine {
        machine if machine == own => None,
        EM_X86_64 => Some("x86-64"),
        EM_AARCH64 => Some("ARM64"),
        EM_RISCV => Some("RISC-V"),
        _ => Some("foreign"),
    }
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
        bytes[6] = 1;
        bytes[16] = 2;
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
