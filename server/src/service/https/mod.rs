//! The `https` service: HTTP whose exchanges can be continued, in TLS that can be continued.
//!
//! The app's TLS ends here. What is inside goes through [`Http`](super::http::Http) as it does
//! without TLS; what comes of it goes into records, which any server of the cluster makes alike
//! ([`stp_tls`]).

mod near;
mod side;
mod takeover;

pub use near::Https;
pub use takeover::Takeover;
