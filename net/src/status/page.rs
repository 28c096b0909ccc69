//! A plain HTML page: headings, paragraphs, tables; no script, everything escaped.

use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;\
padding:0 1em;color:#222;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\
table{border-collapse:collapse}th,td{text-align:left;vertical-align:top;padding:.25em 1em .25em 0;\
border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}}";

/// A page being written; begin with [`page`].
#[derive(Debug)]
pub struct Page {
    html: String,
}

/// Begins a page that a browser loads again every few seconds.
#[must_use]
pub fn page(title: &str) -> Page {
    let mut html = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.push_str("<meta http-equiv=\"refresh\" content=\"5\"><title>");
    escape(title, &mut html);
    html.push_str("</title><style>");
    html.push_str(STYLE);
    html.push_str("</style></head><body><h1>");
    escape(title, &mut html);
    html.push_str("</h1>");
    Page { html }
}

impl Page {
    /// A heading.
    #[must_use]
    pub fn heading(self, text: &str) -> Self {
        self.element("h2", text)
    }

    /// A paragraph.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.element("p", text)
    }

    /// A paragraph that says what is wrong now, or that nothing is.
    #[must_use]
    pub fn trouble(self, all: &[String]) -> Self {
        if all.is_empty() {
            return self.text("No trouble.");
        }
        self.text(&format!("Trouble: {}.", all.join("; ")))
    }

    /// A table, or "none" if it has no rows.
    #[must_use]
    pub fn table(mut self, head: &[&str], rows: &[Vec<String>]) -> Self {
        if rows.is_empty() {
            return self.text("none");
        }
        self.html.push_str("<table><thead><tr>");
        for cell in head {
            self = self.element("th", cell);
        }
        self.html.push_str("</tr></thead><tbody>");
        for row in rows {
            self.html.push_str("<tr>");
            for cell in row {
                self = self.element("td", cell);
            }
            self.html.push_str("</tr>");
        }
        self.html.push_str("</tbody></table>");
        self
    }

    /// The page as it is sent.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.html.push_str("</body></html>\n");
        self.html
    }

    fn element(mut self, name: &str, text: &str) -> Self {
        write!(self.html, "<{name}>").expect("writing to a string does not fail");
        escape(text, &mut self.html);
        write!(self.html, "</{name}>").expect("writing to a string does not fail");
        self
    }
}

fn escape(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_named_like_a_script_stays_text() {
        let rows = [vec!["<script>x</script>".into(), "a & 'b'".into()]];
        let html = page("1 < 2").heading("h").text("p").table(&["a", "b"], &rows).finish();
        assert!(!html.contains("<script>"), "{html}");
        assert!(html.contains("&lt;script&gt;") && html.contains("a &amp; &#39;b&#39;"), "{html}");
        assert!(html.contains("<title>1 &lt; 2</title>"), "{html}");
    }
}
