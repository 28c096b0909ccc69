//! `session get`: a file of a cluster, by user and path (STP steps 1 to 5), without any shim.
//!
//! The broker locates the file and holds the session; it deals with lost links, moves and dying
//! servers, of which nothing is seen here. This module asks for the bytes that are missing
//! ([`crate::fetch`]), writes them to `FILE.part`, shows the progress, and compares the SHA-256 of
//! the whole file with the one that the gateway says, before the file gets its name. The SHA-256
//! that a part was begun with is kept in `FILE.part.sha256`. So a file that was changed meanwhile
//! is fetched anew, and two versions are never mixed.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

use crate::args::Get;
use crate::cause::{Cause, Final};
use crate::fetch::{self, Offer, Source, locate, transfer};
use crate::print::print;
use crate::state::{self, Moved};
use crate::{broker, login};

/// The most attempts in a row without a new byte.
const ATTEMPTS_MAX: u32 = 10;
/// How often a file is begun anew because it has changed at the servers.
const RESTARTS_MAX: u32 = 3;
/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
const PIECE: usize = 256 * 1024;

/// Gets a file. The exit code says why that failed; see [`Cause`].
///
/// # Errors
/// When the command line makes no sense.
pub fn get(args: &Get) -> anyhow::Result<ExitCode> {
    let Err(error) = try_get(args) else { return Ok(ExitCode::SUCCESS) };
    let Some(last) = error.downcast_ref::<Final>() else { return Err(error) };
    eprintln!("session: {error:#}");
    Ok(ExitCode::from(last.cause().exit_code()))
}

fn try_get(args: &Get) -> anyhow::Result<()> {
    if let Some(state) = &args.state {
        return go_on(args, state);
    }
    let url = args.url.as_deref().unwrap_or_default();
    let source = Source { endpoint: args.endpoint.clone(), ..source(url)? };
    let target = target(args, &source)?;
    broker::ensure_here(args.config.as_deref())?;
    let offer = locate(&source, 0).map_err(|error| match error.is::<Final>() {
        true => error,
        false => Final::new(Cause::Network, format!("{error:#}")).into(),
    })?;
    let Some(target) = target else {
        let bar = bar(offer.size, args.quiet);
        let mut sink = Sink::Stdout(io::stdout());
        let expected = offer.sha256.clone();
        let came = fetch_all(&source, offer, &mut sink, (&bar, args.quiet));
        bar.finish_and_clear();
        if let Some(moved) = came.as_ref().err().and_then(|error| error.downcast_ref::<Moved>()) {
            state::give_up(moved.cookie);
            let text = "its endpoint was saved; what goes to stdout cannot be carried";
            return Err(Final::new(Cause::Moved, text).into());
        }
        let came = came?;
        return check(&came, &expected, "what was written");
    };
    if target.exists() && !args.force && !args.continue_it {
        if hash_of(&target)? == offer.sha256 {
            print(&format!("{} is there already, and right\n", target.display()))?;
            return Ok(());
        }
        let text = format!(
            "{} exists, and is another file; name one with -o, or say --force to replace it, or \
             --continue if it is a part of this one",
            target.display()
        );
        return Err(Final::new(Cause::Exists, text).into());
    }
    to_file(args, &source, offer, &target)
}

