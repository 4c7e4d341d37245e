//! A bare HTTP server to compare with (`--bare`): it reads JSON, answers the same JSON, and does nothing
//! else. What a cluster reaches of its rate, with the same clients on the same machine in the same run,
//! says more than a number of requests per second does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::own::process::Process;
use super::own::{Target, free_port, parsed};
use super::workload::{Turn, Workload};
use crate::commands::CommandError;
use crate::http_client::{BaseUrl, Call, Reply};

/// How long the server may take to listen.
const READY: Duration = Duration::from_secs(20);

/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// The server's own command, not for people.
#[derive(Clone, Debug, clap::Args)]
pub struct BareArgs {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS")]
    http: SocketAddr,
}

/// Serves until it is killed.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(args: &BareArgs) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::io(args.http, &error);
    let listener = TcpListener::bind(args.http).await.map_err(failed)?;
    loop {
        let (socket, _) = listener.accept().await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(echo));
        tokio::spawn(connection);
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let json: Json = serde_json::from_slice(&body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(json.to_string())));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}

/// The server, as a process of its own.
pub struct Bare {
    /// Where it answers.
    pub url: BaseUrl,
    _process: Process,
    _folder: TempDir,
}

impl Bare {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> Result<Self, CommandError> {
        let folder = TempDir::new().map_err(|error| CommandError::io("a temporary folder", &error))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let arguments = ["bench", "bare", "--http", &address].map(str::to_owned);
        let mut process = Process::start("the bare server", &arguments, folder.path().join("log"))?;
        let deadline = Instant::now() + READY;
        while TcpStream::connect(&address).await.is_err() {
            process.check()?;
            if Instant::now() > deadline {
                return Err(CommandError::Failed(format!(
                    "the bare server was not ready within {} s",
                    READY.as_secs()
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Self { url: parsed(&address)?, _process: process, _folder: folder })
    }
}

/// The requests of a workload, whatever the answer to them is.
pub struct Unchecked<W>(pub W);

impl<W: Workload> Workload for Unchecked<W> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        vec![]
    }

    async fn set_up(&self, _: &Target) -> Result<(), CommandError> {
        Ok(())
    }

    fn kind(&self, client: u32, sequence: u64) -> &'static str {
        self.0.kind(client, sequence)
    }

    fn steps(&self, client: u32, sequence: u64) -> u32 {
        self.0.steps(client, sequence)
    }

    fn request(&self, turn: Turn) -> Call {
        self.0.request(turn)
    }

    fn check(&self, _: Turn, _: &Reply) -> Result<(), String> {
        Ok(())
    }
}
