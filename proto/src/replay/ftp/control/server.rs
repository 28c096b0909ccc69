//! What the server sends, and what becomes of the connection to it.

use super::super::command::Command;
use super::super::reply::Reply;
use super::{Act, Control, Phase, Said, Server};
use crate::wire::Announcement;

/// The service is about to close (RFC 959).
const CLOSING: u16 = 421;

impl Control {
    /// The server sent this.
    pub fn server(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.phase == Phase::Over {
                return;
            }
            if self.phase == Phase::Opaque {
                self.acts.push_back(Act::Pass(bytes.to_vec()));
                return;
            }
            match self.replies.take(bytes) {
                Ok((taken, reply)) => {
                    bytes = &bytes[taken..];
                    if let Some(reply) = reply {
                        self.reply(reply);
                    }
                }
                Err(error) => {
                    let text = format!("500 {error}\r\n");
                    return self.end_with(text.into_bytes());
                }
            }
            if self.server == Server::Away {
                return;
            }
        }
    }

    fn reply(&mut self, reply: Reply) {
        if reply.code == CLOSING && !matches!(self.phase, Phase::Greeting) {
            return self.hang_up();
        }
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Greeting if reply.is_preliminary() => {
                self.phase = Phase::Greeting;
                self.acts.push_back(Act::Pass(reply.bytes));
            }
            Phase::Greeting if reply.is_error() => self.end_with(reply.bytes),
            Phase::Greeting => {
                self.answer(reply.bytes, None);
                self.next();
            }
            // Nobody has asked: the client would take it for the answer to its next command.
            Phase::Idle => {}
            Phase::Asked(command) => self.answered(command, reply),
            Phase::Agreeing(command) if !reply.is_preliminary() => self.agreed(command, &reply),
            Phase::Sizing(command) if !reply.is_preliminary() => self.sized(command, &reply),
            Phase::Resting(command) if !reply.is_preliminary() => self.rested(command, &reply),
            Phase::Starting(command) => self.started(command, reply),
            Phase::Running(run) => {
                self.phase = Phase::Running(run);
                if !reply.is_preliminary() {
                    self.said(Said::Last(reply));
                }
            }
            other => self.phase = other,
        }
    }

    fn answered(&mut self, command: Command, reply: Reply) {
        if reply.is_preliminary() {
            // Another one follows. Until then nobody else could go on.
            self.acts.push_back(Act::Pass(reply.bytes));
            self.phase = Phase::Asked(command);
            return;
        }
        self.login.note(&command, &reply);
        match (command.verb.as_str(), reply.code) {
            ("USER" | "PASS" | "ACCT", 230 | 232) => self.logged_in = true,
            ("USER" | "REIN", 200..400) => self.logged_in = false,
            ("QUIT", 200..300) => {
                self.covers = command.end;
                return self.end_with(reply.bytes);
            }
            ("AUTH", 200..400) => {
                self.covers = command.end;
                self.phase = Phase::Opaque;
                let announcement = self.secret_ports.map(|(first, last)| {
                    let (token, _) = self.token();
                    self.acts.push_back(Act::Range { token, first, last });
                    Announcement::Range { first, last, token }
                });
                self.answer(reply.bytes, announcement);
                self.acts.push_back(Act::Opaque);
                return;
            }
            _ => {}
        }
        self.finish(&command, reply.bytes);
    }

    /// The server closed, or the connection to it broke.
    pub fn server_lost(&mut self) {
        if self.server == Server::Up {
            self.hang_up();
        }
    }

    /// Without the server: what is under way begins again, or ends.
    fn hang_up(&mut self) {
        self.server = Server::Away;
        self.replies = Default::default();
        self.acts.push_back(Act::HangUp);
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Greeting | Phase::Opaque => {
                self.phase = Phase::Over;
                self.acts.push_back(Act::End);
            }
            Phase::Idle => {}
            Phase::Over => self.phase = Phase::Over,
            Phase::Running(run) => {
                self.phase = Phase::Running(run);
                self.said(Said::Gone);
            }
            Phase::Starting(command) | Phase::Asked(command)
                if self.again || !command.is_repeatable() =>
            {
                let text = "The server went away; nobody knows whether it was done.";
                self.forget_waiting();
                self.login.used();
                self.finish(&command, Reply::new(451, text).bytes);
            }
            Phase::Agreeing(command)
            | Phase::Connecting(command)
            | Phase::Sizing(command)
            | Phase::Resting(command)
            | Phase::Starting(command)
            | Phase::Asked(command) => {
                self.again = true;
                self.ask(command);
            }
        }
    }

    /// The connection that [`Act::LogIn`] wanted is there, with the login made.
    pub fn server_ready(&mut self, extended: bool) {
        self.server = Server::Up;
        self.extended = extended;
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Agreeing(command) | Phase::Asked(command) => self.ask(command),
            other => self.phase = other,
        }
    }

    /// There is none to be had.
    pub fn server_failed(&mut self, why: &str) {
        self.server = Server::Away;
        if let Phase::Agreeing(command) | Phase::Asked(command) = &self.phase {
            self.covers = command.end;
            let why: String = why.chars().filter(|c| c.is_ascii() && !c.is_control()).collect();
            self.end_with(Reply::new(CLOSING, &format!("Service not available: {why}")).bytes);
        }
    }
}
