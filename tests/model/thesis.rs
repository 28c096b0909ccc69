//! The rules as the thesis has them (KTH 3.4.1, 3.8, 3.9.2, 4.6, 4.8), in the same explorer. They
//! must fail: each flaw is a test that finds its shortest trace, so that the reason for each rule
//! of `stp-proto` that differs stays known.
//!
//! Checkpoints carry positions relative to the last one, DATA carries none; the data channel is
//! first in, first out; each control message is a connection of its own, so they may be lost or
//! overtake each other. A host resumes from its acknowledged checkpoint, and moves on to its
//! pending one if the peer names that.

use crate::explore::{Model, Report, Step, Verdict, explore};
use crate::pool::Pool;

/// What is allowed to happen.
#[derive(Clone, Debug)]
struct Rules {
    /// Bytes of each host's app.
    bytes: [u8; 2],
    /// Checkpoints each host proposes.
    cuts: [u8; 2],
    breaks: u8,
    /// Accepts that time out although the answer is on its way.
    timeouts: u8,
    /// Control messages that are late: they may come at any time later.
    late: bool,
    /// Both may propose at once (F1).
    simultaneous: bool,
    /// The host that answers may propose at once (F2).
    eager: bool,
    /// Bytes of a send buffer, of a receive buffer, frames of a channel (F5).
    send_buffer: u8,
    receive_buffer: u8,
    channel: usize,
    /// The apps write everything before they read.
    writes_first: bool,
}

const RULES: Rules = Rules {
    bytes: [1, 1],
    cuts: [0, 0],
    breaks: 1,
    timeouts: 0,
    late: false,
    simultaneous: false,
    eager: false,
    send_buffer: 8,
    receive_buffer: 8,
    channel: 16,
    writes_first: false,
};

#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
enum State {
    Active,
    ReadyResume,
    SentResume,
    /// RESUME_OK was sent; two seconds are waited for a connection.
    Accepting,
}

/// A frame of the data channel.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
enum Frame {
    /// The sender's position, which the frame does not carry; it stands for the byte's value.
    Data(u8),
    /// `answer` is for the model: messages do not say whether they ask or answer.
    Checkpoint { id: u8, sent: u8, received: u8, answer: bool },
}

/// A control message, each a connection of its own.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Control {
    Resume(u8),
    ResumeOk(u8),
}

/// One host. Positions are its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Host {
    state: State,
    acked: u8,
    pending: u8,
    /// A proposal is unanswered.
    sent_cp: bool,
    /// Send buffer: freed below `start`; the pending checkpoint; sent; written.
    start: u8,
    pending_sent: u8,
    processed: u8,
    end: u8,
    /// Receive buffer: the acknowledged and the pending checkpoint; received since the
    /// acknowledged one; what is in the buffer or was given to the app; what was given.
    r_start: u8,
    r_pending: u8,
    recvd: u8,
    r_end: u8,
    given: u8,
    cuts: u8,
    /// A network event is due (T7, T16).
    event: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    hosts: [Host; 2],
    /// To each host.
    channels: [Vec<Frame>; 2],
    control: [Vec<Control>; 2],
    breaks: u8,
    timeouts: u8,
}

#[derive(Copy, Clone, Debug)]
enum Act {
    Write(usize),
    Read(usize),
    Send(usize),
    Propose(usize),
    Take(usize),
    Control(usize, Control),
    Lose(usize, Control),
    Break,
    Event(usize),
    TimeOut(usize),
}

const NAMES: [&str; 2] = ["A (initiator)", "B"];

impl Host {
    fn new(rules: &Rules, number: usize) -> Host {
        Host {
            state: State::Active,
            acked: 0,
            pending: 1,
            sent_cp: false,
            start: 0,
            pending_sent: 0,
            processed: 0,
            end: 0,
            r_start: 0,
            r_pending: 0,
            recvd: 0,
            r_end: 0,
            given: 0,
            cuts: rules.cuts[number],
            event: false,
        }
    }

    /// What was sent and received since the pending checkpoint.
    fn since_pending(&self) -> (u8, u8) {
        let received = self.r_start + self.recvd;
        (self.processed - self.pending_sent, received.saturating_sub(self.r_pending))
    }

