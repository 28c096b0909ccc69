//! Real programs over sessions whose link is cut while their bytes flow. A case passes when its
//! program ends with exit code 0 and the right result, and the broker says that it resumed.
//!
//! Each case has its own machines, services and daemons, and may run beside all others. What
//! passes is printed as a row of the table in README.md here (scripts/matrix).

mod aware;
mod bed;
mod data;
mod frozen;
mod ftp;
mod language;
mod process;
mod remote;
mod waiting;
mod web;
mod wire;
