//! The HTTP client of the commands: one kept HTTP/1.1 connection to one proxy or node.
//!
//! Requests come from `commands`; they go to the address of a [`BaseUrl`] and come back as a
//! [`Reply`] or an [`HttpError`]. [`Client::send`] tries once; [`Client::send_retrying`] repeats what
//! [`retry`] calls safe to repeat. Refused: `https` (put a TLS proxy in front) and replies over
//! [`MAX_REPLY_BYTES`].

pub mod retry;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use self::retry::{Decision, Schedule};

/// A reply is held in memory; beyond this the caller has asked for too much.
pub const MAX_REPLY_BYTES: usize = 256 << 20;
/// A proxy on the other side of the world accepts within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any server-side deadline, so that the server's own words arrive first.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

/// The header that makes a write exactly-once.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Where a proxy or node answers: `http://host:port`, with an optional path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// `host:port`, as in the `Host` header.
    authority: String,
    /// Without its closing slash; usually empty.
    prefix: String,
}

impl BaseUrl {
    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err("https is not spoken here; put a TLS proxy in front".into()),
            Some((scheme, _)) => return Err(format!("`{scheme}` is no scheme known here; use http://host:port")),
            None => text,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_bracket..].rfind(':') {
            Some(at) => authority.split_at(after_bracket + at),
            None => (authority, ":80"),
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || matches!(c, '@' | '?' | '#')) {
            return Err(format!("`{text}` names no host; use http://host:port"));
        }
        let port: u16 = port[1..].parse().map_err(|_| format!("`{}` is no port", &port[1..]))?;
        let prefix = path.trim_end_matches('/');
        if prefix.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
            return Err(format!("`{prefix}` is no path prefix"));
        }
        Ok(Self { authority: format!("{host}:{port}"), prefix: prefix.to_owned() })
    }
}

/// Why no reply came.
#[derive(Debug)]
pub enum HttpError {
    /// No connection: nothing was sent.
    Connect(String),
    /// The connection broke, or the reply made no sense: what was sent may have been done.
    Broken(String),
    /// No reply in time: what was sent may have been done.
    Timeout(Duration),
    /// The reply is over [`MAX_REPLY_BYTES`].
    TooLarge,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Timeout(limit) => write!(f, "no answer within {} s", limit.as_secs()),
            Self::TooLarge => write!(f, "the answer is larger than {} MiB", MAX_REPLY_BYTES >> 20),
        }
    }
}

/// The server's words about a failed request or statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ApiError {
    /// Why, for programs: the text form of a `flotilla_shared::error::Code`.
    pub code: String,
    /// Why, for people.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// A reply, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// How long the server asks to wait before a retry.
    pub retry_after: Option<Duration>,
    /// The body, JSON in every reply of the API.
    pub body: Bytes,
}

impl Reply {
    /// The error that a reply with a failing status carries.
    pub fn error(&self) -> Option<ApiError> {
        #[derive(Deserialize)]
        struct Body {
            error: ApiError,
        }
        if self.status < 400 {
            return None;
        }
        Some(serde_json::from_slice::<Body>(&self.body).map(|body| body.error).unwrap_or_else(|_| ApiError {
            code: format!("http_{}", self.status),
            message: String::from_utf8_lossy(&self.body).chars().take(300).collect::<String>().trim().to_owned(),
            hint: "is this the address of a flotilla proxy or node?".into(),
        }))
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Call {
    /// GET or POST.
    pub method: Method,
    /// Path and query, from `/`.
    pub path: String,
    /// JSON; empty for GET.
    pub body: Bytes,
    /// The `Idempotency-Key` of a write.
    pub key: Option<String>,
}

impl Call {
    /// A GET of `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Bytes::new(), key: None }
    }

    /// A POST of a JSON body.
    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, path: path.into(), body: body.into(), key: None }
    }

    /// Makes a write repeatable: the server answers a repetition with the first result.
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// One open HTTP/1.1 connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    prefix: String,
    authority: String,
}