    /// session_buffers_new_cp: the pending checkpoint becomes the acknowledged one, what lies
    /// before it is freed.
    fn new_checkpoint(&mut self, id: u8, sent: u8, received: u8) {
        self.acked = self.pending;
        self.recvd = self.recvd.saturating_sub(self.r_pending - self.r_start);
        (self.start, self.r_start) = (self.pending_sent, self.r_pending);
        self.pending = id;
        self.pending_sent = self.start + sent;
        self.r_pending = self.r_start + received;
    }

    /// The peer resumes from this host's pending checkpoint: it moves forward to it.
    fn move_forward(&mut self) {
        let next = (self.pending + 1) % 3;
        self.new_checkpoint(next, 0, 0);
    }

    /// session_rollback.
    fn roll_back(&mut self) {
        (self.recvd, self.sent_cp) = (0, false);
        self.processed = self.start;
        self.pending_sent = self.start;
        self.r_pending = self.r_start;
        self.state = State::Active;
    }

    /// A checkpoint message; the answer, if one is due.
    fn on_checkpoint(
        &mut self,
        id: u8,
        sent: u8,
        received: u8,
    ) -> Result<Option<Frame>, &'static str> {
        if self.sent_cp {
            if id != self.pending {
                return Err("protocol violation: another checkpoint than the one proposed");
            }
            self.sent_cp = false;
            self.r_pending = self.r_pending.max(self.r_start + sent);
            self.pending_sent = self.pending_sent.max(self.start + received);
            return Ok(None);
        }
        if id == self.acked {
            return Err("protocol violation: the acknowledged checkpoint again");
        }
        let (own_sent, own_received) = self.since_pending();
        let (sent_here, received_here) = (own_sent.max(received), own_received.max(sent));
        self.new_checkpoint(id, sent_here, received_here);
        Ok(Some(Frame::Checkpoint { id, sent: sent_here, received: received_here, answer: true }))
    }
}

impl World {
    fn apply(&mut self, rules: &Rules, act: Act) -> Result<(), String> {
        match act {
            Act::Write(me) => self.hosts[me].end += 1,
            Act::Read(me) => self.hosts[me].given += 1,
            Act::Send(me) => {
                let host = &mut self.hosts[me];
                self.channels[1 - me].push(Frame::Data(host.processed));
                host.processed += 1;
            }
            Act::Propose(me) => {
                let host = &mut self.hosts[me];
                let (sent, received) = host.since_pending();
                let id = (host.pending + 1) % 3;
                host.new_checkpoint(id, sent, received);
                (host.sent_cp, host.cuts) = (true, host.cuts - 1);
                self.channels[1 - me].push(Frame::Checkpoint { id, sent, received, answer: false });
            }
            Act::Take(me) => return self.take(me),
            Act::Control(me, control) => {
                self.forget(me, control);
                return self.on_control(me, control);
            }
            Act::Lose(me, control) => self.forget(me, control),
            Act::Break => {
                self.breaks -= 1;
                for (host, channel) in self.hosts.iter_mut().zip(&mut self.channels) {
                    channel.clear();
                    (host.state, host.event) = (State::ReadyResume, true);
                }
            }
            Act::Event(me) => {
                let host = &mut self.hosts[me];
                (host.event, host.state) = (false, State::SentResume);
                let resume = Control::Resume(host.acked);
                self.tell(1 - me, resume);
            }
            Act::TimeOut(me) => {
                self.timeouts -= 1;
                self.hosts[me].state = State::ReadyResume;
            }
        }
        let _ = rules;
        Ok(())
    }

    fn tell(&mut self, to: usize, control: Control) {
        self.control[to].push(control);
        // They may overtake each other: the order is no part of the state.
        self.control[to].sort_unstable();
    }

    fn forget(&mut self, me: usize, control: Control) {
        let at = self.control[me].iter().position(|other| *other == control);
        self.control[me].remove(at.expect("it is there"));
    }

    /// A frame of the data channel.
    fn take(&mut self, me: usize) -> Result<(), String> {
        let frame = self.channels[me].remove(0);
        let host = &mut self.hosts[me];
        match frame {
            Frame::Data(value) => {
                let at = host.r_start + host.recvd;
                host.recvd += 1;
                if at == host.r_end {
                    if value != at {
                        return Err(format!(
                            "{} is given byte {value} in place of {at}",
                            NAMES[me]
                        ));
                    }
                    host.r_end += 1;
                }
            }
            Frame::Checkpoint { id, sent, received, .. } => {
                if let Some(answer) = host.on_checkpoint(id, sent, received)? {
                    self.channels[1 - me].push(answer);
                }
            }
        }
        Ok(())
    }

