//! The operator's commands: `stp-sns admin …`, over the daemon's socket.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;
use stp_lookup::Verifier;
use stp_net::key::PublicKey;
use stp_net::table::Table;
use stp_proto::lookup::KdfCost;

use crate::admin::Order;
use crate::record::User;

/// The longest time for an answer of the daemon.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The operator's command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Users: who may log in.
    #[command(subcommand)]
    User(UserCommand),
    /// Servers: who may offer what.
    #[command(subcommand)]
    Server(ServerCommand),
    /// Services, with their owners and places.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Files, and the servers that hold them.
    Files {
        /// Show only files of this service.
        #[arg(long)]
        service: Option<String>,
        /// Show only this file.
        path: Option<String>,
    },
}

/// Commands about users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Adds a user; the password is asked for.
    Add {
        /// Who.
        user: String,
        /// The root of the user's files: the user gets nothing outside of it.
        #[arg(long, default_value = "/")]
        tree: String,
        /// A service that the user may have; may be repeated. Without this, it is every service.
        #[arg(long = "service", value_name = "NAME")]
        services: Vec<String>,
        /// Reads the password from the standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Gives a user a new password. Log-ins and tickets of the old one end.
    Password {
        /// Who.
        user: String,
        /// Reads the password from the standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Changes what a user may have. Earlier log-ins and tickets end.
    #[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
    Change {
        /// Who.
        user: String,
        /// The root of the user's files.
        #[arg(long, group = "what")]
        tree: Option<String>,
        /// A service that the user may have; may be repeated.
        #[arg(long = "service", value_name = "NAME", group = "what")]
        services: Vec<String>,
        /// The user may have every service.
        #[arg(long, group = "what", conflicts_with = "services")]
        every_service: bool,
    },
    /// Deletes a user.
    Delete {
        /// Who.
        user: String,
    },
    /// Shows all users.
    List,
}

/// Commands about servers.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Allows a server to offer services (`stp-server --print-key` shows its key).
    Allow {
        /// What it is called.
        server: String,
        /// Its key.
        key: PublicKey,
        /// What it may offer.
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// No longer allows a server.
    Forbid {
        /// What it is called.
        server: String,
    },
    /// Shows all servers, and which are there.
    List,
}

/// Commands about services.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Shows all services.
    List,
    /// Deletes an endpoint and its services, whoever made it.
    DeleteEndpoint {
        /// `object@domain`.
        endpoint: String,
    },
}

/// Carries out a command. Returns the text for stdout.
pub fn run(socket: &Path, command: Command, as_json: bool) -> anyhow::Result<String> {
    let order = match command {
        Command::User(UserCommand::Add { user, tree, services, password_stdin }) => {
            let mut record = record(&user, password_stdin)?;
            (record.tree, record.services) = (tree, services);
            Order::UserAdd { user, record }
        }
        Command::User(UserCommand::Password { user, password_stdin }) => {
            let password = Some(record(&user, password_stdin)?);
            Order::UserChange { user, password, tree: None, services: None }
        }
        Command::User(UserCommand::Change { user, tree, services, every_service }) => {
            let services = (every_service || !services.is_empty()).then_some(services);
            Order::UserChange { user, password: None, tree, services }
        }
        Command::User(UserCommand::Delete { user }) => Order::UserDelete { user },
        Command::User(UserCommand::List) => Order::UserList,
        Command::Server(ServerCommand::Allow { server, key, services }) => {
            Order::ServerAllow { server, key, services }
        }
        Command::Server(ServerCommand::Forbid { server }) => Order::ServerForbid { server },
        Command::Server(ServerCommand::List) => Order::ServerList,
        Command::Service(ServiceCommand::List) => Order::ServiceList,
        Command::Service(ServiceCommand::DeleteEndpoint { endpoint }) => {
            Order::EndpointDelete { endpoint }
        }
        Command::Files { service, path } => Order::Files { service, path },
    };
    let done = ask(socket, &order)?;
    let to_person = std::io::stdout().is_terminal();
    Ok(match (as_json, table(&done)) {
        (true, _) => format!("{done:#}\n"),
        (false, Some(table)) if to_person => table,
        (false, _) => lines(&done),
    })
}

/// Sends an order to the daemon.
pub fn ask(socket: &Path, order: &Order) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        anyhow::anyhow!("{}: {error}; is stp-sns running, and are you its user?", socket.display())
    })?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line)
        .map_err(|error| anyhow::anyhow!("the daemon does not answer: {error}"))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => anyhow::bail!("{error}"),
        None => Ok(answer.get("done").cloned().unwrap_or_default()),
    }
}

/// A record with a new password, for the whole tree and every service.
fn record(user: &str, from_stdin: bool) -> anyhow::Result<User> {
    let password = if from_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(4_096).read_to_string(&mut text)?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        let first = rpassword::prompt_password(format!("New password of {user}: "))?;
        let second = rpassword::prompt_password("Again: ")?;
        if first != second {
            anyhow::bail!("the two are not the same");
        }
        first
    };
    if password.chars().count() < 8 {
        anyhow::bail!("a password has at least 8 characters");
    }
    Ok(User::new(&Verifier::new(&password, KdfCost::default())?, "/"))
}

/// A list of records as a table, for a terminal. A program that reads the output gets lines
/// (`lines`), or JSON.
fn table(value: &Value) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    let records = value.as_array().filter(|records| !records.is_empty())?;
    for record in records {
        for name in record.as_object()?.keys() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let is_number = |name: &str| records.iter().all(|record| record[name].is_number());
    let heads: Vec<String> = names
        .iter()
        .map(|name| if is_number(name) { format!(">{name}") } else { (*name).to_owned() })
        .collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for record in records {
        table.row(names.iter().map(|name| text(&record[name])).collect());
    }
    Some(table.fitted())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let plain =
                |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            items.iter().map(plain).collect::<Vec<_>>().join(",")
        }
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A list becomes lines of its items' values; any other value stays as it is.
fn lines(value: &Value) -> String {
    let line = |item: &Value| match item {
        Value::Object(fields) => {
            let parts: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
            parts.join(" ") + "\n"
        }
        other => text(other) + "\n",
    };
    match value {
        Value::Array(items) => items.iter().map(line).collect(),
        other => line(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_records_is_a_table_for_a_person_and_lines_for_a_program() {
        let list = json!([
            { "server": "a", "services": ["www.x@e.org"], "files": 7 },
            { "server": "bravo", "addresses": null, "files": 1200 },
        ]);
        let shown = table(&list).expect("records");
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows.len(), 3);
        for column in ["server", "services", "files", "addresses"] {
            assert!(rows[0].contains(column), "{shown}");
        }
        assert!(rows[2].contains("bravo") && rows[2].contains("1200"), "{shown}");
        assert!(lines(&list).contains("files=7"));
        assert!(lines(&list).contains("services=www.x@e.org"));
        assert_eq!(table(&json!("done")), None);
        assert_eq!(table(&json!([])), None);
    }
}
