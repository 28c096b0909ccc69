//! Common mistakes, made with the real programs: the message and the exit code of each. The table
//! is
//! `docs/mistakes.md`. It is written anew with `STP_WRITE_DOCS=1`, or if it is not there.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use crate::world::{PASSWORD, Special, World, noise, until};

const HEAD: &str = "\
# The usual mistakes\n\
\n\
What is said, and the exit code, when something is not as it should be. The table is made by the\n\
test `mistakes` of `tests/names`, which makes each mistake with the real programs; ports, keys,\n\
numbers of seconds and folders are replaced by words. The codes of `session get` are those of\n\
aria2; 125 means that the command itself, and not the program it starts, has failed.\n\
\n\
| mistake | what is said | exit code |\n\
|---|---|---|\n";

const SERVERS_GONE: &str = "a file whose servers are gone";

/// A mistake that was made: what it was, how it ended, and what the message must say at least.
struct Row {
    mistake: &'static str,
    output: Output,
    code: i32,
    says: &'static [&'static str],
}

impl Row {
    fn said(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&self.output.stdout).into_owned();
        if stderr.trim().is_empty() { stdout } else { stderr }
    }
}

struct Mistakes<'a> {
    world: &'a World,
    rows: Vec<Row>,
}

impl Mistakes<'_> {
    fn add(
        &mut self,
        mistake: &'static str,
        output: Output,
        code: i32,
        says: &'static [&'static str],
    ) {
        self.rows.push(Row { mistake, output, code, says });
    }

    /// One of our programs.
    fn run(
        &mut self,
        mistake: &'static str,
        command: &[&str],
        input: &str,
        code: i32,
        says: &'static [&'static str],
    ) {
        let output = self.world.try_run(command[0], &command[1..], input);
        self.add(mistake, output, code, says);
    }

    /// `session run -- true` with a broker configuration that is wrong.
    fn config(&mut self, mistake: &'static str, text: &str, says: &'static [&'static str]) {
        let file = self.world.path("wrong.toml");
        std::fs::write(&file, text).expect("ours");
        let mut command = self.world.command("session");
        command.args(["run", "--", "true"]).env("SESSION_CONFIG", &file);
        command.env("SESSION_DIR", self.world.path("nobody"));
        self.add(mistake, finished(&mut command), 125, says);
    }
}

fn finished(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("it was built")
}

/// Ports, keys, folders and seconds differ from run to run.
fn plain(text: &str, world: &World) -> String {
    let text = text.replace(&world.dir.path().display().to_string(), "DIR");
    let text = replaced(&text, "127.0.0.1:", |c| c.is_ascii_digit(), "PORT");
    let text =
        replaced(&text, "ed25519:", |c| c.is_ascii_alphanumeric() || "-_".contains(c), "KEY");
    let text = replaced(&text, "again in ", |c| c.is_ascii_digit(), "N");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("<br>").replace('|', "\\|")
}

/// What follows `before` and consists of such characters is replaced.
fn replaced(text: &str, before: &str, is_part: impl Fn(char) -> bool, by: &str) -> String {
    let mut parts = text.split(before);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(&is_part);
        let by = if rest.len() < part.len() { by } else { "" };
        let _ = write!(result, "{before}{by}{rest}");
    }
    result
}

const SERVICE: &str = "[[service]]\nname = \"www.m@e.org\"\n[[service.server]]\n\
    address = \"192.0.2.1:4433\"\nkey = \"ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"\n";

fn of_run_and_configuration(mistakes: &mut Mistakes<'_>) {
    let world = mistakes.world;
    let run = |words: &[&str]| {
        let mut command = world.command("session");
        command.args(["run", "--"]).args(words).env("SESSION_DIR", world.path("nobody"));
        command
    };
    let none = finished(&mut run(&["nosuchprogram"]));
    mistakes.add("a program that is not there", none, 127, &["command not found"]);
    let scrubbed = finished(&mut run(&["env", "-i", "curl"]));
    mistakes.add("a program whose environment is emptied", scrubbed, 125, &["env -i session run"]);
    let other = finished(&mut run(&["su", "-c", "curl"]));
    mistakes.add("a program of another user", other, 125, &["another user", "turn it round"]);
    mistakes.config(
        "a direct service with servers",
        "[[service]]\nkind = \"direct\"\n[[service.server]]\naddress = \"192.0.2.1:1\"\n\
         key = \"ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"\n",
        &["wrong.toml:3: service[0].server", "a direct service has no servers"],
    );
    mistakes.config(
        "a key that does not exist",
        "colour = 1\n",
        &["wrong.toml:1: colour: no such"],
    );
    mistakes.config(
        "a size without a unit that is one",
        "[limits]\nsend_buffer = \"8 bananas\"\n",
        &["wrong.toml:2: limits.send_buffer", "8MiB"],
    );
    mistakes.config(
        "a time without a unit",
        "[limits]\nhold = \"72\"\n",
        &["wrong.toml:2: limits.hold", "72h"],
    );
    let route = |to: &str, service: &str| {
        format!("{SERVICE}[[route]]\nto = \"{to}\"\nservice = \"{service}\"\n")
    };
    mistakes.config(
        "a route to a service that is not there",
        &route("m.e.org:80", "www.other@e.org"),
        &["route[0].service", "no [[service]] is called"],
    );
    mistakes.config(
        "a route without a port",
        &route("m.e.org", "www.m@e.org"),
        &["route[0].to", "has no port"],
    );
    mistakes.config(
        "a route that leads every port to one",
        &route("m.e.org:*", "www.m@e.org"),
        &["route[0].to", "every_port"],
    );
    mistakes.config(
        "a server's key that is cut off",
        &SERVICE.replace("PcHURo", ""),
        &["service[0].server[0].key"],
    );
}

