//! The relay of the shim tests as a program: `shim-relay DIRECTORY`.

#[path = "../relay.rs"]
mod relay;

use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.ok_or_else(|| anyhow::anyhow!("usage: shim-relay DIRECTORY"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(relay::serve(&dir, relay::Rules::loopback()))?)
}
