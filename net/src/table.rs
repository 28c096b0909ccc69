//! Columns for a terminal.

/// A table that grows by rows and is as wide as it needs to be.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with this head; a name that begins with `>` makes its column flush right.
    #[must_use]
    pub fn new(head: &[&str]) -> Table {
        let right = head.iter().map(|name| name.starts_with('>')).collect();
        let names = head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Table { rows: vec![names], right }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Whether there is only the head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table, as wide as the terminal at most: the longest texts are cut. Where there is no
    /// terminal nothing is, so that a program that reads it gets all.
    #[must_use]
    pub fn fitted(&self) -> String {
        match rustix::termios::tcgetwinsize(std::io::stdout()) {
            Ok(size) if size.ws_col > 0 => self.text(size.ws_col.into()),
            _ => self.text(usize::MAX),
        }
    }

    /// The whole table as text, at most this many columns wide.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        let widths = self.widths(columns);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let cell = cut(cell, widths[column]);
                let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                let gap = if column == 0 { "" } else { "  " };
                match self.right[column] {
                    true => line += &format!("{gap}{pad}{cell}"),
                    false => line += &format!("{gap}{cell}{pad}"),
                }
            }
            text += line.trim_end();
            text += "\n";
        }
        text
    }

    /// How wide each column is: as its widest cell, less what is too much. Numbers are never cut.
    fn widths(&self, columns: usize) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let gaps = 2 * widths.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
        while excess > 0 {
            let texts = widths.iter().enumerate().filter(|(column, _)| !self.right[*column]);
            match texts.max_by_key(|(_, width)| **width).map(|(column, width)| (column, *width)) {
                Some((column, width)) if width > TEXT_MIN => widths[column] -= 1,
                _ => break,
            }
            excess -= 1;
        }
        widths
    }
}

/// A column of text is not made narrower than this.
const TEXT_MIN: usize = 8;

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Bytes for a person: `1.5 MiB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < units.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A time for a person: `850 ms`, `12 s`, `3 min`, `5 h`.
#[must_use]
pub fn time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row(vec!["a".into(), "5".into()]);
        table.row(vec!["abcdef".into(), "123456".into()]);
        assert_eq!(table.text(80), "name     bytes\na            5\nabcdef  123456\n");
    }

    #[test]
    fn what_does_not_fit_is_cut_where_it_is_longest_and_numbers_are_whole() {
        let mut table = Table::new(&["app", "destination", ">bytes"]);
        table.row(vec!["curl 1".into(), "mirror.example.org:80".into(), "123456789".into()]);
        let text = table.text(32);
        let last = text.lines().last().expect("a row");
        assert_eq!(last, "curl 1  mirror.examp…  123456789");
        assert!(table.text(usize::MAX).contains("mirror.example.org:80"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(time(999), "999 ms");
        assert_eq!(time(1_250), "1.2 s");
        assert_eq!(time(65_000), "65 s");
        assert_eq!(time(7_200_000), "2 h");
    }
}
