//! The network: links, each first in first out in both directions. A link that breaks loses any
//! suffix of what is in flight; each end notices when it does, and may read what still came before.

use stp_proto::session::Detach;

use crate::plan::Plan;

/// The state of a link at one end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// A server has not read its first frame yet.
    Fresh,
    Open,
    /// Given back for another session.
    Reused,
    Closed,
}

impl Stage {
    fn is_over(self) -> bool {
        matches!(self, Stage::Reused | Stage::Closed)
    }
}

/// One direction of a link.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Lane {
    /// Frames in flight.
    pub frames: Vec<u32>,
    /// The reader may find the link broken before it has read them all.
    pub loose: bool,
}

/// One link.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wire {
    pub id: u8,
    pub server: u8,
    /// Nothing that is sent from now on arrives.
    pub cut: bool,
    pub up: Lane,
    pub down: Lane,
    pub broker_end: Stage,
    pub server_end: Stage,
}

/// How much may still go wrong.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Left {
    pub faults: u8,
    pub replays: u8,
    pub crashes: u8,
    pub moves: u8,
}

/// All links, and what the network may still do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Net {
    pub wires: Vec<Wire>,
    pub next: u8,
    pub left: Left,
    /// First frames of links so far, newest last, and where they went.
    pub firsts: Vec<(u8, u32)>,
}

/// Which end acts.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Actor {
    Broker,
    Server(u8),
}

/// What an end does to the network.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Touch {
    Send { link: u8, message: u32 },
    Detach { link: u8, how: Detach },
}

/// A change of the network that does not depend on what the ends do.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// The reader takes a frame.
    Pop { link: u8, actor: Actor },
    /// The reader finds the link broken or ended.
    Lose { link: u8, actor: Actor },
    /// A new link is there.
    Dial { server: u8 },
    /// A link breaks.
    Cut { link: u8 },
    /// An old first frame comes again.
    Replay { index: u8 },
    /// A server dies.
    Crash { server: u8 },
    /// The process of an end dies.
    Die { actor: Actor },
    /// Some other fault.
    Fault,
    /// The broker goes elsewhere.
    Move { server: u8 },
    /// The broker wants to.
    Leave,
}

/// First frames kept for replays.
const FIRSTS_MAX: usize = 2;

impl Net {
    pub fn new(plan: &Plan) -> Net {
        Net {
            wires: Vec::new(),
            next: 0,
            left: Left {
                faults: plan.faults,
                replays: plan.replays,
                crashes: plan.crashes,
                moves: plan.moves,
            },
            firsts: Vec::new(),
        }
    }

