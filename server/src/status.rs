//! What the server shows of itself: `/status`, `/metrics` and the page.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde_json::{Value, json};
use stp_drive::{Command, lasts, state_name};
use stp_net::status::{ActError, Acting, Feed, Metrics, Source, page};
use stp_proto::budget::Budget;
use stp_proto::class::Class;
use stp_proto::session::code;
use stp_proto::state::State;
use stp_tls::certificate::Certificates;

use crate::config::ServiceConfig;
use crate::listener::Server;
use crate::registry::{Entry, Key};
use crate::trouble;

/// What can be done here.
const KNOWN: &str = "there is only drain, sessions/ID/suspend, resume and close, and \
     sessions/all/suspend and resume";
/// In place of a session's id: every session.
const ALL: &str = "all";

/// The status of a server.
pub struct Status(pub Arc<Server>);

impl Status {
    /// Refusals by reason: of links and of sessions.
    fn refused(&self) -> Vec<(String, u64)> {
        let mut refused = self.0.registry.counters.refused();
        for (reason, count) in self.0.acceptor.refused() {
            if count > 0 {
                *refused.entry(format!("handshake_{reason}")).or_default() += count;
            }
        }
        refused.into_iter().collect()
    }

    fn counters(&self) -> [(&'static str, &'static str, u64); 7] {
        let counters = &self.0.registry.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("links_accepted", "Links accepted.", self.0.acceptor.accepted()),
            ("sessions_opened", "Sessions opened.", read(&counters.opened)),
            ("sessions_transferred", "Sessions taken over.", read(&counters.transferred)),
            ("sessions_resumed", "Resumes handed to a session.", read(&counters.resumed)),
            (
                "sessions_given_up",
                "Sessions without a link given up for lack of memory.",
                read(&counters.given_up),
            ),
            (
                "sessions_made_room",
                "Temporary sessions without a link that ended for the sake of new ones.",
                read(&counters.made_room),
            ),
            ("sessions_ended", "Sessions ended.", read(&counters.ended)),
        ]
    }

    fn sessions(&self) -> Vec<Value> {
        let one = |(key, entry): (Key, Entry)| {
            let now = entry.status.snapshot();
            let mut value = serde_json::to_value(&now).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.insert("id".into(), json!(entry.own.to_string()));
                fields.insert("handle".into(), json!(key.1.to_string()));
                fields.insert("client".into(), json!(key.0.to_string()));
                fields.insert("endpoint".into(), json!(entry.endpoint));
                fields.insert("service".into(), json!(entry.service));
                fields.insert("server".into(), json!(self.0.config.name));
                fields.insert("rate_wanted".into(), json!(entry.wanted));
                fields.insert("transferred".into(), json!(entry.transferred));
                fields.insert("age_s".into(), json!(entry.since.elapsed().as_secs()));
                if let Some(spool) = &entry.spool {
                    fields.insert("spool".into(), json!(spool.bytes.load(Ordering::Relaxed)));
                    fields.insert("spool_full".into(), json!(spool.full.load(Ordering::Relaxed)));
                }
                fields.insert("events".into(), json!(entry.status.history()));
                fields.insert("series".into(), json!(entry.status.series()));
            }
            value
        };
        self.0.registry.running().into_iter().map(one).collect()
    }
}

impl Status {
    /// Suspends, resumes or closes one session, or suspends or resumes all of them.
    async fn change(&self, id: &str, action: &str, body: &Value) -> Result<Value, ActError> {
        let lasts = lasts(body)?;
        let command = || match action {
            "suspend" => Ok(Command::Suspend { lasts }),
            "resume" => Ok(Command::Resume),
            "close" if id != ALL => Ok(Command::Abort { code: code::USER }),
            _ => Err(ActError::not_found(KNOWN)),
        };
        command()?;
        let running = self.0.registry.running();
        let is_meant = |entry: &Entry| id == ALL || entry.own.to_string() == id;
        let meant: Vec<_> = running.iter().filter(|(_, entry)| is_meant(entry)).collect();
        if meant.is_empty() && id != ALL {
            return Err(ActError::not_found(format!("no session {id:?}")));
        }
        let mut answer = json!({ "action": action, "session": id });
        if let (Some(lasts), [(_, entry)]) = (lasts, meant.as_slice()) {
            let now = entry.status.snapshot();
            if now.state == State::Suspended {
                return Err(ActError::conflict("it is suspended already; resume it first"));
            }
            answer["for_s"] = json!(lasts.as_secs().min(now.suspendable_s));
        }
        let mut done = 0;
        for (_, entry) in &meant {
            done += usize::from(entry.inbox.send(command()?).await.is_ok());
        }
        if done == 0 && id != ALL {
            return Err(ActError::conflict("the session has just ended"));
        }
        answer["sessions"] = json!(done);
        Ok(answer)
    }
}

/// The certificates of a service of kind https.
fn tls(service: &ServiceConfig) -> Option<&Certificates> {
    service.tls.as_ref().map(|tls| &*tls.certificates)
}

