//! The faults, one function each kind, and their end.

use std::time::Duration;

use stp_drive::Command;
use stp_proto::wire::TransferReason;

use crate::disk::Full;
use crate::net::{BROKER, ConnId, Owner, SERVER};
use crate::plan::Kind;
use crate::service::EPOCH_S;
use crate::world::{Ev, Who, World};

impl World {
    pub fn fault(&mut self, kind: Kind) {
        if self.mended {
            return;
        }
        self.counts.faults += 1;
        let server = self.random.index(self.servers.len());
        self.say(|_| format!("FAULT {kind:?} (server {server})"));
        match kind {
            Kind::Cut => self.cut(),
            Kind::Silence => self.silence(),
            Kind::Outage => self.outage(server),
            Kind::Delay => self.slow_down(server),
            Kind::AddressChange => self.change_address(),
            Kind::ServerMove => self.move_server(server),
            Kind::BothMove => {
                self.change_address();
                self.move_server(server);
            }
            Kind::Death => self.death(server),
            Kind::Stall | Kind::Quit => self.app_fault(kind),
            Kind::Sleep => self.sleep(server),
            Kind::Clock => self.set_clock(server),
            Kind::Origin => {
                let origin = &self.servers[server].origin;
                if self.random.one_in(3) {
                    let pause = self.random.millis(10, 90_000);
                    origin.down_until.set(self.now + pause);
                }
                origin.breaks.set(origin.breaks.get() + 1);
                origin.troubles.set(origin.troubles.get() + 1);
                self.poke_all(server);
            }
            Kind::Burden => self.burden(server),
            Kind::Impatience => {
                let number = self.random.below(self.sessions().end);
                let retry = self.random.one_in(2);
                let command = if retry { Command::Retry } else { Command::PathChanged };
                self.tell_end(Who::Broker(number), command);
            }
            Kind::Directory => self.directory_fault(),
            Kind::Disk => {
                let full = self.random.pick(&[Full::Growth, Full::All]);
                self.fill_disk(Some(full));
                let pause = self.random.millis(100, 1_800_000);
                self.after(pause, Ev::DiskFreed);
            }
            Kind::UserMove => {
                let number = self.random.below(self.sessions().end);
                let offered = self.broker().seat(number).ranks.len();
                let to = (offered > 0 && self.random.one_in(2)).then(|| self.random.index(offered));
                self.move_by_user(number, to);
            }
            Kind::Memory => {
                for who in self.sessions_of(server) {
                    self.tell_end(who, Command::GiveUp);
                }
            }
            Kind::Restart if self.random.one_in(2) => self.restart_broker(),
            Kind::Restart => self.restart_server(server),
            Kind::Suspend => {}
        }
    }

    fn directory_fault(&mut self) {
        let which = self.random.below(4);
        let pause = self.random.millis(100, 1_800_000);
        let until = self.now + pause;
        let Some(names) = &mut self.names else { return };
        match which {
            0 => names.directory.break_all(),
            1 => names.directory.down_until = until,
            _ => self.directory_dies(which == 2),
        }
    }

    pub fn fill_disk(&mut self, full: Option<Full>) {
        if let Some(names) = &self.names {
            names.directory.fill(full);
        }
    }

    /// Every session of a server looks at its service.
    fn poke_all(&mut self, server: usize) {
        for who in self.sessions_of(server) {
            self.poke(who);
        }
    }

    fn some_conns(&mut self) -> Vec<ConnId> {
        let mut all = self.net().to(None);
        if !all.is_empty() && self.random.one_in(3) {
            let one = self.random.index(all.len());
            all = vec![all[one]];
        }
        all
    }

    /// Links break; each end learns soon, late or never.
    fn cut(&mut self) {
        for conn in self.some_conns() {
            let after = [self.learns(), self.learns()];
            self.break_conn(conn, after);
        }
    }

    fn learns(&mut self) -> Option<Duration> {
        match self.random.below(4) {
            0 => None,
            1 => Some(self.random.millis(100, 20_000)),
            _ => Some(Duration::ZERO),
        }
    }

    fn break_conn(&mut self, conn: ConnId, after: [Option<Duration>; 2]) {
        for side in [BROKER, SERVER] {
            let way = 1 - side;
            let mut net = self.net();
            match after[side] {
                Some(after) => net.break_towards(conn, side, after),
                None => {
                    if let Some(known) = net.conns.get_mut(&conn) {
                        known.ways[way].dead = true;
                    }
                }
            }
        }
    }

    fn silence(&mut self) {
        let which = self.random.below(3);
        for conn in self.some_conns() {
            if let Some(known) = self.net().conns.get_mut(&conn) {
                known.ways[BROKER].dead |= which != 1;
                known.ways[SERVER].dead |= which != 0;
            }
        }
    }

    fn outage(&mut self, server: usize) {
        let all = self.random.one_in(2);
        let pause = self.random.millis(50, 1_800_000);
        let survive = self.random.one_in(2);
        for rank in 0..self.servers.len() {
            if !all && rank != server {
                continue;
            }
            let until = self.now + pause;
            let mut net = self.net();
            net.down_until[rank] = net.down_until[rank].max(until);
            for conn in net.to(Some(rank)) {
                if let Some(known) = net.conns.get_mut(&conn)
                    && known.path == rank
                {
                    for way in &mut known.ways {
                        way.frozen = true;
                        way.dead |= !survive;
                    }
                }
            }
            drop(net);
            self.after(pause, Ev::Thaw(rank));
        }
        if all && let Some(names) = &mut self.names {
            names.directory.down_until = self.now + pause;
        }
    }