impl Connection {
    /// Connects; the connection's reader runs as a task of the current runtime.
    ///
    /// # Errors
    /// [`HttpError::Connect`].
    pub async fn open(base: &BaseUrl) -> Result<Self, HttpError> {
        let opening = async {
            let stream = TcpStream::connect(base.authority()).await.map_err(|error| error.to_string())?;
            // A request is one small write; waiting to fill a packet would only add latency.
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
        };
        let (sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|_| HttpError::Connect(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(HttpError::Connect)?;
        // Its error also reaches the request in flight, which reports it.
        tokio::spawn(connection);
        Ok(Self { sender, prefix: base.prefix.clone(), authority: base.authority.clone() })
    }

    /// Has the other side closed it?
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one request and reads its reply.
    ///
    /// # Errors
    /// Any [`HttpError`] but [`HttpError::Connect`].
    pub async fn send(&mut self, call: &Call) -> Result<Reply, HttpError> {
        tokio::time::timeout(REPLY_TIMEOUT, self.exchange(call)).await.map_err(|_| HttpError::Timeout(REPLY_TIMEOUT))?
    }

    async fn exchange(&mut self, call: &Call) -> Result<Reply, HttpError> {
        let broken = |error: &dyn fmt::Display| HttpError::Broken(error.to_string());
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.prefix, call.path))
            .header(HOST, &self.authority);
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &call.key {
            request = request.header(&IDEMPOTENCY_KEY, key);
        }
        let request = request.body(Full::new(call.body.clone())).map_err(|error| broken(&error))?;
        self.sender.ready().await.map_err(|error| broken(&error))?;
        let response = self.sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = match Limited::new(response.into_body(), MAX_REPLY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(HttpError::TooLarge),
            Err(error) => return Err(broken(&error)),
        };
        Ok(Reply { status, retry_after, body })
    }
}

/// A client that opens its connection when needed and again after it broke.
pub struct Client {
    base: BaseUrl,
    connection: Option<Connection>,
    schedule: Schedule,
}

impl Client {
    /// A client of `base`; nothing is sent yet.
    pub fn new(base: BaseUrl) -> Self {
        Self { base, connection: None, schedule: Schedule::default() }
    }

    /// The same client with another retry schedule.
    #[cfg(test)]
    pub fn with_schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Whom it talks to.
    pub fn base(&self) -> &BaseUrl {
        &self.base
    }

    /// Sends once.
    ///
    /// # Errors
    /// Any [`HttpError`]; after one the connection is dropped, so that a late reply cannot be taken
    /// for that of the next request.
    pub async fn send(&mut self, call: &Call) -> Result<Reply, HttpError> {
        // Taken out first: a cancelled future drops the connection with its half-read reply.
        let mut connection = match self.connection.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => Connection::open(&self.base).await?,
        };
        let reply = connection.send(call).await?;
        self.connection = Some(connection);
        Ok(reply)
    }

    /// Sends until the outcome is final or the [`Schedule`] is used up; `note` hears of each wait.
    ///
    /// # Errors
    /// The last [`HttpError`].
    pub async fn send_retrying(
        &mut self,
        call: &Call,
        mut note: impl FnMut(&str, Duration),
    ) -> Result<Reply, HttpError> {
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            let outcome = self.send(call).await;
            let Decision::Retry { why, at_least } = retry::decide(&outcome, retry::Repeatable::of(call)) else {
                return outcome;
            };
            let Some(delay) = self.schedule.delay(attempt, start.elapsed(), at_least) else {
                return outcome;
            };
            note(&why, delay);
            attempt += 1;
            tokio::time::sleep(delay).await;
        }
    }
}

/// Percent-encodes `text` for one segment of a path or one value of a query.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// URLs as people write them; what is refused says why.
    #[test]
    fn urls() {
        let shown = |text: &str| text.parse::<BaseUrl>().map(|url| url.to_string());
        assert_eq!(shown("http://127.0.0.1:11000"), Ok("http://127.0.0.1:11000".into()));
        assert_eq!(shown("db.example:11000/"), Ok("http://db.example:11000".into()));
        assert_eq!(shown("http://[::1]:11000/flotilla/"), Ok("http://[::1]:11000/flotilla".into()));
        assert_eq!(shown("http://[::1]"), Ok("http://[::1]:80".into()));
        assert!(shown("https://x:1").unwrap_err().contains("TLS"));
        assert!(shown("ftp://x:1").is_err());
        assert!(shown("http://:80").is_err());
        assert!(shown("http://x:port").unwrap_err().contains("port"));
    }

    /// A failing status carries the API's error, or what else was said.
    #[test]
    fn reply_errors() {
        let reply = |status, body: &'static str| Reply { status, retry_after: None, body: Bytes::from(body) };
        assert_eq!(reply(200, "{}").error(), None);
        let error = reply(404, r#"{"error":{"code":"no_such_table","message":"no such table: x","hint":"h"}}"#).error();
        assert_eq!(error.unwrap().to_string(), "error[no_such_table]: no such table: x\nhint: h");
        assert_eq!(reply(502, "<html>").error().unwrap().code, "http_502");
    }

    /// Table names travel safely in a path.
    #[test]
    fn encoding() {
        assert_eq!(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