fn to_file(args: &Get, source: &Source, first: Offer, target: &Path) -> anyhow::Result<()> {
    let (part, word) = (with(target, ".part"), with(target, ".part.sha256"));
    if args.continue_it && target.exists() && !part.exists() {
        std::fs::rename(target, &part).map_err(|error| local(target, &error))?;
    }
    let bar = bar(first.size, args.quiet);
    let mut offer = first;
    for round in 0..=RESTARTS_MAX {
        if begun_with(&part, &word).is_some_and(|begun| begun != offer.sha256) {
            say(&bar, args.quiet, "the file was changed since it was begun; it is fetched anew");
            std::fs::remove_file(&part)?;
        }
        let expected = offer.sha256.clone();
        std::fs::write(&word, format!("{expected}\n")).map_err(|error| local(&word, &error))?;
        on_interrupt(&bar, &part)?;
        let mut sink = Sink::open(&part)?;
        match fetch_all(source, offer, &mut sink, (&bar, args.quiet)) {
            Ok(came) if came == expected => {
                std::fs::rename(&part, target).map_err(|error| local(target, &error))?;
                std::fs::remove_file(&word)?;
                bar.finish_and_clear();
                let done = format!("{expected}  {}\n", target.display());
                return if args.quiet { Ok(()) } else { Ok(print(&done)?) };
            }
            Ok(came) if round > 0 => {
                // This time the difference cannot come from what an earlier attempt has left.
                std::fs::remove_file(&part)?;
                std::fs::remove_file(&word)?;
                return check(&came, &expected, &part.display().to_string());
            }
            Ok(_) => {
                let text = "what is there has not the SHA-256 that the gateway says; it is \
                            fetched anew";
                say(&bar, args.quiet, text);
                std::fs::remove_file(&part)?;
            }
            Err(error) if error.is::<Moved>() => {
                bar.finish_and_clear();
                let url = args.url.as_deref().unwrap_or_default();
                return Err(moved_away(&error, (url, target), (&expected, bar.length())));
            }
            Err(error) if error.is::<Changed>() => {
                say(&bar, args.quiet, "the file was changed at the servers; it is fetched anew");
            }
            Err(error) => return Err(error),
        }
        offer = locate(source, 0)?;
        bar.set_length(offer.size);
    }
    Err(Changed.into())
}

/// Saves what has come with the endpoint, which is carried elsewhere.
fn moved_away(
    error: &anyhow::Error,
    (url, target): (&str, &Path),
    (sha256, size): (&str, Option<u64>),
) -> anyhow::Error {
    let Some(moved) = error.downcast_ref::<Moved>() else { return anyhow::anyhow!("{error:#}") };
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let file = (sha256, size.unwrap_or_default());
    match state::save(moved, &with(target, ".part"), (url, &name), file) {
        Ok(state) => {
            let _gone_already = std::fs::remove_file(with(target, ".part.sha256"));
            let text = format!(
                "saved with {}: {} of {} bytes; it goes on where that is loaded",
                state.endpoint,
                state.size - state.left,
                state.size
            );
            Final::new(Cause::Moved, text).into()
        }
        Err(error) => {
            let text = format!("its endpoint was saved, and its own state cannot be: {error:#}");
            Final::new(Cause::Local, text).into()
        }
    }
}

