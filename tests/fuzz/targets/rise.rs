//! Samples of a link, whatever a kernel says: the watch stays small, and asks seldom.

use std::time::Duration;

use stp_proto::rise::{RiseWatch, Rule, Sample};
use stp_proto::time::Instant;

use super::{Draw, bounded};

/// Two windows of a few buckets.
const MEMORY: usize = 4_096;
/// The clock of a link's samples goes on for 290,000 years, and has room behind it.
const NOW_MAX: u64 = u64::MAX / 2;

pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let (mut now, mut asked_at) = (Instant(draw.position() / 2), None);
    let rule = Rule::default();
    bounded(MEMORY, || {
        let mut watch = RiseWatch::new(rule);
        while !draw.is_empty() {
            // Clocks go on; samples may come at one time, or after years.
            now = Instant(now.0.saturating_add(draw.position() >> draw.below(64)).min(NOW_MAX));
            let sample = Sample {
                srtt_us: draw.u32() >> draw.below(32),
                min_rtt_us: draw.u32() >> draw.below(32),
                rate: draw.position(),
                acked: draw.u32().into(),
                idle: draw.below(4) == 0,
            };
            let Some(rise) = watch.sample(now, sample) else { continue };
            let lasting = if sample.idle { rule.quiet_lasting } else { rule.lasting };
            assert!(rise.lasted >= lasting, "{rise}");
            assert!(rise.srtt_us >= rise.base_us && rise.rate <= rise.rate_max, "{rise}");
            let pause: Option<Duration> = asked_at.map(|at| now - at);
            assert!(pause.is_none_or(|pause| pause >= rule.ask_again), "asked again at once");
            asked_at = Some(now);
        }
    });
}
