//! What this machine lets a daemon have: memory, and descriptors.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::system::sysinfo;

/// The part of the machine's memory that sessions may hold if nothing else is said: the daemon is
/// not alone there.
const PART: u64 = 4;
/// It is at least so much, below which no daemon is of use, and at most so much.
const MEMORY_MIN: u64 = 128 << 20;
const MEMORY_MAX: u64 = 4 << 30;

/// Bytes that the sessions of a daemon may hold, if its configuration does not say it.
#[must_use]
pub fn memory() -> u64 {
    let info = sysinfo();
    let all = u64::from(info.mem_unit).saturating_mul(info.totalram);
    (all / PART).clamp(MEMORY_MIN, MEMORY_MAX)
}

/// The most descriptors that this process can have.
#[must_use]
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Lets this process have as many. A session needs two descriptors and more, and the usual limit is
/// that of programs which use `select`.
///
/// # Errors
/// What the system says.
pub fn raise_descriptors() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Has names looked up in /etc/hosts and by DNS, whatever /etc/nsswitch.conf says. What else stands
/// there are modules for that machine's own C library. A program that has brought its own, because
/// it is linked statically, may not survive that they are loaded: mdns4_minimal, which desktops
/// have, ends it by a SIGFPE. Must come before there is a second thread.
#[cfg(target_env = "gnu")]
pub fn look_names_up_alone() {
    unsafe extern "C" {
        /// Of <nss.h>.
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            services: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: both are strings that end with 0, and nobody looks anything up meanwhile.
    unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}

/// Other C libraries never do anything else.
#[cfg(not(target_env = "gnu"))]
pub fn look_names_up_alone() {}

/// How often it is looked whether memory can be given back.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// It is worth it from so many bytes on.
const TIDY_MIN: usize = 32 << 20;

/// Gives memory back to the machine that was freed and is not used again. The allocator keeps it
/// otherwise: a thousand sessions would cost for ever what they cost at their busiest.
pub async fn tidy() {
    let mut kept = 0;
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let free = free_bytes();
        kept = free.min(kept);
        if free >= kept + TIDY_MIN {
            kept = free;
            // It takes some milliseconds.
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
    }
}

/// What the allocator has and nobody uses, given back or not.
#[cfg(target_env = "gnu")]
fn free_bytes() -> usize {
    // SAFETY: it only looks at the allocator's own numbers, under its locks.
    unsafe { libc::mallinfo2() }.fordblks
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it returns pages that are free, under the allocator's locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators see to it themselves.
#[cfg(not(target_env = "gnu"))]
fn free_bytes() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_descriptors_as_may_be_are_had() {
        raise_descriptors().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(descriptors(), limit.maximum.unwrap_or(u64::MAX));
    }

    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
    }

    /// Every second piece of much memory: the rest cannot be had by a smaller heap.
    #[cfg(target_env = "gnu")]
    #[tokio::test]
    async fn memory_that_is_free_is_given_back() {
        let pieces: Vec<Vec<u8>> = (0..4_000_u32).map(|byte| vec![byte as u8; 60_000]).collect();
        let full = resident();
        let kept: Vec<_> = pieces.into_iter().step_by(2).collect();
        let freed = resident();
        assert!(freed + (64 << 20) > full, "the allocator gives it back itself");
        let tidy = tokio::spawn(tidy());
        tokio::time::sleep(TIDY_EVERY + Duration::from_secs(2)).await;
        let after = resident();
        assert!(after + (64 << 20) < freed, "{full}, {freed} and then {after} bytes are resident");
        assert_eq!(kept.len(), 2_000);
        tidy.abort();
    }

    #[test]
    fn memory_is_within_its_bounds() {
        assert!((MEMORY_MIN..=MEMORY_MAX).contains(&memory()));
    }
}