fn of_the_session_command(mistakes: &mut Mistakes<'_>) {
    let world = mistakes.world;
    let nobody = |words: &[&str]| {
        let mut command = world.command("session");
        command.args(words).env("SESSION_DIR", world.path("nobody"));
        finished(&mut command)
    };
    mistakes.add("status without a broker", nobody(&["status"]), 125, &["no broker runs here"]);
    let open = world.path("open");
    std::fs::create_dir(&open).expect("ours");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
    let mut status = world.command("session");
    status.arg("status").env("SESSION_DIR", &open);
    mistakes.add(
        "a session directory that others can write to",
        finished(&mut status),
        125,
        &["others can write to", "chmod"],
    );
    let id = ["session", "suspend", "99"];
    mistakes.run("a session that is not there", &id, "", 125, &["there is no session 99"]);
    let id = ["session", "close", "the one"];
    mistakes.run("no number of a session", &id, "", 125, &["session status"]);
}

fn of_a_far_end(mistakes: &mut Mistakes<'_>) {
    let world = mistakes.world;
    let via = |ssh: &str, words: &[&str]| {
        let mut command = world.command("session");
        command.args(words).env("SESSION_SSH", ssh).env("SESSION_DIR", world.path("nobody"));
        finished(&mut command)
    };
    let add = ["via", "add", "me@127.0.0.1", "--name", "home"];
    mistakes.add("a machine without ssh", via("nosuchssh", &add), 125, &["cannot run nosuchssh"]);
    let closed = via("ssh -F none -p 1", &add);
    let says = &["ssh does not get to me@127.0.0.1", "Connection refused"];
    mistakes.add("a far end that ssh does not reach", closed, 125, says);
    let nameless = via("ssh", &["via", "add", "me@192.0.2.7"]);
    mistakes.add("a far end without a name", nameless, 125, &["--name home"]);
    let named = via("ssh", &["via", "add", "me@192.0.2.7", "--name", "My Home"]);
    mistakes.add("a far end with a name that is none", named, 125, &["is no name"]);
    let unknown = via("ssh", &["run", "--via", "home", "--", "true"]);
    mistakes.add("a far end that is not there", unknown, 125, &["session via add"]);
    mistakes.config(
        "a route through a far end that is not there",
        "[[route]]\nto = \"*.internal:*\"\nvia = \"home\"\n",
        &["wrong.toml:3: route[0].via", "session via add"],
    );
    mistakes.config(
        "a proxy of no known kind",
        "proxy = \"proxy.e.org:3128\"\n",
        &["wrong.toml:1: proxy", "http://HOST:PORT"],
    );
    let text = format!(
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\nkey_file = {:?}\nstatus = \"off\"\n\
         [[service]]\nname = \"egress.m@e.org\"\nkind = \"egress\"\n",
        world.path("some.key"),
    );
    std::fs::write(world.path("egress.toml"), text).expect("ours");
    let config = world.path("egress.toml").display().to_string();
    let check = ["stp-server", "--config", &config, "--check"];
    mistakes.run("an egress for nobody", &check, "", 1, &["egress.toml:", "clients"]);
}

