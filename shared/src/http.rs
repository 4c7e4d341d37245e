//! The little HTTP that proxy and node share: serving with limits, reading a body that is JSON with
//! form fields behind it, answering JSON and errors.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::budget::{Budget, Taken};
use crate::error::{Class, Code, Error};
use crate::form;

/// Largest request body. A log entry must fit a frame with room to spare.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// Bytes of bodies that one server holds at a time, more are refused: a thousand requests of the largest size
/// would take all memory. Tens of clients that load as fast as they can stay far below it.
pub const MAX_BODIES_BYTES: usize = 128 << 20;

/// Connections served at once; more wait in the listen queue of the kernel.
pub const MAX_CONNECTIONS: usize = 4096;

/// How long a client may take to send its headers: keeps idle half-open requests from piling up.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may pause within a body: what has come of it is held meanwhile, and counts.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What every JSON answer is.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request with its body read.
pub struct HttpRequest {
    /// GET, POST, …
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// Parameters of the query, then form fields behind a JSON body, in order. No name is there twice.
    pub params: Vec<(String, String)>,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl HttpRequest {
    /// The parameter of that name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Are there no other parameters than these? One that is misspelt must not be left out in silence.
    ///
    /// # Errors
    /// [`Code::BadRequest`], naming it.
    pub fn has_only(&self, known: &[&str]) -> Result<(), Error> {
        match self.params.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((unknown, _)) => Err(unknown_field(unknown, "parameter", known)),
        }
    }

    /// A yes-or-no parameter; present without a value means yes.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for anything but `true`, `false`, `1`, `0` or nothing.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.param(name) {
            None => Ok(None),
            Some("" | "true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::new(Code::BadRequest, format!("`{name}` is true or false, not `{other}`"))),
        }
    }

    /// A parameter that is a number or another parsed thing.
    ///
    /// # Errors
    /// [`Code::BadRequest`] when it does not parse.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        self.param(name)
            .map(|text| text.parse().map_err(|_| Error::new(Code::BadRequest, format!("`{name}` cannot be `{text}`"))))
            .transpose()
    }

    /// The JSON of the body. Form fields behind it (`{…}&auto_route=true`, what two `-d` of curl
    /// make) become parameters.
    ///
    /// # Errors
    /// [`Code::BadRequest`].
    pub fn json(&mut self) -> Result<serde_json::Value, Error> {
        let bad = |why: String| {
            Error::new(Code::BadRequest, format!("the body is no JSON: {why}"))
                .hint("send an object, such as {\"query\":\"SELECT 1\"}")
        };
        let (value, end) = crate::json::read_first(&self.body).map_err(bad)?;
        match self.body[end..].trim_ascii().split_first() {
            None => (),
            Some((b'&', fields)) => form::read_into(&mut self.params, fields)?,
            Some(_) => return Err(bad("something follows the first value".into())),
        }
        Ok(value)
    }
}

/// The error for a field or parameter that a call does not know.
pub fn unknown_field(name: &str, what: &str, known: &[&str]) -> Error {
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let hint = match &known[..] {
        [] => format!("this call takes no {what}"),
        known => format!("this call takes the {what}s {}", known.join(", ")),
    };
    Error::new(Code::BadRequest, format!("{what} `{name}` is not known here")).hint(hint)
}

/// An answer.
pub type HttpResponse = Response<Body>;

