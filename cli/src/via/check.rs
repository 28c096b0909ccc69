//! `session via check`: what is wrong with a far end, in words, and what to do.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stp_net::key::Identity;
use stp_net::link::{DialError, Link, LinkOptions, ProxyWish, Tls};

use super::far::{Said, far, of, own_key, ssh_of};
use super::profile::Profile;
use crate::places;
use crate::print::print;

/// A server that takes longer is not reached by its port.
const DIAL_MAX: Duration = Duration::from_secs(3);
/// Clocks that differ by more are told of; tickets stand two minutes.
const CLOCK_MAX_S: i64 = 60;
/// A check that finds something ends with this.
const TROUBLE: u8 = 1;

/// One thing that was looked at.
struct Look {
    what: &'static str,
    /// How it is; or what is wrong and what to do.
    found: Result<String, (String, String)>,
}

fn good(what: &'static str, how: impl Into<String>) -> Look {
    Look { what, found: Ok(how.into()) }
}

fn bad(what: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Look {
    Look { what, found: Err((why.into(), advice.into())) }
}

/// Looks at everything, and prints it.
///
/// # Errors
/// When this machine cannot even ask.
pub fn check(profile: &Profile) -> anyhow::Result<ExitCode> {
    let ssh = ssh_of(profile)?;
    let seen = far(&ssh, "look", &profile.name, &own_key()?, "");
    let port = port(profile);
    let reached = port.found.is_ok();
    let mut looks = Vec::new();
    match seen {
        Ok(seen) => looks.extend(of_machine(&profile.name, &seen)),
        Err(error) => {
            let advice = match reached {
                true => {
                    "sessions go on, but it cannot be upgraded: see whether plain ssh gets there"
                }
                false => "see whether plain ssh gets there, and what it says",
            };
            looks.push(bad("ssh", format!("{error:#}"), advice));
        }
    }
    looks.push(port);
    let mut text = String::new();
    for Look { what, found } in &looks {
        text += &match found {
            Ok(how) => format!("ok       {what}: {how}\n"),
            Err((why, advice)) => format!("TROUBLE  {what}: {why}\n         {advice}\n"),
        };
    }
    print(&text)?;
    let trouble = looks.iter().any(|look| look.found.is_err());
    Ok(if trouble { ExitCode::from(TROUBLE) } else { ExitCode::SUCCESS })
}

/// Why the program has no place there, if so.
pub(super) fn no_room(seen: &Said, needed_kib: u64) -> Option<String> {
    let room: u64 = of(seen, "room_kib").parse().ok()?;
    (room < needed_kib).then(|| {
        format!("no space: {room} KiB are free in that home directory, {needed_kib} KiB are needed")
    })
}

fn of_machine(name: &str, seen: &Said) -> Vec<Look> {
    let mut looks = vec![good("ssh", "it gets there")];
    let upgrade = format!("session via upgrade {name}");
    let (kernel, machine) = (of(seen, "kernel"), of(seen, "machine"));
    looks.push(match places::server_program(machine) {
        _ if kernel != "Linux" => {
            bad("machine", format!("it runs {kernel}"), "stp-server runs on Linux only")
        }
        Ok(_) => good("machine", format!("{kernel} {machine}")),
        Err(error) => bad("machine", format!("{error:#}"), "build one for it, and name it so"),
    });
    looks.push(match no_room(seen, 1024) {
        Some(trouble) => bad("disk", trouble, "remove something there"),
        None => good("disk", format!("{} KiB free", of(seen, "room_kib"))),
    });
    looks.push(clock(seen));
    let wanted = format!("stp-server {}", env!("CARGO_PKG_VERSION"));
    looks.push(match of(seen, "version") {
        "" => bad("server", "it is not there any more", &upgrade),
        other if other != wanted => {
            bad("version", format!("{other} is there, {wanted} here"), &upgrade)
        }
        _ if of(seen, "running").is_empty() => bad("server", "it does not run there", &upgrade),
        _ if of(seen, "listed").is_empty() => {
            bad("server", "it does not know this machine's key", &upgrade)
        }
        same => good("server", format!("{same} runs there")),
    });
    looks
}

fn clock(seen: &Said) -> Look {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let Ok(there) = of(seen, "now").parse::<i64>() else {
        return bad("clock", "that machine does not say what time it is", "see what date +%s says");
    };
    let ahead = there.saturating_sub_unsigned(now);
    if ahead.abs() <= CLOCK_MAX_S {
        return good("clock", "the same");
    }
    let word = if ahead > 0 { "ahead of" } else { "behind" };
    let why = format!("the clock there is {} s {word} this machine's", ahead.abs());
    bad("clock", why, "set the one that is wrong: tickets are good for two minutes of difference")
}

/// Whether the server's port is reached without ssh.
fn port(profile: &Profile) -> Look {
    let what = "port";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return bad(what, error.to_string(), "it was not tried"),
    };
    let tls = Tls::new(&Identity::generate());
    let detour = ProxyWish::default().detour();
    let options = LinkOptions { timeout: DIAL_MAX, detour, ..LinkOptions::default() };
    let dialing = Link::dial_any(&profile.address, None, &profile.key, &tls, &options);
    match runtime.block_on(dialing) {
        Ok(_) => good(what, format!("{} answers with its key", profile.address)),
        Err(error @ DialError::WrongKey { .. }) => {
            let advice = "somebody else answers there: correct address in the profile";
            bad(what, error.to_string(), advice)
        }
        Err(error @ DialError::Misbehaved { .. }) => {
            let advice = "if this network wants a log-in, log in with a browser; else correct \
                          address in the profile";
            bad(what, error.to_string(), advice)
        }
        Err(error) => {
            let advice = "the port is closed: open it in the firewall there; until then links go \
                          through ssh itself";
            bad(what, error.to_string(), advice)
        }
    }
}
