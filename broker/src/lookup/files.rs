//! Files that the gateway locates, for `session get`.

use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use nix::errno::Errno;
use serde_json::{Value, json};
use stp_net::status;
use stp_proto::local::wire::Resolved;
use stp_proto::lookup::FilePath;

use super::{Directory, FILE_FRONT, KnownService, Sources};
use crate::config;

impl Directory {
    /// `POST /files {"user", "gateway", "path", "from"}`: locates a file, and gives the virtual
    /// address by which it can be had once. `address` makes one of a name.
    pub(crate) async fn offer_file(
        &self,
        body: &Value,
        address: impl Fn(&str) -> Resolved,
    ) -> Result<Value, status::ActError> {
        let bad = status::ActError::bad_request;
        let text = |key: &str| body[key].as_str();
        let path = text("path").and_then(FilePath::new);
        let path = path.ok_or_else(|| bad("path: an absolute path is expected"))?;
        let from = body["from"].as_u64().unwrap_or(0);
        let config = self.config.gateway.as_ref();
        let config = config.ok_or_else(|| status::ActError::conflict(NO_GATEWAY))?;
        if text("user").is_some_and(|user| user != config.user)
            || text("gateway").is_some_and(|place| {
                !config.places.iter().any(|known| place.parse().as_ref() == Ok(known))
            })
        {
            let what = format!("the broker is configured for {}@{}", config.user, config.places[0]);
            return Err(status::ActError::conflict(what));
        }
        let found = self.locate(None, Some(path), from).await;
        let found = found.map_err(|lacking| {
            let status = match lacking.errno {
                _ if lacking.unknown => 404,
                Errno::EACCES => 403,
                _ => 409,
            };
            status::ActError { status, text: lacking.why }
        })?;
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        let host = format!("{FILE_FRONT}{}/{number}", self.endpoint());
        self.keep_file(&host, &found);
        let Resolved::Virtual { v4, .. } = address(&host) else {
            return Err(status::ActError::conflict("all virtual addresses are in use"));
        };
        let names: Vec<_> = found.servers.iter().map(|server| server.name.as_str()).collect();
        let sha256: String = found.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(json!({
            "address": format!("{v4}:80"),
            "service": found.service.to_string(),
            "host": found.service.to_host(),
            "path": found.path.as_ref().map(FilePath::as_str),
            "size": found.size,
            "sha256": sha256,
            "servers": names,
        }))
    }
}

const NO_GATEWAY: &str = "no [gateway] in the broker's configuration: add address and user";

impl Directory {
    fn keep_file(&self, host: &str, located: &stp_lookup::Referral) {
        let Sources { servers, grant, life, .. } = Sources::of_gateway(located);
        let config = config::Service::at(located.service.to_string(), servers);
        let service = self.maker.lock().service(&config);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let (at, date) = (Instant::now(), SystemTime::now());
        let found = KnownService { service, number, grant, at, date, asked: at, fresh: life, life };
        self.found.lock().insert(host.to_owned(), found);
    }
}
