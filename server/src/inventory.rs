//! Which files this server holds: path, size, SHA-256.
//!
//! Reading whole files takes long and blocks, so a thread of its own does it, when asked over a
//! channel. A file that was read before and has the same size, time and inode is not read again,
//! not even after a restart: what was found is kept in a file beside the key. A file that is read
//! is digested for sessions that come over as well (`service::chains`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use crossbeam_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};
use stp_proto::lookup::{FileEntry, FilePath};
use tokio::sync::oneshot;

use crate::service::chains::{Chains, Look as Exact};

/// Files per service; more are left out, and said so.
const FILES_MAX: usize = 200_000;
/// Folders deep.
const DEPTH_MAX: usize = 64;
const PIECE: usize = 1 << 20;

/// What this server holds: files by service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// A digest of all that follows; zero if there is nothing.
    pub digest: [u8; 32],
    /// Files by service.
    pub services: BTreeMap<String, Vec<FileEntry>>,
}

impl Inventory {
    /// How many files.
    #[must_use]
    pub fn files(&self) -> usize {
        self.services.values().map(Vec::len).sum()
    }
}

/// What tells whether a file is still the one that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    size: u64,
    seconds: i64,
    nanoseconds: i64,
    inode: u64,
}

type Cache = BTreeMap<String, (Look, [u8; 32])>;

/// A document root.
#[derive(Debug, Clone)]
pub struct Root {
    /// The service that has it.
    pub service: String,
    /// The folder.
    pub folder: PathBuf,
    /// Where the digests of its files are kept.
    pub chains: Arc<Chains>,
}

/// Asks the thread that looks through document roots.
#[derive(Debug, Clone)]
pub struct Looker {
    asked: Sender<oneshot::Sender<Arc<Inventory>>>,
}

impl Looker {
    /// Starts the thread over these services' roots; `memory` is where it keeps what it found.
    pub fn start(roots: Vec<Root>, memory: PathBuf) -> std::io::Result<Looker> {
        let (asked, inbox) = crossbeam_channel::bounded(1);
        let run = move || look_for_ever(&roots, &memory, &inbox);
        std::thread::Builder::new().name("inventory".into()).spawn(run)?;
        Ok(Looker { asked })
    }

    /// Looks through all roots; none if it is looking already.
    pub async fn look(&self) -> Option<Arc<Inventory>> {
        let (answer, found) = oneshot::channel();
        self.asked.try_send(answer).ok()?;
        found.await.ok()
    }
}

fn look_for_ever(roots: &[Root], memory: &Path, inbox: &Receiver<oneshot::Sender<Arc<Inventory>>>) {
    let mut cache: Cache = fs::read(memory)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    for answer in inbox {
        let mut seen = Cache::new();
        let inventory = take(roots, &cache, &mut seen);
        if seen != cache {
            remember(memory, &seen);
            cache = seen;
        }
        let _ = answer.send(Arc::new(inventory));
    }
}

fn remember(memory: &Path, cache: &Cache) {
    let draft = memory.with_extension("draft");
    let written = serde_json::to_vec(cache)
        .map_err(std::io::Error::other)
        .and_then(|bytes| fs::write(&draft, bytes))
        .and_then(|()| fs::rename(&draft, memory));
    if let Err(error) = written {
        tracing::debug!(%error, file = %memory.display(), "files will be read again after a \
            restart");
    }
}

/// Looks through all roots.
fn take(roots: &[Root], cache: &Cache, seen: &mut Cache) -> Inventory {
    let mut services = BTreeMap::new();
    for Root { service, folder: root, chains } in roots {
        let mut found = BTreeSet::new();
        walk(root, root, 0, &mut found);
        let mut files = Vec::new();
        for path in found {
            if files.len() == FILES_MAX {
                tracing::warn!(service, "more than {FILES_MAX} files: the rest is not told");
                break;
            }
            match entry((root, chains), &path, cache, seen) {
                Ok(Some(file)) => files.push(file),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, path = %path.display(), "not told"),
            }
        }
        services.insert(service.clone(), files);
    }
    let digest = digest(&services);
    Inventory { digest, services }
}

