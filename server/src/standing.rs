//! How this server stands with its directory.

use std::time::Instant;

use serde_json::{Value, json};
use stp_proto::profile::Profile;

/// What is known of the directory, for the status.
#[derive(Debug, Default)]
pub struct Standing {
    pub(crate) configured: bool,
    pub(crate) at: Option<String>,
    pub(crate) announced: Option<Instant>,
    pub(crate) files: usize,
    pub(crate) trouble: Option<String>,
    /// By how many milliseconds its clock is ahead of ours, and what it is.
    pub(crate) heard: Option<(i64, Profile)>,
}

impl Standing {
    pub(crate) fn fail(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "not announced to the directory");
        }
        self.trouble = Some(why);
    }

    /// For the status.
    #[must_use]
    pub fn json(&self) -> Value {
        if !self.configured {
            return Value::Null;
        }
        json!({
            "at": self.at,
            "announced_ago_s": self.announced.map(|at| at.elapsed().as_secs()),
            "files": self.files,
            "trouble": self.trouble,
        })
    }
}
