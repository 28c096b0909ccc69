//! Real programs over emulated paths: first without Session, then with it.
//!
//! Every test makes its own namespaces and may run beside all others.

mod baseline;
mod choice;
mod congestion;
mod crowd;
mod direct;
mod download;
mod egress;
mod endpoints;
mod hostile;
mod keepers;
mod kept;
mod names;
mod portal;
mod relay;
mod serve;
mod suspends;
mod tls;
mod usecases;
mod via;
mod ways;
mod world;
