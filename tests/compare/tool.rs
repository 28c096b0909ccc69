//! The programs that are compared, each as its user would call it.

use std::path::Path;

use anyhow::Result;
use stp_tests::process::Plan;

use crate::world::World;

/// One row of the tables.
#[derive(Clone, Copy)]
pub struct Tool {
    /// Its name in the tables.
    pub name: &'static str,
    program: &'static str,
    options: &'static [&'static str],
    /// Which option the file's path follows.
    output: Output,
    /// The sources that it is given.
    source: Source,
    /// By HTTPS.
    tls: bool,
}

#[derive(Clone, Copy)]
enum Output {
    Option(&'static str),
    /// aria2 takes a directory and a name.
    Split,
    /// lftp takes one command.
    Command(&'static str),
}

/// Where a program downloads from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The first server alone.
    One,
    /// Every server, as mirrors.
    All,
    /// A name that leads to a session.
    Session,
    /// A session without a far end: the broker asks the first server itself.
    Alone,
    /// The same, and the broker knows every server as a mirror.
    AloneAll,
}

/// What the broker is told for [`Source::Alone`].
const ALONE: &str = "[[service]]\nkind = \"direct\"\n\
    [[route]]\nto = \"*:80\"\nservice = \"http.direct@localhost\"\n";
/// What it is told for [`Source::AloneAll`]; hosts of the lab have addresses in their order.
const ALONE_ALL: &str = "[[service]]\nkind = \"direct\"\n\
    mirrors = [\"http://10.3.0.1\", \"http://10.4.0.1\"]\n\
    [[route]]\nto = \"*:80\"\nservice = \"http.direct@localhost\"\n";

const SILENT: &[&str] = &["-sS", "--fail"];

/// All of them, in the order of the tables.
pub const TOOLS: &[Tool] = &[
    Tool::new(Source::One, "curl", "curl", SILENT, Output::Option("-o")),
    Tool::new(
        Source::One,
        "curl --retry 20 -C -",
        "curl",
        &["-sS", "--fail", "--retry", "20", "-C", "-"],
        Output::Option("-o"),
    ),
    Tool::new(Source::One, "wget -c", "wget", &["-nv", "-c"], Output::Option("-O")),
    Tool::new(Source::One, "aria2c", "aria2c", &["-q"], Output::Split),
    Tool::new(
        Source::One,
        "aria2c --lowest-speed-limit=500K",
        "aria2c",
        &["-q", "--lowest-speed-limit=500K"],
        Output::Split,
    ),
    Tool::new(Source::All, "aria2c -s2, all mirrors", "aria2c", &["-q", "-s2"], Output::Split),
    Tool::new(
        Source::All,
        "aria2c -s2 --lowest-speed-limit=500K, all mirrors",
        "aria2c",
        &["-q", "-s2", "--lowest-speed-limit=500K"],
        Output::Split,
    ),
    Tool::new(Source::All, "axel -n2, all mirrors", "axel", &["-q", "-n2"], Output::Option("-o")),
    Tool::new(Source::One, "lftp get -c", "lftp", &[], Output::Command("get -c")),
    Tool::new(Source::One, "lftp pget -n2 -c", "lftp", &[], Output::Command("pget -n2 -c")),
    Tool::new(Source::Alone, "**curl, session, no far end**", "curl", SILENT, Output::Option("-o")),
    Tool::new(
        Source::Alone,
        "**wget, session, no far end**",
        "wget",
        &["-nv", "--tries=1"],
        Output::Option("-O"),
    ),
    Tool::new(
        Source::AloneAll,
        "**curl, session, no far end, all mirrors**",
        "curl",
        SILENT,
        Output::Option("-o"),
    ),
    SESSION,
    Tool::new(
        Source::Session,
        "**wget, session**",
        "wget",
        &["-nv", "--tries=1"],
        Output::Option("-O"),
    ),
];

/// Those of HTTPS. By address, so that a direct connection cannot check a name.
pub const TLS: &[Tool] = &[
    Tool::new(Source::One, "curl", "curl", &["-sS", "--fail", "-k"], Output::Option("-o")).by_tls(),
    Tool::new(
        Source::One,
        "curl --retry 20 -C -",
        "curl",
        &["-sS", "--fail", "-k", "--retry", "20", "-C", "-"],
        Output::Option("-o"),
    )
    .by_tls(),
    Tool::new(
        Source::One,
        "wget -c",
        "wget",
        &["-nv", "-c", "--no-check-certificate"],
        Output::Option("-O"),
    )
    .by_tls(),
    Tool::new(Source::One, "aria2c", "aria2c", &["-q", "--check-certificate=false"], Output::Split)
        .by_tls(),
    Tool::new(
        Source::All,
        "aria2c -s2, all mirrors",
        "aria2c",
        &["-q", "-s2", "--check-certificate=false"],
        Output::Split,
    )
    .by_tls(),
    Tool::new(Source::Session, "**curl, session**", "curl", SILENT, Output::Option("-o")).by_tls(),
    Tool::new(
        Source::Session,
        "**wget, session**",
        "wget",
        &["-nv", "--tries=1"],
        Output::Option("-O"),
    )
    .by_tls(),
];

/// The rows of the table of loss: the plain program and the same in a session.
pub const PLAIN: Tool = TOOLS[0];
/// See [`PLAIN`].
pub const SESSION: Tool =
    Tool::new(Source::Session, "**curl, session**", "curl", SILENT, Output::Option("-o"));

impl Tool {
    const fn new(
        source: Source,
        name: &'static str,
        program: &'static str,
        options: &'static [&'static str],
        output: Output,
    ) -> Tool {
        Tool { name, program, options, output, source, tls: false }
    }