/// Goes on with what was saved with an endpoint: with the same session, and the part that has come.
fn go_on(args: &Get, file: &Path) -> anyhow::Result<()> {
    let saved = state::read(file)?;
    let name = Path::new(&saved.file).file_name().context("the state names no file")?;
    let target = args.output.clone().unwrap_or_else(|| PathBuf::from(name));
    let (part, word) = (with(&target, ".part"), with(&target, ".part.sha256"));
    for place in [&target, &part] {
        if place.exists() && !args.force {
            let text = format!(
                "{} exists; the download is still in {}: session get --state {} -o FILE",
                place.display(),
                saved.endpoint,
                file.display()
            );
            return Err(Final::new(Cause::Exists, text).into());
        }
    }
    let address = state::address(&saved)?;
    state::take_part(file, &part).map_err(|error| local(&part, &error))?;
    std::fs::write(&word, format!("{}\n", saved.sha256)).map_err(|error| local(&word, &error))?;
    let bar = bar(saved.size, args.quiet);
    on_interrupt(&bar, &part)?;
    let mut hash = Sha256::new();
    let mut sink = Sink::open(&part)?;
    let mut have = sink.prefix(saved.size, &mut hash)?;
    if have + saved.left != saved.size {
        let text = format!("{have} bytes are in {}, and {} to come", part.display(), saved.left);
        return Err(Final::new(Cause::Local, text).into());
    }
    bar.set_position(have);
    bar.reset_eta();
    let mut went_on = false;
    let rest = fetch::go_on(address, saved.left, &bar, |bytes| {
        if !std::mem::replace(&mut went_on, true) {
            state::forget(file);
        }
        sink.write(bytes)?;
        hash.update(bytes);
        have += bytes.len() as u64;
        bar.set_position(have);
        Ok(())
    });
    bar.finish_and_clear();
    match rest {
        Ok(()) => {}
        Err(error) if error.is::<Moved>() => {
            let file = (saved.sha256.as_str(), Some(saved.size));
            return Err(moved_away(&error, (&saved.url, &target), file));
        }
        Err(error) => {
            let text = format!(
                "{error:#}\n{} has what came; to ask for the rest anew: session get {} -o {}",
                part.display(),
                saved.url,
                target.display()
            );
            return Err(Final::new(Cause::Network, text).into());
        }
    }
    sink.finish()?;
    check(&hex(&hash.finalize()), &saved.sha256, &part.display().to_string())?;
    std::fs::rename(&part, &target).map_err(|error| local(&target, &error))?;
    std::fs::remove_file(&word)?;
    let done = format!("{}  {}\n", saved.sha256, target.display());
    if args.quiet { Ok(()) } else { Ok(print(&done)?) }
}

/// The SHA-256 that a part was begun with, if that is known.
fn begun_with(part: &Path, word: &Path) -> Option<String> {
    let word = part.exists().then(|| std::fs::read_to_string(word).ok())??;
    Some(word.trim().to_owned())
}

fn check(came: &str, expected: &str, what: &str) -> anyhow::Result<()> {
    if came == expected {
        return Ok(());
    }
    let text = format!("{what} has the SHA-256 {came}, not {expected} as the gateway says");
    Err(Final::new(Cause::Checksum, text).into())
}

/// The name that the file will have; none for stdout.
fn target(args: &Get, source: &Source) -> anyhow::Result<Option<PathBuf>> {
    let name = source.path.rsplit('/').next().unwrap_or_default();
    let Some(output) = &args.output else { return Ok(Some(PathBuf::from(name))) };
    if output.as_os_str() == "-" {
        if args.force || args.continue_it {
            bail!("-o - writes to stdout: there is nothing to replace or to continue");
        }
        return Ok(None);
    }
    if output.exists() && !output.is_dir() && !output.is_file() {
        let text = format!("{} is not a plain file; to write to a pipe: -o -", output.display());
        return Err(Final::new(Cause::Local, text).into());
    }
    let is_folder = output.is_dir() || output.as_os_str().to_string_lossy().ends_with('/');
    if is_folder && !output.is_dir() {
        let text = format!("{} does not exist", output.display());
        return Err(Final::new(Cause::Local, text).into());
    }
    Ok(Some(if is_folder { output.join(name) } else { output.clone() }))
}

/// Where the bytes go.
enum Sink {
    File(File, PathBuf),
    Stdout(io::Stdout),
}

/// A local file that cannot be written is no reason to try again.
fn local(path: &Path, error: &io::Error) -> Final {
    let cause = if error.kind() == ErrorKind::StorageFull { Cause::DiskFull } else { Cause::Local };
    Final::new(cause, format!("{}: {error}", path.display()))
}

