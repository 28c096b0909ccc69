//! The operator's socket: users, services, servers, files. It is a Unix socket of mode 0600 that
//! takes a line of JSON and answers with a line of JSON. The commands that use it are in `command`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stp_net::key::PublicKey;
use stp_proto::lookup::{EndpointName, FilePath, user_is_good};
use stp_proto::name::Name;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::record::{Revoked, Server, User, endpoint_key, json as value_of, services_below};
use crate::sns::{Sns, unix_now};
use crate::store::{Change, Guard, Lease};
use crate::tables::Versioned;

/// The longest request.
const LINE_MAX: u64 = 64 * 1024;
/// The most files that are shown.
const FILES_MAX: usize = 10_000;

/// What an operator asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Adds a user. The password is not in it.
    UserAdd {
        /// Who.
        user: String,
        /// What checks a proof, the user's tree and services.
        record: User,
    },
    /// Changes a user. Fields that are not given stay as they are. Earlier log-ins and tickets end.
    UserChange {
        /// Who.
        user: String,
        /// A record with the new password.
        password: Option<User>,
        /// The new tree.
        tree: Option<String>,
        /// The services that the user may have; empty: all.
        services: Option<Vec<String>>,
    },
    /// Deletes a user.
    UserDelete {
        /// Who.
        user: String,
    },
    /// All users.
    UserList,
    /// Allows a server.
    ServerAllow {
        /// What it is called.
        server: String,
        /// Its key.
        key: PublicKey,
        /// What it may offer.
        services: Vec<String>,
    },
    /// No longer allows a server. It is gone at once, and its list of files with it.
    ServerForbid {
        /// What it is called.
        server: String,
    },
    /// All servers that are allowed, and which of them are there.
    ServerList,
    /// All services, with their owners and places.
    ServiceList,
    /// Deletes an endpoint and its services, whoever made it.
    EndpointDelete {
        /// Its name.
        endpoint: String,
    },
    /// The files of a service, with the servers that hold them.
    Files {
        /// The service; none: all.
        service: Option<String>,
        /// Only this one.
        path: Option<String>,
    },
}

/// Serves the socket at `path` for ever.
pub async fn serve(sns: Arc<Sns>, listener: UnixListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let sns = Arc::clone(&sns);
        tokio::spawn(async move {
            if let Err(error) = answer(&sns, stream).await {
                tracing::debug!(%error, "an operator's request ended early");
            }
        });
    }
}

/// Binds the socket. A socket that no process serves any more is replaced.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let _ = std::fs::remove_file(path);
    // The socket is made under another name first, so that under its own name it never has other
    // permissions.
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&draft, path)?;
    Ok(listener)
}

