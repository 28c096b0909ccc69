//! What a service of kind `egress` says: who may go where, and how much of it.

use std::collections::BTreeSet;

use serde::Deserialize;
use stp_net::key::PublicKey;
use stp_proto::egress::{Rules, Share};
use stp_proto::pattern::Pattern;

use super::Kind;
use crate::service::egress::Egress;

/// Ports at which HTTP is spoken, unless they are named.
const HTTP: [u16; 3] = [80, 8_000, 8_080];

/// The keys of the table that only an egress has.
#[derive(Debug, Default)]
pub(super) struct FileEgress<'a> {
    pub clients: Option<&'a [String]>,
    pub owner: Option<&'a [String]>,
    pub allow: Option<&'a [String]>,
    pub deny: Option<&'a [String]>,
    pub http: Option<&'a [u16]>,
    pub sessions_per_client: Option<usize>,
    pub new_per_second: Option<f64>,
}

/// One text or a list of texts.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(super) fn all(&self) -> &[String] {
        match self {
            Texts::One(one) => std::slice::from_ref(one),
            Texts::Many(many) => many,
        }
    }
}

impl FileEgress<'_> {
    /// The first key that is there.
    fn some(&self) -> Option<&'static str> {
        let keys = [
            ("clients", self.clients.is_some()),
            ("owner", self.owner.is_some()),
            ("allow", self.allow.is_some()),
            ("deny", self.deny.is_some()),
            ("http", self.http.is_some()),
            ("sessions_per_client", self.sessions_per_client.is_some()),
            ("new_per_second", self.new_per_second.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key))
    }

    /// The egress, if the service is one; which key is wrong, and why.
    pub(super) fn check(&self, kind: Kind) -> Result<Option<Egress>, (&'static str, String)> {
        if kind != Kind::Egress {
            let only = |key| (key, "only a service of kind egress has it".to_owned());
            return self.some().map_or(Ok(None), |key| Err(only(key)));
        }
        let clients = keys("clients", self.clients)?;
        let owners = keys("owner", self.owner)?;
        if clients.is_empty() && owners.is_empty() {
            let what = "is missing: an egress leads anywhere, so it is for those alone whose keys \
                        are listed (\"session via add\" writes them)";
            return Err(("clients", what.to_owned()));
        }
        let usual = Rules::default();
        let allow = self.allow.map_or(Ok(usual.allow), |texts| patterns("allow", texts))?;
        let deny = self.deny.map_or(Ok(usual.deny), |texts| patterns("deny", texts))?;
        let usual = Share::default();
        let share = Share {
            sessions: self.sessions_per_client.unwrap_or(usual.sessions),
            rate: self.new_per_second.unwrap_or(usual.rate),
        };
        if share.sessions == 0 {
            return Err(("sessions_per_client", "1 is least".to_owned()));
        }
        if !(0.1..=1e6).contains(&share.rate) {
            return Err(("new_per_second", "0.1 to 1000000 are possible".to_owned()));
        }
        let http = self.http.unwrap_or(&HTTP).iter().copied().collect();
        Ok(Some(Egress::new((clients, owners), Rules { allow, deny }, http, share)))
    }
}

fn keys(
    name: &'static str,
    texts: Option<&[String]>,
) -> Result<BTreeSet<PublicKey>, (&'static str, String)> {
    let read = |text: &String| text.parse().map_err(|error| (name, format!("{text:?}: {error}")));
    texts.unwrap_or_default().iter().map(read).collect()
}

fn patterns(name: &'static str, texts: &[String]) -> Result<Vec<Pattern>, (&'static str, String)> {
    texts.iter().map(|text| text.parse().map_err(|what| (name, what))).collect()
}