impl Sink {
    fn open(path: &Path) -> Result<Sink, Final> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(|error| local(path, &error))?;
        Ok(Sink::File(file, path.to_owned()))
    }

    /// Hashes what an earlier attempt has left, and moves to its end.
    fn prefix(&mut self, size: u64, hash: &mut Sha256) -> Result<u64, Final> {
        match self {
            Sink::File(file, path) => {
                hash_prefix(file, size, hash).map_err(|error| local(path, &error))
            }
            Sink::Stdout(_) => Ok(0),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Final> {
        match self {
            Sink::File(file, path) => file.write_all(bytes).map_err(|error| local(path, &error)),
            Sink::Stdout(out) => {
                out.write_all(bytes).map_err(|error| local(Path::new("stdout"), &error))
            }
        }
    }

    fn finish(&mut self) -> Result<(), Final> {
        match self {
            Sink::File(file, path) => file.sync_all().map_err(|error| local(path, &error)),
            Sink::Stdout(out) => out.flush().map_err(|error| local(Path::new("stdout"), &error)),
        }
    }
}

/// Says something beside the bar.
fn say(bar: &ProgressBar, quiet: bool, text: &str) {
    if !quiet {
        bar.suspend(|| eprintln!("session: {text}"));
    }
}

/// On Ctrl-C the line is left clean, and the bytes that have come are kept for the next time.
fn on_interrupt(bar: &ProgressBar, part: &Path) -> anyhow::Result<()> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if ONCE.is_completed() {
        return Ok(());
    }
    let (bar, part) = (bar.clone(), part.display().to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut interrupt = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    ONCE.call_once(|| {
        std::thread::spawn(move || {
            runtime.block_on(interrupt.recv());
            bar.finish_and_clear();
            eprintln!("session: interrupted; {part} is kept, the same command goes on from there");
            std::process::exit(INTERRUPTED);
        });
    });
    Ok(())
}

/// The file is another one at the servers now.
#[derive(Debug, thiserror::Error)]
#[error("the file was changed at the servers while it was fetched; start again")]
struct Changed;

/// Gets all bytes that are missing. Returns the SHA-256 of the whole.
fn fetch_all(
    source: &Source,
    first: Offer,
    sink: &mut Sink,
    (bar, quiet): (&ProgressBar, bool),
) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut have = sink.prefix(first.size, &mut hash)?;
    let (size, expected) = (first.size, first.sha256.clone());
    bar.set_position(have);
    bar.reset_eta();
    let mut offer = Some(first);
    let (mut attempts, mut told) = (0, String::new());
    while have < size {
        let now = match offer.take() {
            Some(offer) if have == 0 => Ok(offer),
            _ => locate(source, have),
        };
        let before = have;
        let result = now.and_then(|offer| {
            if offer.sha256 != expected {
                return Err(Changed.into());
            }
            bar.set_message(offer.servers.clone());
            transfer(&offer, have, bar, |bytes| {
                sink.write(bytes)?;
                hash.update(bytes);
                have += bytes.len() as u64;
                bar.set_position(have);
                Ok(())
            })
        });
        let Err(error) = result else { continue };
        attempts = if have > before { 1 } else { attempts + 1 };
        if error.is::<Final>() || error.is::<Changed>() || error.is::<Moved>() {
            return Err(error);
        }
        if attempts >= ATTEMPTS_MAX {
            return Err(Final::new(Cause::Network, format!("{error:#}")).into());
        }
        let pause = Duration::from_millis(200 << attempts.min(5));
        // A cause is told once, even if it is met again.
        let cause = format!("{error:#}");
        if cause != told {
            say(bar, quiet, &format!("{cause}; trying again"));
            told = cause;
        }
        std::thread::sleep(pause);
    }
    sink.finish()?;
    Ok(hex(&hash.finalize()))
}

fn bar(size: u64, quiet: bool) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(size), target);
    let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
    let style = ProgressStyle::with_template(template).expect("a constant template is right");
    bar.set_style(style);
    bar
}

fn with(target: &Path, ending: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Cuts off what is longer than the file.
fn hash_prefix(file: &mut File, size: u64, hash: &mut Sha256) -> io::Result<u64> {
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.seek(SeekFrom::Start(0))?;
    hash_all(file, hash)
}

fn hash_all(from: &mut impl Read, hash: &mut Sha256) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(length),
            read => {
                hash.update(&piece[..read]);
                length += read as u64;
            }
        }
    }
}

