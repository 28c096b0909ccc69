//! The tables, in Markdown.

use std::fmt::Write as _;

use crate::run::{BOUND, End, Outcome};

/// All runs of one program: undisturbed, then under each fault.
pub struct Row {
    /// The program.
    pub name: &'static str,
    /// Undisturbed.
    pub plain: Outcome,
    /// Under each fault; nothing if it cannot happen to this program.
    pub under: Vec<Option<Outcome>>,
}

fn seconds(outcome: Outcome) -> f64 {
    outcome.took.as_secs_f64()
}

fn lost(outcome: Outcome, plain: Outcome) -> f64 {
    seconds(outcome) - seconds(plain)
}

/// One line per program, one column per fault.
pub fn summary(rows: &[Row], faults: &[String]) -> String {
    let mut text = "| | undisturbed |".to_owned();
    for fault in faults {
        let _ = write!(text, " {fault} |");
    }
    let _ = write!(text, "\n|---|{}\n", "--:|".repeat(faults.len() + 1));
    for row in rows {
        let _ = write!(text, "| {} | {:.1} s |", row.name, seconds(row.plain));
        for outcome in &row.under {
            let cell = match outcome.map(|outcome| (outcome, outcome.end)) {
                None => "–".to_owned(),
                Some((outcome, End::Right)) => format!("{:+.1} s", lost(outcome, row.plain)),
                Some((_, End::Wrong)) => "**wrong bytes**".to_owned(),
                Some((outcome, End::Failed)) => format!("fails after {:.0} s", seconds(outcome)),
                Some((_, End::Never)) => format!("> {} s", BOUND.as_secs()),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

/// Everything, one table per fault.
pub fn details(rows: &[Row], faults: &[String]) -> String {
    let mut text = String::new();
    for (column, fault) in faults.iter().enumerate() {
        let _ = write!(
            text,
            "\n**{fault}**\n\n| | finished? | right hash? | total time | time lost \
                |\n|---|---|---|--:|--:|\n"
        );
        for row in rows {
            let Some(outcome) = row.under[column] else { continue };
            let (finished, hash) = match outcome.end {
                End::Right => ("yes", "yes"),
                End::Wrong => ("yes", "**no**"),
                End::Failed => ("no, an error", ""),
                End::Never => ("no", ""),
            };
            let lost = match outcome.end {
                End::Right => format!("{:.1} s", lost(outcome, row.plain)),
                End::Wrong | End::Failed | End::Never => "all".to_owned(),
            };
            let more = if outcome.end == End::Never { "> " } else { "" };
            let total = seconds(outcome);
            let name = row.name;
            let _ =
                writeln!(text, "| {name} | {finished} | {hash} | {more}{total:.1} s | {lost} |");
        }
    }
    text
}

/// Loss: a line per way, a column per chance.
pub fn loss(names: &[&str], chances: &[&str], outcomes: &[Vec<Outcome>], megabytes: u64) -> String {
    let mut text = "| |".to_owned();
    for chance in chances {
        let _ = write!(text, " {chance} lost |");
    }
    let _ = write!(text, "\n|---|{}\n", "--:|".repeat(chances.len()));
    for (name, outcomes) in names.iter().zip(outcomes) {
        let _ = write!(text, "| {name} |");
        for outcome in outcomes {
            let mbit = megabytes as f64 * 8.0 / seconds(*outcome);
            let cell = match outcome.end {
                End::Right => format!("{mbit:.1} Mbit/s"),
                End::Wrong => "**wrong bytes**".to_owned(),
                End::Failed => "fails".to_owned(),
                End::Never => format!("> {} s", BOUND.as_secs()),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}
