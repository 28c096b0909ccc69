//! The embedded origin of the `file` service: a document root over HTTP, by tower-http's `ServeDir`
//! (ranges, validators, conditional requests) behind hyper.
//!
//! What is added here: hidden files and paths that leave the root do not exist, and `If-Range`,
//! which `ServeDir` does not know.

use std::convert::Infallible;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::UnixStream;
use tower_http::services::ServeDir;

use super::chains::{Chains, Digested, Known, Look};

/// Files are read in pieces of this size.
const PIECE: usize = 256 * 1024;

/// What is served for a folder.
const INDEX: &str = "index.html";

/// A document root.
#[derive(Debug)]
pub struct Origin {
    root: PathBuf,
    files: ServeDir,
    chains: Arc<Chains>,
}

impl Origin {
    /// Serves what is below `root`, which must be a folder.
    pub fn new(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let files = ServeDir::new(&root).with_buf_chunk_size(PIECE);
        Ok(Self { root, files, chains: Arc::default() })
    }

    /// What is known of its files.
    #[must_use]
    pub fn chains(&self) -> &Arc<Chains> {
        &self.chains
    }

    /// What is known of the file that this request asks for and helps to prove its first `have`
    /// bytes.
    #[must_use]
    pub fn known(&self, request: &[u8], have: u64) -> Option<Known> {
        self.chains.known(&self.file(request)?, have)
    }

    /// Where the file is that this request asks for; none if it asks for something else.
    #[must_use]
    pub fn file(&self, request: &[u8]) -> Option<PathBuf> {
        let line = request.split(|&byte| byte == b'\r').next()?;
        let target = std::str::from_utf8(line).ok()?.split(' ').nth(1)?;
        place(&self.root, target.split('?').next()?)
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Speaks HTTP/1 on this stream until it ends.
    pub fn serve(&self, stream: UnixStream) {
        let (root, files) = (self.root.clone(), self.files.clone());
        let chains = Arc::clone(&self.chains);
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let (root, files, chains) = (root.clone(), files.clone(), Arc::clone(&chains));
            async move {
                let path = place(&root, request.uri().path());
                let before = path.as_deref().and_then(Look::at);
                let answer = answer(&root, &files, request.map(Body::new)).await;
                let after = path.as_deref().and_then(Look::at);
                Ok::<_, Infallible>(digested(answer, before.filter(|_| before == after), &chains))
            }
        });
        tokio::spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .max_buf_size(PIECE * 2)
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an exchange with the embedded origin was broken off");
            }
        });
    }
}

async fn answer(root: &Path, files: &ServeDir, mut request: Request<Body>) -> Response<Body> {
    if !visible(root, request.uri().path()).await {
        return plain(StatusCode::NOT_FOUND);
    }
    let condition = request.headers_mut().remove(header::IF_RANGE);
    if let Some(condition) = condition
        && request.headers().contains_key(header::RANGE)
    {
        let now = ask(files, bare(request.uri().path(), request.headers())).await;
        if validator(now.headers()).as_deref() != condition.to_str().ok() {
            request.headers_mut().remove(header::RANGE);
        }
    }
    ask(files, request).await
}

/// The file that is served under this path, as far as can be said without looking at it.
fn place(root: &Path, path: &str) -> Option<PathBuf> {
    let decoded = percent_decode_str(path.trim_start_matches('/')).decode_utf8().ok()?;
    Some(root.join(&*decoded))
}

/// The answer, its body digested as it goes out. It is the file that looked like this before and
/// after it was opened.
fn digested(answer: Response<Body>, look: Option<Look>, chains: &Arc<Chains>) -> Response<Body> {
    let begin = match answer.status() {
        StatusCode::OK => Some(0),
        StatusCode::PARTIAL_CONTENT => {
            let range = answer.headers().get(header::CONTENT_RANGE);
            let range = range.and_then(|range| range.to_str().ok()?.strip_prefix("bytes "));
            range.and_then(|range| range.split('-').next()?.parse().ok())
        }
        _ => None,
    };
    let digest = look.zip(begin).and_then(|(look, at)| chains.digest(look, at));
    match digest {
        Some(digest) => answer.map(|body| Body::new(Digested::new(body, digest))),
        None => answer,
    }
}

async fn ask(files: &ServeDir, request: Request<Body>) -> Response<Body> {
    match files.clone().try_call(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => {
            tracing::warn!(%error, "the document root could not be read");
            plain(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
                io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            })
        }
    }
}

/// The entity tag, if it is a strong one.
fn validator(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    tag.starts_with('"').then(|| tag.to_owned())
}

/// What the file looks like now.
fn bare(path: &str, headers: &HeaderMap) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::HEAD;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    if let Some(encoding) = headers.get(header::ACCEPT_ENCODING) {
        request.headers_mut().insert(header::ACCEPT_ENCODING, encoding.clone());
    }
    request
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Nothing on the way is hidden, and the way does not lead out of the root.
async fn visible(root: &Path, path: &str) -> bool {
    let decoded = percent_decode_str(path.trim_start_matches('/')).decode_utf8();
    let Ok(path) = decoded else { return false };
    let mut names = Path::new(&*path).components().map(|component| match component {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        Component::CurDir => true,
        _ => false,
    });
    if path.contains('\0') || !names.all(|shown| shown) {
        return false;
    }
    inside(root, root.join(&*path)).await
}

/// It is a file inside of the root, or a folder there. A folder's index is as good as the folder.
/// What is neither, such as a pipe, is not opened at all: that could take for ever.
async fn inside(root: &Path, file: PathBuf) -> bool {
    let Ok(mut real) = tokio::fs::canonicalize(file).await else {
        // It does not exist: that is for the file service to say.
        return true;
    };
    for _ in 0..2 {
        let Ok(look) = tokio::fs::metadata(&real).await else { return false };
        if !real.starts_with(root) || !(look.is_file() || look.is_dir()) {
            return false;
        }
        match tokio::fs::canonicalize(real.join(INDEX)).await {
            Ok(index) if look.is_dir() => real = index,
            _ => return true,
        }
    }
    // A folder that is called so.
    false
}
