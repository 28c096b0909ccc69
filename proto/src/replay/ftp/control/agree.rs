//! Agreeing upon data connections: with the client in whatever words it uses, with the server by
//! PASV or EPSV.

use super::super::command::{Command, Transfer};
use super::super::place::{Place, passive_reply, port_of_reply};
use super::super::reply::Reply;
use super::super::state::Waiting;
use super::super::stored::File;
use super::{Act, Control, Phase, may_listen};
use crate::wire::Announcement;

impl Control {
    /// The client says how it wants its data.
    pub(super) fn agree(&mut self, command: &Command, place: Result<Place, ()>) {
        let refuse = |code: u16, text: &str| Reply::new(code, text).bytes;
        if !self.logged_in {
            return self.finish(command, refuse(530, "Please login with USER and PASS."));
        }
        let (family, listener) = match place {
            Ok(Place::Passive(family)) => (family, None),
            Ok(Place::Active(family, address)) => (family, Some(address)),
            Ok(Place::OnlyExtended) => return self.ask(command.clone()),
            Err(()) => {
                let text = format!("Illegal {} command.", command.verb);
                return self.finish(command, refuse(501, &text));
            }
        };
        if self.login.only_extended() && command.verb != "EPSV" {
            return self.finish(command, refuse(501, "Only EPSV is allowed after EPSV ALL."));
        }
        if let Some(address) = listener
            && !may_listen(&address)
        {
            return self.finish(command, refuse(500, "Illegal PORT command."));
        }
        let (token, port) = self.token();
        let (reply, announcement) = match listener {
            Some(_) => {
                let text = format!("{} command successful.", command.verb);
                (Some(Reply::new(200, &text)), None)
            }
            None => {
                let reply = passive_reply(family, self.host, port);
                (reply, Some(Announcement::Await { port, token }))
            }
        };
        let Some(reply) = reply else {
            return self.finish(command, refuse(425, "Use EPSV: this is no IPv4 connection."));
        };
        self.forget_waiting();
        self.waiting = Some(Waiting { token, family, listener });
        self.acts.push_back(Act::Expect(token));
        self.login.note(command, &reply);
        self.covers = command.end;
        self.phase = Phase::Idle;
        self.answer(reply.bytes, announcement);
        self.next();
    }

    pub(super) fn forget_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.acts.push_back(Act::Forget(waiting.token));
        }
    }

    /// A command that needs data: the server is asked where it listens.
    pub(super) fn ask_for_data(&mut self, command: Command) {
        let verb = if self.asks_extended() { "EPSV\r\n" } else { "PASV\r\n" };
        self.acts.push_back(Act::Send(verb.as_bytes().to_vec()));
        self.phase = Phase::Agreeing(command);
    }

    pub(super) fn asks_extended(&self) -> bool {
        self.extended || self.login.only_extended()
    }

    /// The server's answer to that.
    pub(super) fn agreed(&mut self, command: Command, reply: &Reply) {
        match port_of_reply(reply) {
            Some(port) => {
                self.acts.push_back(Act::Connect(port));
                self.phase = Phase::Connecting(command);
            }
            None if reply.is_error() => self.give_up_data(&command, reply.bytes.clone()),
            None => {
                let text = "The server does not say where its data are.";
                self.give_up_data(&command, Reply::new(425, text).bytes);
            }
        }
    }

    /// The data connection to the server is there, or is not.
    pub fn connected(&mut self, there: bool) {
        if !matches!(self.phase, Phase::Connecting(_)) {
            return;
        }
        let Phase::Connecting(command) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        if !there {
            let text = "Can't open data connection to the server.";
            return self.give_up_data(&command, Reply::new(425, text).bytes);
        }
        let up = command.transfer() == Some(Transfer::Up);
        let (rest, binary) = (self.login.rest(), self.login.is_binary());
        let begins = rest.is_none_or(|at| at == 0);
        self.whole = up && binary && begins;
        // A client that goes on with an upload may have begun it at another server; and what is
        // appended begins where the file ends.
        if up && binary && (!begins || command.verb == "APPE") {
            self.acts.push_back(Act::Send([b"SIZE ", &*command.argument, b"\r\n"].concat()));
            self.phase = Phase::Sizing(command);
            return;
        }
        self.rest_or_start(command);
    }

    fn rest_or_start(&mut self, command: Command) {
        match self.login.rest() {
            Some(at) => self.rest(command, at),
            None => self.start(command),
        }
    }

    fn rest(&mut self, command: Command, at: u64) {
        // It has to stand right before the command.
        self.acts.push_back(Act::Send(format!("REST {at}\r\n").into_bytes()));
        self.phase = Phase::Resting(command);
    }

    /// How much of the file the server has.
    pub(super) fn sized(&mut self, command: Command, reply: &Reply) {
        let at = self.login.rest().unwrap_or(0);
        let has = match reply.code {
            550 => Some(0),
            _ => reply.size(),
        };
        // If it does not say, it is trusted.
        if let Some(has) = has.filter(|has| *has < at) {
            let text = format!("Not at {at}: there are {has} bytes of it here. Begin again.");
            return self.give_up_data(&command, Reply::new(450, &text).bytes);
        }
        if command.verb == "APPE" {
            self.whole &= has == Some(0);
        }
        self.rest_or_start(command);
    }

    /// The file that an upload makes, if another server could go on with it: all of it comes from
    /// the client, and a name that the server has chosen was said.
    pub(super) fn file(&mut self, command: &Command, first: &Reply) -> Option<File> {
        if !std::mem::take(&mut self.whole) {
            return None;
        }
        let name = match command.verb.as_str() {
            "STOU" => first.file_name()?,
            _ => command.argument.clone(),
        };
        (!name.is_empty()).then_some(File { name })
    }

    /// The server's answer to REST.
    pub(super) fn rested(&mut self, command: Command, reply: &Reply) {
        if reply.is_error() {
            self.give_up_data(&command, reply.bytes.clone());
        } else {
            self.start(command);
        }
    }

    fn start(&mut self, command: Command) {
        self.acts.push_back(Act::Send(command.bytes()));
        self.phase = Phase::Starting(command);
    }

    /// The transfer did not come about.
    pub(super) fn give_up_data(&mut self, command: &Command, reply: Vec<u8>) {
        self.forget_waiting();
        self.login.used();
        self.finish(command, reply);
    }
}
