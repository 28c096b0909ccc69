//! How `session top` looks.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

use super::state::{Asking, Order, SAMPLES, Session, State};
use crate::show::{list, number, word};
use crate::words::{self, Mood};
use stp_net::table::{bytes, time};

const SOFT: Style = Style::new().fg(Color::DarkGray);
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// On a terminal that has fewer columns than this, the less important fields are left out.
const WIDE: u16 = 110;
const NARROW: u16 = 72;

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, state: &State, now: Instant) {
    let below = (frame.area().height / 3).clamp(3, 12);
    let [head, table, events, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(below),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(state, now), head);
    sessions(frame, state, table, now);
    frame.render_widget(story(state, now), events);
    frame.render_widget(Paragraph::new(keys(state)), foot);
}

fn heading(state: &State, now: Instant) -> Paragraph<'static> {
    let broker = &state.status["broker"];
    let all = state.sessions.values();
    let without = all.clone().filter(|session| session.mood() == Mood::Gap).count();
    let rate: u64 = all.map(|session| session.rate(now)).sum();
    let lost = match without {
        0 => Style::new(),
        _ => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    };
    let counters = &state.status["counters"];
    let first = Line::from(vec![
        Span::styled("session top", Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(
            format!(
                "   broker {}, up {}",
                word(&broker["version"]),
                time(number(&broker["uptime_s"]) * 1_000)
            ),
            SOFT,
        ),
    ]);
    let second = Line::from(vec![
        Span::raw(format!("{} sessions, ", state.sessions.len())),
        Span::styled(format!("{without} without a link"), lost),
        Span::raw(format!(", {}/s; ", bytes(rate))),
        Span::styled(
            format!(
                "resumed {}, moved {}, opened {}",
                number(&counters["resumed"]),
                number(&counters["transferred"]),
                number(&counters["sessions_opened"])
            ),
            SOFT,
        ),
    ]);
    Paragraph::new(vec![first, second])
}

fn sessions(frame: &mut Frame<'_>, state: &State, area: Rect, now: Instant) {
    let shown = state.shown(now);
    let wide = area.width >= WIDE;
    let mut names = vec!["#", "APP", "DESTINATION", "SERVER", "STATE", "RTT", "RATE"];
    let mut widths = vec![
        Constraint::Length(6),
        Constraint::Length(14),
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(13),
    ];
    if area.width < NARROW {
        names.drain(5..6);
        widths.drain(5..6);
    }
    if wide {
        names.extend(["LAST SECONDS", "IN", "OUT", "PAUSES"]);
        let more = [SAMPLES as u16, 11, 11, 18].map(Constraint::Length);
        widths.extend(more);
    }
    let rows = shown.iter().map(|(id, session)| row(*id, session, area.width, now));
    let table = Table::new(rows, widths)
        .header(Row::new(names).style(SOFT))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP).border_style(SOFT));
    let mut place = TableState::default().with_selected(state.place(&shown));
    frame.render_stateful_widget(table, area, &mut place);
    if shown.is_empty() {
        let text = match state.words.is_empty() {
            true => "no session; start one: session run -- curl -O URL",
            false => "no session matches",
        };
        let inner = Rect { y: area.y + 2, height: 1.min(area.height), ..area };
        frame.render_widget(Paragraph::new(text).style(SOFT).centered(), inner);
    }
}

fn row(id: u64, session: &Session, width: u16, now: Instant) -> Row<'static> {
    let told = &session.told;
    let (state, style) = match session.mood() {
        Mood::Linked => ("linked", Style::new().fg(Color::Green)),
        Mood::Gap => ("no link", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)),
        Mood::Suspended => ("suspended", Style::new().fg(Color::Yellow)),
    };
    let server = match told["via"].as_str() {
        Some(_) => format!("{} via {}", word(&told["server"]), word(&told["via"])),
        None => word(&told["server"]),
    };
    let rtt = told["rtt_ms"].as_f64().map_or("–".into(), |ms| format!("{ms:.1} ms"));
    let mut cells = vec![
        Cell::new(id.to_string()),
        Cell::new(format!("{} {}", word(&told["app"]["comm"]), told["app"]["pid"])),
        Cell::new(word(&told["destination"])),
        Cell::new(server),
        Cell::new(Span::styled(state, style)),
    ];
    if width >= NARROW {
        cells.push(Cell::new(rtt));
    }
    cells.push(Cell::new(format!("{}/s", bytes(session.rate(now)))));
    if width >= WIDE {
        let pauses = match words::pauses(&session.events) {
            (0, _) => String::new(),
            (count, longest) => format!("{count}, up to {}", time(longest)),
        };
        cells.push(Cell::new(bars(session)).style(Style::new().fg(Color::Blue)));
        cells.push(Cell::new(bytes(number(&told["positions"]["dlv"]))));
        cells.push(Cell::new(bytes(number(&told["positions"]["end"]))));
        cells.push(Cell::new(pauses));
    }
    Row::new(cells)
}

/// The rates of the last seconds as bars of text.
fn bars(session: &Session) -> String {
    let most = session.rates.iter().copied().max().unwrap_or(0).max(1);
    let height = |rate: &u64| (u128::from(*rate) * 7 / u128::from(most)) as usize;
    let last = session.rates.iter().skip(session.rates.len().saturating_sub(SAMPLES));
    last.map(|rate| BARS[height(rate)]).collect()
}

