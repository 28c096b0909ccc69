//! The text format of Prometheus.

use std::fmt::Write;

/// Metrics being written.
#[derive(Debug, Default)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> &mut Self {
        self.family(name, help, "gauge").sample(name, "", value)
    }

    /// A count that only goes up; by convention `name` ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> &mut Self {
        self.family(name, help, "counter").sample(name, "", value)
    }

    /// A gauge per value of one label.
    pub fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> &mut Self {
        self.family(name, help, "gauge");
        values
            .into_iter()
            .fold(self, |metrics, (of, value)| metrics.sample(name, &labelled(label, of), value))
    }

    /// A counter per value of one label.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> &mut Self {
        self.family(name, help, "counter");
        values
            .into_iter()
            .fold(self, |metrics, (of, value)| metrics.sample(name, &labelled(label, of), value))
    }

    /// The text as it is sent.
    #[must_use]
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) -> &mut Self {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
            .expect("writing to a string does not fail");
        self
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) -> &mut Self {
        writeln!(self.text, "{name}{labels} {value}").expect("writing to a string does not fail");
        self
    }
}

fn labelled(label: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{label}=\"{value}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut metrics = Metrics::new();
        metrics.gauge("sessions", "Sessions now.", 2.0);
        metrics.counters("refused_total", "Refused.", "reason", [("lost", 3), ("a\"b", 0)]);
        let wanted = "# HELP sessions Sessions now.\n# TYPE sessions gauge\nsessions 2\n\
            # HELP refused_total Refused.\n# TYPE refused_total counter\n\
            refused_total{reason=\"lost\"} 3\nrefused_total{reason=\"a\\\"b\"} 0\n";
        assert_eq!(metrics.finish(), wanted);
    }
}
