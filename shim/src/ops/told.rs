//! The names behind the virtual addresses that this process was told: a program that holds one can
//! still be led to its host when the broker that gave it is gone.
//!
//! Plain static memory, written once: no lock, good in any thread, copied by fork. Virtual
//! addresses are made of a hash of their name, so an old note is as good as a new one.

use core::array;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use stp_proto::local::wire::HOST_BYTES_MAX;

use super::broker::Host;

/// How many names are remembered, the first ones; 280 bytes each, and no memory until then.
const NAMES_MAX: usize = 64;

const EMPTY: u8 = 0;
/// A thread writes it. If that thread's copy in a fork is what is left of it, it stays so.
const IN_WORK: u8 = 1;
const READY: u8 = 2;

struct Note {
    state: AtomicU8,
    v4: AtomicU32,
    /// All zero for none.
    v6: [AtomicU64; 2],
    host: [AtomicU8; HOST_BYTES_MAX],
}

static NOTES: [Note; NAMES_MAX] = [const {
    Note {
        state: AtomicU8::new(EMPTY),
        v4: AtomicU32::new(0),
        v6: [const { AtomicU64::new(0) }; 2],
        host: [const { AtomicU8::new(0) }; HOST_BYTES_MAX],
    }
}; NAMES_MAX];

impl Note {
    fn stands_for(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => self.v4.load(Relaxed) == u32::from(v4),
            IpAddr::V6(v6) => halves(v6) == [self.v6[0].load(Relaxed), self.v6[1].load(Relaxed)],
        }
    }

    fn write(&self, name: &str, v4: Ipv4Addr, v6: Option<Ipv6Addr>) {
        self.v4.store(v4.into(), Relaxed);
        for (place, half) in self.v6.iter().zip(v6.map_or([0; 2], halves)) {
            place.store(half, Relaxed);
        }
        for (place, byte) in self.host.iter().zip(name.bytes()) {
            place.store(byte, Relaxed);
        }
        self.state.store(READY, Release);
    }

    fn host(&self) -> Option<Host> {
        let bytes: [u8; HOST_BYTES_MAX] = array::from_fn(|at| self.host[at].load(Relaxed));
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Host::new(core::str::from_utf8(&bytes[..length]).ok()?)
    }
}

fn halves(ip: Ipv6Addr) -> [u64; 2] {
    let bits = u128::from(ip);
    [(bits >> 64) as u64, bits as u64]
}

fn find(ip: IpAddr) -> Option<&'static Note> {
    NOTES.iter().find(|note| note.state.load(Acquire) == READY && note.stands_for(ip))
}

/// Remembers what stands for a name, if there is room.
pub fn remember(name: &str, v4: Ipv4Addr, v6: Option<Ipv6Addr>) {
    if name.len() > HOST_BYTES_MAX || find(v4.into()).is_some() {
        return;
    }
    let take = |note: &&Note| note.state.compare_exchange(EMPTY, IN_WORK, Relaxed, Relaxed).is_ok();
    if let Some(note) = NOTES.iter().find(take) {
        note.write(name, v4, v6);
    }
}

/// The name behind a virtual address that this process was told.
pub fn name_of(ip: IpAddr) -> Option<Host> {
    find(ip)?.host()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_first_is_remembered_and_no_more() {
        let v6 = Ipv6Addr::new(0xfd73, 0, 0, 0, 0, 0, 0, 1);
        for number in 0..200_u8 {
            let name = format!("host{number}.example");
            remember(&name, Ipv4Addr::new(198, 18, 0, number), (number == 0).then_some(v6));
            remember(&name, Ipv4Addr::new(198, 18, 0, number), None);
        }
        let name = |ip: IpAddr| name_of(ip).map(|host| host.as_c_str().to_bytes().to_vec());
        assert_eq!(name(v6.into()).as_deref(), Some(&b"host0.example"[..]));
        let v4 = |number| IpAddr::V4(Ipv4Addr::new(198, 18, 0, number));
        assert_eq!(name(v4(63)).as_deref(), Some(&b"host63.example"[..]), "each has one slot");
        assert_eq!(name(v4(64)), None);
    }
}
