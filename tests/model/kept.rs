//! What outlives a process: the page that its keeper holds. It is written and read in the shipped
//! order (`net/src/kept/ledger.rs`), with the shipped remains in it. The process may die before any
//! store, and then the next one goes on with what is there.
//!
//! Bytes are not kept here: they follow from their positions. What the kernel does, moving bytes
//! and counting them in one, is a store that is made or not made.

use std::cell::{Cell, RefCell};

use stp_net::kept::ledger::{self, Page, Text, Way, Word};
use stp_proto::session::{Mutant, Remains, Session};

use crate::act::Act;
use crate::end::{End, Happening, NOW, Role, byte};
use crate::plan::Plan;

/// Numbers in the page.
const WORDS: usize = 12;

/// The page of one end.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Kept {
    words: [u64; WORDS],
    records: [Vec<u8>; 2],
}

/// The page as a process writes it that may die.
pub struct Memory {
    pub kept: RefCell<Option<Kept>>,
    /// Stores that are still made.
    left: Cell<u8>,
    /// It is read by the next process, which may make a mistake.
    restoring: bool,
}

impl Memory {
    /// A process that dies before it stores anything more than `left` times.
    pub fn new(kept: Option<Kept>, left: u8) -> Memory {
        Memory { kept: RefCell::new(kept), left: Cell::new(left), restoring: false }
    }

    fn read_again(kept: Kept) -> Memory {
        Memory { kept: RefCell::new(Some(kept)), left: Cell::new(0), restoring: true }
    }

    pub fn is_dead(&self) -> bool {
        self.left.get() == 0
    }

    /// Takes one store off what is left; whether it is made.
    fn lives(&self) -> bool {
        let left = self.left.get();
        if left != u8::MAX {
            self.left.set(left.saturating_sub(1));
        }
        left > 0
    }

    /// The kernel moves one byte, if the process lives to ask for it. Whether it does.
    pub fn moves(&self, way: Way) -> bool {
        if self.kept.borrow().is_some() {
            let slot = ledger::begin(self, way, 0);
            if !self.is_dead() {
                self.store(Word::Moved(way, slot), 1);
                return true;
            }
        }
        !self.is_dead()
    }

    /// R101, R100: as `drive/src/keep.rs` puts them.
    pub fn hold_until(&self, position: u64) {
        self.store(Word::HeldUntil, position);
    }

    pub fn put(&self, session: &Session) {
        let mut record = Vec::new();
        session.remains().iter().for_each(|remains| remains.encode(&mut record));
        if self.kept.borrow().is_some()
            && ledger::text(self, Text::Record).as_ref() != Some(&record)
        {
            ledger::put_text(self, Text::Record, &record);
        }
    }
}

fn index(word: Word) -> usize {
    let way = |way| usize::from(way == Way::Written);
    match word {
        Word::InUse(of) => way(of),
        Word::Began(of, slot) => 2 + 2 * way(of) + slot,
        Word::Moved(of, slot) => 6 + 2 * way(of) + slot,
        Word::HeldUntil => 10,
        Word::Place(_) => 11,
        // The model's records know their length.
        Word::Length(..) => WORDS,
    }
}

impl Page for Memory {
    fn load(&self, word: Word) -> u64 {
        let kept = self.kept.borrow();
        let value = kept.as_ref().and_then(|kept| kept.words.get(index(word))).copied();
        let value = value.unwrap_or_default();
        let wrong = |mutant: Mutant| self.restoring && mutant.is_set();
        match word {
            Word::Place(_) if wrong(Mutant::RecordStale) && value > 0 => {
                let older = kept.as_ref().map(|kept| &kept.records[2 - value as usize]);
                if older.is_some_and(|older| Remains::decode(older).is_ok()) {
                    3 - value
                } else {
                    value
                }
            }
            Word::Moved(..) if wrong(Mutant::CallUncounted) => 0,
            Word::Began(..) if wrong(Mutant::PositionAhead) => value + 1,
            _ => value,
        }
    }

    fn store(&self, word: Word, value: u64) {
        let lives = self.lives();
        let mut kept = self.kept.borrow_mut();
        let place = kept.as_mut().and_then(|kept| kept.words.get_mut(index(word)));
        if let (Some(place), true) = (place, lives) {
            *place = value;
        }
    }

    fn read_text(&self, _: Text, place: usize, _: u64) -> Option<Vec<u8>> {
        self.kept.borrow().as_ref().map(|kept| kept.records[place].clone())
    }

    /// Dies in the middle of it as well.
    fn write_text(&self, _: Text, place: usize, bytes: &[u8]) {
        for bytes in [&bytes[..bytes.len() / 2], bytes] {
            let lives = self.lives();
            if let (Some(kept), true) = (self.kept.borrow_mut().as_mut(), lives) {
                kept.records[place] = bytes.to_vec();
            }
        }
    }
}

impl End {
    /// The process of this end dies while something happens to it, before it stores anything more
    /// than `stores` times, and the next process goes on. Nothing of what it wanted to send has
    /// left. None if it stores less than that, or has nothing to go on with.
    pub fn dies(
        &self,
        plan: &Plan,
        happening: Happening,
        record: &[u8],
        stores: u8,
    ) -> Result<Option<End>, String> {
        self.caught(plan, || {
            let mut act = Act::new(plan, self.clone(), u8::MAX, stores);
            act.run_until_death(happening, record)?;
            let Some(kept) = act.memory.kept.take().filter(|_| act.memory.is_dead()) else {
                return Ok(None);
            };
            // The near side goes on, whoever is at the other end of its socket.
            let (mut end, near) = (self.clone(), act.out.end.near.clone());
            (end.near.wrote, end.near.got) = (near.wrote, near.got);
            end.near.got_fin |= near.got_fin;
            end.restored(plan, kept)
        })
    }

    /// As `restore.rs` of broker and server.
    fn restored(self, plan: &Plan, kept: Kept) -> Result<Option<End>, String> {
        let memory = Memory::read_again(kept);
        let Some(record) = ledger::text(&memory, Text::Record).filter(|record| !record.is_empty())
        else {
            return Ok(None);
        };
        let lost = |why| format!("P15 restart: {why}");
        let remains = Remains::decode(&record).map_err(|why| lost(why.to_string()))?;
        let (read, given) =
            (ledger::position(&memory, Way::Read), ledger::position(&memory, Way::Written));
        let (at, _) = remains.counts(read, given, memory.load(Word::HeldUntil));
        let from = remains.needed_from(at, u64::MAX);
        let broker = self.role == Role::Broker;
        let up: Vec<u8> = (from..at.end).map(|at| byte(broker, at)).collect();
        let down: Vec<u8> = (at.delivered..at.held).map(|at| byte(!broker, at)).collect();
        let bytes = (up.as_slice(), down.as_slice());
        let session = Session::restore(NOW, plan.limits(), "s", &remains, at, bytes);
        let mut end = self;
        end.session = Some(session.map_err(|why| lost(why.to_string()))?);
        end.near.fin_said = remains.has_ended();
        end.near.got_fin |= remains.end_given();
        (end.links, end.next, end.dialing) = (Vec::new(), 0, false);
        (end.blocked, end.unasked) = (false, 0);
        end.left.restarts -= 1;
        // What nobody will read again need not be told apart.
        end.kept = memory.kept.take().filter(|_| end.left.restarts > 0);
        let mut act = Act::new(plan, end, u8::MAX, u8::MAX);
        act.run_until_death(Happening::Room, &[])?;
        Ok(Some(act.out.end))
    }
}