fn hash_of(path: &Path) -> Result<String, Final> {
    let mut hash = Sha256::new();
    let hashed = File::open(path).and_then(|mut file| hash_all(&mut file, &mut hash));
    hashed.map_err(|error| local(path, &error))?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Undoes percent encoding. A `%` without two hexadecimal digits stays a `%`.
fn unescaped(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

fn source(url: &str) -> anyhow::Result<Source> {
    let wrong = || format!("\"{url}\" is not of the form stp://USER@GATEWAY/PATH");
    let rest = url.strip_prefix("stp://").with_context(wrong)?;
    let (account, path) = rest.split_once('/').with_context(wrong)?;
    let (user, gateway) = login::account(account)?;
    let path = unescaped(path).with_context(wrong)?;
    let path = stp_proto::lookup::FilePath::new(&format!("/{path}")).with_context(wrong)?;
    let (gateway, path) = (gateway.to_string(), path.as_str().to_owned());
    Ok(Source { user, gateway, path, endpoint: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let good = source("stp://alice@gw.example:99/a%20b/c.iso").expect("a good one");
        assert_eq!(good.user, "alice");
        assert_eq!(good.gateway, "gw.example:99");
        assert_eq!(good.path, "/a b/c.iso");
        for bad in [
            "http://a@b/c",
            "stp://b/c",
            "stp://a@b",
            "stp://a@b/",
            "stp://a@b/../c",
            "stp://A B@b/c",
            "stp://a@b/%ff",
        ] {
            assert!(source(bad).is_err(), "{bad}");
        }
        assert_eq!(unescaped("/a%20b/%C3%BC").as_deref(), Some("/a b/ü"));
    }

    fn args(output: Option<&str>) -> Get {
        Get {
            url: None,
            endpoint: None,
            state: None,
            output: output.map(PathBuf::from),
            force: false,
            continue_it: false,
            quiet: true,
            config: None,
        }
    }

    #[test]
    fn a_file_is_written_where_it_was_asked_for() {
        let source = source("stp://a@b/c/d.iso").expect("a good one");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        let at = |output: Option<&str>| target(&args(output), &source);
        assert_eq!(at(None).expect("here"), Some("d.iso".into()));
        assert_eq!(at(Some("x")).expect("named"), Some("x".into()));
        assert_eq!(at(Some(&path)).expect("a folder"), Some(folder.path().join("d.iso")));
        assert_eq!(at(Some("-")).expect("stdout"), None);
        assert!(at(Some(&format!("{path}/none/"))).is_err(), "a folder that is not there");
        assert!(at(Some("/dev/null")).is_err(), "nothing is put in the place of a device");
    }

    #[test]
    fn a_full_disk_is_known_by_its_name_and_code() {
        let error = io::Error::from(ErrorKind::StorageFull);
        let full = local(Path::new("big.iso.part"), &error);
        assert_eq!(full.cause().exit_code(), 9);
        assert!(full.to_string().starts_with("big.iso.part: "), "{full}");
        let mut sink = Sink::open(Path::new("/dev/full")).expect("Linux has it");
        let full = sink.write(&[0; 10]).expect_err("it is full");
        assert_eq!(full.cause(), Cause::DiskFull);
    }

    #[test]
    fn what_an_earlier_attempt_left_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.part");
        std::fs::write(&path, b"hello").expect("ours");
        let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("ours");
        let mut hash = Sha256::new();
        assert_eq!(hash_prefix(&mut file, 10, &mut hash).expect("read"), 5);
        assert_eq!(hex(&hash.finalize()), hash_of(&path).expect("read"));
        assert_eq!(hash_prefix(&mut file, 3, &mut Sha256::new()).expect("read"), 0);
    }
}
