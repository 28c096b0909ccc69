//! Time that goes on while the machine sleeps: CLOCK_BOOTTIME, in microseconds.
//!
//! Hold times, heartbeats and attempts are measured against it, so a laptop that wakes up after
//! an hour knows at once that its links are an hour old.

use nix::time::{ClockId, clock_gettime};

/// Microseconds since the machine was started, suspended time included.
#[must_use]
pub fn now_us() -> u64 {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    let micros = u64::try_from(now.tv_nsec()).unwrap_or_default() / 1_000;
    seconds * 1_000_000 + micros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_runs_at_the_pace_of_a_second() {
        let start = now_us();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let gone = now_us() - start;
        assert!((20_000..2_000_000).contains(&gone), "{gone} us for a sleep of 20 ms");
    }

    #[test]
    fn time_counts_from_the_boot_of_the_machine_and_includes_its_sleep() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("proc is mounted");
        let seconds: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).expect("a number");
        let now = now_us() as f64 / 1e6;
        assert!((now - seconds).abs() < 5.0, "{now} against an uptime of {seconds}");
    }
}