    fn slow_down(&mut self, server: usize) {
        let all = self.random.one_in(2);
        let more = self.random.millis(100, 20_000);
        let until = self.now + self.random.millis(1_000, 600_000);
        for rank in 0..self.servers.len() {
            if all || rank == server {
                self.net().slow_until[rank] = (until, more);
            }
        }
    }

    /// Only tickets know the time of day, and sessions live without them while their server does.
    fn set_clock(&mut self, server: usize) {
        let leap = self.random.scale(1, 10 * 365 * 86_400);
        let clock = &self.servers[server].clock;
        let ahead = self.random.one_in(2);
        let now = clock.get();
        clock.set(if ahead { now.saturating_add(leap) } else { now.saturating_sub(leap) });
    }

    /// What was frozen goes on.
    pub fn thaw(&mut self, server: usize) {
        let mut net = self.net();
        if net.is_up(self.now, server) {
            net.thaw(server);
        }
    }

    fn change_address(&mut self) {
        self.net().address += 1;
        let after = if self.random.one_in(3) { Some(Duration::ZERO) } else { None };
        let all = self.net().to(None);
        for conn in all {
            self.break_conn(conn, [after, None]);
        }
        if self.random.one_in(2) {
            let pause = self.random.millis(10, 60_000);
            for until in &mut self.net().down_until {
                *until = (*until).max(self.now + pause);
            }
        }
        if self.plan.watched {
            self.after(Duration::from_millis(50), Ev::Noticed);
        }
    }

    fn move_server(&mut self, server: usize) {
        let pause = self.random.millis(10, 120_000);
        // Its new address is known to the directory, as soon as it can tell.
        if let Some(names) = &mut self.names {
            names.moved(server);
        }
        let until = self.now + pause;
        let all = {
            let mut net = self.net();
            net.down_until[server] = net.down_until[server].max(until);
            net.to(Some(server))
        };
        for conn in all {
            self.break_conn(conn, [None, None]);
        }
    }

    fn death(&mut self, server: usize) {
        if !self.servers[server].alive {
            return;
        }
        let loses_power = self.random.one_in(2);
        self.kill(server, loses_power);
        let pause = self.random.millis(100, 600_000);
        self.after(pause, Ev::Restart(server));
    }

    /// A server's process dies, or its machine.
    pub fn kill(&mut self, server: usize, loses_power: bool) {
        self.servers[server].die();
        self.servers[server].gone = loses_power;
        for seat in &mut self.broker().seats {
            seat.facts.deaths += 1;
        }
        let told = (!loses_power).then_some(Duration::ZERO);
        let all = self.net().to(Some(server));
        for conn in all {
            if let Some(known) = self.net().conns.get_mut(&conn)
                && known.server == server
            {
                known.owner[SERVER] = Owner::Nobody;
            }
            self.break_conn(conn, [told, None]);
        }
        // Its links are nobody's by now: nothing is sent any more.
        for who in self.sessions_of(server) {
            self.ends.remove(&who);
        }
    }

    pub fn restart(&mut self, server: usize) {
        self.servers[server].alive = true;
        self.servers[server].gone = false;
        self.say(|_| format!("server {server} is back"));
    }

    fn app_fault(&mut self, kind: Kind) {
        let now = self.now;
        let number = self.random.below(self.sessions().end);
        let (pause, aborts) = (self.random.millis(100, 3_600_000), self.random.one_in(2));
        let who = Who::Broker(number);
        let Some(app) = self.end_mut(who).and_then(|end| end.driver.near().app()) else { return };
        match kind {
            Kind::Stall => app.stalled_until = now + pause,
            _ if aborts => {
                app.aborts = true;
                self.broker().seat(number).facts.app_aborted = true;
            }
            _ => {
                app.quits = true;
                self.broker().seat(number).facts.app_quit = true;
            }
        }
        self.poke(who);
    }

    /// A machine sleeps: nothing happens there, and then its clock has leapt.
    fn sleep(&mut self, server: usize) {
        let until = self.now + self.random.millis(1_000, 7_200_000);
        if self.random.one_in(3) {
            self.servers[server].asleep_until = until;
        } else {
            self.broker().asleep_until = until;
        }
    }

    fn burden(&mut self, server: usize) {
        if self.random.one_in(2) {
            self.servers[server].full_until = self.now + self.random.millis(100, 60_000);
            for seat in &mut self.broker().seats {
                seat.facts.unreachable = true;
            }
            return;
        }
        self.ask_to_leave(server);
    }

    /// A server wants to be left by all its sessions.
    pub fn ask_to_leave(&mut self, server: usize) {
        for who in self.sessions_of(server) {
            let (reason, text) = (TransferReason::Overloaded, "please leave".to_owned());
            self.tell_end(who, Command::AskTransfer { reason, text });
        }
    }

    /// Faults are over: everything works, everybody goes on.
    pub fn mend(&mut self) {
        self.say(|_| "MEND".to_owned());
        self.mended = true;
        let now = self.now;
        self.broker().asleep_until = now;
        self.plan.late = Duration::ZERO;
        for server in 0..self.servers.len() {
            self.servers[server].asleep_until = now;
            self.servers[server].full_until = now;
            self.servers[server].clock.set(EPOCH_S);
            self.net().slow_until[server] = Default::default();
            self.servers[server].origin.down_until.set(now);
            self.net().down_until[server] = now;
            self.restart(server);
            self.thaw(server);
        }
        if let Some(names) = &mut self.names {
            names.directory.fill(None);
            names.directory.down_until = now;
            self.directory_back();
        }
        let all: Vec<Who> = self.ends.keys().copied().collect();
        for who in all {
            if let Some(app) = self.end_mut(who).and_then(|end| end.driver.near().app()) {
                app.hurry();
            }
            self.poke(who);
            self.tell_end(who, Command::Resume);
        }
    }
}