impl Source for Status {
    fn status(&self) -> Value {
        let server = &self.0;
        let services = server.config.services.iter().map(|service| {
            json!({
                "name": service.name,
                "kind": service.kind.as_str(),
                "class": service.class.word(),
                "idle_s": service.idle.map(|idle| idle.as_secs()),
                "to": service.target.to_string(),
                "certificates_expire": tls(service).and_then(Certificates::expires),
                "warning": tls(service).and_then(|all| all.warning(SystemTime::now())),
            })
        });
        let ended = server.registry.ended().into_iter().map(|ended| {
            json!({
                "id": ended.own.to_string(),
                "service": ended.service,
                "client": ended.client.to_string(),
                "reason": ended.reason,
                "lived_s": ended.lived.as_secs_f64(),
                "ago_s": ended.at.elapsed().as_secs(),
            })
        });
        let ((held, most), level) = server.purse.look(|budget| (budget.held(), budget.level()));
        let (spooled, spool_max) = server.config.limits.spools.used();
        let counters = self.counters().map(|(name, _, value)| (name.to_owned(), json!(value)));
        let refused = self.refused().into_iter().map(|(reason, count)| (reason, json!(count)));
        json!({
            "server": {
                "name": server.config.name,
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "uptime_s": server.since.elapsed().as_secs(),
                "listen": server.config.listen.to_string(),
                "draining": server.is_draining(),
                "egress": server.egress(),
                "egress_max": server.config.limits.egress,
                "sessions_max": server.config.limits.sessions,
                "memory": held,
                "memory_max": most,
                "memory_level": level.word(),
                "spool": spooled,
                "spool_max": spool_max,
                "cluster": server.config.cluster.as_ref().map(|cluster| cluster.name.clone()),
            },
            "trouble": trouble::list(server),
            "relay": server.relays.json(),
            "directory": server.directory.lock().json(),
            "services": services.collect::<Vec<_>>(),
            "sessions": self.sessions(),
            "ended": ended.collect::<Vec<_>>(),
            "refused": refused.collect::<serde_json::Map<_, _>>(),
            "counters": counters.into_iter().collect::<serde_json::Map<_, _>>(),
        })
    }

    fn metrics(&self) -> String {
        let mut metrics = Metrics::new();
        let sessions = self.0.registry.len();
        metrics.gauge("stp_server_sessions", "Sessions served now.", sessions as f64);
        let running = self.0.registry.running();
        let count = |class: Class| {
            running.iter().filter(|(_, entry)| entry.status.snapshot().class == class).count()
        };
        let classes = Class::ALL.map(|class| (class.word(), count(class) as f64));
        let help = "Sessions served now, by the class that they were granted.";
        metrics.gauges("stp_server_class_sessions", help, "class", classes);
        let (held, most) = self.0.purse.look(Budget::held);
        let help = "Bytes that sessions hold and have promised to take, beyond their own 128 KiB.";
        metrics.gauge("stp_server_memory_bytes", help, held as f64);
        metrics.gauge("stp_server_memory_max_bytes", "The most that they may.", most as f64);
        let help = "Bytes taken of services while their sessions are away.";
        let (spooled, _) = self.0.config.limits.spools.used();
        metrics.gauge("stp_server_spool_bytes", help, spooled as f64);
        let expires = self.0.config.services.iter().filter_map(|of| tls(of)?.expires()).min();
        if let Some(expires) = expires {
            let help = "When the first certificate of a service expires, seconds since 1970.";
            metrics.gauge("stp_server_certificate_expires", help, expires as f64);
        }
        for (name, help, value) in self.counters() {
            metrics.counter(&format!("stp_server_{name}_total"), help, value);
        }
        let refused = self.refused();
        metrics.counters(
            "stp_server_refused_total",
            "Refused, by reason.",
            "reason",
            refused.iter().map(|(reason, count)| (reason.as_str(), *count)),
        );
        metrics.finish()
    }

    fn page(&self) -> String {
        let server = &self.0;
        let services = server.config.services.iter().map(|service| {
            let to = service.target.to_string();
            let warning = tls(service).and_then(|all| all.warning(SystemTime::now()));
            let warning = warning.unwrap_or_default();
            vec![service.name.clone(), service.kind.as_str().to_owned(), to, warning]
        });
        let sessions = server.registry.running().into_iter().map(|(_, entry)| {
            let now = entry.status.snapshot();
            vec![
                entry.own.to_string(),
                entry.service.clone(),
                state_name(now.state).to_owned(),
                now.link.unwrap_or_else(|| "none".to_owned()),
                now.rtt_ms.map(|rtt| format!("{rtt:.1} ms")).unwrap_or_default(),
                now.positions.end.to_string(),
                now.unacknowledged.to_string(),
                now.transferable.map_or_else(|why| why.to_string(), |()| "yes".to_owned()),
            ]
        });
        let ended = server.registry.ended().into_iter().rev().map(|ended| {
            let ago = format!("{} s ago", ended.at.elapsed().as_secs());
            vec![ended.own.to_string(), ended.service, ago, ended.reason]
        });
        let refused = self.refused().into_iter().map(|(why, count)| vec![why, count.to_string()]);
        let head = ["id", "service", "state", "link", "rtt", "sent", "unacknowledged", "movable"];
        page(&format!("STP server {}", server.config.name))
            .trouble(&trouble::list(server))
            .heading("Services")
            .table(&["name", "kind", "to", "warning"], &services.collect::<Vec<_>>())
            .heading("Sessions")
            .table(&head, &sessions.collect::<Vec<_>>())
            .heading("Ended")
            .table(&["id", "service", "when", "why"], &ended.collect::<Vec<_>>())
            .heading("Refused")
            .table(&["why", "times"], &refused.collect::<Vec<_>>())
            .finish()
    }

    fn feed(&self) -> Option<&Feed> {
        Some(&self.0.feed)
    }

    fn act(self: Arc<Self>, path: String, body: Value) -> Acting {
        Box::pin(async move {
            if path == "drain" {
                self.0.want_drain();
                return Ok(json!({ "draining": self.0.registry.len() }));
            }
            let mut parts = path.split('/');
            let (Some("sessions"), Some(id), Some(action), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(ActError::not_found(KNOWN));
            };
            self.change(id, action, &body).await
        })
    }
}
