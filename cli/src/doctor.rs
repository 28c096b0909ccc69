//! `session doctor`: will this program be covered, and will its connections be sessions?

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use stp_lookup::here;

use crate::args::Doctor;
use crate::elf::{self, Coverage, Obstacle};
use crate::host::{self, Host, Way};
use crate::linker::{self, Loaded};
use crate::places;
use crate::print::print;
use crate::probe::{self, Tried};
use crate::wrapper::{self, Started};

/// The exit code when the program is covered, but a host among its arguments is not routed.
const NOT_ROUTED: u8 = 3;
/// The exit code when it would be covered and routed, but no server of a service answers, or the
/// gateway does not.
const NOT_THERE: u8 = 4;

/// The port of FTP servers.
const FTP: u16 = 21;
/// The port of HTTPS servers.
const HTTPS: u16 = 443;

/// Everything that was found out.
struct Report {
    /// The program that was named, behind `env` if that was in front.
    program: PathBuf,
    /// The file that is run, if that is not the program itself.
    runs: PathBuf,
    obstacle: Option<Obstacle>,
    /// Observations, each with advice.
    notes: Vec<(String, String)>,
    shim: Result<PathBuf, String>,
    broker: Option<Value>,
    hosts: Vec<(Host, Option<Way>)>,
    /// The servers and the gateway that were contacted.
    tried: Vec<Tried>,
}

/// Says what was found; see [`Doctor`] for the exit code.
///
/// # Errors
/// When the program is not there.
pub fn doctor(args: &Doctor) -> anyhow::Result<ExitCode> {
    let report = examine(args)?;
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.text() };
    print(&text)?;
    let unrouted = report.hosts.iter().any(|(_, way)| *way == Some(Way::Direct));
    Ok(match &report.obstacle {
        Some(_) => ExitCode::FAILURE,
        None if unrouted => ExitCode::from(NOT_ROUTED),
        None if !report.all_there() => ExitCode::from(NOT_THERE),
        None => ExitCode::SUCCESS,
    })
}

