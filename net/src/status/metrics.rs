//! What `GET /metrics` says, in the text format of OpenMetrics, which Prometheus reads.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Metric, Registry};

/// The media type of the text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label: its name and its value.
type Label = [(String, String); 1];

/// A snapshot of a daemon's numbers, being gathered.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A snapshot without any numbers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> &mut Self {
        self.add(name, help, ConstGauge::new(value))
    }

    /// A count that only goes up; by convention `name` ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> &mut Self {
        self.add(name, help, ConstCounter::new(value))
    }

    /// A gauge per value of one label.
    pub fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> &mut Self {
        let family = Family::<Label, Gauge<f64, AtomicU64>>::default();
        for (of, value) in values {
            family.get_or_create(&[(label.to_owned(), of.to_owned())]).set(value);
        }
        self.add(name, help, family)
    }

    /// A counter per value of one label.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> &mut Self {
        let family = Family::<Label, Counter>::default();
        for (of, value) in values {
            family.get_or_create(&[(label.to_owned(), of.to_owned())]).inc_by(value);
        }
        self.add(name, help, family)
    }

    /// The text as it is sent.
    #[must_use]
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// The library writes the `_total` of counters and the full stop of a help text itself.
    fn add(&mut self, name: &str, help: &str, metric: impl Metric) -> &mut Self {
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.registry.register(name, help.trim_end_matches('.'), metric);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut metrics = Metrics::new();
        metrics.gauge("sessions", "Sessions now.", 2.5);
        metrics.counter("moves_total", "Moves.", 7);
        metrics.counters("refused_total", "Refused.", "reason", [("a\"b", 3)]);
        metrics.gauges("servers", "Servers.", "state", [("ready", 1.0)]);
        let wanted = "# HELP sessions Sessions now.\n# TYPE sessions gauge\nsessions 2.5\n\
            # HELP moves Moves.\n# TYPE moves counter\nmoves_total 7\n\
            # HELP refused Refused.\n# TYPE refused counter\n\
            refused_total{reason=\"a\\\"b\"} 3\n\
            # HELP servers Servers.\n# TYPE servers gauge\nservers{state=\"ready\"} 1.0\n# EOF\n";
        assert_eq!(metrics.finish(), wanted);
    }
}
