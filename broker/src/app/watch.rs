//! A connection over which a program sees the state of its session change: a byte for each change,
//! and the end when the session is over.

use std::io::ErrorKind;

use stp_proto::local::wire::state_number;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::States;

/// Tells until the session or the program's end is gone. A program that reads late gets the last
/// state of several.
pub(super) async fn tell(mut stream: UnixStream, mut states: States) {
    loop {
        tokio::select! {
            () = ended(&stream) => return,
            changed = states.changed() => {
                let state = *states.borrow_and_update();
                let (Ok(()), Some(state)) = (changed, state) else { return };
                if stream.write_all(&[state_number(state)]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until the program has closed its end, or says something, for which there is nothing here.
async fn ended(stream: &UnixStream) {
    loop {
        let ready = stream.readable().await;
        let nothing = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        if ready.is_err() || !stream.try_read(&mut [0]).is_err_and(|error| nothing(&error)) {
            return;
        }
    }
}