    fn on_control(&mut self, me: usize, control: Control) -> Result<(), String> {
        let host = &mut self.hosts[me];
        match (control, host.state) {
            (Control::Resume(id), State::Active | State::ReadyResume | State::Accepting) => {
                if id == host.pending {
                    host.move_forward();
                }
                host.state = State::Accepting;
                let answer = Control::ResumeOk(host.acked);
                self.tell(1 - me, answer);
            }
            // T17, T18.
            (Control::Resume(_), State::SentResume) if me == 0 => {
                let again = Control::Resume(host.acked);
                self.tell(1 - me, again);
            }
            (Control::Resume(_), State::SentResume) => host.state = State::ReadyResume,
            (Control::ResumeOk(id), State::SentResume) => {
                if id == host.pending {
                    host.move_forward();
                } else if id != host.acked {
                    return Err(format!("{}: no common checkpoint, session killed", NAMES[me]));
                }
                self.connect(me);
            }
            (Control::ResumeOk(_), _) => (),
        }
        Ok(())
    }

    /// The new data channel, if the peer still waits for it.
    fn connect(&mut self, me: usize) {
        if self.hosts[1 - me].state == State::Accepting {
            self.hosts.iter_mut().for_each(Host::roll_back);
            self.channels.iter_mut().for_each(Vec::clear);
        } else {
            self.hosts[me].state = State::ReadyResume;
        }
    }

    fn acts(&self, rules: &Rules) -> Vec<(Act, bool)> {
        let mut acts = Vec::new();
        for me in 0..2 {
            let (host, peer) = (&self.hosts[me], &self.hosts[1 - me]);
            let wrote = host.end == rules.bytes[me];
            if !wrote && host.end - host.start < rules.send_buffer {
                acts.push((Act::Write(me), true));
            }
            if host.given < host.r_end && (wrote || !rules.writes_first) {
                acts.push((Act::Read(me), true));
            }
            acts.extend(self.control[me].iter().flat_map(|control| {
                let lost = rules.late.then_some((Act::Lose(me, *control), false));
                [Some((Act::Control(me, *control), true)), lost].into_iter().flatten()
            }));
            if host.event && matches!(host.state, State::ReadyResume | State::SentResume) {
                acts.push((Act::Event(me), true));
            }
            if host.state == State::Accepting && self.timeouts > 0 {
                acts.push((Act::TimeOut(me), false));
            }
            if host.state != State::Active {
                continue;
            }
            let room = self.channels[1 - me].len() < rules.channel;
            if host.processed < host.end && room {
                acts.push((Act::Send(me), true));
            }
            if !self.channels[me].is_empty() && host.r_end - host.given < rules.receive_buffer {
                acts.push((Act::Take(me), true));
            }
            let moved = host.since_pending() != (0, 0);
            // Simultaneous: before the peer's proposal was heard. Eager: before it is known that
            // the peer has the answer.
            let proposal = peer.sent_cp && self.has_checkpoint(me, false);
            let answer = self.has_checkpoint(1 - me, true);
            let allowed = (rules.simultaneous || !proposal) && (rules.eager || !answer);
            if host.cuts > 0 && !host.sent_cp && moved && allowed && room {
                acts.push((Act::Propose(me), true));
            }
        }
        if self.breaks > 0 {
            acts.push((Act::Break, false));
        }
        acts
    }

    /// Whether a proposal, or an answer, is on its way to a host.
    fn has_checkpoint(&self, to: usize, wanted: bool) -> bool {
        self.channels[to]
            .iter()
            .any(|frame| matches!(frame, Frame::Checkpoint { answer, .. } if *answer == wanted))
    }
}

/// The thesis, to be explored.
struct Thesis {
    rules: Rules,
    worlds: Pool<World>,
}

impl Model for Thesis {
    type Key = u32;
    type Label = Act;

    fn start(&mut self) -> u32 {
        let hosts = [0, 1].map(|number| Host::new(&self.rules, number));
        let world = World {
            hosts,
            channels: [Vec::new(), Vec::new()],
            control: [Vec::new(), Vec::new()],
            breaks: self.rules.breaks,
            timeouts: self.rules.timeouts,
        };
        self.worlds.put(world).0
    }

