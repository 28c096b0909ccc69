//! What stands behind a service.

use serde::Deserialize;

/// The kinds of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A document root of this server.
    File,
    /// A real HTTP server.
    Http,
    /// The same, or a document root, for apps that speak TLS.
    Https,
    /// Any protocol.
    Tcp,
    /// A real FTP server.
    Ftp,
    /// Whatever destination the app names.
    Egress,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Ftp => "ftp",
            Self::Egress => "egress",
        }
    }
}
