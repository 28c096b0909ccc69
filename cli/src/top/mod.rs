//! `session top`: the sessions in the terminal, as they are now; keys suspend, resume, move and
//! close them.

mod state;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::bail;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEvent, KeyModifiers};

use crate::broker;
use crate::feed::{self, Event};
use state::{Asking, State};

/// The longest time from a key to its effect on the screen.
const TICK: Duration = Duration::from_millis(200);
/// How often the broker is asked for positions and servers. Events are told by it at once.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Shows the sessions until `q` is pressed.
///
/// # Errors
/// When there is no terminal, or no broker answers.
pub fn top() -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("`session top` needs a terminal; `session status` and `session log` do not");
    }
    let mut state = State::default();
    state.take_status(&broker::status()?, Instant::now());
    let told = feed::follow();
    let mut terminal = ratatui::init();
    let shown = show(&mut terminal, &mut state, &told);
    ratatui::restore();
    shown.map(|()| ExitCode::SUCCESS)
}

fn show(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    told: &Receiver<anyhow::Result<Event>>,
) -> anyhow::Result<()> {
    let mut asked = Instant::now();
    loop {
        loop {
            match told.try_recv() {
                Ok(event) => state.take(&event?, Instant::now()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => bail!("the broker has ended"),
            }
        }
        if state.wants_status || asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            state.take_status(&broker::brief()?, asked);
        }
        terminal.draw(|frame| view::draw(frame, state, Instant::now()))?;
        if event::poll(TICK)?
            && let TerminalEvent::Key(key) = event::read()?
            && key.is_press()
            && !press(state, key)
        {
            return Ok(());
        }
    }
}

/// What a key does. False: it ends the command.
fn press(state: &mut State, key: KeyEvent) -> bool {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return false;
    }
    match state.asking {
        Asking::Search => match key.code {
            KeyCode::Enter => state.asking = Asking::Nothing,
            KeyCode::Esc => state.search(String::new()),
            KeyCode::Backspace => {
                state.words.pop();
            }
            KeyCode::Char(letter) => state.words.push(letter),
            _ => {}
        },
        Asking::Close(id) => {
            state.asking = Asking::Nothing;
            if key.code == KeyCode::Char('y') {
                act(state, id, "close");
            }
        }
        Asking::Nothing => return command(state, key.code),
    }
    true
}

fn command(state: &mut State, key: KeyCode) -> bool {
    match key {
        KeyCode::Char('q') => return false,
        KeyCode::Esc => state.search(String::new()),
        KeyCode::Down | KeyCode::Char('j') => state.step(1),
        KeyCode::Up | KeyCode::Char('k') => state.step(-1),
        KeyCode::Char('/') => state.asking = Asking::Search,
        KeyCode::Char('o') => state.order = state.order.next(),
        KeyCode::Char(letter) => {
            let Some(id) = state.selected() else { return true };
            match letter {
                's' => act(state, id, "suspend"),
                'r' => act(state, id, "resume"),
                'm' => act(state, id, "move"),
                'c' => state.asking = Asking::Close(id),
                _ => {}
            }
        }
        _ => {}
    }
    true
}

fn act(state: &mut State, id: u64, what: &str) {
    state.said = match broker::act(&id.to_string(), what) {
        Ok(_) => format!("session {id}: {what}"),
        Err(error) => format!("session {id}: {error:#}"),
    };
    state.wants_status = true;
}