/// The events of the selected session, or the last ones of all sessions.
fn story(state: &State, now: Instant) -> Paragraph<'static> {
    let selected = state.selected().and_then(|id| Some((id, state.sessions.get(&id)?)));
    let (title, lines): (String, Vec<Line<'static>>) = match selected {
        Some((id, session)) => {
            let title = format!(" {} {id}, newest first ", word(&session.told["app"]["comm"]));
            (title, session.events.iter().rev().map(event_line).collect())
        }
        None => {
            let ago = |at: &Instant| time(now.duration_since(*at).as_millis() as u64);
            let line = |(id, app, what, at): &(u64, String, String, Instant)| {
                Line::raw(format!("{} ago  {app} {id}  {what}", ago(at)))
            };
            (" lately ".into(), state.log.iter().map(line).collect())
        }
    };
    let ended = list(&state.status["ended"]).len();
    let right = Line::styled(format!(" {ended} ended before "), SOFT).right_aligned();
    let block = Block::new().borders(Borders::TOP).border_style(SOFT);
    Paragraph::new(lines).block(block.title(title).title_top(right))
}

fn event_line(event: &serde_json::Value) -> Line<'static> {
    let style = match words::mood(event) {
        Some(Mood::Gap) => Style::new().fg(Color::Red),
        Some(Mood::Linked) if event["gap_ms"].is_u64() => Style::new().fg(Color::Green),
        _ => Style::new(),
    };
    let at = format!("{:>8}  ", time(number(&event["at_ms"])));
    Line::from(vec![Span::styled(at, SOFT), Span::styled(words::sentence(event), style)])
}

fn keys(state: &State) -> Line<'static> {
    match state.asking {
        Asking::Search => Line::raw(format!("search: {}▏ (Enter: keep, Esc: all)", state.words)),
        Asking::Close(id) => {
            let style = Style::new().fg(Color::Red);
            Line::styled(format!("close session {id}? Its app gets an error. y / any other"), style)
        }
        Asking::Nothing if !state.said.is_empty() => Line::raw(state.said.clone()),
        Asking::Nothing => {
            let order = match state.order {
                Order::Newest => "newest",
                Order::Rate => "rate",
                Order::App => "app",
            };
            let keys = "j k choose  s suspend  r resume  m move  c close  / search";
            Line::styled(format!("{keys}  o order ({order})  q quit"), SOFT)
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::feed::Event;

    fn shown(width: u16, state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 20)).expect("it fails for none");
        terminal.draw(|frame| draw(frame, state, Instant::now())).expect("it fails for none");
        terminal.backend().to_string()
    }

    fn some() -> State {
        let mut state = State::default();
        let sessions: Vec<_> = [(3, "curl"), (4, "wget")]
            .map(|(id, comm)| {
                json!({ "id": id, "app": { "comm": comm, "pid": 70 + id }, "server": "vienna",
                    "destination": "mirror.example.org:80", "link": "a → b", "age_ms": 5_000,
                    "rtt_ms": 12.5, "positions": { "dlv": 5_242_880, "end": 80 },
                    "series": [{ "rate": 1_048_576 }, { "rate": 2_097_152 }],
                    "events": [{ "at_ms": 0, "what": "connected", "to_server": "vienna" }] })
            })
            .into();
        let status = json!({ "broker": { "version": "1", "uptime_s": 65 }, "sessions": sessions });
        state.take_status(&status, Instant::now());
        state
    }

    #[test]
    fn a_loss_and_a_return_are_seen_at_every_width() {
        let mut state = some();
        let now = Instant::now();
        let happening = |data| Event { kind: "happening".into(), data };
        let lost = json!({ "session": 4, "what": "lost", "cause": "link broke", "at_ms": 4_000 });
        state.take(&happening(lost), now);
        for width in [60, 100, 160] {
            let screen = shown(width, &state);
            assert!(screen.contains("1 without a link"), "{screen}");
            assert!(screen.contains("no link") && screen.contains("lost: link broke"), "{screen}");
            assert!(screen.contains("q quit") || width < 80, "{screen}");
        }
        state.take(
            &happening(json!({ "session": 4, "what": "transferred", "at_ms": 4_300, "gap_ms": 300,
                "from_server": "vienna", "to_server": "graz", "cause": "link broke" })),
            now,
        );
        let screen = shown(160, &state);
        assert!(screen.contains("0 without a link"), "{screen}");
        assert!(screen.contains("went from vienna to graz after 300 ms"), "{screen}");
        assert!(screen.contains("▄█") && screen.contains("1, up to 300 ms"), "{screen}");
    }

    #[test]
    fn search_and_selection_agree() {
        let mut state = some();
        assert_eq!(state.selected(), Some(4), "the newest is first");
        state.step(1);
        assert_eq!(state.selected(), Some(3));
        state.words = "wget".into();
        assert_eq!(state.selected(), Some(4), "what is not shown is not selected");
        state.words = "nobody".into();
        assert_eq!(state.selected(), None);
        assert!(shown(100, &state).contains("no session matches"));
        state.search(String::new());
        let ended = json!({ "session": 3, "reason": "done" });
        state.take(&Event { kind: "ended".into(), data: ended }, Instant::now());
        assert_eq!(state.sessions.len(), 1);
    }
}
