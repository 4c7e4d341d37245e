//! A small HTTP client: one kept connection, JSON bodies, a time limit on everything.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;

/// How long one request may take: longer than any deadline that a proxy sets itself.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longest part of a body that is shown in messages.
const SHOWN_CHARS: usize = 600;

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or(Json::Null)
    }

    /// The `code` of an error.
    pub fn code(&self) -> Option<String> {
        self.json()["error"]["code"].as_str().map(str::to_owned)
    }

    /// The body of a success.
    ///
    /// # Panics
    /// On any status but 200 and 202.
    pub fn expect(self, what: &str) -> Json {
        assert!(matches!(self.status.as_u16(), 200 | 202), "{what}: {self}");
        self.json()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = String::from_utf8_lossy(&self.body).chars().take(SHOWN_CHARS).collect();
        write!(f, "{} {body}", self.status)
    }
}

/// A client of one address.
pub struct Client {
    address: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// For `host:port`. Connects when first used, and again after a loss.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), connection: None }
    }

    /// Where it connects to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request.
    ///
    /// # Errors
    /// In words, when there was no answer; a request may have been carried out all the same.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, String> {
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
        match tokio::time::timeout(TIMEOUT, self.exchange(request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(why)) => {
                self.connection = None;
                Err(format!("{}: {why}", self.address))
            }
            Err(_) => {
                self.connection = None;
                Err(format!("{}: no answer within {TIMEOUT:?}", self.address))
            }
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let mut sender = match self.connection.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let socket = TcpStream::connect(&self.address).await.map_err(|error| text(&error))?;
                socket.set_nodelay(true).map_err(|error| text(&error))?;
                let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(|error| text(&error))?;
                tokio::spawn(connection);
                sender
            }
        };
        sender.ready().await.map_err(|error| text(&error))?;
        let (head, body) = sender.send_request(request).await.map_err(|error| text(&error))?.into_parts();
        let body = body.collect().await.map_err(|error| text(&error))?.to_bytes();
        self.connection = Some(sender);
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&mut self, path: &str) -> Result<Reply, String> {
        self.send("GET", path, &[], Bytes::new()).await
    }

    /// POST of JSON.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post(&mut self, path: &str, body: &Json) -> Result<Reply, String> {
        self.send("POST", path, &[], body.to_string()).await
    }
}
