//! What a configuration says of proxies.

use std::str::FromStr;

use stp_net::link::{Detour, Proxy};

/// Whether links go through a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyWish {
    /// Through that of the environment (`https_proxy`, `all_proxy`), where the straight way does
    /// not lead to a server.
    #[default]
    Environment,
    /// Never.
    Never,
    /// Always through this one.
    Always(Proxy),
}

impl ProxyWish {
    /// What links are to be told.
    #[must_use]
    pub fn detour(&self) -> Option<Detour> {
        match self {
            Self::Environment => Detour::of_environment(),
            Self::Never => None,
            Self::Always(proxy) => Some(Detour { proxy: proxy.clone(), always: true }),
        }
    }
}

impl FromStr for ProxyWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Never),
            text => text.parse().map(Self::Always).map_err(|why| format!("{why}, or \"none\"")),
        }
    }
}
