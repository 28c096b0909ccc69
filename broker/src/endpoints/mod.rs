//! This user's endpoints (KTH 3.1.1): names of the form `object@domain`, each with a key and a
//! directory of its own. The sessions of an endpoint are opened over links that show its key, so
//! that whoever has the directory can go on with them, on any machine.

pub mod act;
mod attach;
mod carry;
mod registration;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use stp_lookup::endpoint::{self, EndpointError};
use stp_net::link::Tls;
use stp_proto::local::Cookie;
use stp_proto::lookup::EndpointName;

use crate::config::DirectoryConfig;
use crate::environment;
use crate::lookup::Directory;
use crate::service::{Maker, Server, Service};
use registration::Registration;

/// The variable of a program's environment that names the endpoint of its sessions.
pub const VARIABLE: &str = "SESSION_ENDPOINT";
/// A service of an endpoint that no session uses is forgotten after this time, with its links.
const KEEP: Duration = Duration::from_secs(600);

/// A service as an endpoint has it.
struct Owned {
    base: Arc<Service>,
    service: Arc<Service>,
    used: Instant,
}

/// A program whose session was saved, and that is saving its own state.
#[derive(Clone, Copy, Debug)]
struct Moved {
    session: u64,
    pid: i32,
}

/// An endpoint that this broker has.
pub struct Endpoint {
    /// Its directory and its key.
    pub disk: endpoint::Endpoint,
    /// Links show its key.
    pub tls: Arc<Tls>,
    /// The directory, asked with its key: tickets are bound to that.
    pub directory: Arc<Directory>,
    services: Mutex<Vec<Owned>>,
    registration: Arc<Registration>,
    /// No session begins any more: it is being saved, or was closed.
    leaving: AtomicBool,
    moved: Mutex<BTreeMap<Cookie, Moved>>,
    _lock: File,
}

impl Endpoint {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &EndpointName {
        &self.disk.name
    }

    /// A service reached with its key.
    pub fn service(&self, maker: &Maker, base: &Arc<Service>) -> Arc<Service> {
        let mut services = self.services.lock();
        if let Some(owned) = services.iter_mut().find(|owned| Arc::ptr_eq(&owned.base, base)) {
            owned.used = Instant::now();
            return Arc::clone(&owned.service);
        }
        let service = base.owned(self.name().as_str(), &self.tls, maker);
        let (base, used) = (Arc::clone(base), Instant::now());
        services.push(Owned { base, service: Arc::clone(&service), used });
        service
    }

    /// For the status; `sessions` are under way. No secret.
    #[must_use]
    pub fn json(&self, sessions: usize) -> Value {
        let mut all = json!({
            "name": self.name().as_str(),
            "key": self.disk.identity.public_key().to_string(),
            "created": self.disk.created,
            "directory": self.disk.dir.display().to_string(),
            "sessions": sessions,
            "saved": self.disk.sessions(),
            "leaving": self.leaving.load(Ordering::Relaxed),
        });
        all["registration"] = self.registration.json();
        all
    }
}

/// Every endpoint that this broker has.
pub struct Endpoints {
    /// Makes what belongs to one, but for its key.
    maker: Maker,
    config: DirectoryConfig,
    all: RwLock<BTreeMap<String, Arc<Endpoint>>>,
    trouble: Mutex<Vec<String>>,
}

/// The front of the names that stand for saved sessions; no host name begins so.
const FRONT: &str = "saved:";

/// The name that stands for a saved session.
fn host(endpoint: &str, number: u64) -> String {
    format!("{FRONT}{endpoint}/{number}")
}

/// The endpoint and the number of a saved session, of the name that stands for it.
#[must_use]
pub fn saved(host: &str) -> Option<(&str, u64)> {
    let (endpoint, number) = host.strip_prefix(FRONT)?.rsplit_once('/')?;
    Some((endpoint, number.parse().ok()?))
}

/// One broker has an endpoint at a time.
fn lock(disk: &endpoint::Endpoint) -> Result<File, EndpointError> {
    let path = disk.dir.join(endpoint::FILE);
    let failed = |error| EndpointError::Io(path.clone(), error);
    let file = OpenOptions::new().read(true).open(&path).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let why = "another broker of yours has it".to_owned();
        EndpointError::NotOne(disk.dir.clone(), why)
    })?;
    Ok(file)
}

impl Endpoints {
    /// None; this is how their directories are asked.
    #[must_use]
    pub fn new(maker: Maker, config: DirectoryConfig) -> Endpoints {
        Endpoints { maker, config, all: RwLock::default(), trouble: Mutex::default() }
    }

