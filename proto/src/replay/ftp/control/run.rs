//! A transfer from its first reply to its last.
//!
//! What the server says last is one half of the truth, what became of the data is the other. A
//! client is told of success when the data have arrived, and then once.

use super::super::command::{Command, Transfer};
use super::super::reply::Reply;
use super::super::state::Running;
use super::{Act, Control, DataNews, Phase, Run, Said, Server, Verdict};
use crate::mutant::mutant;
use crate::wire::Announcement;

const COMPLETE: &str = "Transfer complete.";
const CUT: &str = "The data connection broke; the transfer is not complete.";

impl Control {
    /// The server's first reply to a command that moves data.
    pub(super) fn started(&mut self, command: Command, reply: Reply) {
        if reply.is_error() || (300..400).contains(&reply.code) {
            return self.give_up_data(&command, reply.bytes);
        }
        let Some((waiting, transfer)) = self.waiting.take().zip(command.transfer()) else {
            return self.finish(&command, reply.bytes);
        };
        let running = Running {
            token: waiting.token,
            command: command.line.clone(),
            transfer,
            rest: self.login.rest().filter(|at| *at > 0),
            file: self.file(&command, &reply),
        };
        self.login.used();
        self.acts.push_back(Act::Begin { running: running.clone(), connected: true });
        let early = !reply.is_preliminary();
        let first = if early {
            Reply::new(150, "Opening data connection.").bytes
        } else {
            reply.bytes.clone()
        };
        self.enter_run(running, command.end, Said::Nothing);
        let announcement =
            waiting.listener.map(|address| Announcement::Reach { address, token: waiting.token });
        self.answer(first, announcement);
        if early {
            self.said(Said::Last(reply));
        }
        self.next();
    }

    fn enter_run(&mut self, running: Running, covers: u64, said: Said) {
        self.covers = self.covers.max(covers);
        self.again = false;
        self.phase = Phase::Running(Run { running, said, news: None, abort: None, aborted: None });
    }

    /// A transfer that was under way at the server that was left.
    pub(super) fn resume_run(&mut self, running: Running, aborting: bool) {
        let (token, transfer) = (running.token, running.transfer);
        self.acts.push_back(Act::Expect(token));
        let covers = self.covers;
        self.enter_run(running.clone(), covers, Said::Gone);
        if let (true, Phase::Running(run)) = (aborting, &mut self.phase) {
            run.abort = Some(Command::new(b"ABOR".to_vec(), covers));
        }
        if !aborting && (transfer == Transfer::Down || running.file.is_some()) {
            self.acts.push_back(Act::Begin { running, connected: false });
            return;
        }
        // What the client has sent went to the other server: nobody can say that it is here.
        self.acts.push_back(Act::Judge(token, Verdict::Failed));
        self.end_run(Reply::new(426, CUT).bytes, Some(Announcement::Drop { token }));
    }

    /// The server said something last of the transfer, or is gone.
    pub(super) fn said(&mut self, said: Said) {
        let Phase::Running(run) = &mut self.phase else { return };
        if run.said != Said::Nothing {
            if let (Said::Last(reply), Some(_)) = (said, &run.abort) {
                run.aborted.get_or_insert(reply);
            }
            return;
        }
        let goes_on = run.abort.is_none() && run.news.is_none();
        let verdict = match (&said, run.running.transfer) {
            (Said::Last(reply), _) if reply.is_done() => Verdict::Done,
            (_, Transfer::Down) if goes_on => Verdict::Lost,
            (Said::Gone, Transfer::Up) if goes_on && run.running.file.is_some() => Verdict::Lost,
            _ => Verdict::Failed,
        };
        run.said = said;
        let token = run.running.token;
        self.acts.push_back(Act::Judge(token, verdict));
        self.settle();
    }

    /// What became of the data.
    pub fn data(&mut self, token: crate::handle::Handle, news: DataNews) {
        let Phase::Running(run) = &mut self.phase else { return };
        if run.running.token != token || run.news == Some(DataNews::Delivered) {
            return;
        }
        if news == DataNews::Fixed {
            run.running.file = None;
            // For the ticket.
            return self.answer(Vec::new(), None);
        }
        run.news = Some(news);
        if news == DataNews::Moved {
            self.acts.push_back(Act::AskToMove);
        } else {
            self.settle();
        }
    }

    /// Gives the last reply, if enough is known.
    fn settle(&mut self) {
        let Phase::Running(run) = &mut self.phase else { return };
        mutant!(SuccessBeforeData => run.news = Some(DataNews::Delivered));
        let last = match &run.said {
            Said::Last(reply) => Some(reply),
            Said::Gone => None,
            // A client that has closed, or data that failed: the server has a word to say.
            Said::Nothing => return,
        };
        let failed = || match last {
            Some(reply) if reply.is_error() => reply.bytes.clone(),
            _ => Reply::new(426, CUT).bytes,
        };
        let reply = match (run.running.transfer, run.news) {
            (_, Some(DataNews::Moved)) => return,
            (Transfer::Up, None) if last.is_none_or(Reply::is_done) => {
                if last.is_some() || run.running.file.is_some() {
                    return;
                }
                failed()
            }
            (Transfer::Up, Some(DataNews::Delivered)) => match last {
                Some(reply) => reply.bytes.clone(),
                None => Reply::new(226, COMPLETE).bytes,
            },
            (Transfer::Up, _) => failed(),
            (Transfer::Down, Some(DataNews::Delivered)) => match last {
                Some(reply) if reply.is_done() => reply.bytes.clone(),
                _ => Reply::new(226, COMPLETE).bytes,
            },
            (Transfer::Down, Some(_)) => failed(),
            (Transfer::Down, None) => return,
        };
        // One that another server was to go on with may not have come here.
        let gone = run.said == Said::Gone && run.running.transfer == Transfer::Up;
        let failed = run.news != Some(DataNews::Delivered);
        let token = run.running.token;
        let drop = (gone && failed).then_some(Announcement::Drop { token });
        self.end_run(reply, drop);
    }

    /// The transfer is over, for the client as well.
    fn end_run(&mut self, reply: Vec<u8>, announcement: Option<Announcement>) {
        let Phase::Running(run) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let asked = run.said != Said::Gone && self.server == Server::Up;
        self.answer(reply, announcement);
        match run.abort {
            Some(abort) if run.aborted.is_some() => {
                let reply = run.aborted.map(|reply| reply.bytes).unwrap_or_default();
                self.finish(&abort, reply);
            }
            Some(abort) if asked => self.phase = Phase::Asked(abort),
            Some(abort) => self.finish(&abort, Reply::new(226, "Abort successful.").bytes),
            None => self.next(),
        }
    }

    /// ABOR while data move.
    pub(super) fn abort(&mut self, command: Command) {
        let Phase::Running(run) = &mut self.phase else { return };
        if run.abort.is_some() {
            return;
        }
        let (token, bytes) = (run.running.token, command.bytes());
        run.abort = Some(command);
        match run.said {
            Said::Nothing => self.acts.push_back(Act::Send(bytes)),
            Said::Gone => self.acts.push_back(Act::Judge(token, Verdict::Failed)),
            // Complete: only its arrival is waited for. The server answers ABOR on its own.
            Said::Last(_) => self.acts.push_back(Act::Send(bytes)),
        }
    }
}