    fn wire(&mut self, link: u8) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.id == link)
    }

    fn add(&mut self, server: u8) -> &mut Wire {
        let lane = || Lane { frames: Vec::new(), loose: false };
        let wire = Wire {
            id: self.next,
            server,
            cut: false,
            up: lane(),
            down: lane(),
            broker_end: Stage::Open,
            server_end: Stage::Fresh,
        };
        self.next += 1;
        self.wires.push(wire);
        self.wires.last_mut().expect("just put there")
    }

    pub fn change(&self, change: Change) -> Net {
        let mut net = self.clone();
        match change {
            Change::Pop { link, actor } => {
                let Some(wire) = net.wire(link) else { unreachable!("only links that exist") };
                if actor == Actor::Broker {
                    wire.down.frames.remove(0);
                } else {
                    wire.up.frames.remove(0);
                    if wire.server_end == Stage::Fresh {
                        wire.server_end = Stage::Open;
                    }
                }
            }
            Change::Lose { link, actor } => {
                if let Some(wire) = net.wire(link) {
                    wire.close(actor, Stage::Closed, true);
                }
            }
            Change::Dial { server } => drop(net.add(server)),
            Change::Cut { link } => {
                net.left.faults -= 1;
                if let Some(wire) = net.wire(link) {
                    wire.cut = true;
                    (wire.up.loose, wire.down.loose) = (true, true);
                }
            }
            Change::Replay { index } => {
                net.left.replays -= 1;
                let (server, message) = net.firsts[usize::from(index)];
                let wire = net.add(server);
                wire.up.frames.push(message);
                wire.close(Actor::Broker, Stage::Closed, true);
            }
            Change::Crash { server } => {
                net.left.crashes -= 1;
                for wire in net.wires.iter_mut().filter(|wire| wire.server == server) {
                    wire.close(Actor::Server(server), Stage::Closed, true);
                }
            }
            Change::Die { actor } => {
                let here = |wire: &&mut Wire| match actor {
                    Actor::Broker => true,
                    Actor::Server(server) => wire.server == server,
                };
                for wire in net.wires.iter_mut().filter(here) {
                    wire.close(actor, Stage::Closed, true);
                }
            }
            Change::Fault => net.left.faults -= 1,
            Change::Leave => net.left.moves -= 1,
            Change::Move { server } => {
                net.left.moves -= 1;
                net.add(server);
            }
        }
        net.tidy();
        net
    }

    /// The effect of what an end does, or the property that it breaks.
    pub fn touch(&self, actor: Actor, touches: &[Touch], replays: bool) -> Result<Net, String> {
        let mut net = self.clone();
        for touch in touches {
            match *touch {
                Touch::Send { link, message } => {
                    let Some(wire) = net.wire(link) else { continue };
                    let first = actor == Actor::Broker
                        && wire.server_end == Stage::Fresh
                        && wire.up.frames.is_empty();
                    let server = wire.server;
                    wire.send(actor, message)?;
                    if first && replays {
                        net.firsts.push((server, message));
                        let count = net.firsts.len();
                        net.firsts.drain(..count.saturating_sub(FIRSTS_MAX));
                    }
                }
                Touch::Detach { link, how } => {
                    let Some(wire) = net.wire(link) else { continue };
                    match how {
                        Detach::Close => wire.close(actor, Stage::Closed, true),
                        Detach::Linger => wire.close(actor, Stage::Closed, false),
                        Detach::Reuse => {
                            if !wire.incoming(actor).frames.is_empty() {
                                return Err(format!("P10 reuse: link {link} is not clean"));
                            }
                            wire.close(actor, Stage::Reused, false);
                        }
                    }
                }
            }
        }
        net.tidy();
        Ok(net)
    }

    fn tidy(&mut self) {
        self.wires.retain(|wire| !(wire.broker_end.is_over() && wire.server_end.is_over()));
    }
}

impl Wire {
    /// What comes to this end.
    pub fn incoming(&self, actor: Actor) -> &Lane {
        if actor == Actor::Broker { &self.down } else { &self.up }
    }

    /// What goes from this end.
    pub fn outgoing(&self, actor: Actor) -> &Lane {
        if actor == Actor::Broker { &self.up } else { &self.down }
    }

    fn lanes(&mut self, actor: Actor) -> (&mut Lane, &mut Lane) {
        if actor == Actor::Broker {
            (&mut self.down, &mut self.up)
        } else {
            (&mut self.up, &mut self.down)
        }
    }

    pub fn stage(&self, actor: Actor) -> Stage {
        if actor == Actor::Broker { self.broker_end } else { self.server_end }
    }

    fn other(&self, actor: Actor) -> Stage {
        if actor == Actor::Broker { self.server_end } else { self.broker_end }
    }

    /// Whether this end may find the link broken, or ended, now.
    pub fn can_lose(&self, actor: Actor) -> bool {
        let lane = self.incoming(actor);
        matches!(self.stage(actor), Stage::Open | Stage::Fresh)
            && (lane.loose || (self.other(actor) == Stage::Closed && lane.frames.is_empty()))
    }

    /// Whether this end can read a frame now.
    pub fn can_read(&self, actor: Actor) -> Option<u32> {
        let open = matches!(self.stage(actor), Stage::Open | Stage::Fresh);
        self.incoming(actor).frames.first().copied().filter(|_| open)
    }

    fn send(&mut self, actor: Actor, message: u32) -> Result<(), String> {
        if self.other(actor) == Stage::Reused {
            return Err(format!("P10 reuse: a frame on link {} that was given back", self.id));
        }
        if !self.cut && self.other(actor) != Stage::Closed {
            self.lanes(actor).1.frames.push(message);
        }
        Ok(())
    }

    fn close(&mut self, actor: Actor, stage: Stage, abruptly: bool) {
        if actor == Actor::Broker {
            self.broker_end = stage;
        } else {
            self.server_end = stage;
        }
        let (incoming, outgoing) = self.lanes(actor);
        incoming.frames.clear();
        incoming.loose = false;
        outgoing.loose |= abruptly;
    }
}