    fn steps(&mut self, key: u32, out: &mut Vec<Step<u32, Act>>) {
        for (label, free) in self.worlds[key].acts(&self.rules) {
            let mut world = self.worlds[key].clone();
            let result = world.apply(&self.rules, label);
            let to = result.map(|()| self.worlds.put(world).0);
            out.push(Step { to, free, label });
        }
    }

    fn broken(&mut self, _key: u32) -> Option<String> {
        None
    }

    fn is_goal(&mut self, key: u32) -> bool {
        let world = &self.worlds[key];
        world.hosts.iter().all(|host| host.state == State::Active)
            && (0..2).all(|me| world.hosts[me].given == self.rules.bytes[1 - me])
    }

    fn describe(&mut self, key: u32, label: Act) -> String {
        let world = &self.worlds[key];
        match label {
            Act::Write(me) => format!("{}: the app writes a byte", NAMES[me]),
            Act::Read(me) => format!("{}: the app reads a byte", NAMES[me]),
            Act::Send(me) => {
                format!("{} sends byte {}", NAMES[me], world.hosts[me].processed)
            }
            Act::Propose(me) => {
                let host = &world.hosts[me];
                format!(
                    "{} proposes checkpoint {}: {:?}",
                    NAMES[me],
                    (host.pending + 1) % 3,
                    host.since_pending()
                )
            }
            Act::Take(me) => format!("{} receives {:?}", NAMES[me], world.channels[me][0]),
            Act::Control(me, control) => format!("{} receives {control:?}", NAMES[me]),
            Act::Lose(me, control) => format!("{control:?} to {} is lost", NAMES[me]),
            Act::Break => "the connection breaks, what is in flight is lost".to_owned(),
            Act::Event(me) => format!("{}: network event, sends RESUME", NAMES[me]),
            Act::TimeOut(me) => format!("{}: nobody connects in time", NAMES[me]),
        }
    }

    fn show(&mut self, key: u32) -> String {
        format!("{:#?}", self.worlds[key])
    }
}

fn run(name: &str, rules: Rules) -> Report {
    let report = explore(&mut Thesis { rules, worlds: Pool::new() }, 5_000_000);
    println!("{name}: {report}");
    let steps = report.trace.len().saturating_sub(1);
    report
        .trace
        .iter()
        .take(steps)
        .enumerate()
        .for_each(|(n, line)| println!("  {}. {line}", n + 1));
    report
}

fn gives_a_wrong_byte(report: &Report) -> bool {
    matches!(&report.verdict, Verdict::Broken(what) if what.contains("in place of"))
}

#[test]
fn thesis_f1_simultaneous_checkpoints_give_a_wrong_byte() {
    let rules = Rules { bytes: [2, 2], cuts: [2, 2], simultaneous: true, ..RULES };
    assert!(gives_a_wrong_byte(&run("F1", rules)));
}

#[test]
fn thesis_f2_an_answer_and_a_request_lost_together_give_a_wrong_byte() {
    let rules = Rules { bytes: [2, 2], cuts: [2, 2], eager: true, ..RULES };
    assert!(gives_a_wrong_byte(&run("F2", rules)));
}

#[test]
fn thesis_f3_an_answer_that_comes_late_leaves_both_waiting_for_ever() {
    let rules = Rules { timeouts: 1, ..RULES };
    let report = run("F3", rules);
    assert!(matches!(report.verdict, Verdict::DeadEnd | Verdict::Lost { .. }));
}

#[test]
fn thesis_f4_control_messages_without_a_number_are_obeyed_when_they_come_late() {
    let rules = Rules { bytes: [1, 0], cuts: [1, 0], breaks: 3, ..RULES };
    let report = run("F4", rules);
    assert!(matches!(&report.verdict, Verdict::Broken(what) if what.contains("no common")));
}

#[test]
fn thesis_f5_answers_behind_data_stop_both_without_any_fault() {
    let rules = Rules {
        bytes: [5, 5],
        cuts: [9, 9],
        breaks: 0,
        send_buffer: 2,
        receive_buffer: 1,
        channel: 2,
        writes_first: true,
        ..RULES
    };
    let report = run("F5", rules);
    assert!(matches!(report.verdict, Verdict::DeadEnd | Verdict::Lost { .. }));
}

#[test]
fn thesis_checkpoints_would_be_sound_without_f1_and_f2() {
    let rules = Rules { bytes: [2, 2], cuts: [2, 2], ..RULES };
    let report = run("F0", rules);
    assert!(!matches!(report.verdict, Verdict::Broken(_)));
}