/// The body of an answer.
pub enum Body {
    /// Known as a whole.
    Full(Full<Bytes>),
    /// Made while it is sent. The sender waits when the client does, and learns of one that has gone.
    Stream(mpsc::Receiver<Bytes>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full).poll_frame(context),
            Self::Stream(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A JSON answer.
pub fn json(status: u16, body: &serde_json::Value) -> HttpResponse {
    bytes(status, JSON, Bytes::from(body.to_string()))
}

/// An answer of any type.
pub fn bytes(status: u16, content_type: HeaderValue, body: Bytes) -> HttpResponse {
    respond(status, content_type, Body::Full(Full::new(body)))
}

/// An answer whose body is made while it is sent.
pub fn stream(content_type: HeaderValue, pieces: mpsc::Receiver<Bytes>) -> HttpResponse {
    respond(200, content_type, Body::Stream(pieces))
}

fn respond(status: u16, content_type: HeaderValue, body: Body) -> HttpResponse {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An error as an answer; one that may pass says when to come back.
pub fn error(error: &Error) -> HttpResponse {
    let mut response = json(error.code.status(), &error.to_json());
    if error.code.class() == Class::Retry {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Serves `handler` on `listener` until `stop` turns true, then lets requests under way finish for
/// at most `drain`.
pub async fn serve<H, F>(listener: TcpListener, handler: H, mut stop: watch::Receiver<bool>, drain: Duration)
where
    H: Fn(HttpRequest) -> F + Send + Sync + 'static,
    F: Future<Output = HttpResponse> + Send + 'static,
{
    let handler = Arc::new(handler);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let bodies = Budget::new(MAX_BODIES_BYTES);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        socket.set_nodelay(true).ok();
        let (handler, bodies) = (Arc::clone(&handler), Arc::clone(&bodies));
        let service = service_fn(move |request: Request<Incoming>| {
            let (handler, mut held) = (Arc::clone(&handler), bodies.open());
            async move {
                Ok::<_, Infallible>(match read(request, &mut held).await {
                    Ok(request) => handler(request).await,
                    Err(refusal) => error(&refusal),
                })
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            // Never `pipeline_flush`: with it a body is taken without end while its client does not read.
            .serve_connection(TokioIo::new(socket), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away or times out is its own affair.
            connection.await.ok();
            drop(place);
        });
    }
    drop(listener);
    tokio::time::timeout(drain, graceful.shutdown()).await.ok();
}

async fn read(request: Request<Incoming>, held: &mut Taken) -> Result<HttpRequest, Error> {
    let (parts, body) = request.into_parts();
    let body = collect(body, held).await?;
    let mut params = Vec::new();
    form::read_into(&mut params, parts.uri.query().unwrap_or("").as_bytes())?;
    Ok(HttpRequest { method: parts.method, path: parts.uri.path().to_owned(), params, headers: parts.headers, body })
}

/// Reads a body. What has come of it counts, not what was announced: nobody holds room by promises.
async fn collect(body: Incoming, held: &mut Taken) -> Result<Bytes, Error> {
    let (mut body, mut first, mut whole) = (Limited::new(body, MAX_BODY_BYTES), None, BytesMut::new());
    let paused = |_| {
        Error::new(Code::BadRequest, format!("nothing of the body came for {} s", BODY_TIMEOUT.as_secs()))
            .hint("send it without a pause")
    };
    while let Some(frame) = tokio::time::timeout(BODY_TIMEOUT, body.frame()).await.map_err(paused)? {
        let frame = frame.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Error::new(Code::TooLarge, format!("the body is over {MAX_BODY_BYTES} bytes"))
                .hint("send smaller batches"),
            None => Error::new(Code::BadRequest, format!("the body could not be read: {error}")),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if !held.more(data.len()) {
            let why = format!("requests at work hold {MAX_BODIES_BYTES} bytes of bodies");
            return Err(Error::new(Code::Overloaded, why).hint("retry after a moment, or send smaller batches"));
        }
        match (&first, whole.is_empty()) {
            // A body that comes in one piece, as most do, is not copied.
            (None, true) => first = Some(data),
            _ => {
                whole.extend_from_slice(&first.take().unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Requests of the largest size that are not answered yet fill the room for bodies; the next is refused with
    /// `overloaded` and costs nothing, small ones go on, and once those are answered large ones do, too.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bodies_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (at_work, answer) = (Arc::new(AtomicUsize::new(0)), watch::channel(false).0);
        let (count, answered) = (Arc::clone(&at_work), answer.subscribe());
        let handler = move |request: HttpRequest| {
            let (count, mut answered) = (Arc::clone(&count), answered.clone());
            async move {
                if request.body.len() == MAX_BODY_BYTES {
                    count.fetch_add(1, Ordering::SeqCst);
                    answered.wait_for(|answered| *answered).await.unwrap();
                }
                json(200, &serde_json::json!(request.body.len()))
            }
        };
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, handler, stopped, Duration::ZERO));
        let post = |bytes: usize| async move {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let head = format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            // A refusal may come before the body has been sent.
            socket.write_all(&vec![b'x'; bytes]).await.ok();
            let mut reply = vec![];
            socket.read_to_end(&mut reply).await.ok();
            String::from_utf8_lossy(&reply).into_owned()
        };
        let held: Vec<_> = (0..MAX_BODIES_BYTES / MAX_BODY_BYTES).map(|_| tokio::spawn(post(MAX_BODY_BYTES))).collect();
        while at_work.load(Ordering::SeqCst) < held.len() {
            tokio::task::yield_now().await;
        }
        // The room is full to the last byte.
        let refused = post(1).await;
        assert!(refused.contains("overloaded") && refused.contains("retry-after"), "{refused}");
        assert!(post(0).await.starts_with("HTTP/1.1 200"));
        answer.send_replace(true);
        for reply in held {
            let reply = reply.await.unwrap();
            assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with(&MAX_BODY_BYTES.to_string()), "{reply}");
        }
        assert!(post(MAX_BODY_BYTES).await.starts_with("HTTP/1.1 200"));
    }
}