fn digest(services: &BTreeMap<String, Vec<FileEntry>>) -> [u8; 32] {
    if services.is_empty() {
        return [0; 32];
    }
    let mut context = Context::new(&SHA256);
    for (service, files) in services {
        context.update(service.as_bytes());
        context.update(&(files.len() as u64).to_be_bytes());
        for file in files {
            context.update(file.path.as_str().as_bytes());
            context.update(&[0]);
            context.update(&file.size.to_be_bytes());
            context.update(&file.sha256);
        }
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// All files below, as the built-in origin would serve them: nothing hidden, nothing outside.
fn walk(root: &Path, folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = entry.path();
        if name.as_encoded_bytes().starts_with(b".") || found.len() > FILES_MAX {
            continue;
        }
        let inside = || fs::canonicalize(&path).is_ok_and(|real| real.starts_with(root));
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() && !inside() => continue,
            Ok(_) => {}
            Err(_) => continue,
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() && depth < DEPTH_MAX => walk(root, &path, depth + 1, found),
            Ok(meta) if meta.is_file() => drop(found.insert(path)),
            _ => {}
        }
    }
}

fn entry(
    (root, chains): (&Path, &Arc<Chains>),
    path: &Path,
    cache: &Cache,
    seen: &mut Cache,
) -> std::io::Result<Option<FileEntry>> {
    let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
    let Some(name) = relative.and_then(|relative| FilePath::new(&format!("/{relative}"))) else {
        return Ok(None);
    };
    let look = look(&fs::metadata(path)?);
    let key = path.to_string_lossy().into_owned();
    let known = cache.get(&key).filter(|(then, _)| *then == look).map(|(_, sha256)| *sha256);
    let sha256 = match known {
        Some(sha256) => sha256,
        None => {
            let sha256 = hash(path, chains)?;
            // A file that is being written is told when it is at rest.
            if self::look(&fs::metadata(path)?) != look {
                return Ok(None);
            }
            sha256
        }
    };
    let size = look.size;
    seen.insert(key, (look, sha256));
    Ok(Some(FileEntry { path: name, size, sha256 }))
}

fn look(meta: &fs::Metadata) -> Look {
    Look {
        size: meta.len(),
        seconds: meta.mtime(),
        nanoseconds: meta.mtime_nsec(),
        inode: meta.ino(),
    }
}

fn hash(path: &Path, chains: &Arc<Chains>) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let exact = Exact::of(&file.metadata()?);
    let mut digest = exact.and_then(|exact| chains.digest(exact, 0));
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => {
                context.update(&piece[..read]);
                if let Some(digest) = &mut digest {
                    digest.take(&piece[..read]);
                }
            }
        }
    }
    Ok(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "file.m@example.org";

    fn root_at(folder: PathBuf) -> Root {
        Root { service: SERVICE.to_owned(), folder, chains: Arc::default() }
    }

    fn look_at(root: &Path, cache: &Cache) -> (Inventory, Cache) {
        let mut seen = Cache::new();
        let root = root.canonicalize().expect("it is there");
        (take(&[root_at(root)], cache, &mut seen), seen)
    }

    #[test]
    fn files_are_found_and_read_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir(root.join("a")).expect("ours");
        fs::write(root.join("a/b c"), "hello").expect("ours");
        fs::write(root.join(".hidden"), "x").expect("ours");
        std::os::unix::fs::symlink("/etc/passwd", root.join("out")).expect("ours");
        std::os::unix::fs::symlink("a/b c", root.join("in")).expect("ours");
        let (inventory, cache) = look_at(root, &Cache::new());
        let names: Vec<_> = inventory.services[SERVICE].iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, ["/a/b c", "/in"]);
        let sha256: String =
            inventory.services[SERVICE][0].sha256.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        // What is in the cache is believed as long as the file looks the same.
        let mut forged = cache.clone();
        for (_, sha256) in forged.values_mut() {
            *sha256 = [1; 32];
        }
        assert_eq!(look_at(root, &forged).0.services[SERVICE][0].sha256, [1; 32]);
        fs::write(root.join("a/b c"), "hello!").expect("ours");
        let (changed, _) = look_at(root, &forged);
        assert_ne!(changed.services[SERVICE][0].sha256, [1; 32]);
        assert_ne!(changed.digest, inventory.digest);
    }

    #[tokio::test]
    async fn what_was_read_is_remembered_over_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("ours");
        fs::write(root.join("f"), "x").expect("ours");
        let memory = folder.path().join("memory.json");
        let roots = vec![root_at(root)];
        let first = Looker::start(roots.clone(), memory.clone()).expect("a thread");
        let found = first.look().await.expect("it looks");
        assert!(memory.exists());
        let second = Looker::start(roots, memory).expect("a thread");
        assert_eq!(second.look().await.expect("it looks"), found);
    }
}
