//! What the client sends.

use super::super::command::Command;
use super::super::place::Place;
use super::{Act, Control, Phase, QUEUE_MAX, Server};

impl Control {
    /// Whether more of the client's bytes are wanted now.
    #[must_use]
    pub fn wants_client(&self) -> bool {
        match &self.phase {
            Phase::Opaque => true,
            Phase::Over => false,
            // What follows AUTH may be encrypted already.
            Phase::Asked(command) if command.is_auth() => false,
            _ => self.queue.len() < QUEUE_MAX && !self.queue.iter().any(Command::is_auth),
        }
    }

    /// The client sent this. Says how many bytes were taken; the rest is to be offered again.
    pub fn client(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.wants_client() {
            if self.phase == Phase::Opaque {
                self.acts.push_back(Act::Send(bytes[taken..].to_vec()));
                return bytes.len();
            }
            let (count, line) = self.lines.take(&bytes[taken..]);
            taken += count;
            let Some(line) = line else { break };
            let mut command = Command::new(line.text, line.end);
            if line.too_long {
                command.verb = String::from("\u{0}");
            }
            self.queue.push_back(command);
            self.next();
        }
        taken
    }

    /// The client will send no more.
    pub fn client_ended(&mut self) {
        self.client_ended = true;
        self.next();
    }

    /// Begins the next command, if nothing is under way; takes ABOR beside a transfer.
    pub(super) fn next(&mut self) {
        if let Phase::Running(_) = &self.phase {
            if self.queue.front().is_some_and(|command| command.verb == "ABOR")
                && let Some(command) = self.queue.pop_front()
            {
                self.abort(command);
            }
            return;
        }
        while self.phase == Phase::Idle {
            let Some(command) = self.queue.pop_front() else {
                if self.client_ended {
                    self.phase = Phase::Over;
                    self.acts.push_back(Act::HangUp);
                    self.acts.push_back(Act::End);
                }
                return;
            };
            self.begin(command);
        }
    }

    fn begin(&mut self, command: Command) {
        if command.verb == "\u{0}" {
            return self.finish(&command, b"500 The line is too long.\r\n".to_vec());
        }
        if command.line.is_empty() {
            return self.finish(&command, b"500 An empty line is no command.\r\n".to_vec());
        }
        match Place::parse(&command.verb, command.text()) {
            Some(Ok(Place::OnlyExtended)) | None => {}
            Some(place) => return self.agree(&command, place),
        }
        if command.end <= self.guard && !command.is_repeatable() {
            let text =
                b"451 Another server was asked for it; nobody knows whether it was done.\r\n";
            return self.finish(&command, text.to_vec());
        }
        let ends = matches!(command.verb.as_str(), "QUIT" | "ABOR");
        if ends && self.server == Server::Away {
            self.covers = command.end;
            return match command.verb.as_str() {
                "QUIT" => self.end_with(b"221 Goodbye.\r\n".to_vec()),
                _ => self.finish(&command, b"225 No transfer to ABOR.\r\n".to_vec()),
            };
        }
        self.again = false;
        self.ask(command);
    }

    /// Puts a command to the server, which is connected to first if need be.
    pub(super) fn ask(&mut self, command: Command) {
        let transfer = command.transfer().is_some() && self.waiting.is_some();
        if self.server != Server::Up {
            self.phase = if transfer { Phase::Agreeing(command) } else { Phase::Asked(command) };
            if self.server == Server::Away {
                self.server = Server::Opening;
                self.acts.push_back(Act::LogIn);
            }
            return;
        }
        if transfer {
            return self.ask_for_data(command);
        }
        self.acts.push_back(Act::Send(command.bytes()));
        self.phase = Phase::Asked(command);
    }
}
