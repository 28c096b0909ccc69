//! What happens in the broker, as it happens: its `/events`, a stream of server-sent events.

use std::sync::mpsc::{self, Receiver, SyncSender};

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stp_lookup::here;
use tokio::net::UnixStream;

use crate::broker;

/// The most bytes of an event, which may hold a status with all sessions.
const EVENT_BYTES_MAX: usize = 256 << 20;
/// The most events that wait to be read here. The broker drops further ones, and says so.
const WAITING_MAX: usize = 1_024;

/// Something that the broker tells.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// Its kind: `status`, `happening`, `sample`, `ended` or `missed`.
    pub kind: String,
    /// Its content.
    pub data: Value,
}

/// Everything that the broker tells, from a thread that listens, until the broker ends. An error is
/// the last that comes: no broker answers, or its stream broke off.
#[must_use]
pub fn follow() -> Receiver<anyhow::Result<Event>> {
    let (sender, told) = mpsc::sync_channel(WAITING_MAX);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let listened = match runtime {
            Ok(runtime) => runtime.block_on(listen(&sender)),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = listened {
            // The command may have ended meanwhile, so that nobody reads this.
            let _gone = sender.send(Err(error));
        }
    });
    told
}

async fn listen(to: &SyncSender<anyhow::Result<Event>>) -> anyhow::Result<()> {
    let stream = broker::connect(&here::session_dir()?)?;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/events").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("the broker does not answer")?;
    if !response.status().is_success() {
        anyhow::bail!("the broker answers {}; it may be an older one", response.status());
    }
    let mut body = response.into_body();
    let mut reader = Reader::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the broker's stream broke off")?;
        for event in reader.take(frame.data_ref().map_or(&[][..], |data| data))? {
            if to.send(Ok(event)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Takes events out of a stream that comes in pieces.
#[derive(Debug, Default)]
struct Reader {
    rest: Vec<u8>,
    kind: String,
    data: String,
}

impl Reader {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<Vec<Event>> {
        if self.rest.len() + self.data.len() + piece.len() > EVENT_BYTES_MAX {
            anyhow::bail!("the broker sends an event without end");
        }
        self.rest.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut begun = 0;
        while let Some(length) = self.rest[begun..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[begun..begun + length]).into_owned();
            begun += length + 1;
            events.extend(self.line(line.trim_end_matches('\r')));
        }
        self.rest.drain(..begun);
        Ok(events)
    }

    /// An empty line ends an event; one that begins with a colon keeps the connection alive.
    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let data = std::mem::take(&mut self.data);
            let data = serde_json::from_str(&data).ok()?;
            return Some(Event { kind, data });
        }
        let (field, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data += value,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let text = ": alive\n\nevent: happening\ndata: {\"what\":\"lost\"}\n\n\
                    event: missed\r\ndata: 3\r\n\r\nevent: sam";
        for size in 1..text.len() {
            let mut reader = Reader::default();
            let mut events = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                events.extend(reader.take(piece).expect("short"));
            }
            let lost = Event { kind: "happening".into(), data: json!({ "what": "lost" }) };
            let missed = Event { kind: "missed".into(), data: json!(3) };
            assert_eq!(events, [lost, missed], "pieces of {size}");
        }
    }
}