async fn answer(sns: &Sns, stream: UnixStream) -> io::Result<()> {
    let ours =
        std::fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && ours.ok() != Some(peer) {
        tracing::warn!(uid = peer, "an operator's request by another user");
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(LINE_MAX).read_line(&mut line).await?;
    let done = match serde_json::from_str::<Order>(&line) {
        Ok(order) => sns.carry_out(order).await,
        Err(error) => Err(format!("no order: {error}")),
    };
    let mut text = match done {
        Ok(value) => json!({ "done": value }),
        Err(error) => json!({ "error": error }),
    }
    .to_string();
    text.push('\n');
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// How long servers are told of a revocation: longer than a session may be without a link.
const REVOKED_FOR_S: u32 = 8 * 86_400;

fn check_user(user: &str, record: &User) -> Result<(), String> {
    if !user_is_good(user) {
        return Err(format!("{user:?} is no user's name: 1 to 64 of a-z 0-9 . _ -"));
    }
    if record.verifier().is_none() {
        return Err("the verifier is not one, or too cheap".to_owned());
    }
    if record.tree != "/" && FilePath::new(&record.tree).is_none() {
        return Err(format!("{:?} is no path for a tree", record.tree));
    }
    for service in &record.services {
        service.parse::<Name>().map_err(|error| format!("{service:?}: {error}"))?;
    }
    Ok(())
}

impl Sns {
    async fn carry_out(&self, order: Order) -> Result<Value, String> {
        match order {
            Order::UserAdd { user, record } => self.add_user(&user, &record).await,
            Order::UserChange { user, password, tree, services } => {
                self.change_user(&user, password, tree, services).await
            }
            Order::UserDelete { user } => {
                if !self.tables.read(|held| held.users.contains_key(user.as_str())) {
                    return Err(format!("there is no user {user:?}"));
                }
                let changes = vec![Change::Delete(format!("user/{user}")), self.revoke(&user)];
                self.make(Vec::new(), changes).await?;
                tracing::info!(user, "a user was taken away");
                Ok(json!(user))
            }
            Order::UserList => Ok(self.tables.read(|held| {
                let users = held.users.iter().map(|(name, user)| {
                    let User { tree, services, .. } = &user.value;
                    json!({ "user": name, "tree": tree, "services": services })
                });
                users.collect()
            })),
            Order::ServerAllow { server, key, services } => {
                self.allow_a_server(&server, key, services).await
            }
            Order::ServerForbid { server } => {
                if !self.tables.read(|held| held.servers.contains_key(server.as_str())) {
                    return Err(format!("there is no server {server:?}"));
                }
                let changes = vec![
                    Change::Delete(format!("srv/{server}")),
                    Change::Delete(format!("up/{server}")),
                    Change::DeleteBelow(format!("inv/{server}/")),
                    Change::DeleteBelow(format!("invp/{server}/")),
                ];
                self.make(Vec::new(), changes).await?;
                tracing::info!(server, "a server is allowed no more");
                Ok(json!(server))
            }
            Order::ServerList => Ok(self.list_servers()),
            Order::ServiceList => Ok(self.list_services()),
            Order::EndpointDelete { endpoint } => {
                let name: EndpointName =
                    endpoint.parse().map_err(|e| format!("{endpoint}: {e}"))?;
                if !self.tables.read(|held| held.endpoints.contains_key(name.as_str())) {
                    return Err(format!("there is no endpoint {name}"));
                }
                let changes = vec![
                    Change::Delete(endpoint_key(&name)),
                    Change::DeleteBelow(services_below(&name)),
                ];
                self.make(Vec::new(), changes).await?;
                Ok(json!(endpoint))
            }
            Order::Files { service, path } => {
                Ok(self.list_files(service.as_deref(), path.as_deref()))
            }
        }
    }

    async fn make(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Result<(), String> {
        self.commit(guards, changes).await.map_err(|error| error.to_string())
    }

    /// Revokes everything that was granted to a user until now.
    fn revoke(&self, user: &str) -> Change {
        let before = self.tables.read(|held| held.revoked.get(user).copied());
        // A ticket that was given after the last revocation, but within the same second, bears the
        // time of the second after it.
        let until = unix_now().max(before.map_or(0, |before| before.saturating_add(1)));
        Change::Put {
            key: format!("rev/{user}"),
            value: value_of(&Revoked { until }),
            lease: Lease::New(REVOKED_FOR_S),
        }
    }

    async fn add_user(&self, user: &str, record: &User) -> Result<Value, String> {
        check_user(user, record)?;
        let key = format!("user/{user}");
        if self.tables.read(|held| held.users.contains_key(user)) {
            return Err(format!("there is a user {user:?} already"));
        }
        let guards = vec![Guard::Absent(key.clone())];
        let put = Change::Put { key, value: value_of(record), lease: Lease::None };
        self.make(guards, vec![put]).await?;
        tracing::info!(user, "a user was added");
        Ok(json!(user))
    }

    async fn change_user(
        &self,
        user: &str,
        password: Option<User>,
        tree: Option<String>,
        services: Option<Vec<String>>,
    ) -> Result<Value, String> {
        let known = self.tables.read(|held| held.users.get(user).cloned());
        let Some(Versioned { value: mut record, version }) = known else {
            return Err(format!("there is no user {user:?}"));
        };
        if let Some(password) = password {
            record = record.with_password_of(password);
        }
        record.tree = tree.unwrap_or(record.tree);
        record.services = services.unwrap_or(record.services);
        check_user(user, &record)?;
        let key = format!("user/{user}");
        let guards = vec![Guard::Version(key.clone(), version)];
        let put = Change::Put { key, value: value_of(&record), lease: Lease::None };
        self.make(guards, vec![put, self.revoke(user)]).await?;
        tracing::info!(user, "a user was changed");
        Ok(json!(user))
    }

    async fn allow_a_server(
        &self,
        server: &str,
        key: PublicKey,
        services: Vec<String>,
    ) -> Result<Value, String> {
        if !user_is_good(server) {
            return Err(format!("{server:?} is no server's name: 1 to 64 of a-z 0-9 . _ -"));
        }
        if services.is_empty() {
            return Err("a server offers at least one service".to_owned());
        }
        for service in &services {
            service.parse::<Name>().map_err(|error| format!("{service:?}: {error}"))?;
        }
        let value = value_of(&Server { key, services });
        let put = Change::Put { key: format!("srv/{server}"), value, lease: Lease::None };
        // A server that is there by this name announces itself again under the new terms.
        let changes = vec![put, Change::Delete(format!("up/{server}"))];
        self.make(Vec::new(), changes).await?;
        tracing::info!(server, %key, "a server is allowed");
        Ok(json!(server))
    }

    fn list_servers(&self) -> Value {
        self.tables.read(|held| {
            held.servers
                .iter()
                .map(|(name, server)| {
                    let there = held.announced.get(name).map(|announced| &announced.value);
                    let files: u64 = held
                        .shelves
                        .iter()
                        .filter(|((of, _), _)| of == name)
                        .filter_map(|(_, shelf)| Some(shelf.inventory.as_ref()?.value.files))
                        .sum();
                    json!({
                        "server": name,
                        "key": server.value.key.to_string(),
                        "services": server.value.services,
                        "there": there.is_some(),
                        "addresses": there.map(|there| &there.addresses),
                        "files": files,
                    })
                })
                .collect()
        })
    }

    fn list_services(&self) -> Value {
        self.tables.read(|held| {
            let mut all = Vec::new();
            for (name, service) in &held.services {
                let Some((endpoint, label)) = name.split_once('/') else { continue };
                let at = held.endpoints.get(endpoint).map(|endpoint| &endpoint.value);
                all.push(json!({
                    "service": format!("{label}.{endpoint}"),
                    "port": service.value.port,
                    "addresses": at.map(|at| &at.addresses),
                    "owner": at.map(|at| at.owner.to_string()),
                }));
            }
            for (service, servers) in &held.offered {
                all.push(json!({ "service": service, "servers": servers }));
            }
            all.into()
        })
    }

    fn list_files(&self, service: Option<&str>, path: Option<&str>) -> Value {
        use std::collections::BTreeMap;
        self.tables.read(|held| {
            let mut files: BTreeMap<(&str, &str, u64, String), Vec<&str>> = BTreeMap::new();
            for ((server, of), shelf) in &held.shelves {
                if service.is_some_and(|wanted| wanted != &**of) {
                    continue;
                }
                for (name, file) in shelf.files() {
                    if path.is_none_or(|wanted| wanted == name) && files.len() < FILES_MAX {
                        let sha256: String =
                            file.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
                        files.entry((of, name, file.size, sha256)).or_default().push(server);
                    }
                }
            }
            let one = |((service, path, size, sha256), servers): (
                (&str, &str, u64, String),
                Vec<&str>,
            )| {
                json!({ "service": service, "path": path, "size": size, "sha256": sha256,
                        "servers": servers })
            };
            files.into_iter().map(one).collect()
        })
    }
}
