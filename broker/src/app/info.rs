//! Who is at the other end of a socket.

use std::fs;

/// The program at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppInfo {
    /// Its process id at the time of its connect.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// The kernel's short name for it; empty when it had ended already.
    pub comm: String,
    /// It runs in another network namespace than the broker.
    pub is_elsewhere: bool,
}

/// The kernel's short name of a process; empty when it has ended.
pub(super) fn comm(pid: i32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_end().chars().filter(|c| !c.is_control()).collect()
}
