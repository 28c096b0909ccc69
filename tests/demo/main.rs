//! `scripts/demo`: unmodified curl and wget, and `session get`, download by name while links are
//! cut, the client's address changes and servers are killed; and one is carried to another machine
//! on a stick. The client is told a gateway and a user, nothing else. A timeline for a person.
#![allow(clippy::print_stdout, reason = "the timeline is what this program is for")]

mod acts;
mod download;

use std::process::ExitCode;

use anyhow::Result;
use stp_tests::cluster::{Cluster, Layout, Member};
use stp_tests::emulator::Shape;
use stp_tests::scene::{self, Scene};

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("the demo makes network namespaces: run it as root (scripts/demo uses sudo)");
        return ExitCode::FAILURE;
    }
    match std::panic::catch_unwind(|| scene::play("demo", show)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn show(scene: &Scene) -> Result<()> {
    let layout = Layout {
        members: vec![Member::full("a"), Member::full("b")],
        megabytes: 300,
        access: Shape::of(200, 20),
        gateway: "",
        broker: "",
    };
    println!(
        "\nTwo STP servers, a and b, each with its own nginx and the same {} MB file, and a \
            gateway\n\
         that knows them. A client whose access link has 200 Mbit/s and 40 ms, and who is told:\n",
        layout.megabytes
    );
    let mut cluster = Cluster::lay(scene, &layout)?;
    for line in std::fs::read_to_string(cluster.user.path(".config/session/broker.toml"))?.lines() {
        println!("    {line}");
    }
    let (account, key) = (cluster.account(), cluster.sns.key.clone());
    println!("\n$ session login {account} --key {key} --password-stdin");
    println!("{}", cluster.log_in(scene)?);
    acts::curl(scene, &mut cluster)?;
    acts::wget(scene, &mut cluster)?;
    acts::get(scene, &mut cluster)?;
    acts::stick(scene, &mut cluster)?;
    println!("All four have the right SHA-256; three never noticed, the last one was carried.\n");
    Ok(())
}
