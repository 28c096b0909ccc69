//! The targets: one function per decoder that takes an input. They are the same for the seeded
//! mutator in CI (`tests/fuzz`) and for cargo-fuzz (`fuzz/`).
//!
//! Each function treats its input twice: as bytes from a stranger, which must be refused or
//! understood, without panic and within a bound of memory; and as the choices from which a good
//! value is made, which must survive being written and read.

mod draw;
mod echo;
mod frozen;
mod ftp;
mod http;
mod hyper_says;
mod local;
mod lookup;
mod name;
mod plan;
mod rise;
mod routes;
mod seal;
mod session;
mod store;
mod ticket;
mod tls;
mod wire;

use draw::Draw;

/// A decoder under test.
pub struct Target {
    /// Its name, which is also that of its corpus and of its binary in `fuzz/`.
    pub name: &'static str,
    /// What to do with one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const ALL: [Target; 16] = [
    Target { name: "wire", run: wire::run },
    Target { name: "session", run: session::run },
    Target { name: "ticket", run: ticket::run },
    Target { name: "seal", run: seal::run },
    Target { name: "plan", run: plan::run },
    Target { name: "http", run: http::run },
    Target { name: "ftp", run: ftp::run },
    Target { name: "local", run: local::run },
    Target { name: "routes", run: routes::run },
    Target { name: "name", run: name::run },
    Target { name: "lookup", run: lookup::run },
    Target { name: "store", run: store::run },
    Target { name: "echo", run: echo::run },
    Target { name: "rise", run: rise::run },
    Target { name: "tls", run: tls::run },
    Target { name: "frozen", run: frozen::run },
];

/// Runs one of them, by its name.
pub fn run(name: &str, data: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name).expect("a target of the list");
    (target.run)(data);
}

/// Does `work`, and fails if that holds more than `limit` bytes of memory at any moment.
fn bounded<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let memory = allocation_counter::measure(|| result = Some(work()));
    let most = memory.bytes_max;
    assert!(most <= limit as u64, "{most} bytes of memory were held, the bound is {limit}");
    result.expect("the work was done")
}
