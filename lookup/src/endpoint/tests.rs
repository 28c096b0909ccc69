use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::carry::{export_by, import_by};
use super::disk::KEY;
use super::*;

const NAME: &str = "ada@example.org";
const PART: &str = ".state.get.0.part";

struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    /// An endpoint with a session and what its program has saved.
    fn lay() -> (Ground, Endpoint) {
        let ground = Ground { folder: tempfile::tempdir().expect("a folder") };
        let name = name(NAME).expect("a name");
        let endpoint = Endpoint::create(&ground.here(), &name).expect("made");
        endpoint.put_session(7, b"seven").expect("put by");
        let state = endpoint.free_state("get");
        assert!(state.ends_with(".state.get.0"));
        fs::write(&state, "state").expect("written");
        fs::write(endpoint.dir.join(PART), "half a file").expect("written");
        (ground, endpoint)
    }

    fn here(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    fn stick(&self) -> PathBuf {
        self.folder.path().join("stick")
    }

    fn there(&self) -> PathBuf {
        self.folder.path().join("there")
    }
}

fn is_whole(dir: &Path) {
    let endpoint = Endpoint::open(dir).expect("whole");
    assert_eq!(endpoint.session(7).expect("sealed with its key"), b"seven");
    assert_eq!(fs::read(dir.join(PART)).expect("there"), b"half a file");
    assert_eq!(states(dir), [dir.join(".state.get.0")]);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn it_is_made_once_and_private() {
    let (ground, endpoint) = Ground::lay();
    assert_eq!((mode(&endpoint.dir), mode(&endpoint.dir.join(KEY))), (0o700, 0o600));
    assert_eq!(mode(&endpoint.dir.join(SESSIONS).join("7")), 0o600);
    let again = Endpoint::create(&ground.here(), &endpoint.name).expect_err("it is there");
    assert!(again.to_string().contains("is there already"), "{again}");
    let all = Endpoint::all(&ground.here()).expect("a folder");
    let keys: Vec<_> = all.iter().flatten().map(|one| one.identity.public_key()).collect();
    assert_eq!(keys, [endpoint.identity.public_key()]);
    endpoint.remove().expect("removed");
    assert_eq!(fs::read_dir(ground.here()).expect("a folder").count(), 0);
}

#[test]
fn it_is_carried_there_and_nothing_is_left_behind() {
    for passphrase in [None, Some("correct horse")] {
        let (ground, endpoint) = Ground::lay();
        let key = endpoint.identity.public_key();
        export(&endpoint, &ground.stick(), passphrase).expect("carried");
        assert!(!endpoint.dir.exists());
        assert_eq!(ground.stick().join(KEY).exists(), passphrase.is_none());
        let seen = peek(&ground.stick()).expect("an endpoint");
        assert_eq!((seen.name.as_str(), seen.sessions), (NAME, vec![7]));
        assert_eq!(seen.sealed, passphrase.is_some());
        let loaded = import(&ground.stick(), &ground.there(), passphrase).expect("carried");
        assert_eq!(loaded.identity.public_key(), key);
        is_whole(&loaded.dir);
        assert!(!ground.stick().exists());
        assert_eq!((mode(&loaded.dir), mode(&loaded.dir.join(KEY))), (0o700, 0o600));
    }
}

#[test]
fn a_wrong_passphrase_changes_nothing() {
    let (ground, endpoint) = Ground::lay();
    export(&endpoint, &ground.stick(), Some("correct horse")).expect("carried");
    for (words, expected) in [(None, "--passphrase"), (Some("battery"), "not its passphrase")] {
        let error = import(&ground.stick(), &ground.there(), words).expect_err("not that one");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!ground.there().join(NAME).exists());
    }
    import(&ground.stick(), &ground.there(), Some("correct horse")).expect("the right one");
}

/// Whatever is cut off or changed: an error in words, and the directory stays as it is.
#[test]
fn what_was_garbled_is_refused_and_stays() {
    let (ground, endpoint) = Ground::lay();
    let (stick, there) = (ground.stick(), ground.there());
    export(&endpoint, &stick, None).expect("carried");
    for file in [FILE, KEY, "sessions/7"] {
        let path = stick.join(file);
        let good = fs::read(&path).expect("there");
        let half = good[..good.len() / 2].to_vec();
        let mut changed = good.clone();
        changed[good.len() / 2] ^= 0x55;
        for bad in [Vec::new(), half, changed] {
            fs::write(&path, &bad).expect("written");
            let error = import(&stick, &there, None).expect_err("garbled").to_string();
            assert!(error.contains(stick.to_str().expect("text")), "{file}: {error}");
            assert_eq!(fs::read(&path).expect("there"), bad);
            assert!(!there.join(NAME).exists());
        }
        fs::write(&path, &good).expect("written");
    }
    let error = import(ground.folder.path(), &there, None).expect_err("no endpoint");
    assert!(error.to_string().contains("it has no file .endpoint"), "{error}");
    std::os::unix::fs::symlink("/etc/passwd", stick.join("link")).expect("made");
    let error = import(&stick, &there, None).expect_err("a link leads out of it");
    assert!(error.to_string().contains("neither a file nor a folder"), "{error}");
    fs::remove_file(stick.join("link")).expect("removed");
    import(&stick, &there, None).expect("whole again");
}

/// The power is cut at each step: the old directory is whole, or the new one, and the second
/// attempt ends well.
#[test]
fn a_power_cut_leaves_the_old_or_the_new() {
    let steps = ["begun", "copied", "key written", "put", "removed"];
    for cut in steps {
        let mut power = |step: &'static str| match step == cut {
            true => Err(io::Error::other("the power is cut")),
            false => Ok(()),
        };
        let (ground, endpoint) = Ground::lay();
        let (stick, there) = (ground.stick(), ground.there());
        assert!(export_by(&endpoint, &stick, None, &mut power).is_err());
        let both = [&endpoint.dir, &stick].map(|dir| dir.exists());
        assert!(both[0] || both[1], "{cut}");
        for dir in [&endpoint.dir, &stick].into_iter().filter(|dir| dir.exists()) {
            is_whole(dir);
        }
        if !both[1] {
            export(&endpoint, &stick, None).expect("the second time");
        }
        assert!(import_by(&stick, &there, None, &mut power).is_err());
        let new = there.join(NAME);
        assert!(stick.exists() || new.exists(), "{cut}");
        for dir in [&stick, &new].into_iter().filter(|dir| dir.exists()) {
            is_whole(dir);
        }
        if !new.exists() {
            import(&stick, &there, None).expect("the second time");
        }
        is_whole(&new);
        let left = fs::read_dir(ground.folder.path()).expect("a folder").filter_map(Result::ok);
        let drafts = left.filter(|entry| entry.file_name().to_string_lossy().ends_with(".part"));
        assert_eq!(drafts.count(), 0);
    }
}