    const fn by_tls(self) -> Tool {
        Tool { tls: true, ..self }
    }

    /// Whether it speaks HTTPS.
    pub fn tls(self) -> bool {
        self.tls
    }

    /// Whether it runs in a session.
    pub fn in_session(self) -> bool {
        matches!(self.source, Source::Session | Source::Alone | Source::AloneAll)
    }

    /// Whether its session is at one of the servers.
    pub fn has_servers(self) -> bool {
        self.source == Source::Session
    }

    /// What its broker is told besides its servers.
    pub fn broker(self) -> &'static str {
        match self.source {
            Source::One | Source::All | Source::Session => "",
            Source::Alone => ALONE,
            Source::AloneAll => ALONE_ALL,
        }
    }

    /// The command that downloads the file to `to`.
    pub fn plan(self, world: &World, to: &Path) -> Result<Plan> {
        let scheme = if self.tls { "https" } else { "http" };
        let direct =
            |place: usize| format!("{scheme}://{}/big", world.topology.hosts[place].address());
        let urls = match self.source {
            Source::One | Source::Alone | Source::AloneAll => vec![direct(1)],
            Source::All => (1..=world.servers.len()).map(direct).collect(),
            Source::Session => vec![format!("{scheme}://mirror.lab/big")],
        };
        let plan = match self.source {
            Source::Session | Source::Alone | Source::AloneAll => {
                world.trusting(world.app(self.program)?, self.program)
            }
            Source::One | Source::All => Plan::new(self.program),
        };
        let mut plan = plan.called("app").args(self.options);
        plan = match self.output {
            Output::Option(option) => plan.arg(option).arg(to),
            Output::Split => {
                let dir = to.parent().unwrap_or(Path::new("/"));
                plan.arg("-d").arg(dir).arg("-o").arg(to.file_name().unwrap_or_default())
            }
            Output::Command(command) => {
                let script = format!("{command} {} -o {}", urls.join(" "), to.display());
                // A user's own settings are no part of the comparison.
                return Ok(plan.arg("--norc").arg("-c").arg(script));
            }
        };
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        Ok(plan.args(&urls))
    }
}
