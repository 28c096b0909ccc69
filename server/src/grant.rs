//! The gateway's ticket at a server (STP 4): opened with the cluster's key, compared with the
//! session that is asked for, used by one session only if it is for one file.
//!
//! Every refusal says which check failed, in the log and to the broker. The order is that of the
//! table of attacks: seal and client, times, cluster, service, address, path, replay.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_net::seal;
use stp_proto::handle::Handle;
use stp_proto::lookup::{Grant, GrantError, Revoked};
use stp_proto::scope::Scope;
use stp_proto::ticket::{Granted, LEEWAY_S};
use stp_proto::wire::DenyReason;

use crate::denial::Denial;
use crate::ticket::{Cluster, unix_now};

/// Tickets for one file that are remembered; the soonest to expire go first.
const USED_MAX: usize = 100_000;

/// Which tickets for one file were used, by which session.
#[derive(Debug, Default)]
pub struct Used {
    sessions: Mutex<HashMap<String, (PublicKey, Handle, u64)>>,
}

/// The client that asks for a session, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The key its link has proved.
    pub client: PublicKey,
    /// Where the link comes from.
    pub address: IpAddr,
    /// The service it wants.
    pub service: &'a str,
    /// The handle of the session.
    pub handle: Handle,
}

impl Used {
    /// Opens and checks a ticket. The claims say which path the session may ask for.
    pub fn admit(
        &self,
        cluster: &Cluster,
        ticket: &[u8],
        asking: &Asking<'_>,
    ) -> Result<Grant, Denial> {
        let claims = seal::open(&cluster.key(), ticket, &asking.client)
            .map_err(|error| Denial::new(DenyReason::Unauthorized, error.to_string()))?;
        let grant = Grant::decode(&claims)?;
        let now = unix_now();
        let who = (&asking.client.0, asking.address);
        grant.check(&cluster.name, asking.service, who, now)?;
        if matches!(grant.scope, Some(Scope::Path(_))) {
            self.once(&grant, asking, now)?;
        }
        Ok(grant)
    }

    /// A ticket for one file is for one session; that session may show it again.
    fn once(&self, grant: &Grant, asking: &Asking<'_>, now: u64) -> Result<(), GrantError> {
        let mut sessions = self.sessions.lock();
        if sessions.len() >= USED_MAX {
            sessions.retain(|_, (.., until)| *until >= now);
            let soonest = sessions.iter().min_by_key(|(_, (.., until))| *until);
            if sessions.len() >= USED_MAX
                && let Some(id) = soonest.map(|(id, _)| id.clone())
            {
                sessions.remove(&id);
            }
        }
        let until = grant.expires.saturating_add(LEEWAY_S);
        let by = (asking.client, asking.handle, until);
        let first = *sessions.entry(grant.id.clone()).or_insert(by);
        if (first.0, first.1) == (by.0, by.1) { Ok(()) } else { Err(GrantError::Replayed) }
    }
}

impl From<GrantError> for Denial {
    fn from(error: GrantError) -> Denial {
        let why = match error {
            GrantError::Expired(_) => DenyReason::Expired,
            GrantError::Malformed(_) | GrantError::Replayed => DenyReason::Unauthorized,
            GrantError::Future(_) | GrantError::Foreign(_) => DenyReason::Mismatch,
        };
        Denial::new(why, error.to_string())
    }
}

/// Users whose tickets of before have ended, as the directory tells: what was granted to them at
/// this second or before it is good for nothing.
#[derive(Debug, Default)]
pub struct Revocations(Mutex<HashMap<String, u64>>);

impl Revocations {
    /// The directory tells of one.
    pub fn learn(&self, revoked: &Revoked) {
        let mut all = self.0.lock();
        let until = all.entry(revoked.user.clone()).or_default();
        *until = revoked.until.max(*until);
    }