fn of_logging_in(mistakes: &mut Mistakes<'_>) {
    let world = mistakes.world;
    let (account, key) = (format!("alice@{}", world.sns_address), world.key_of_sns());
    let login = ["session", "login", "alice", "--password-stdin"];
    mistakes.run("a log-in without a gateway", &login, PASSWORD, 125, &["USER@GATEWAY"]);
    let login = ["session", "login", &account, "--password-stdin"];
    mistakes.run("a gateway that is not known yet", &login, PASSWORD, 125, &["say --key"]);
    let login = ["session", "login", &account, "--key", &key, "--password-stdin"];
    let wrong = "not her password";
    mistakes.run("a wrong password", &login, wrong, 125, &["user and password do not fit"]);
    for _ in 0..5 {
        world.try_run("session", &login[1..], wrong);
    }
    mistakes.run("wrong passwords again and again", &login, wrong, 125, &["try again in"]);
    let other = world.servers[0].key.clone();
    let login = ["session", "login", &account, "--key", &other, "--password-stdin"];
    mistakes.run("another key than is known", &login, PASSWORD, 125, &["is known with the key"]);
    let login = ["session", "login", "alice@127.0.0.1:1", "--key", &key, "--password-stdin"];
    mistakes.run("a gateway that is not there", &login, PASSWORD, 125, &["nobody listens"]);
}

fn of_getting_files(mistakes: &mut Mistakes<'_>) {
    let world = mistakes.world;
    let url = |path: &str| format!("stp://alice@{}{path}", world.sns_address);
    let get = |path: &str, more: &[&str]| {
        let url = url(path);
        world.try_run("session", &[&["get", &url], more].concat(), "")
    };
    mistakes.add(
        "a file without a log-in",
        get("/big.iso", &[]),
        24,
        &["not logged in", "session login"],
    );
    mistakes.run(
        "a program that asks for a name, without a log-in",
        &["session", "run", "--", "curl", "-sS", "http://www.m.at.example.com.stp/"],
        "",
        6,
        &["session: www.m.at.example.com.stp: ", "not logged in", "session login"],
    );
    // The wrong passwords have used up her attempts; a new one comes every ten seconds.
    let (account, key) = (format!("alice@{}", world.sns_address), world.key_of_sns());
    let login = ["login", &account, "--key", &key, "--password-stdin"];
    until("she may log in again", || {
        world.try_run("session", &login, PASSWORD).status.success().then_some(())
    });
    until("so may the broker", || {
        get("/big.iso", &["-o", "probe", "--force"]).status.success().then_some(())
    });
    mistakes.add("a file that nobody has", get("/none", &[]), 3, &["no server has it"]);
    let other = world.try_run("session", &["get", "stp://bob@127.0.0.1:4480/f"], "");
    mistakes.add("a file of another gateway", other, 6, &["the broker is configured for"]);
    let other = world.try_run("session", &["get", "http://alice@127.0.0.1/f"], "");
    mistakes.add("an address that is no stp: URL", other, 125, &["stp://USER@GATEWAY/PATH"]);
    std::fs::write(world.path("big.iso"), "something else").expect("ours");
    mistakes.add(
        "another file of that name",
        get("/big.iso", &[]),
        13,
        &["another file", "--force", "--continue"],
    );
    mistakes.add(
        "a folder that is not there",
        get("/big.iso", &["-o", "none/"]),
        16,
        &["none/ does not exist"],
    );
}

