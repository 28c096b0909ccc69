//! Whether hyper, which shares no code with the observer but the parser of heads, takes some bytes
//! for exactly one HTTP/1 message.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};

/// How hyper reads some bytes that are followed by the end of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HyperSays {
    /// One message, all of it.
    Whole,
    /// Part of a message.
    Part,
    /// No message hyper takes.
    Refused,
}

/// A peer that sends its bytes and then ends its stream.
struct Script {
    said: Vec<u8>,
    at: usize,
    /// It waits until it has been spoken to.
    waits: bool,
    waker: Option<Waker>,
}

impl Read for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waits {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let end = self.said.len().min(self.at + buffer.remaining());
        buffer.put_slice(&self.said[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl Write for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waits = false;
        self.waker.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn script(said: &[u8], waits: bool) -> Script {
    Script { said: said.to_vec(), at: 0, waits, waker: None }
}

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
            tokio::runtime::Builder::new_current_thread().build().expect("it needs no system")
        );
    }
    RUNTIME.with_borrow(|runtime| runtime.block_on(work))
}

/// Of the error that ended a message.
fn of(error: &hyper::Error) -> HyperSays {
    let early = |cause: &io::Error| cause.kind() == io::ErrorKind::UnexpectedEof;
    let ended = error.source().and_then(|cause| cause.downcast_ref()).is_some_and(early);
    if error.is_incomplete_message() || ended { HyperSays::Part } else { HyperSays::Refused }
}

async fn body(body: Incoming) -> HyperSays {
    match body.collect().await {
        Ok(_) => HyperSays::Whole,
        Err(error) => of(&error),
    }
}

/// What a server makes of a request.
pub fn request(bytes: &[u8]) -> HyperSays {
    let first = Cell::new(None);
    let answer = |request: Request<Incoming>| async {
        let verdict = body(request.into_body()).await;
        let also_first = first.replace(Some(verdict)).is_none();
        assert!(also_first, "one message, for hyper two: {}", bytes.escape_ascii());
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    };
    let mut http = server::conn::http1::Builder::new();
    http.header_read_timeout(None).half_close(true);
    let served = wait_for(http.serve_connection(script(bytes, false), service_fn(answer)));
    match (first.get(), served) {
        (Some(verdict), _) => verdict,
        (None, Err(error)) => of(&error),
        (None, Ok(())) => HyperSays::Part,
    }
}

/// What a client makes of the responses to a request of this kind, interim ones before the last.
pub fn response(method: &str, bytes: &[u8]) -> HyperSays {
    let asked = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new());
    let Ok(asked) = asked else { return HyperSays::Refused };
    wait_for(async {
        let (mut sender, connection) =
            match client::conn::http1::handshake(script(bytes, true)).await {
                Ok(both) => both,
                Err(error) => return of(&error),
            };
        let answered = async {
            match sender.send_request(asked).await {
                Ok(response) => body(response.into_body()).await,
                Err(error) => of(&error),
            }
        };
        let (verdict, _) = tokio::join!(answered, connection);
        verdict
    })
}