    /// Takes up what is in the folder.
    pub fn open(&self) {
        let found = endpoint::folder().and_then(|folder| endpoint::Endpoint::all(&folder));
        let found = found.unwrap_or_else(|error| vec![Err(error)]);
        for disk in found {
            if let Err(error) = disk.and_then(|disk| self.take(disk)) {
                tracing::warn!("an endpoint is left out: {error}");
                self.trouble.lock().push(error.to_string());
            }
        }
    }

    /// Takes one up.
    fn take(&self, disk: endpoint::Endpoint) -> Result<Arc<Endpoint>, EndpointError> {
        let lock = lock(&disk)?;
        let tls = Tls::new(&disk.identity);
        let mut maker = self.maker.clone();
        (maker.tls, maker.endpoint) = (Arc::clone(&tls), disk.name.as_str().into());
        let directory = Directory::new(self.config.clone(), maker);
        let registration = Registration::new(disk.name.clone(), Arc::clone(&directory));
        let endpoint = Arc::new(Endpoint {
            directory,
            disk,
            tls,
            services: Mutex::default(),
            registration,
            leaving: AtomicBool::new(false),
            moved: Mutex::default(),
            _lock: lock,
        });
        self.all.write().insert(endpoint.name().to_string(), Arc::clone(&endpoint));
        tracing::info!(endpoint = %endpoint.name(), "is here");
        registration::begin(&endpoint.registration);
        Ok(endpoint)
    }

    /// Lets go of one.
    fn let_go(&self, name: &str) -> Option<Arc<Endpoint>> {
        let gone = self.all.write().remove(name)?;
        gone.leaving.store(true, Ordering::Relaxed);
        gone.services.lock().clear();
        Some(gone)
    }

    /// The one of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.all.read().get(name).cloned()
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.all.read().values().cloned().collect()
    }

    /// The servers as endpoints reach them.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let of = |endpoint: Arc<Endpoint>| {
            let services = endpoint.services.lock();
            let own: Vec<_> =
                services.iter().flat_map(|owned| owned.service.servers.clone()).collect();
            drop(services);
            own.into_iter().chain(endpoint.directory.servers()).collect::<Vec<_>>()
        };
        self.all().into_iter().flat_map(of).collect()
    }

    /// Forgets what nobody uses any more.
    pub fn age(&self) {
        for endpoint in self.all() {
            endpoint.directory.age();
            endpoint.services.lock().retain_mut(|owned| {
                if Arc::strong_count(&owned.service) > 1 {
                    owned.used = Instant::now();
                }
                owned.used.elapsed() < KEEP
            });
        }
    }

    /// The network has changed.
    pub fn network_changed(&self) {
        for endpoint in self.all() {
            endpoint.directory.network_changed();
        }
    }

    /// The endpoint of a program's sessions: its own, or else that of the route, or of the
    /// configuration, or the one that is called like this machine (KTH 4.4.1). None: this user's
    /// own key is shown.
    ///
    /// # Errors
    /// The one that is wanted is not here, or is about to leave; says what to do.
    pub fn of_program(
        &self,
        pid: i32,
        route: Option<&str>,
        configured: Option<&str>,
    ) -> Result<Option<Arc<Endpoint>>, String> {
        let own = environment::name(pid, VARIABLE);
        let wanted = own.as_deref().or(route).or(configured);
        let Some(name) = wanted else {
            let default = self.default_one();
            return Ok(default.filter(|one| !one.leaving.load(Ordering::Relaxed)));
        };
        let found = self.find(name).ok_or_else(|| {
            format!("no endpoint {name} is here; to make it: session endpoint create {name}")
        })?;
        if found.leaving.load(Ordering::Relaxed) {
            return Err(format!("the endpoint {name} is being saved"));
        }
        Ok(Some(found))
    }

    /// The only one whose object is called like this machine.
    fn default_one(&self) -> Option<Arc<Endpoint>> {
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        let host = host.split('.').next().unwrap_or_default().to_owned();
        let all = self.all.read();
        let mut alike =
            all.values().filter(|one| one.name().as_str().split('@').next() == Some(&*host));
        let found = alike.next().cloned();
        found.filter(|_| alike.next().is_none())
    }

    /// What is wrong with any.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        let mut all = self.trouble.lock().clone();
        let of = |endpoint: &Arc<Endpoint>| {
            let why = endpoint.registration.trouble()?;
            Some(format!("the endpoint {}: {why}", endpoint.name()))
        };
        all.extend(self.all().iter().filter_map(of));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_session_is_named_by_its_endpoint_and_number() {
        let name = host("ada@example.org", 7);
        assert_eq!(saved(&name), Some(("ada@example.org", 7)));
        for other in ["saved:ada@example.org", "ada@example.org/7", "saved:a@b/x", "file:/1"] {
            assert_eq!(saved(other), None, "{other}");
        }
        assert!(stp_proto::pattern::host_name(&name).is_err(), "no program can ask for it by name");
    }
}