    /// Whether the directory has told of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Whether what was granted still holds.
    pub fn check(&self, granted: &Granted) -> Result<(), Denial> {
        match self.0.lock().get(&granted.user) {
            Some(until) if granted.at <= *until => {
                let text = "the password was changed, or the user taken away; log in again";
                Err(Denial::new(DenyReason::Unauthorized, text))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    //! The table of attacks.

    use std::time::Duration;

    use stp_net::cluster_key::ClusterKey;
    use stp_net::key::Identity;
    use stp_proto::lookup::GrantFor;

    use super::*;

    const SERVICE: &str = "file.mirror@example.org";

    fn cluster(name: &str, key: ClusterKey) -> Cluster {
        Cluster::fixed(name, key, Duration::from_secs(60))
    }

    struct Scene {
        cluster: Cluster,
        client: PublicKey,
        used: Used,
    }

    fn scene() -> Scene {
        let client = Identity::generate().public_key();
        Scene { cluster: cluster("example", ClusterKey::generate()), client, used: Used::default() }
    }

    /// A ticket of `key`'s gateway, made this many seconds ago (or ahead).
    fn ticket(key: &ClusterKey, client: PublicKey, ago: i64, address: Option<&str>) -> Vec<u8> {
        let what = GrantFor {
            audience: "example",
            user: "alice",
            service: SERVICE,
            scope: Some(Scope::Path("/big.iso".into())),
            byte: 0,
            client: &client.0,
            address: address.map(|text| text.parse().expect("an address")),
        };
        let id = crate::ticket::random_handle().0;
        let made = unix_now().checked_add_signed(-ago).expect("after 1970");
        let grant = Grant::new(&what, id, (made, 600));
        seal::seal(key, &grant.encode(), &client)
    }

    fn asking(client: PublicKey, handle: u8) -> Asking<'static> {
        let address = "192.0.2.1".parse().expect("an address");
        Asking { client, address, service: SERVICE, handle: Handle([handle; 16]) }
    }

    fn refused(scene: &Scene, ticket: &[u8], asking: &Asking<'_>) -> Denial {
        scene.used.admit(&scene.cluster, ticket, asking).expect_err("an attack")
    }

    #[test]
    fn a_good_ticket_admits_and_says_what_may_be_asked_for() {
        let scene = scene();
        let ticket = ticket(&scene.cluster.key(), scene.client, 0, None);
        let grant = scene.used.admit(&scene.cluster, &ticket, &asking(scene.client, 1));
        assert_eq!(grant.expect("admitted").scope, Some(Scope::Path("/big.iso".into())));
    }

    #[test]
    fn attack_stolen() {
        let scene = scene();
        let ticket = ticket(&scene.cluster.key(), scene.client, 0, None);
        let thief = Identity::generate().public_key();
        let denial = refused(&scene, &ticket, &asking(thief, 1));
        assert_eq!(denial.why, DenyReason::Unauthorized);
        assert!(denial.text.contains("another client"), "{denial}");
    }

    #[test]
    fn attack_replayed() {
        let scene = scene();
        let ticket = ticket(&scene.cluster.key(), scene.client, 0, None);
        let admit =
            |handle| scene.used.admit(&scene.cluster, &ticket, &asking(scene.client, handle));
        admit(1).expect("the first session");
        admit(1).expect("its CONNECT again: the answer was lost");
        let denial = admit(2).expect_err("another session");
        assert!(denial.text.contains("used before"), "{denial}");
    }

    #[test]
    fn attack_expired() {
        let scene = scene();
        let key = scene.cluster.key();
        let denial =
            refused(&scene, &ticket(&key, scene.client, 725, None), &asking(scene.client, 1));
        assert_eq!(denial.why, DenyReason::Expired);
        assert!(denial.text.contains("expired 12"), "{denial}");
        let late = ticket(&key, scene.client, 715, None);
        scene.used.admit(&scene.cluster, &late, &asking(scene.client, 1)).expect("within leeway");
    }

    #[test]
    fn attack_future() {
        let scene = scene();
        let ticket = ticket(&scene.cluster.key(), scene.client, -300, None);
        let denial = refused(&scene, &ticket, &asking(scene.client, 1));
        assert!(denial.text.contains("in the future"), "{denial}");
    }

    #[test]
    fn attack_other_cluster() {
        let scene = scene();
        // Another cluster's key.
        let ticket_of = |key: &ClusterKey| ticket(key, scene.client, 0, None);
        let denial = refused(&scene, &ticket_of(&ClusterKey::generate()), &asking(scene.client, 1));
        assert!(denial.text.contains("which this cluster does not know"), "{denial}");
        // The same key by mistake, another name.
        let other = cluster("other", (*scene.cluster.key()).clone());
        let ours = ticket_of(&other.key());
        let denial = scene.used.admit(&other, &ours, &asking(scene.client, 1));
        assert!(denial.expect_err("another name").text.contains("another cluster"));
    }

    #[test]
    fn attack_other_service_and_other_address() {
        let scene = scene();
        let key = scene.cluster.key();
        let elsewhere = Asking { service: "ssh.home@example.org", ..asking(scene.client, 1) };
        let denial = refused(&scene, &ticket(&key, scene.client, 0, None), &elsewhere);
        assert!(denial.text.contains("another service"), "{denial}");
        let bound = ticket(&key, scene.client, 0, Some("192.0.2.99"));
        let denial = refused(&scene, &bound, &asking(scene.client, 1));
        assert!(denial.text.contains("another address"), "{denial}");
        let bound = ticket(&key, scene.client, 0, Some("192.0.2.1"));
        scene.used.admit(&scene.cluster, &bound, &asking(scene.client, 1)).expect("from there");
    }

    #[test]
    fn attack_tampered() {
        let scene = scene();
        let good = ticket(&scene.cluster.key(), scene.client, 0, None);
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let denial = refused(&scene, &altered, &asking(scene.client, 1));
            assert_eq!(denial.why, DenyReason::Unauthorized, "byte {at}: {denial}");
        }
    }

    #[test]
    fn attack_old_key() {
        let scene = scene();
        let old = ticket(&scene.cluster.key(), scene.client, 0, None);
        let new = ClusterKey::generate();
        let overlapping = cluster("example", new.clone().with_older(&scene.cluster.key()));
        scene.used.admit(&overlapping, &old, &asking(scene.client, 1)).expect("while both open");
        let denial = scene.used.admit(&cluster("example", new), &old, &asking(scene.client, 1));
        assert!(denial.expect_err("retired").text.contains("does not know"));
    }

    #[test]
    fn attack_after_a_change_of_the_password() {
        let revocations = Revocations::default();
        let granted = |at| Granted { user: "alice".into(), at, scope: None };
        revocations.check(&granted(100)).expect("nothing was told");
        let revoked = |until| Revoked { user: "alice".into(), until };
        revocations.learn(&revoked(100));
        // What is told late does not give anything back.
        revocations.learn(&revoked(50));
        assert!(revocations.check(&granted(100)).is_err());
        revocations.check(&granted(101)).expect("granted after the change");
        revocations.check(&Granted { user: "bob".into(), ..granted(1) }).expect("somebody else");
    }
}
