//! A server for tests: hands each request to a function and sends what that returns.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpListener;

use crate::http_client::{BaseUrl, Client, IDEMPOTENCY_KEY};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Path and query.
    pub path: String,
    /// The `Idempotency-Key`.
    pub key: Option<String>,
    /// The body; null for none.
    pub body: Json,
}

impl Seen {
    /// The SQL of a batch.
    pub fn statements(&self) -> Vec<&str> {
        let statements = self.body["statements"].as_array().expect("a batch");
        statements.iter().map(|statement| statement["query"].as_str().expect("a query")).collect()
    }
}

/// What a handler makes of a request.
pub enum Answer {
    /// A status and a JSON body.
    Json(u16, Json),
    /// The connection breaks after the request was read.
    Break,
}

/// A running server; it ends with the test's runtime.
pub struct TestServer {
    /// Where it listens.
    pub url: BaseUrl,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl TestServer {
    /// Starts on a free port of the loopback.
    pub async fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler = Arc::new(handler);
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log) = (handler.clone(), log.clone());
                let service = service_fn(move |request| answer(request, handler.clone(), log.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, seen }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.url.clone())
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<impl Fn(&Seen) -> Answer>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request.uri().to_string();
    let key = request.headers().get(&IDEMPOTENCY_KEY).map(|key| key.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let body = if body.is_empty() { Json::Null } else { serde_json::from_slice(&body)? };
    let seen = Seen { path, key, body };
    log.lock().unwrap().push(seen.clone());
    match handler(&seen) {
        Answer::Json(status, body) => {
            Ok(Response::builder().status(status).body(Full::from(body.to_string())).unwrap())
        }
        // An error of the service closes the connection without a reply.
        Answer::Break => Err(std::io::Error::other("broken on purpose")),
    }
}