fn of_operators(mistakes: &mut Mistakes<'_>) {
    let world = mistakes.world;
    let socket = world.path("sns.sock").display().to_string();
    let none = world.path("none.sock").display().to_string();
    let list = ["stp-sns", "admin", "--socket", &none, "user", "list"];
    mistakes.run("stp-sns admin without a daemon", &list, "", 1, &["is stp-sns running"]);
    let add = ["stp-sns", "admin", "--socket", &socket, "user", "add", "alice", "--password-stdin"];
    mistakes.run("a user who exists", &add, PASSWORD, 1, &["there is a user \"alice\" already"]);
    let add = ["stp-sns", "admin", "--socket", &socket, "user", "add", "carol", "--password-stdin"];
    mistakes.run("a short password", &add, "short", 1, &["at least 8 characters"]);
    let key = world.path("open.key");
    std::fs::copy(world.path("cluster.key"), &key).expect("ours");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let text = format!(
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\nkey_file = {:?}\ncluster = \"demo\"\n\
         cluster_key_file = {key:?}\n\
         status = \"off\"\n[[service]]\nname = \"www.m@e.org\"\nkind = \"tcp\"\nto = \
             \"127.0.0.1:80\"\n",
        world.path("some.key"),
    );
    std::fs::write(world.path("open.toml"), text).expect("ours");
    let config = world.path("open.toml").display().to_string();
    let start = ["stp-server", "--config", &config];
    mistakes.run("a cluster key that others can read", &start, "", 1, &["open.key", "chmod 600"]);
    let text = format!(
        "listen = \"127.0.0.1:1\"\nkey_file = {:?}\ncluster = \"demo\"\ncluster_key_file = {:?}\n\
         status = \"off\"\nadmin = {:?}\n[store]\netcd = [\"127.0.0.1:1\"]\n",
        world.path("sns.key"),
        world.path("cluster.key"),
        world.path("other.sock"),
    );
    std::fs::write(world.path("etcd.toml"), text).expect("ours");
    let config = world.path("etcd.toml").display().to_string();
    let start = ["stp-sns", "--config", &config];
    mistakes.run("an etcd that is not there", &start, "", 1, &["etcd: 127.0.0.1:1"]);
    let check = ["stp-sns", "--config", &config, "--check"];
    mistakes.run("the same, checked before", &check, "", 0, &["warning: the store", "refused"]);
    let text = format!(
        "name = \"a\"\nlisten = \"127.0.0.1:1\"\nkey_file = {:?}\nstatus = \"off\"\n\
         [[service]]\nname = \"www.m@e.org\"\nkind = \"http\"\nto = \"127.0.0.1:80\"\n\
         [limits]\negress = \"800\"\n",
        world.path("some.key"),
    );
    std::fs::write(world.path("lonely.toml"), text).expect("ours");
    let config = world.path("lonely.toml").display().to_string();
    let check = ["stp-server", "--config", &config, "--check"];
    let says = &["warning: no cluster", "800 bytes a second"];
    mistakes.run(
        "a server that nobody can replace, and a rate without a unit",
        &check,
        "",
        0,
        says,
    );
    let second = SERVICE.split_once("[[service.server]]").expect("it has one").1;
    let named = |name: &str, port: &str| {
        format!("[[service.server]]\nname = \"{name}\"{}", second.replace(":4433", port))
    };
    let service = SERVICE.split("[[service.server]]").next().expect("the head");
    let text = format!(
        "key_file = {:?}\n{service}{}{}[[route]]\nto = \"m.e.org:80\"\nservice = \"www.m@e.org\"\n",
        world.path("client.key"),
        named("a", ":4433"),
        named("b", ":4434"),
    );
    std::fs::write(world.path("twice.toml"), text).expect("ours");
    let config = world.path("twice.toml").display().to_string();
    let check = ["stp-broker", "--config", &config, "--check"];
    mistakes.run("one key for two servers", &check, "", 0, &["warning: one key under 2 names"]);
}

#[test]
fn every_mistake_is_told_with_what_to_do_and_the_table_is_up_to_date() {
    let tables = "[limits]\nserver_lease = \"2s\"\nattempts = 3\nattempts_per_minute = 6\n";
    let mut world = World::with(Special { tables, ..Special::default() });
    world.add_server("a", &[("alice/big.iso", &noise(7, 1 << 20))], "");
    world.wait_for_file("/alice/big.iso", 1);
    world.start_broker();
    let mut mistakes = Mistakes { world: &world, rows: Vec::new() };
    of_run_and_configuration(&mut mistakes);
    of_the_session_command(&mut mistakes);
    of_a_far_end(&mut mistakes);
    of_logging_in(&mut mistakes);
    of_getting_files(&mut mistakes);
    of_operators(&mut mistakes);
    let mut rows = mistakes.rows;
    world.servers[0].running = None;
    let url = format!("stp://alice@{}/big.iso", world.sns_address);
    let output = world.try_run("session", &["get", &url, "-o", "x"], "");
    let says = &["not there"];
    rows.push(Row { mistake: SERVERS_GONE, output, code: 6, says });

    let (mut table, mut wrong) = (HEAD.to_owned(), String::new());
    for row in &rows {
        let (said, code) = (row.said(), row.output.status.code());
        // What a retry meets on the way depends on how soon the gateway misses the server.
        let told = if row.mistake == SERVERS_GONE {
            said.lines().last().unwrap_or_default()
        } else {
            &said
        };
        writeln!(table, "| {} | {} | {} |", row.mistake, plain(told, &world), row.code)
            .expect("a string");
        let missing: Vec<_> = row.says.iter().filter(|part| !said.contains(**part)).collect();
        if code != Some(row.code) || !missing.is_empty() {
            writeln!(wrong, "{}: code {code:?}, without {missing:?}:\n{said}", row.mistake)
                .expect("a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(rows.len() >= 25, "{} mistakes", rows.len());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/mistakes.md");
    if std::env::var_os("STP_WRITE_DOCS").is_some() || !std::path::Path::new(path).exists() {
        std::fs::write(path, &table).expect("the source tree is ours");
    }
    let kept = std::fs::read_to_string(path).expect("it is committed");
    assert_eq!(kept, table, "run it once with STP_WRITE_DOCS=1");
}