fn examine(args: &Doctor) -> anyhow::Result<Report> {
    let words = args.command.as_slice();
    let (at, away) = match wrapper::follow(words) {
        Started::Here(at) => (at, None),
        Started::Away(why, advice) => (0, Some(Obstacle::Elsewhere(why, advice))),
    };
    let name = words[at].to_string_lossy();
    let program =
        places::in_path(&words[at]).with_context(|| format!("{name}: no such program"))?;
    let finding =
        elf::look(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let shim = places::shim().map_err(|error| format!("{error:#}"));
    let sandbox = wrapper::in_sandbox(&program);
    let away = away.or(sandbox.map(|(why, advice)| Obstacle::Elsewhere(why, advice)));
    let obstacle = match (away, finding.coverage) {
        (Some(away), _) => Some(away),
        (None, Coverage::Not(obstacle)) => Some(obstacle),
        (None, Coverage::Covered) => match (&finding.linker, &shim) {
            (Some(linker), Ok(shim)) => refused(linker::ask(linker, &finding.program, shim)),
            _ => None,
        },
    };
    let map = here::session_dir().ok().and_then(|dir| host::route_map(&dir));
    let called = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_routed = |name: &str| map.as_deref().is_some_and(|map| host::is_named(map, name));
    let words = words[at + 1..].iter().filter_map(|word| word.to_str());
    let hosts = words.filter_map(|word| host::read(&called, word, &is_routed));
    let way = |host: Host| {
        let way = map.as_deref().map(|map| host::way(map, &host));
        (host, way)
    };
    let mut report = Report {
        notes: Vec::new(),
        runs: finding.program,
        hosts: hosts.map(way).collect(),
        broker: crate::broker::status().ok(),
        program,
        obstacle,
        shim,
        tried: Vec::new(),
    };
    if !args.offline {
        let services: Vec<String> =
            report.hosts.iter().filter_map(|(host, _)| report.service_of(host)).collect();
        // Without a host among the arguments, all of them may be meant.
        let wanted = |name: &str| services.is_empty() || services.iter().any(|one| one == name);
        report.tried = probe::try_all(report.broker.as_ref(), &wanted);
    }
    report.take_notes();
    Ok(report)
}

fn refused(loaded: Loaded) -> Option<Obstacle> {
    match loaded {
        Loaded::Missing(libraries) => Some(Obstacle::Missing(libraries)),
        Loaded::WithoutShim(why) => Some(Obstacle::ShimRefused(why)),
        Loaded::Both | Loaded::Unknown => None,
    }
}

impl Report {
    /// Whether every service that was tried has a server that answers, and the gateway does.
    fn all_there(&self) -> bool {
        let answers = |one: &Tried| one.trouble.is_none();
        self.tried.iter().all(|one| {
            let service = one.service.as_ref();
            let same = |other: &&Tried| service.is_some() && other.service.as_ref() == service;
            answers(one) || self.tried.iter().filter(same).any(answers)
        })
    }

    fn take_notes(&mut self) {
        let mut note = |what: String, advice: &str| self.notes.push((what, advice.to_owned()));
        let unread = self.broker.as_ref().and_then(|all| all["broker"]["config_unread"].as_str());
        if let Some((what, _)) = unread.and_then(|unread| unread.split_once("; ")) {
            note(what.to_owned(), "session reload");
        }
        if self.program != self.runs
            && let Some(word) = scrubbing(&self.program)
        {
            note(
                format!("{} has \"{word}\" in it", self.program.display()),
                "see whether it takes LD_PRELOAD away from what it starts; if so, put `session \
                 run --` in front of that instead",
            );
        }
        let preloaded = std::env::var("LD_PRELOAD").unwrap_or_default();
        let others = preloaded.split([' ', ':']).filter(|path| !path.ends_with("libsession.so"));
        for other in others.filter(|path| !path.is_empty()) {
            note(
                format!("{other} is preloaded as well"),
                "the shim is loaded in front of it; what it does to connect() is done behind",
            );
        }
        if let Some(profile) = apparmor(&self.runs) {
            note(
                format!("an AppArmor profile confines it: {}", profile.display()),
                "allow it the broker's socket and routes there, or put the profile into complain \
                 mode (aa-complain)",
            );
        }
        let called = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((what, advice)) = wrapper::peculiar(&called) {
            note(what.to_owned(), advice);
        }
        if self.program != self.runs {
            for (started, why, advice) in started_by(&self.program) {
                note(format!("it starts {}: {why}", started.display()), advice);
            }
        }
        if self.broker.is_none() {
            note("no broker runs here".into(), "`session run` starts one");
        }
        for (host, way) in &self.hosts {
            if let Some((what, advice)) = note_of(host, way.as_ref()) {
                note(what, advice);
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            let _a_string_takes_all = writeln!(text, "{arguments}");
        };
        let (program, runs) = (self.program.display(), self.runs.display());
        if self.program != self.runs {
            line(format_args!("{program} is a script, run by {runs}"));
        }
        match &self.obstacle {
            None => line(format_args!("{runs}: will be covered")),
            Some(obstacle) => {
                line(format_args!("{runs}: cannot be covered"));
                line(format_args!("  why:    {}", obstacle.why()));
                line(format_args!("  advice: {}", obstacle.advice()));
            }
        }
        for (host, way) in &self.hosts {
            let port = host.port.map(|port| format!(" port {port}")).unwrap_or_default();
            let way = match way {
                None => "unknown, as there is no route map".into(),
                Some(Way::Direct) => "directly".into(),
                Some(Way::Routed) => match self.service_of(host) {
                    Some(service) => format!("by a session to {service}"),
                    None => "by a session".into(),
                },
                Some(Way::RoutedAddress(ip)) => format!("by a session: its address {ip} is routed"),
            };
            line(format_args!("host:   {}{port}: {way}", host.name));
        }
        for one in &self.tried {
            match &one.trouble {
                None => line(format_args!("tried:  {}: answers", one.what)),
                Some((why, advice)) => {
                    line(format_args!("tried:  {}: {why}", one.what));
                    line(format_args!("  advice: {advice}"));
                }
            }
        }
        for (what, advice) in &self.notes {
            line(format_args!("note:   {what}"));
            line(format_args!("  advice: {advice}"));
        }
        match &self.shim {
            Ok(path) => line(format_args!("shim:   {}", path.display())),
            Err(error) => line(format_args!("shim:   missing: {error}")),
        }
        if let Some(broker) = &self.broker {
            line(format_args!("broker: runs, process {}", broker["broker"]["pid"]));
        }
        text
    }

    /// The service that the broker's route for a name leads to.
    fn service_of(&self, host: &Host) -> Option<String> {
        let routes = self.broker.as_ref().and_then(|broker| broker["routes"].as_array());
        let found = routes.into_iter().flatten().find(|route| {
            let to = route["to"].as_str().unwrap_or_default();
            let pattern = to.rsplit_once(':').map_or(to, |(pattern, _)| pattern);
            stp_proto::local::routes::fits(pattern.as_bytes(), host.name.as_bytes())
        });
        found.and_then(|route| route["service"].as_str()).map(str::to_owned)
    }

    fn json(&self) -> Value {
        let way = |way: &Option<Way>| match way {
            None => Value::Null,
            Some(way) => json!(*way != Way::Direct),
        };
        let obstacle = self.obstacle.as_ref().map(|obstacle| {
            json!({ "kind": obstacle.kind(), "why": obstacle.why(), "advice": obstacle.advice() })
        });
        let hosts: Vec<Value> = (self.hosts.iter())
            .map(|(host, found)| {
                json!({ "host": host.name, "port": host.port, "routed": way(found) })
            })
            .collect();
        let notes: Vec<Value> = (self.notes.iter())
            .map(|(what, advice)| json!({ "what": what, "advice": advice }))
            .collect();
        let tried: Vec<Value> = (self.tried.iter())
            .map(|one| {
                let (why, advice) = one.trouble.clone().unzip();
                json!({ "what": one.what, "answers": why.is_none(), "why": why, "advice": advice })
            })
            .collect();
        json!({
            "program": self.program.display().to_string(),
            "runs": self.runs.display().to_string(),
            "covered": self.obstacle.is_none(),
            "obstacle": obstacle,
            "hosts": hosts,
            "notes": notes,
            "tried": tried,
            "shim": self.shim.as_ref().ok().map(|path| path.display().to_string()),
            "broker": self.broker.as_ref().map(|broker| broker["broker"]["pid"].clone()),
        })
    }
}

/// What is to be said of a host among the arguments, and what to do.
fn note_of(host: &Host, way: Option<&Way>) -> Option<(String, &'static str)> {
    let name = &host.name;
    let local =
        name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    Some(match way {
        None => (
            format!("it cannot be said whether {name} is routed"),
            "start the broker: session run -- true",
        ),
        Some(Way::Direct) if host.port == Some(HTTPS) => (
            format!("no route leads to {name}: it is reached directly"),
            "plain HTTP needs no route; HTTPS needs a [[route]] in broker.toml, to a service of \
             kind \"https\" with the site's certificate: see docs/https.md",
        ),
        Some(Way::Direct) => (
            format!("no route leads to {name}: it is reached directly"),
            "add a [[route]] to broker.toml",
        ),
        Some(_) if host.port == Some(FTP) && !local => (
            format!("{name} is spoken to by FTP, over several connections"),
            "data connections, passive and active, become sessions if the service is of kind \
             \"ftp\" at its servers, or \"direct\" here; after AUTH TLS only with passive_ports \
             there: see docs/ftp.md",
        ),
        Some(_) if host.port == Some(HTTPS) && !local => (
            format!("{name} is spoken to by HTTPS"),
            "such a connection survives its path; it survives its server where the service is of \
             kind \"https\", and speaks HTTP/1.1 then: see docs/https.md",
        ),
        Some(_) if local => (
            format!("{name} is this machine, and routed"),
            "make the route narrower if that is not meant",
        ),
        Some(_) => return None,
    })
}

/// A script that is longer than this many bytes is not read.
const SCRIPT_BYTES_MAX: u64 = 1 << 20;
/// Programs that a script starts and that are looked at.
const STARTED_MAX: usize = 8;

/// A script that contains this word may remove the shim from the environment of the programs that
/// it starts.
fn scrubbing(script: &Path) -> Option<&'static str> {
    const WORDS: [&str; 5] = ["LD_PRELOAD", "env -i", "sudo ", "flatpak run", "snap run"];
    let size = std::fs::metadata(script).ok()?.len();
    let text = if size <= SCRIPT_BYTES_MAX { std::fs::read(script).ok()? } else { return None };
    let text = String::from_utf8_lossy(&text).into_owned();
    WORDS.into_iter().find(|word| text.contains(word))
}

/// The programs that a script names by their paths and that the shim does not reach, each with the
/// reason and with advice.
fn started_by(script: &Path) -> Vec<(PathBuf, String, &'static str)> {
    let size = std::fs::metadata(script).map_or(u64::MAX, |meta| meta.len());
    let text = if size <= SCRIPT_BYTES_MAX { std::fs::read(script) } else { return Vec::new() };
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let words = text.split(|c: char| c.is_whitespace() || "\"'=;()`$".contains(c));
    let paths = words.filter(|word| word.starts_with("/usr/") || word.starts_with("/opt/"));
    let mut found: Vec<(PathBuf, String, &'static str)> = Vec::new();
    for path in paths.map(PathBuf::from).filter(|path| path.is_file()) {
        if found.len() >= STARTED_MAX || found.iter().any(|(known, ..)| *known == path) {
            continue;
        }
        if let Ok(finding) = elf::look(&path)
            && let Coverage::Not(obstacle) = finding.coverage
            && obstacle != Obstacle::NotAProgram
        {
            found.push((path, obstacle.why(), obstacle.advice()));
        }
    }
    found
}

/// The AppArmor profile for a program, by the custom of naming its file after the program's path.
fn apparmor(program: &Path) -> Option<PathBuf> {
    let real = program.canonicalize().ok()?;
    let name = real.to_str()?.strip_prefix('/')?.replace('/', ".");
    let dir = Path::new("/etc/apparmor.d");
    let (profile, disabled) = (dir.join(&name), dir.join("disable").join(&name));
    (profile.is_file() && !disabled.exists()).then_some(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_https_is_said_where_it_matters() {
        let said = |name: &str, port, way: Option<Way>| {
            let host = Host { name: name.to_owned(), port: Some(port) };
            note_of(&host, way.as_ref()).map(|(what, advice)| format!("{what}: {advice}"))
        };
        let routed = said("mirror.test", HTTPS, Some(Way::Routed)).unwrap();
        assert!(routed.contains("spoken to by HTTPS") && routed.contains("kind \"https\""));
        let direct = said("mirror.test", HTTPS, Some(Way::Direct)).unwrap();
        assert!(direct.contains("no route leads to mirror.test") && direct.contains("HTTPS needs"));
        assert!(!said("mirror.test", 80, Some(Way::Direct)).unwrap().contains("HTTPS"));
        assert_eq!(said("mirror.test", 80, Some(Way::Routed)), None);
        let local = said("localhost", HTTPS, Some(Way::Routed)).unwrap();
        assert!(local.contains("is this machine"));
    }
}
